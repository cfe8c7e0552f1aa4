//! mbarriers: phases and parities, arrivals of threads, of bytes and of another CTA.

use check::probes::{assert_words, check_cluster, machines, run_words};
use deepseek_kernels::probe::kernels::{MBARRIER, MBARRIER_BYTES};
use deepseek_kernels::probe::{MapElement, Probe, Swizzle, Tensor};

#[test]
fn phases_alternate_and_arrivals_order_memory() {
    const ROUNDS: u32 = 7;
    let word = |i: u32| [1000 * (i / 32) + ((i % 32) ^ 5), i / 32];
    let expected: Vec<u32> = (0..32 * ROUNDS).flat_map(word).collect();
    for device in machines() {
        let probe = Probe { arguments: &[ROUNDS], output_words: expected.len(), ..Probe::new(MBARRIER, 1) };
        assert_words(device.name(), &run_words(&device, &probe), &expected);
    }
}

#[test]
fn bytes_may_land_before_and_after_they_are_expected() {
    const BOX: usize = 128 * 8;
    let memory: Vec<u8> = (0..3 * BOX).map(|i| (i * 31 % 251) as u8).collect();
    let expected: Vec<u32> = memory.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let tensor = Tensor {
        element: MapElement::U8,
        swizzle: Swizzle::None,
        dims: vec![128, 24],
        strides: vec![128],
        box_sizes: vec![128, 8],
        memory,
    };
    for device in machines() {
        let probe = Probe {
            arguments: &[BOX as u32],
            output_words: expected.len(),
            loads: std::slice::from_ref(&tensor),
            ..Probe::new(MBARRIER_BYTES, 1)
        };
        assert_words(device.name(), &run_words(&device, &probe), &expected);
    }
}

#[test]
fn remote_arrivals_and_the_cluster_barrier_order_memory() {
    machines().iter().for_each(check_cluster);
}
