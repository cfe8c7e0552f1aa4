//! The reference of MLA prefill against torch's attention (tests/goldens/prefill.txt), and its bound against mistakes.

use check::goldens::states;
use half::bf16;
use oracles::ShapeError;
use oracles::mla::{Approximations, HeadColumns, MlaHead, mla_prefill, mla_prefill_bits};

const DEEPSEEK_V3: HeadColumns = HeadColumns::DEEPSEEK_V3;
const GLM_5: HeadColumns = HeadColumns::GLM_5;
/// As make_prefill.py has them: columns of a head, query tokens, keys, and whether there is a mask.
const SEQUENCES: [(HeadColumns, usize, usize, bool); 5] = [
    (DEEPSEEK_V3, 3, 140, true),
    (DEEPSEEK_V3, 5, 3, true),
    (DEEPSEEK_V3, 2, 131, false),
    (GLM_5, 3, 140, true),
    (GLM_5, 2, 67, false),
];

/// In [-8, 8), times 1/8.
fn small(count: usize, seed: u32) -> Vec<bf16> {
    states(seed).take(count).map(|state| bf16::from_f32(((state >> 28) as f32 - 8.0) / 8.0)).collect()
}

struct Inputs {
    columns: HeadColumns,
    q: Vec<bf16>,
    keys: Vec<bf16>,
    values: Vec<bf16>,
    causal: bool,
}

impl Inputs {
    fn of(sequence: usize) -> Self {
        let (columns, tokens, keys, causal) = SEQUENCES[sequence];
        let seed = 10 * (sequence as u32 + 1);
        let (q, k) = (small(tokens * columns.key(), seed), small(keys * columns.key(), seed + 1));
        Self { columns, q, keys: k, values: small(keys * columns.value, seed + 2), causal }
    }

    fn head(&self) -> MlaHead<'_> {
        let Self { columns, q, keys, values, causal } = self;
        MlaHead { columns: *columns, q, keys, values, scale: 0.125, causal: *causal }
    }
}

#[test]
fn torch_computes_the_same() -> Result<(), ShapeError> {
    let mut seen = [0; 5];
    for line in include_str!("../goldens/prefill.txt").lines() {
        let numbers: Vec<f64> = line.split(' ').map(|x| x.parse().expect("a number")).collect();
        let (sequence, token) = (numbers[0] as usize, numbers[1] as usize);
        let inputs = Inputs::of(sequence);
        let ours = mla_prefill(&inputs.head(), &[token])?;
        seen[sequence] += 1;
        // Both are in FP64: they differ by some of its last places.
        for (ours, expected) in ours.lse.iter().chain(&ours.out).zip(&numbers[2..]) {
            assert!((ours - expected).abs() < 1e-13 * expected.abs().max(1.0), "{ours}, expected {expected}");
        }
        assert_eq!(numbers.len(), 3 + inputs.columns.value);
    }
    assert_eq!(seen, [3, 3, 2, 3, 2], "the file is whole");
    Ok(())
}

/// Two of five tokens see none of the three keys.
#[test]
fn tokens_without_keys() -> Result<(), ShapeError> {
    let inputs = Inputs::of(1);
    let (bounded, blind) = (mla_prefill(&inputs.head(), &[0, 1, 2])?, 2 * inputs.columns.value);
    assert_eq!(bounded.lse[..2], [f64::NEG_INFINITY; 2]);
    assert!(bounded.out[..blind].iter().chain(&bounded.out_bound[..blind]).all(|&x| x == 0.0));
    assert!(bounded.lse[2].is_finite());
    let bits = mla_prefill_bits(&inputs.head(), &[0, 1], Approximations::ROUNDED)?;
    assert!(bits.lse.iter().all(|&x| x == f32::NEG_INFINITY));
    assert!(bits.out.iter().all(|x| x.to_bits() == 0));
    Ok(())
}

/// The pinned order is within the bound; a key too many or too few, and a value of another key, are not.
#[test]
fn the_bound_holds_for_the_order_and_for_no_mistake() -> Result<(), ShapeError> {
    for sequence in [0, 2, 3, 4] {
        let inputs = Inputs::of(sequence);
        let head = inputs.head();
        let tokens: Vec<usize> = (0..SEQUENCES[sequence].1).collect();
        let bounded = mla_prefill(&head, &tokens)?;
        let accepted = |head: &MlaHead<'_>| -> Result<bool, ShapeError> {
            let bits = mla_prefill_bits(head, &tokens, Approximations::ROUNDED)?;
            Ok(bounded.check_out(&bits.out)?.accepted() && bounded.check_lse(&bits.lse)?.accepted())
        };
        assert!(accepted(&head)?);
        let (columns, fewer) = (head.columns, SEQUENCES[sequence].2 - 1);
        let (keys, values) = (&head.keys[..fewer * columns.key()], &head.values[..fewer * columns.value]);
        assert!(!accepted(&MlaHead { keys, values, ..head })?, "a key too few");
        let mut other = inputs.values.clone();
        other.rotate_left(columns.value);
        assert!(!accepted(&MlaHead { values: &other, ..head })?, "values of the next key");
        assert!(!accepted(&MlaHead { scale: 0.126, ..head })?, "another scale");
        if head.causal {
            assert!(!accepted(&MlaHead { causal: false, ..head })?, "no mask");
        }
    }
    Ok(())
}
