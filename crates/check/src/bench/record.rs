//! What `bench` writes and reads: `docs/bench.md` describes the file. Peers write the same rows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use deepseek_kernels::counts::Counts;
use serde::{Deserialize, Serialize};

/// Of the file. Another one is another file format.
pub const FORMAT: u32 = 1;

/// One run of the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    #[serde(rename = "crate")]
    pub package: String,
    pub version: String,
    /// The words that made it.
    pub command: Vec<String>,
    pub device: DeviceRecord,
    /// Of a GPU.
    pub roofs: Option<Roofs>,
    /// Of a GPU: what no difference is called one below.
    pub control: Option<Control>,
    pub rows: Vec<Row>,
}

/// Where it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub kind: Kind,
    pub name: String,
    pub multiprocessors: u32,
    /// Of a GPU: "9.0", and the driver's version.
    pub capability: Option<String>,
    pub driver: Option<String>,
    pub l2_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Gpu,
    /// The driver that needs no GPU: its times are those of a clock that tells nothing about one.
    FakeGpu,
    Emulated,
}

/// What the machine can do at most, measured in the same run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Roofs {
    /// Bytes per second, read and written, of a copy that L2 does not hold.
    pub copy: f64,
    /// FP8 operations per second of the fastest product of this run. BF16 products have half of it.
    pub tensor: f64,
}

/// One kernel against itself, with its operands in two places.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// The case.
    pub name: String,
    /// How far the ratio of the two medians is from 1.
    pub noise: f64,
}

/// A case, by one library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// "ours", or a peer's name.
    pub who: String,
    pub operation: String,
    /// Tells the case from every other.
    pub name: String,
    /// For people.
    pub title: String,
    pub shape: String,
    /// The class of the inputs.
    pub data: String,
    /// The kernel, and what the planner says of it.
    pub instance: String,
    pub reason: Option<String>,
    /// The least that the case takes: operations of products, and bytes.
    pub flops: u64,
    pub bytes: u64,
    /// Largest |error| / bound of the run before the timing.
    pub worst: Option<f64>,
    /// Why there is no result.
    pub failure: Option<Failure>,
    pub counts: Option<CountsRecord>,
    /// By "cold", "warm" (what L2 holds before a run) and "host" (the host's time for a launch).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub times: BTreeMap<String, Timing>,
}

/// Why a case has neither counts nor times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Whether the result was wrong, and not only absent.
    pub wrong: bool,
    pub why: String,
}

/// What the emulator counted, of all launches of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CountsRecord {
    /// By the name of the instruction's shape.
    pub wgmmas: BTreeMap<String, u64>,
    /// Operations of those.
    pub tensor_flops: u64,
    /// Columns of those, and of the CTA of each kernel that has most.
    pub columns: u64,
    pub busiest_cta_columns: u64,
    /// The others, by name.
    #[serde(flatten)]
    pub sums: BTreeMap<String, u64>,
}

impl CountsRecord {
    /// Adds those of a kernel that runs behind the ones before.
    pub fn add(&mut self, counts: &Counts) {
        for (shape, count) in &counts.wgmmas {
            *self.wgmmas.entry(shape.to_string()).or_default() += count;
        }
        self.tensor_flops += counts.tensor_flops();
        self.columns += counts.columns();
        self.busiest_cta_columns += counts.busiest_cta_columns;
        for (name, count) in counts.named() {
            *self.sums.entry(name.to_owned()).or_default() += count;
        }
    }

    /// A count by its name; 0 if there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.sums.get(name).copied().unwrap_or(0)
    }

    /// Every count, by name.
    pub fn all(&self) -> BTreeMap<String, u64> {
        let mut all = self.sums.clone();
        all.extend(self.wgmmas.iter().map(|(shape, &count)| (format!("wgmma {shape}"), count)));
        all.insert("busiest_cta_columns".to_owned(), self.busiest_cta_columns);
        all
    }
}

/// Times of a run: samples in the order in which they were taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds of a run, one per sample.
    pub seconds: Vec<f64>,
    /// Why no more samples were taken.
    pub stop: Stop,
    /// Before and behind, where the GPU tells.
    pub state: Option<[CardState; 2]>,
    /// Whether the GPU held its clocks down while all tries were measured.
    pub disturbed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The relative standard deviation is low enough.
    Deviation,
    /// More samples would not tell more.
    Entropy,
    /// There was no time for more.
    Time,
}

/// What a GPU says of itself at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CardState {
    pub clock_mhz: u32,
    pub memory_clock_mhz: u32,
    pub celsius: u32,
    pub watts: f64,
    /// Held down by heat or by the power supply.
    pub throttled: bool,
}

impl Record {
    /// Reads a file.
    ///
    /// # Errors
    /// In one line: that it cannot be read, or is none of these.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("{shown} is no JSON: {error}"))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err(format!(
                    "{shown} has format {format}, this version reads {FORMAT}: make it anew"
                ));
            }
            None => return Err(format!("{shown} is no file of `bench`: it has no format")),
        }
        serde_json::from_value(value).map_err(|error| format!("{shown} is no file of `bench`: {error}"))
    }
}
