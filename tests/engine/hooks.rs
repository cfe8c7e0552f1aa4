//! What the fake driver offers to tests beyond a real one.

use std::ffi::{CStr, CString, c_char, c_int};

use libloading::{Library, Symbol};

pub struct Hooks(Library);

impl Hooks {
    /// None under any other driver.
    pub fn find() -> Option<Self> {
        // SAFETY: the driver is loaded already, and was initialised then.
        let library = unsafe { Library::new("libcuda.so.1") }.ok()?;
        let hooks = Self(library);
        hooks.function::<unsafe extern "C" fn()>(b"fake_cuda_fail\0").is_some().then_some(hooks)
    }

    /// The same, with a word about the test that cannot run without.
    pub fn needed_by(test: &str) -> Option<Self> {
        let hooks = Self::find();
        if hooks.is_none() {
            eprintln!("SKIPPED {test}: only the fake driver fails on demand");
        }
        hooks
    }

    fn function<F>(&self, name: &[u8]) -> Option<Symbol<'_, F>> {
        // SAFETY: the callers give the types of the driver's hooks.
        unsafe { self.0.get(name) }.ok()
    }

    /// This thread's call of the function after `after` others answers `code` and does nothing.
    pub fn fail(&self, function: &str, after: i32, code: i32) {
        type Fail = unsafe extern "C" fn(*const c_char, c_int, c_int);
        let name = CString::new(function).expect("a name");
        let fail = self.function::<Fail>(b"fake_cuda_fail\0").expect("the hook");
        // SAFETY: the name is valid for the call.
        unsafe { fail(name.as_ptr(), after, code) };
    }

    pub fn calls(&self, function: &str) -> u64 {
        type Calls = unsafe extern "C" fn(*const c_char) -> u64;
        let name = CString::new(function).expect("a name");
        let calls = self.function::<Calls>(b"fake_cuda_calls\0").expect("the hook");
        // SAFETY: the name is valid for the call.
        unsafe { calls(name.as_ptr()) }
    }

    /// Of all functions.
    pub fn all_calls(&self) -> u64 {
        type Calls = unsafe extern "C" fn(*const c_char) -> u64;
        let calls = self.function::<Calls>(b"fake_cuda_calls\0").expect("the hook");
        // SAFETY: null stands for all of them.
        unsafe { calls(std::ptr::null()) }
    }

    /// Launches so far that might start while the kernel ahead of them ran.
    pub fn overlaps(&self) -> u64 {
        let overlaps =
            self.function::<unsafe extern "C" fn() -> u64>(b"fake_cuda_overlaps\0").expect("the hook");
        // SAFETY: it takes nothing and counts.
        unsafe { overlaps() }
    }

    /// What the driver refused of this thread, or noted, since the last time: taken, it was expected.
    pub fn take_problems(&self) -> Vec<String> {
        type Take = unsafe extern "C" fn(*mut c_char, usize) -> c_int;
        let take = self.function::<Take>(b"fake_cuda_take_problem\0").expect("the hook");
        let mut problems = Vec::new();
        let mut text: [c_char; 512] = [0; 512];
        // SAFETY: the array is valid for the call, which ends what it writes with a zero.
        while unsafe { take(text.as_mut_ptr(), text.len()) } != 0 {
            // SAFETY: as above.
            problems.push(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned());
        }
        problems
    }
}
