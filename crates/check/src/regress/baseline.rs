//! The file of a baseline.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::device::DeviceClass;
use super::digest::{Bits, Places};
use crate::output::OutputFile;

/// Raised when a file of one version means something else in the next.
pub const FORMAT: u64 = 1;

/// What right kernels gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub format: u64,
    /// The crate whose operations these are, and its version.
    #[serde(rename = "crate")]
    pub package: String,
    pub version: String,
    pub device: DeviceClass,
    /// Added to the seed of every case.
    pub seed: u64,
    /// What compiled the kernels that the table of resources is of.
    pub compiler: String,
    /// Columns of that table, of every kernel that a case launches.
    pub kernels: BTreeMap<String, BTreeMap<String, String>>,
    pub cases: Vec<Entry>,
}

/// A case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    /// The class of the inputs.
    pub data: String,
    pub instance: String,
    pub kernels: Vec<String>,
    pub outputs: Vec<OutputEntry>,
    /// Everything that a run may write, and judges saw that it wrote nothing else.
    pub writes: Vec<String>,
    pub checks: Vec<CheckEntry>,
}

/// The bits of an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputEntry {
    pub name: String,
    pub dtype: Dtype,
    /// Rows and columns.
    pub shape: [usize; 2],
    pub hash: String,
    /// Elements that hold what they held before, or happen to: codes and integers have no value that no kernel writes.
    pub unwritten: Places,
    pub nan: Places,
    pub inf: Places,
    /// Of each row, 16 bits of a hash; none where the bits are there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rows: String,
    /// Of each column.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub columns: String,
    /// All of a small output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<String>,
}

impl OutputEntry {
    /// Every element, where the file has them.
    pub fn stored(&self) -> Option<Bits> {
        Bits::from_hex(self.dtype, self.shape, self.bits.as_ref()?)
    }
}

/// What a judge said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckEntry {
    pub oracle: String,
    pub checked: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorEntry>,
}

/// Errors in units of their bounds, to three digits, and in units of the last place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorEntry {
    pub max: f64,
    pub p99: f64,
    pub mean: f64,
    /// Elements 0, 1, 2, up to 4, 8, 16, 256 units of the last place from the nearest right value, and farther.
    pub ulps: [u64; 8],
}

impl Baseline {
    /// Reads a file.
    ///
    /// # Errors
    /// In one line, why it is none, or of another format.
    pub fn read(path: &Path) -> Result<Self, String> {
        let failed = |reason: String| format!("cannot use {}: {reason}", path.display());
        let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
        let value: Value =
            serde_json::from_slice(&text).map_err(|error| failed(format!("it is no JSON: {error}")))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(FORMAT) => {}
            Some(other) => return Err(failed(format!("it has format {other}, this program reads {FORMAT}"))),
            None => return Err(failed("it is no baseline: it has no format".to_owned())),
        }
        let baseline: Self = serde_json::from_value(value)
            .map_err(|error| failed(format!("it is no baseline of format {FORMAT}: {error}")))?;
        match baseline.flaw() {
            Some(flaw) => Err(failed(flaw)),
            None => Ok(baseline),
        }
    }

    /// What contradicts itself.
    fn flaw(&self) -> Option<String> {
        let mut names: Vec<&str> = self.cases.iter().map(|case| case.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("it has {} twice", twice[0]));
        }
        let outputs =
            self.cases.iter().flat_map(|case| case.outputs.iter().map(move |output| (case, output)));
        for (case, output) in outputs {
            let [rows, columns] = output.shape;
            let digests = |text: &str, of: usize| text.is_empty() || Some(text.len()) == of.checked_mul(4);
            let stored = output.bits.is_none() || output.stored().is_some();
            if !stored || !digests(&output.rows, rows) || !digests(&output.columns, columns) {
                return Some(format!("{} of {} is not of its shape", output.name, case.name));
            }
        }
        None
    }

    /// Writes it: a file that was there is replaced whole or not at all.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn write(&self, file: OutputFile) -> Result<(), String> {
        file.write(self.text()?.as_bytes())
    }

    /// A line for each case.
    fn text(&self) -> Result<String, String> {
        let failed = |error: serde_json::Error| format!("the baseline: {error}");
        let head = serde_json::to_string(&Self { cases: Vec::new(), ..self.clone() }).map_err(failed)?;
        let cases =
            self.cases.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        // Cases are its last field.
        let head = head.strip_suffix("]}").unwrap_or(&head);
        Ok(format!("{head}\n{}\n]}}\n", cases.join(",\n")))
    }
}
