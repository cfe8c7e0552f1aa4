//! What `bench` is told.

use std::path::PathBuf;

use clap::Args;

use crate::cli::DeviceChoice;
use crate::select::Selection;

#[derive(Args)]
pub struct BenchArgs {
    /// Where to run: `auto` takes the first GPU and falls back to the emulated Hopper, which counts
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,

    /// Take these lists: small, v3-decode, v3-prefill, deepgemm, tileops, atlas, flashmla, mla, all [default: v3-decode,
    /// and on a GPU v3-prefill and deepgemm too]
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub list: Vec<String>,

    #[command(flatten)]
    pub selection: Selection,

    /// Begin no case after so many seconds; what is left out is named
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub budget: u64,

    /// Write everything to a file, all samples included; with `-` to standard output, and the table to standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a page with pictures
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Write the page's roofline and bars into this folder: roofline.svg, bars.svg
    #[arg(long, value_name = "DIR")]
    pub pictures: Option<PathBuf>,

    /// Show the rows of other libraries beside ours: a file of `benches/peers`
    #[arg(long, value_name = "FILE")]
    pub peers: Option<PathBuf>,

    /// Compare with a run before, a file of `--json`
    #[arg(long, value_name = "OLD")]
    pub compare: Option<PathBuf>,

    /// Run nothing: take this file for the new run, to compare it or to make its page
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "list", "op", "shape", "budget", "against"])]
    pub with: Option<PathBuf>,

    /// Build another revision of this repository and compare with it, both by turns on the same machine
    #[arg(long, value_name = "REVISION", conflicts_with = "compare")]
    pub against: Option<String>,

    /// Turns of each of the two
    #[arg(long, value_name = "N", default_value_t = 3, requires = "against", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub turns: u32,
}
