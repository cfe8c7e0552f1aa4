//! The layouts of `cuda/hopper/tile` and of the GEMM's shared memory, exhaustively: the C++ itself, run on every
//! device, against formulas written down here a second time.

use std::collections::HashSet;

use check::devices::devices;
use check::probes::{assert_words, run_words};
use deepseek_kernels::Device;
use deepseek_kernels::probe::Probe;
use deepseek_kernels::probe::kernels::{LAYOUT, STORAGE};
use deepseek_kernels::table::gemm::GEMM_INSTANCES;

// Functions of the probe.
const SWIZZLE: u32 = 0;
const FRAGMENT: u32 = 1;
const DESCRIPTOR: u32 = 2;
const RING: u32 = 3;
const TILES: u32 = 4;
const MN_DESCRIPTOR: u32 = 5;

fn evaluate(device: &Device, function: u32, count: usize, words_each: usize) -> Vec<u32> {
    let arguments = &[function, count as u32];
    run_words(device, &Probe { arguments, output_words: count * words_each, ..Probe::new(LAYOUT, 4) })
}

#[test]
fn swizzles_permute_the_chunks_of_every_atom() {
    const BYTES: usize = 2 * 8192;
    for device in devices() {
        let results = evaluate(&device, SWIZZLE, BYTES, 4);
        for (column, span) in [32, 64, 128].into_iter().enumerate() {
            let swizzle = |addr: u32| results[4 * addr as usize + column];
            let mut seen = HashSet::new();
            for addr in 0..BYTES as u32 {
                let to = swizzle(addr);
                // Rows of the span that share 128 bytes are permuted alike; chunks of 16 bytes stay whole.
                let (row, chunk) = (addr / span, addr / 16 % (span / 16));
                let permuted = chunk ^ (row / (128 / span) % (span / 16));
                assert_eq!(to, row * span + permuted * 16 + addr % 16, "span {span}, address {addr:#x}");
                assert_eq!(swizzle(to), addr, "span {span}: its own inverse at {addr:#x}");
                assert!(seen.insert(to), "span {span}: {to:#x} is met twice");
                assert_eq!(to / (8 * span), addr / (8 * span), "span {span}: eight rows keep to themselves");
            }
        }
    }
}

#[test]
fn fragments_cover_the_tile_once_and_stmatrix_stores_them() {
    const N: u32 = 256;
    for device in devices() {
        let results = evaluate(&device, FRAGMENT, 128, 4);
        let mut seen = HashSet::new();
        for (thread, result) in results.chunks(4).enumerate() {
            let thread = thread as u32;
            let (warp, lane) = (thread / 32, thread % 32);
            assert_eq!(result[..2], [16 * warp + lane / 4, 2 * (lane % 4)], "thread {thread}");
            for register in 0..N / 2 {
                let (j, i) = (register / 4, register % 4);
                assert!(seen.insert((result[0] + 8 * (i / 2), 8 * j + result[1] + i % 2)), "met twice");
            }
        }
        assert_eq!(seen.len() as u32, 64 * N);
        assert!(seen.iter().all(|&(row, column)| row < 64 && column < N));

        // Lane 8i + r addresses row r of matrix i, whose words are register pair i of lanes 4r + q.
        let warp = &results[..4 * 32];
        for (i, r, q) in (0..4).flat_map(|i| (0..8).flat_map(move |r| (0..4).map(move |q| (i, r, q)))) {
            let (address, holder) = (&warp[4 * (8 * i + r)..][..4], &warp[4 * (4 * r + q)..][..4]);
            let (j, half) = (i as u32 / 2, i as u32 % 2);
            assert_eq!(address[2], holder[0] + 8 * half, "row of matrix {i}, row {r}");
            assert_eq!(
                address[3] + 2 * q as u32,
                8 * j + holder[1],
                "column of matrix {i}, row {r}, word {q}"
            );
        }
    }
}

#[test]
fn descriptors_have_every_bit_in_its_place() {
    // Of all 16-byte aligned addresses of 18 bits, those from which an advance stays within 18 bits.
    const COUNT: usize = (1 << 14) - 6;
    for device in devices() {
        for (i, result) in evaluate(&device, DESCRIPTOR, COUNT, 4).chunks(4).enumerate() {
            let word = |low: usize| u64::from(result[low]) | u64::from(result[low + 1]) << 32;
            // Start in 16-byte units; eight rows of 128 bytes in the same units; swizzle mode 1; nothing
            // else.
            let expected = i as u64 | 64 << 32 | 1 << 62;
            assert_eq!(word(0), expected, "address {:#x}", 16 * i);
            assert_eq!(word(2), expected + 2 * (i as u64 % 4), "address {:#x} advanced", 16 * i);
        }
    }
}

