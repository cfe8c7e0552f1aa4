//! The least that a case can take: of a GPU in seconds, by what the same run measured; of counts in cycles, by what is
//! documented of an H100. The latter are arithmetic. No machine was asked, and none is as fast.

use super::record::{CountsRecord, Roofs, Row};

/// Columns of a wgmma that the tensor core of a multiprocessor takes in a cycle. An H100 SXM's 1979 TFLOP/s of dense E4M3 and
/// 989 of BF16 (data sheet), on 132 multiprocessors at 1830 MHz, are 8192 and 4096 operations per cycle: `m64nNk32` of E4M3
/// and `m64nNk16` of BF16 both take N / 2 cycles.
const COLUMNS_PER_CYCLE: f64 = 2.0;

/// Bytes of shared memory per cycle of a multiprocessor: 32 banks of four bytes (CUDA C++ Programming Guide, shared memory).
const SHARED_BYTES_PER_CYCLE: f64 = 128.0;

/// `ex2` and `lg2` per cycle of a multiprocessor (the same, throughput of arithmetic instructions, capability 9.0).
const SPECIAL_PER_CYCLE: f64 = 16.0;

/// Seconds that no run of this case falls below where the roofs hold: its bytes at the bandwidth of a copy, or its products
/// at the tensor core's rate. 0 where the row says neither.
pub fn seconds(row: &Row, roofs: &Roofs) -> f64 {
    let (memory, tensor) = (row.bytes as f64 / roofs.copy, fp8_flops(row) / roofs.tensor);
    // A roof of nothing is no roof.
    [memory, tensor].into_iter().filter(|seconds| seconds.is_finite()).fold(0.0, f64::max)
}

/// Operations of products as if all were of FP8: those of BF16, which have half of its rate, are two.
pub fn fp8_flops(row: &Row) -> f64 {
    row.flops as f64 * (1.0 + bf16_share(row))
}

/// How many of a row's products are of BF16, from 0 to 1: as counted, or else all of attention's.
pub fn bf16_share(row: &Row) -> f64 {
    let counted = row.counts.as_ref().filter(|counts| !counts.wgmmas.is_empty());
    let Some(counts) = counted else {
        return if row.operation.starts_with("mla_") { 1.0 } else { 0.0 };
    };
    // Columns cost the same, and those of BF16 are half as deep.
    let [bf16, e4m3] = [16.0, 32.0].map(|depth| depth * columns(counts, depth == 16.0));
    if bf16 > 0.0 { bf16 / (bf16 + e4m3) } else { 0.0 }
}

/// Columns of all wgmmas of BF16, or of all others. A shape is named as PTX does: `m64n128k16.bf16`.
fn columns(counts: &CountsRecord, bf16: bool) -> f64 {
    let of_type = counts.wgmmas.iter().filter(|(shape, _)| shape.contains("bf16") == bf16);
    let columns = of_type.filter_map(|(shape, &count)| {
        let (columns, _) = shape.strip_prefix("m64n")?.split_once('k')?;
        Some(columns.parse::<f64>().ok()? * count as f64)
    });
    columns.sum()
}

/// The fewest cycles of the multiprocessor that has most to do, for each of its units alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floors {
    pub tensor: f64,
    /// That what TMA writes and reads takes the same port as operands is an assumption.
    pub shared_memory: f64,
    pub special: f64,
    /// Columns of that multiprocessor against an equal share for all: 1 is even.
    pub balance: Option<f64>,
}

