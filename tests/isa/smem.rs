//! Shared memory: scalar loads and stores, stmatrix, ldmatrix.

use check::probes::tma::UNTOUCHED;
use check::probes::{assert_words, machines, run_words};
use deepseek_kernels::probe::Probe;
use deepseek_kernels::probe::kernels::SMEM;
use deepseek_kernels::{Device, EmulatorOptions};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Words of a region, and of a row of an 8x8 matrix.
const REGION: usize = 256;
const ROW: usize = 4;

/// Offsets of 32 different rows in a region, in bytes.
fn row_offsets(rng: &mut Xoshiro256PlusPlus) -> Vec<u32> {
    let mut places: Vec<u32> = (0..REGION / ROW).map(|place| (place * ROW * 4) as u32).collect();
    places.shuffle(rng);
    places.truncate(32);
    places
}

/// Word q of row r of matrix i lies in lane 4r + q, and goes to the address that lane 8i + r gives.
fn for_each_word(matrices: usize, mut word: impl FnMut(usize, usize, usize, usize)) {
    for matrix in 0..matrices {
        for row in 0..8 {
            for q in 0..ROW {
                word(matrix, 8 * matrix + row, 4 * row + q, q);
            }
        }
    }
}

fn stored(offsets: &[u32], registers: &[u32], matrices: usize) -> Vec<u32> {
    let mut region = vec![UNTOUCHED; REGION];
    for_each_word(matrices, |matrix, address_lane, lane, q| {
        region[offsets[address_lane] as usize / 4 + q] = registers[lane * matrices + matrix];
    });
    region
}

fn loaded(offsets: &[u32], region: &[u32]) -> Vec<u32> {
    let mut registers = vec![0; 32 * 4];
    for_each_word(4, |matrix, address_lane, lane, q| {
        registers[lane * 4 + matrix] = region[offsets[address_lane] as usize / 4 + q];
    });
    registers
}

/// Eight rows of 16 bytes are a wavefront where they fill the banks, and eight where they share four of them. The loads of every
/// other word take two each.
#[test]
fn banks_that_many_want_cost_wavefronts() {
    let counts = |offset: fn(usize) -> usize| {
        let options = EmulatorOptions { count_wavefronts: true, ..Default::default() };
        let device = Device::emulated_with(options).unwrap();
        let offsets: Vec<u32> = (0..96).map(|lane| offset(lane % 32) as u32).collect();
        let input = [offsets, vec![0; 128 + 64 + REGION]].concat();
        run_words(
            &device,
            &Probe { input: &input, output_words: 128 + 2 * REGION + 128, ..Probe::new(SMEM, 1) },
        );
        let counts = device.take_counts().remove("probe_smem").unwrap().counts;
        (counts.shared_wavefronts, counts.shared_conflicts)
    };
    let rows_beside_each_other = counts(|lane| 16 * lane);
    let rows_below_each_other = counts(|lane| 128 * (lane % 8) + 16 * (lane / 8));
    let matrices = 4 + 2 + 4;
    // Of the scalars, and of the regions on their way back.
    let every_other_word = 2 + 2 * REGION as u64 / 32;
    assert_eq!(rows_beside_each_other.1, every_other_word);
    assert_eq!(rows_below_each_other.1, every_other_word + 7 * matrices);
    assert_eq!(rows_below_each_other.0, rows_beside_each_other.0 + 7 * matrices);
}

#[test]
fn scalars_and_matrices_land_where_the_lanes_say() {
    for device in machines() {
        for seed in 0..8 {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let [x4, mut x2, x4_load] = std::array::from_fn(|_| row_offsets(&mut rng));
            // Lanes 16 to 31 of stmatrix.x2 give no address.
            x2[16..].fill(0);
            let mut random = |count| (0..count).map(|_| rng.next_u32()).collect::<Vec<_>>();
            let (m4, m2, region) = (random(128), random(64), random(REGION));
            let input = [&x4, &x2, &x4_load, &m4, &m2, &region].map(|part| part.as_slice()).concat();

            let output_words = 128 + 2 * REGION + 128;
            let got = run_words(&device, &Probe { input: &input, output_words, ..Probe::new(SMEM, 1) });
            let scalars = (0..32).rev().flat_map(|lane| {
                let x = lane as f32;
                [0x10000 + lane, (x + 0.5).to_bits(), (x + 0.25).to_bits(), (-x).to_bits()]
            });
            let mut rest = got.as_slice();
            for (what, expected) in [
                ("scalars", scalars.collect()),
                ("stmatrix.x4", stored(&x4, &m4, 4)),
                ("stmatrix.x2", stored(&x2, &m2, 2)),
                ("ldmatrix.x4", loaded(&x4_load, &region)),
            ] {
                let part;
                (part, rest) = rest.split_at(expected.len());
                assert_words(&format!("{} {what}", device.name()), part, &expected);
            }
        }
    }
}
