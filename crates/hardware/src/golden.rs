//! What the emulated Hopper computed when the programs were packed, and what it means when a GPU gives other bits.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Serialize;

use check::judge::Check;
use check::memory::Output;
use check::output::OutputFile;

/// Outputs of every case, as bytes; `CASE/OUTPUT` is the key.
pub struct Goldens(HashMap<String, Vec<u8>>);

/// How bits differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The output.
    pub output: &'static str,
    /// Elements that differ, of how many.
    #[serde(rename = "differ")]
    pub count: usize,
    /// Elements of the output.
    #[serde(rename = "of")]
    pub elements: usize,
    /// The first of them.
    #[serde(rename = "first")]
    pub index: usize,
    /// Its bits, in hexadecimal, as they should be and as they are.
    pub expected: String,
    /// As they are.
    pub got: String,
}

fn key(case: &str, output: &str) -> String {
    format!("{case}/{output}")
}

impl Goldens {
    /// Reads a file that [`write()`] wrote.
    ///
    /// # Errors
    /// When it cannot be read, or is no safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let file = SafeTensors::deserialize(&bytes).with_context(|| path.display().to_string())?;
        Ok(Self(file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()))
    }

    /// Where outputs of a case differ from the goldens.
    ///
    /// # Errors
    /// When there is no golden of this case and size.
    pub fn compare(&self, case: &str, outputs: &[Output]) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for output in outputs {
            let key = key(case, output.name);
            let expected =
                self.0.get(&key).with_context(|| format!("there is no golden of {key}: pack it again"))?;
            anyhow::ensure!(
                expected.len() == output.bytes.len(),
                "the golden of {key} has {} bytes, expected {}: pack it again",
                expected.len(),
                output.bytes.len()
            );
            differences.extend(difference(output, expected));
        }
        Ok(differences)
    }
}

/// Where what a case wrote differs from what it wrote before, on the same machine.
pub fn changes(before: &[Output], now: &[Output]) -> Vec<Difference> {
    before.iter().zip(now).filter_map(|(before, now)| difference(now, &before.bytes)).collect()
}

/// What bits mean that are not the golden ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// They are this GPU's, within the bound of any correct kernel.
    OwnBits,
    /// They would be those of a correct kernel, but the bit model has others.
    WrongModel,
    /// No correct kernel gives them.
    WrongKernel,
    /// Nothing but the golden bits could tell, since the reference did not look at every element.
    Unjudged,
}

impl Meaning {
    /// Of outputs that were judged so.
    pub fn of(portable_bits: bool, checks: &[Check]) -> Self {
        let whole = checks.iter().all(|check| check.sample.is_none());
        match (checks.iter().any(|check| check.failure.is_some()), portable_bits) {
            (true, _) => Self::WrongKernel,
            (false, true) => Self::WrongModel,
            (false, false) if whole => Self::OwnBits,
            (false, false) => Self::Unjudged,
        }
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::OwnBits => {
                "other bits, within the bound of any correct kernel: an instruction that is specified to a bound"
            }
            Self::WrongModel => {
                "other bits, within the bound of any correct kernel: the bit model is wrong, not the kernel"
            }
            Self::WrongKernel => "wrong",
            Self::Unjudged => "other bits, and the reference has not judged every element",
        }
    }
}

fn difference(output: &Output, expected: &[u8]) -> Option<Difference> {
    let size = output.element_bytes();
    let pairs = || expected.chunks(size).zip(output.bytes.chunks(size)).enumerate();
    let mut wrong = pairs().filter(|(_, (expected, got))| expected != got);
    let (index, (expected_bits, got)) = wrong.next()?;
    let hex = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    Some(Difference {
        output: output.name,
        count: 1 + wrong.count(),
        elements: expected.len() / size,
        index,
        expected: hex(expected_bits),
        got: hex(got),
    })
}

/// Writes the outputs of cases, for [`Goldens::read`].
///
/// # Errors
/// When the file cannot be written.
pub fn write(file: OutputFile, outputs: &[(String, Output)]) -> Result<()> {
    let views = outputs.iter().map(|(case, output)| {
        let view = TensorView::new(output.dtype, vec![output.elements()], &output.bytes)?;
        anyhow::Ok((key(case, output.name), view))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None)?;
    file.write(&bytes).map_err(Error::msg)
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    fn output(bytes: &[u8]) -> Output {
        Output { name: "d", dtype: Dtype::BF16, columns: bytes.len() / 2, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_change_is_found() {
        let [before, now] = [[1, 0, 2, 0], [1, 0, 2, 3]].map(|bytes| vec![output(&bytes)]);
        assert_eq!(changes(&before, &before), []);
        let [change] = &changes(&before, &now)[..] else { panic!("one output") };
        assert_eq!((change.index, change.expected.as_str(), change.got.as_str()), (1, "0002", "0302"));
    }

    /// A GPU's own bits are right only where every one of them was judged.
    #[test]
    fn other_bits_have_a_meaning() {
        let check = |sample, failure: Option<&str>| Check {
            sample,
            ..Check::equal("bound", 8, failure.map(str::to_owned))
        };
        let (whole, wrong, part) = (check(None, None), check(None, Some("no")), check(Some([2, 3]), None));
        for (portable, checks, meaning) in [
            (true, [whole.clone(), whole.clone()], Meaning::WrongModel),
            (true, [whole.clone(), wrong.clone()], Meaning::WrongKernel),
            (false, [whole.clone(), whole.clone()], Meaning::OwnBits),
            (false, [wrong, whole.clone()], Meaning::WrongKernel),
            (false, [whole, part], Meaning::Unjudged),
        ] {
            assert_eq!(Meaning::of(portable, &checks), meaning, "{portable}, {checks:?}");
        }
    }

    #[test]
    fn a_difference_is_found_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("goldens.safetensors");
        write(OutputFile::open(&path, []).unwrap(), &[("gemm/1x2".to_owned(), output(&[1, 0, 2, 0]))])
            .unwrap();
        let goldens = Goldens::read(&path).unwrap();
        assert_eq!(goldens.compare("gemm/1x2", &[output(&[1, 0, 2, 0])]).unwrap(), []);
        let difference = Difference {
            output: "d",
            count: 1,
            elements: 2,
            index: 1,
            expected: "0002".to_owned(),
            got: "0302".to_owned(),
        };
        assert_eq!(goldens.compare("gemm/1x2", &[output(&[1, 0, 2, 3])]).unwrap(), [difference]);
        let missing = goldens.compare("gemm/2x2", &[output(&[])]).unwrap_err();
        assert_eq!(missing.to_string(), "there is no golden of gemm/2x2/d: pack it again");
        let size = goldens.compare("gemm/1x2", &[output(&[1, 0])]).unwrap_err();
        assert!(size.to_string().starts_with("the golden of gemm/1x2/d has 4 bytes, expected 2"), "{size}");
    }
}
