//! A problem of one operation: what the smoke test compares and what the timings time.

use anyhow::Result;
use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::{Buffer, Device, F8E4M3, Stream, bf16};
use oracles::verdict::Verdict;
use safetensors::Dtype;

/// A problem of one operation. It holds sizes only; its operands are drawn from a fixed seed when it is prepared.
pub trait Case {
    /// The operation, as `--only` names it.
    fn operation(&self) -> &'static str;
    /// Sizes, and what else tells this case from others of its operation.
    fn shape(&self) -> String;
    /// What one run computes and moves.
    fn work(&self) -> Work;
    /// Draws the operands once and puts `sets` copies of them on the device; outputs hold a sentinel.
    ///
    /// # Errors
    /// Of the device, and of the plan.
    fn prepare(&self, device: &Device, sets: usize) -> Result<Vec<Box<dyn Prepared>>>;

    /// Whether every correct machine gives the same bits. Where an instruction is specified to a bound only, a GPU's bits
    /// are its own, and the reference judges them.
    fn portable_bits(&self) -> bool {
        true
    }

    /// A name without spaces, different for each case.
    fn name(&self) -> String {
        format!("{}/{}", self.operation(), self.shape())
    }
}

/// A case on a device.
pub trait Prepared {
    /// What the planner chose.
    fn instance(&self) -> String;
    /// Enqueues one run.
    ///
    /// # Errors
    /// Of the launch.
    fn launch(&mut self, stream: Stream<'_>) -> deepseek_kernels::Result<()>;
    /// What the last run wrote, after everything enqueued has finished.
    ///
    /// # Errors
    /// Of the device, those of earlier launches included.
    fn outputs(&self) -> Result<Vec<Output>>;
    /// Judges what the last run wrote by a reference that does not know the device: the a-priori error bound of any
    /// correct kernel, or the bits, where there is only one right result.
    ///
    /// # Errors
    /// Of the device.
    fn judge(&self) -> Result<Judgement>;
}

/// What one run computes, and the fewest bytes it can move: each operand once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiplications and additions of the tensor core; 0 where memory alone counts.
    pub flops: u64,
    /// Read and written.
    pub bytes: u64,
}

/// A reference's word on a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// "bound" or "bits".
    pub by: &'static str,
    /// Elements looked at.
    pub checked: usize,
    /// Largest error as a part of the bound; 0 for bits.
    pub worst: f64,
    /// What is wrong, with the place of the first wrong element.
    pub failure: Option<String>,
}

impl Judgement {
    /// Of results that must have the same bits.
    pub fn of_bits<T: Scalar>(got: &[T], expected: &[T]) -> Self {
        let all = expected.len();
        let wrong: Vec<usize> =
            (0..all.min(got.len())).filter(|&i| got[i].bits() != expected[i].bits()).collect();
        let failure = match wrong.first() {
            _ if got.len() != all => Some(format!("expected {all} elements, got {}", got.len())),
            Some(&i) => {
                let (expected, got) = (expected[i].bits(), got[i].bits());
                Some(format!(
                    "{} of {all} differ, first [{i}]: expected {expected:#x}, got {got:#x}",
                    wrong.len()
                ))
            }
            None => None,
        };
        Self { by: "bits", checked: all, worst: 0.0, failure }
    }

    /// Of the verdict of an oracle.
    pub fn of_bound(verdict: &Verdict) -> Self {
        let failure = (!verdict.accepted()).then(|| verdict.to_string());
        Self { by: "bound", checked: verdict.checked, worst: verdict.worst, failure }
    }

    /// Both must hold.
    pub fn and(self, other: Self) -> Self {
        Self {
            by: if self.by == other.by { self.by } else { "bound and bits" },
            checked: self.checked + other.checked,
            worst: self.worst.max(other.worst),
            failure: self.failure.or(other.failure),
        }
    }
}

/// An operand that a run wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Little-endian.
    pub bytes: Vec<u8>,
}

impl Output {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        self.bytes.len() / element_bytes(self.dtype)
    }

    /// Copies a buffer back.
    ///
    /// # Errors
    /// Of the device.
    pub fn read<T: Scalar>(name: &'static str, buffer: &Buffer<T>) -> Result<Self> {
        let elements = buffer.to_vec()?;
        let bytes =
            elements.iter().flat_map(|x| x.bits().to_le_bytes().into_iter().take(size_of::<T>())).collect();
        Ok(Self { name, dtype: T::DTYPE, bytes })
    }
}

/// Bytes of an element.
pub(crate) fn element_bytes(dtype: Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

/// Element types of outputs.
pub trait Scalar: DeviceRepr + Copy {
    /// In files.
    const DTYPE: Dtype;
    /// Fills outputs before a run: for floating point a NaN that no arithmetic gives.
    const SENTINEL: Self;
    /// The bits, in the low end of a word.
    fn bits(self) -> u32;
}

macro_rules! scalar {
    ($type:ty, $dtype:ident, $sentinel:expr, $bits:expr) => {
        impl Scalar for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            const SENTINEL: Self = $sentinel;
            fn bits(self) -> u32 {
                $bits(self)
            }
        }
    };
}

scalar!(u8, U8, 0xff, u32::from);
scalar!(u32, U32, u32::MAX, |x| x);
scalar!(i32, I32, i32::MIN, |x: i32| x.cast_unsigned());
scalar!(f32, F32, f32::from_bits(0x7fe5_a5e5), f32::to_bits);
scalar!(bf16, BF16, bf16::from_bits(0x7fe5), |x: bf16| x.to_bits().into());
scalar!(F8E4M3, F8_E4M3, F8E4M3::from_bits(0xff), |x: F8E4M3| x.to_bits().into());

/// A buffer of `len` sentinels.
///
/// # Errors
/// Of the device.
pub fn unwritten<T: Scalar>(device: &Device, len: usize) -> Result<Buffer<T>> {
    Ok(device.upload(&vec![T::SENTINEL; len])?)
}
