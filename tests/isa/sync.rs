//! Special registers, collectives of a warp, barriers of CTA and cluster, grids in a row, the register pool.

use check::probes::{ask, assert_words, machines, run, run_words};
use deepseek_kernels::probe::kernels::{REDUCE, REGISTERS, SYNC};
use deepseek_kernels::probe::{Probe, UNWRITTEN};

const THREADS: u32 = 128;
const WORDS: usize = 42;

#[test]
fn registers_shuffles_and_barriers_exchange_the_right_words() {
    const GRID: u32 = 3;
    for device in machines() {
        let output_words = (GRID * THREADS) as usize * WORDS;
        let output = run(&device, &Probe { output_words, ..Probe::new(SYNC, GRID) }).output;
        for (index, words) in output.chunks(WORDS).enumerate() {
            let (cta, thread) = (index as u32 / THREADS, index as u32 % THREADS);
            let what = format!("{} CTA {cta} thread {thread}", device.name());
            assert_words(&what, &words[..4], &[thread, cta, GRID, 7 * (thread & !31) + 3]);
            let shuffled: Vec<u32> = (0..32).map(|mask| (1.5 * (thread ^ mask) as f32).to_bits()).collect();
            assert_words(&what, &words[8..40], &shuffled);
            let named = 2000 + if thread < 32 { thread } else { thread ^ 63 };
            assert_words(&what, &words[40..], &[named, 5000 + THREADS - 1 - thread]);
        }
    }
}

#[test]
fn a_warp_elects_one_lane_and_stays_with_it() {
    for device in machines() {
        let output =
            run(&device, &Probe { output_words: THREADS as usize * WORDS, ..Probe::new(SYNC, 1) }).output;
        for warp in output.chunks(32 * WORDS) {
            let elected = |call: usize| warp.chunks(WORDS).map(|words| words[4 + call]).collect::<Vec<_>>();
            assert_eq!(elected(0).iter().sum::<u32>(), 1, "{}", device.name());
            assert_eq!(elected(0), elected(1), "{}", device.name());
        }
    }
}

#[test]
fn registers_move_between_warpgroups() {
    for device in machines() {
        let got = run_words(&device, &Probe { output_words: 2 * 384, ..Probe::new(REGISTERS, 1) });
        let expected: Vec<u32> =
            (0..384).flat_map(|thread| [thread, [120, 152, 232][thread as usize / 128]]).collect();
        assert_words(device.name(), &got, &expected);
    }
}

#[test]
fn reductions_and_sums_take_every_word() {
    const GRID: u32 = 3;
    let input: Vec<u32> = (0..GRID * 64).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(i)).collect();
    for device in machines() {
        let output_words = 2 + 8 * input.len();
        let output = run(&device, &Probe { input: &input, output_words, ..Probe::new(REDUCE, GRID) }).output;
        let total = input.iter().fold(UNWRITTEN, |sum, &word| sum.wrapping_add(word));
        assert_words(device.name(), &output[..2], &[total, UNWRITTEN]);
        for (index, words) in output[2..].chunks(8).enumerate() {
            let warp = &input[index / 32 * 32..][..32];
            let sum = warp.iter().fold(0_u32, |sum, &word| sum.wrapping_add(word));
            let (least, greatest) = (*warp.iter().min().unwrap(), *warp.iter().max().unwrap());
            let (cta, thread) = (index / 64, 63 - index as u32 % 64);
            let other = input[cta * 64 + thread as usize];
            let expected = [sum, least, greatest, input[index], other, !other, thread, other ^ thread];
            assert_words(&format!("{} thread {index}", device.name()), words, &expected);
        }
    }
}

#[test]
fn a_grid_sees_what_the_grid_before_it_wrote() {
    ask(&machines(), "sync/");
}