#[test]
fn n_major_descriptors_also_say_how_far_their_chunks_are_apart() {
    // As above, but a step along K is 16 rows of 128 bytes.
    const COUNT: usize = (1 << 14) - 3 * 128;
    for device in devices() {
        for (i, result) in evaluate(&device, MN_DESCRIPTOR, COUNT, 4).chunks(4).enumerate() {
            let word = |low: usize| u64::from(result[low]) | u64::from(result[low + 1]) << 32;
            let i = i as u64;
            let expected = i | (i % 256 * 64) << 16 | 64 << 32 | 1 << 62;
            assert_eq!(word(0), expected, "address {:#x}", 16 * i);
            assert_eq!(word(2), expected + 128 * (i % 4), "address {:#x} advanced", 16 * i);
        }
    }
}

#[test]
fn rings_walk_their_stages_and_flip_the_phase_each_lap() {
    const STEPS: u32 = 50;
    let states = (1..=12).flat_map(|stages| (0..STEPS).flat_map(move |i| [i % stages, i / stages % 2]));
    let expected: Vec<u32> = states.collect();
    for device in devices() {
        assert_words(device.name(), &evaluate(&device, RING, STEPS as usize, 2 * 12), &expected);
    }
}

/// Bands of 16 tiles along M, in each one column after the other.
fn tiles_in_order(m_tiles: u32, n_tiles: u32) -> Vec<u32> {
    let bands = (0..m_tiles).step_by(16).map(|first| first..(first + 16).min(m_tiles));
    bands.flat_map(|band| (0..n_tiles).flat_map(move |n| band.clone().flat_map(move |m| [m, n]))).collect()
}

#[test]
fn every_tile_is_visited_once_in_bands() {
    let small = (1..=36).flat_map(|m| (1..=36).map(move |n| (m, n)));
    let shapes: Vec<(u32, u32)> =
        small.chain([(1, 4000), (4000, 1), (257, 63), (63, 257), (129, 17)]).collect();
    let mut input = Vec::new();
    let mut words = 0;
    for &(m, n) in &shapes {
        input.extend([m, n, words as u32, 0]);
        words += 2 * (m * n) as usize;
    }
    for device in devices() {
        let probe = Probe {
            arguments: &[TILES],
            input: &input,
            output_words: words,
            ..Probe::new(LAYOUT, shapes.len() as u32)
        };
        let output = run_words(&device, &probe);
        for (&(m, n), shape) in shapes.iter().zip(input.chunks(4)) {
            let tiles = &output[shape[2] as usize..][..2 * (m * n) as usize];
            let distinct: HashSet<_> = tiles.chunks(2).collect();
            assert_eq!(distinct.len(), (m * n) as usize, "{m} x {n} tiles");
            assert_words(&format!("{m} x {n} tiles"), tiles, &tiles_in_order(m, n));
        }
    }
}

#[test]
fn the_storage_of_every_gemm_is_packed_aligned_and_fits() {
    const LARGEST: u32 = 227 * 1024;
    for device in devices() {
        let output_words = 8 * GEMM_INSTANCES.len();
        let output = run_words(&device, &Probe { output_words, ..Probe::new(STORAGE, 1) });
        for (instance, got) in GEMM_INSTANCES.iter().zip(output.chunks(8)) {
            let (m, n, stages) = (instance.block_m, instance.block_n, instance.stages());
            let b = stages * m * 128;
            let d = b + stages * n * 128;
            let sfa = d + m * n * instance.output.bytes();
            let full = sfa + stages * m * 4;
            let empty = full + stages * 8;
            let size = (empty + stages * 8).next_multiple_of(1024);
            assert_words(&instance.name(), got, &[0, b, d, sfa, full, empty, size, 1024]);
            assert!(size <= LARGEST, "{}: {size} bytes", instance.name());
            assert_eq!(size, instance.smem_bytes(), "{}", instance.name());
            assert!(stages >= 2, "{}: {stages} stages overlap nothing", instance.name());

            // A TMA box starts at a multiple of 128 bytes, a swizzled one at a multiple of eight rows.
            let chunk = (n * instance.output.bytes()).min(128);
            for (what, offset, stride, alignment) in [
                ("a", got[0], m * 128, 1024),
                ("b", got[1], n * 128 / instance.cluster, 1024),
                ("d", got[2], 64 * chunk, 8 * chunk),
                ("sfa", got[3], m * 4, 128),
                ("full", got[4], 8, 8),
                ("empty", got[5], 8, 8),
            ] {
                let aligned = offset.is_multiple_of(alignment) && stride.is_multiple_of(alignment);
                assert!(
                    aligned,
                    "{}: {what} at {offset}, every {stride} bytes, not {alignment}",
                    instance.name()
                );
            }
        }
    }
}
