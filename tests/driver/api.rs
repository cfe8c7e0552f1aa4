//! The library by itself: loaded from a file, called by name.

use std::ffi::{CString, c_char, c_int};
use std::fs;

use libloading::Library;

static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/driver/libcuda.so.1"));

/// Result codes, as "Data types used by CUDA driver" numbers them.
pub mod code {
    pub const SUCCESS: i32 = 0;
    pub const INVALID_VALUE: i32 = 1;
    pub const OUT_OF_MEMORY: i32 = 2;
    pub const NOT_INITIALIZED: i32 = 3;
    pub const INVALID_DEVICE: i32 = 101;
    pub const INVALID_IMAGE: i32 = 200;
    pub const INVALID_CONTEXT: i32 = 201;
    pub const NO_BINARY_FOR_GPU: i32 = 209;
    pub const INVALID_HANDLE: i32 = 400;
    pub const ILLEGAL_STATE: i32 = 401;
    pub const NOT_FOUND: i32 = 500;
    pub const NOT_READY: i32 = 600;
    pub const ILLEGAL_ADDRESS: i32 = 700;
    pub const LAUNCH_OUT_OF_RESOURCES: i32 = 701;
    pub const CONTEXT_IS_DESTROYED: i32 = 709;
    pub const LAUNCH_FAILED: i32 = 719;
    pub const NOT_PERMITTED: i32 = 800;
    pub const NOT_SUPPORTED: i32 = 801;
    pub const CAPTURE_UNSUPPORTED: i32 = 900;
    pub const CAPTURE_INVALIDATED: i32 = 901;
    pub const CAPTURE_MERGE: i32 = 902;
    pub const CAPTURE_UNMATCHED: i32 = 903;
    pub const CAPTURE_UNJOINED: i32 = 904;
    pub const CAPTURE_ISOLATION: i32 = 905;
    pub const CAPTURE_IMPLICIT: i32 = 906;
    pub const CAPTURED_EVENT: i32 = 907;
    pub const CAPTURE_WRONG_THREAD: i32 = 908;
    pub const INVALID_CLUSTER_SIZE: i32 = 912;
}

/// When the driver executes what is enqueued.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Lazy,
    Random(u64),
    Eager,
}

pub const MODES: [Mode; 5] = [Mode::Lazy, Mode::Random(1), Mode::Random(2), Mode::Random(3), Mode::Eager];

/// One loaded driver, with a state of its own.
pub struct Driver {
    library: &'static Library,
}

/// Functions take at most so many arguments.
const ARGUMENTS: usize = 12;

type Function = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> i32;

impl Driver {
    /// Loads a copy, so that the driver of one test knows nothing of another's.
    pub fn load() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("libcuda.so.1");
        fs::write(&path, LIBRARY).expect("the library is written");
        // SAFETY: the library's initialisers read the environment, no more.
        let library = unsafe { Library::new(&path) }.expect("the library loads");
        // Kernels run on a thread of the library's, so it stays for good.
        Self { library: Box::leak(Box::new(library)) }
    }

    /// Loaded and initialised.
    pub fn init(mode: Mode) -> Self {
        let driver = Self::load();
        let (name, seed) = match mode {
            Mode::Lazy => ("lazy", 1),
            Mode::Random(seed) => ("random", seed),
            Mode::Eager => ("eager", 1),
        };
        driver.set("MODE", name);
        driver.set("SEED", &seed.to_string());
        driver.ok("cuInit", &[0]);
        driver
    }

    /// Calls a function by name. Integers narrower than 64 bits are passed in the low part of theirs.
    pub fn call(&self, name: &str, arguments: &[u64]) -> i32 {
        assert!(arguments.len() <= ARGUMENTS, "{name} takes no {} arguments", arguments.len());
        let mut all = [0; ARGUMENTS];
        all[..arguments.len()].copy_from_slice(arguments);
        let [a, b, c, d, e, f, g, h, i, j, k, l] = all;
        // SAFETY: every function of the driver takes integers and pointers alone, which the platform's calling
        // convention passes in words of 64 bits each; it ignores arguments beyond its own. The test vouches for what the
        // pointers point at.
        unsafe {
            let function = self.library.get::<Function>(name.as_bytes()).expect(name);
            function(a, b, c, d, e, f, g, h, i, j, k, l)
        }
    }

    /// A call that must succeed.
    pub fn ok(&self, name: &str, arguments: &[u64]) {
        let code = self.call(name, arguments);
        assert_eq!(code, code::SUCCESS, "{name}: {:?}", self.take_problems());
    }

    /// A successful call whose first argument is where it stores a handle, a pointer or a number.
    pub fn get(&self, name: &str, arguments: &[u64]) -> u64 {
        let mut value = 0u64;
        let all: Vec<u64> = [address(&mut value)].into_iter().chain(arguments.iter().copied()).collect();
        self.ok(name, &all);
        value
    }

    /// `FAKE_CUDA_<name>=value` from now on.
    pub fn set(&self, name: &str, value: &str) {
        let [name, value] = [name, value].map(|text| CString::new(text).expect("no null"));
        let known = self.call("fake_cuda_set", &[name.as_ptr() as u64, value.as_ptr() as u64]);
        assert_eq!(known, 1, "{name:?}={value:?}");
    }

    /// What this thread did wrong since the last time.
    pub fn take_problems(&self) -> Vec<String> {
        type Take = unsafe extern "C" fn(*mut c_char, usize) -> c_int;
        let mut problems = Vec::new();
        let mut text = [0u8; 4096];
        // SAFETY: the hook's signature; it writes at most the given bytes.
        while unsafe {
            let take = self.library.get::<Take>(b"fake_cuda_take_problem").expect("the hook");
            take(text.as_mut_ptr().cast(), text.len()) != 0
        } {
            let end = text.iter().position(|byte| *byte == 0).expect("ends");
            problems.push(String::from_utf8_lossy(&text[..end]).into_owned());
        }
        problems
    }

    /// Contexts, streams, events, modules, graphs, executable graphs, device and host allocations that are alive.
    pub fn live(&self) -> [u64; 8] {
        let mut counts = [0; 8];
        self.call("fake_cuda_live", &[address(&mut counts)]);
        counts
    }
}

/// Where a function may store.
pub fn address<T>(place: &mut T) -> u64 {
    std::ptr::from_mut(place) as u64
}
