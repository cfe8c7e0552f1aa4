//! Cases of the GEMMs.

pub(crate) mod anatomy;
pub mod fp8_gemm;
pub mod grouped_fp8_gemm;

use crate::planted::Fault;
use crate::trace::Launch;
use deepseek_kernels::table::gemm::{GEMM_INSTANCES, GROUPED_GEMM_INSTANCES, GemmInstance};
use oracles::gemm::GemmClass;

use crate::case::{Cases, boxed};
use crate::deepseek_v3::{EXPERT, LAYERS};
use crate::families::Extent;
use fp8_gemm::Fp8GemmCase;
use grouped_fp8_gemm::{Assignment, GroupedFp8GemmCase};

/// Every instance: more than one lap of the ring, tails in both directions; experts with rows of several tiles, of one, of
/// none.
pub fn smoke() -> Cases {
    let dense = |&instance: &GemmInstance| {
        let m = (instance.block_m * instance.cluster) as usize + 3;
        Fp8GemmCase { class: GemmClass::Normal, ..Fp8GemmCase::new((m, 136, 1664)).with(instance) }
    };
    let grouped = |&instance: &GemmInstance| {
        let m = instance.block_m as usize;
        let counts = [m + 3, 0, 1, m - 1];
        GroupedFp8GemmCase {
            instance: Some(instance),
            class: GemmClass::Normal,
            ..GroupedFp8GemmCase::new(Assignment::ragged(&counts, 2), (136, 640))
        }
    };
    let mut cases = boxed(GEMM_INSTANCES.iter().map(dense));
    cases.extend(boxed(GROUPED_GEMM_INSTANCES.iter().map(grouped)));
    cases
}

/// The layers of DeepSeek-V3 with rows of training, prefill and decoding; DeepGEMM's lists of experts, and decoding.
pub fn timed(extent: Extent) -> Cases {
    let (layers, rows): (&[_], &[_]) = match extent {
        Extent::Full => (&LAYERS, &[1, 64, 128, 4096]),
        Extent::Reduced => (&[(2112, 256), (576, 512)], &[1, 64, 200]),
    };
    let shapes = layers.iter().flat_map(|&(n, k)| rows.iter().map(move |&m| (m, n, k)));
    let mut cases = boxed(shapes.map(timed_gemm));
    let (layers, experts): (&[_], &[_]) = match extent {
        Extent::Full => (
            &[(6144, 7168), (7168, 3072), (4096, 4096), (4096, 2048)],
            &[(4, 8192), (8, 4096), (6, 1024), (32, 192), (32, 20), (6, 20)],
        ),
        Extent::Reduced => (&[(256, 256)], &[(4, 80), (6, 20)]),
    };
    let shapes = layers.iter().flat_map(|&layer| experts.iter().map(move |&experts| (experts, layer)));
    cases.extend(boxed(shapes.map(|(experts, layer)| timed_grouped(experts, layer))));
    cases
}

/// Both projections of experts with rows enough for several tiles, few, one, and none.
pub fn layer(extent: Extent, seed: u64) -> Cases {
    let rows: &[usize] = match extent {
        Extent::Full => &[300, 0, 1, 128, 65, 700, 0, 20],
        Extent::Reduced => &[5, 0, 70, 1],
    };
    let grouped = |layer| {
        let case = GroupedFp8GemmCase::new(Assignment::ragged(rows, 0), layer);
        GroupedFp8GemmCase { class: GemmClass::Integers, seed, ..case }
    };
    boxed(EXPERT.map(grouped))
}

/// Normal data in repeated rows.
pub const fn timed_gemm(shape: (usize, usize, usize)) -> Fp8GemmCase {
    Fp8GemmCase { class: GemmClass::Normal, repeated: true, ..Fp8GemmCase::new(shape) }
}

/// So many experts with 0.7 to 1.3 times so many rows, and normal data in repeated rows.
pub fn timed_grouped((experts, rows): (usize, usize), layer: (usize, usize)) -> GroupedFp8GemmCase {
    let counts: Vec<usize> = (0..experts).map(|e| rows * (70 + 37 * e % 61) / 100).collect();
    GroupedFp8GemmCase {
        class: GemmClass::Normal,
        repeated: true,
        expected_rows: Some(rows),
        ..GroupedFp8GemmCase::new(Assignment::ragged(&counts, 0), layer)
    }
}

/// Launches of every kernel, for the operand trace.
pub fn traced() -> Vec<Launch> {
    [fp8_gemm::traced(), grouped_fp8_gemm::traced()].concat()
}

/// Launches whose protocols are explored.
pub fn explored() -> Vec<Launch> {
    [fp8_gemm::explored(), grouped_fp8_gemm::explored()].concat()
}

/// Faults in its kernels.
pub fn faults() -> Vec<Fault> {
    [fp8_gemm::FAULTS, grouped_fp8_gemm::FAULTS].concat()
}