/// Of counts of a machine with so many multiprocessors. What a multiprocessor does beyond an equal share is known of the
/// tensor core alone.
pub fn cycles(counts: &CountsRecord, multiprocessors: u32) -> Floors {
    let multiprocessors = f64::from(multiprocessors.max(1));
    let even = counts.columns as f64 / multiprocessors;
    let busiest = even.max(counts.busiest_cta_columns as f64);
    let sum = |names: &[&str]| names.iter().map(|name| counts.get(name) as f64).sum::<f64>();
    let bytes = sum(&["operand_bytes", "tma_landed_bytes", "tma_store_bytes", "cluster_copy_bytes"]);
    let shared = bytes + SHARED_BYTES_PER_CYCLE * sum(&["shared_wavefronts"]);
    let special = sum(&["exponentials", "logarithms"]);
    Floors {
        tensor: busiest / COLUMNS_PER_CYCLE,
        shared_memory: shared / multiprocessors / SHARED_BYTES_PER_CYCLE,
        special: special / multiprocessors / SPECIAL_PER_CYCLE,
        balance: (even > 0.0).then(|| busiest / even),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ROOFS: Roofs = Roofs { copy: 3e12, tensor: 1.5e15 };

    fn row(operation: &str, flops: u64, bytes: u64) -> Row {
        Row {
            who: "ours".to_owned(),
            operation: operation.to_owned(),
            name: String::new(),
            title: String::new(),
            shape: String::new(),
            data: String::new(),
            instance: String::new(),
            reason: None,
            flops,
            bytes,
            worst: None,
            failure: None,
            counts: None,
            times: BTreeMap::new(),
        }
    }

    fn counted(wgmmas: &[(&str, u64)]) -> Row {
        let wgmmas = wgmmas.iter().map(|&(shape, count)| (shape.to_owned(), count)).collect();
        let counts = Some(CountsRecord { wgmmas, ..CountsRecord::default() });
        Row { counts, ..row("fp8_gemm", 1_500_000_000, 3) }
    }

    #[test]
    fn the_floor_is_the_roof_that_is_hit_first() {
        assert_eq!(seconds(&row("fp8_gemm", 1_500_000_000, 3), &ROOFS), 1e-6);
        assert_eq!(seconds(&row("fp8_gemm", 1, 3_000_000), &ROOFS), 1e-6);
        assert_eq!(seconds(&row("rope", 0, 0), &ROOFS), 0.0);
        let none = Roofs { copy: 0.0, tensor: 0.0 };
        assert_eq!(seconds(&row("fp8_gemm", 1, 1), &none), 0.0);
        assert_eq!(seconds(&row("fp8_gemm", 0, 0), &none), 0.0);
    }

    #[test]
    fn bf16_takes_twice_as_long() {
        for operation in ["mla_decode_bf16", "mla_decode_fp8", "mla_absorb_query", "mla_prefill"] {
            assert_eq!(seconds(&row(operation, 1_500_000_000, 3), &ROOFS), 2e-6, "{operation}");
        }
        assert_eq!(seconds(&counted(&[("m64n128k32.e4m3", 5)]), &ROOFS), 1e-6);
        assert_eq!(seconds(&counted(&[("m64n64k16.bf16", 5), ("m64n8k16.bf16.ra", 1)]), &ROOFS), 2e-6);
        // As many operations of either: 2 columns of BF16 for one of FP8.
        let both = counted(&[("m64n128k32.e4m3", 5), ("m64n256k16.bf16", 5)]);
        assert_eq!(bf16_share(&both), 0.5);
        assert_eq!(seconds(&both, &ROOFS), 1.5e-6);
        assert_eq!(bf16_share(&counted(&[("of another version", 5)])), 0.0);
    }

    #[test]
    fn cycles_are_of_the_busiest_multiprocessor() {
        let mut counts = CountsRecord { columns: 2640, busiest_cta_columns: 40, ..CountsRecord::default() };
        for (name, count) in [
            ("operand_bytes", 128 * 132 * 3),
            ("tma_landed_bytes", 128 * 132),
            ("tma_store_bytes", 64 * 132),
            ("cluster_copy_bytes", 64 * 132),
            ("shared_wavefronts", 132 * 7),
            ("exponentials", 132 * 48),
            ("logarithms", 132 * 16),
        ] {
            counts.sums.insert(name.to_owned(), count);
        }
        let floors = cycles(&counts, 132);
        assert_eq!(floors, Floors { tensor: 20.0, shared_memory: 12.0, special: 4.0, balance: Some(2.0) });
        // More CTAs than multiprocessors: none has less than an equal share.
        counts.busiest_cta_columns = 4;
        assert_eq!(cycles(&counts, 132).tensor, 10.0);
        assert_eq!(cycles(&CountsRecord::default(), 0).balance, None);
    }

    /// A wgmma of 128 columns: 64 cycles for 2 * 64 * 128 * 32 operations are the 8192 per cycle of the data sheet.
    #[test]
    fn the_tensor_cores_rate_is_the_data_sheets() {
        let columns = 1_000_000;
        let counts = CountsRecord { columns, ..CountsRecord::default() };
        let seconds = cycles(&counts, 132).tensor / 1.83e9;
        let rate = (2 * 64 * columns * 32) as f64 / seconds;
        assert!((rate / 1.979e15 - 1.0).abs() < 1e-3, "{rate}");
    }
}
