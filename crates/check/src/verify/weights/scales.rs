//! Scales of an FP8 matrix: how they lie over it, and what they are per 128x128, as the kernels take them.

use half::{bf16, f16};
use safetensors::Dtype;

use super::config::BlockSize;

/// Rows and columns that share a scale in the kernels.
pub const BLOCK: usize = 128;

/// How the scales of one matrix lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows and columns of scales.
    pub shape: [usize; 2],
    /// Whether a stack has such scales for each of its matrices, or these for all of them.
    pub per_matrix: bool,
    /// The blocks that one scale may stand for: mostly one size.
    pub blocks: Vec<BlockSize>,
}

impl Grid {
    /// Of scales of this `shape`, of matrices `[n, k]` of which there are `experts` in a stack; `config` has the model's own
    /// word for the blocks.
    ///
    /// # Errors
    /// Why these scales do not fit.
    pub fn new(
        [n, k]: [usize; 2],
        experts: Option<usize>,
        shape: &[usize],
        config: Option<BlockSize>,
    ) -> Result<Self, String> {
        let whole = |per_matrix| Self { shape: [1, 1], per_matrix, blocks: vec![[n, k]] };
        if shape.iter().all(|&length| length == 1) {
            return Ok(whole(false));
        }
        let (shape, per_matrix) = match (experts, shape) {
            (None, &[rows]) => ([rows, 1], false),
            (None, &[rows, columns]) => ([rows, columns], false),
            (Some(e), &[matrices]) if matrices == e => return Ok(whole(true)),
            (Some(e), &[matrices, rows]) if matrices == e => ([rows, 1], true),
            (Some(e), &[matrices, rows, columns]) if matrices == e => ([rows, columns], true),
            _ => return Err(unlike([n, k], experts, shape)),
        };
        if shape == [1, 1] {
            return Ok(whole(per_matrix));
        }
        let [rows, columns] = shape;
        let blocks = match config {
            Some([bn, bk]) if [n.div_ceil(bn), k.div_ceil(bk)] == shape => vec![[bn.min(n), bk.min(k)]],
            Some([bn, bk]) => {
                return Err(format!(
                    "scales {shape:?} are not the {:?} of blocks {bn}x{bk}, which config.json gives",
                    [n.div_ceil(bn), k.div_ceil(bk)]
                ));
            }
            None => {
                let (high, wide) = (sizes(n, rows), sizes(k, columns));
                high.iter().flat_map(|&bn| wide.iter().map(move |&bk| [bn, bk])).collect()
            }
        };
        if blocks.is_empty() {
            return Err(unlike([n, k], None, &shape));
        }
        Ok(Self { shape, per_matrix, blocks })
    }

    /// Scales in a matrix's part of the tensor.
    pub fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The same scales, one per 128x128 of `[n, k]`, and the blocks that they were of.
    ///
    /// # Errors
    /// Why there are none: nothing is rounded and nothing guessed.
    pub fn expand(&self, scales: &[f32], matrix: [usize; 2]) -> Result<(Vec<f32>, BlockSize), String> {
        let expanded = |&block: &BlockSize| self.expand_blocks(scales, matrix, block);
        let all: Vec<Option<Vec<f32>>> = self.blocks.iter().map(expanded).collect();
        let bits = |scales: &Option<Vec<f32>>| {
            scales.as_ref().map(|scales| scales.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        };
        if all.iter().any(|other| bits(other) != bits(&all[0])) {
            let sizes: Vec<String> = self.blocks.iter().map(|[bn, bk]| format!("{bn}x{bk}")).collect();
            return Err(format!(
                "ambiguous: blocks of {} have scales {:?}; a config.json beside the file says which, by weight_block_size \
                 in quantization_config",
                sizes.join(" and of "),
                self.shape
            ));
        }
        let [bn, bk] = self.blocks[0];
        let same = all.into_iter().next().flatten();
        let scales = same.ok_or_else(|| {
            let what = if bk == matrix[1] && bn == 1 { "one scale a row".to_owned() } else { format!("blocks of {bn}x{bk}") };
            format!(
                "{what}: the scales differ within 128x128, for which the kernels have one; dequantised to BF16 it can be \
                 checked, and is quantised anew"
            )
        })?;
        Ok((scales, [bn, bk]))
    }

    fn expand_blocks(&self, scales: &[f32], [n, k]: [usize; 2], [bn, bk]: BlockSize) -> Option<Vec<f32>> {
        let cells = |start: usize, end: usize, size: usize| start / size..end.div_ceil(size);
        let mut expanded = Vec::with_capacity(n.div_ceil(BLOCK) * k.div_ceil(BLOCK));
        for row in (0..n).step_by(BLOCK) {
            let rows = cells(row, n.min(row + BLOCK), bn);
            for column in (0..k).step_by(BLOCK) {
                let columns = cells(column, k.min(column + BLOCK), bk);
                let mut under = rows.clone().flat_map(|i| &scales[i * self.shape[1]..][columns.clone()]);
                let first = under.next()?;
                if under.any(|other| other.to_bits() != first.to_bits()) {
                    return None;
                }
                expanded.push(*first);
            }
        }
        Some(expanded)
    }
}

/// Scales that no blocks have.
fn unlike(matrix: [usize; 2], experts: Option<usize>, shape: &[usize]) -> String {
    let blocks = matrix.map(|length| length.div_ceil(BLOCK));
    let expected = match experts {
        Some(e) => format!("{:?} or [{e}]", [e, blocks[0], blocks[1]]),
        None => format!("{blocks:?} or one"),
    };
    format!("scales {shape:?}: expected {expected}, or another number of scales per block")
}

/// Sizes that blocks have in public formats.
const SIZES: [usize; 6] = [16, 32, 64, 128, 256, 512];

/// Blocks of an even division are taken for meant when they are a multiple of this, or single rows.
const EVEN: usize = 16;

/// The sizes of `count` blocks along a `length` that somebody may have meant, the last one perhaps shorter.
fn sizes(length: usize, count: usize) -> Vec<usize> {
    if count == 1 {
        return vec![length];
    }
    let mut sizes: Vec<usize> = SIZES.into_iter().filter(|&size| length.div_ceil(size) == count).collect();
    let even = if count > 0 && length.is_multiple_of(count) { Some(length / count) } else { None };
    let meant = |size: &usize| *size == 1 || size.is_multiple_of(EVEN) || sizes.is_empty();
    sizes.extend(even.filter(meant).filter(|size| !sizes.contains(size)).into_iter().collect::<Vec<_>>());
    sizes.sort_unstable();
    sizes
}

/// Types that hold scales.
pub fn is_scale_type(dtype: Dtype) -> bool {
    use Dtype::{BF16, F8_E8M0, F16, F32, F64};
    matches!(dtype, F32 | BF16 | F16 | F64 | F8_E8M0)
}

/// Little-endian scales as FP32, nothing rounded.
///
/// # Errors
/// The first scale that is no FP32 value.
pub fn values(bytes: &[u8], dtype: Dtype) -> Result<Vec<f32>, String> {
    match dtype {
        Dtype::F16 => Ok(pairs(bytes).map(|x| f16::from_le_bytes(x).to_f32()).collect()),
        Dtype::BF16 => Ok(pairs(bytes).map(|x| bf16::from_le_bytes(x).to_f32()).collect()),
        Dtype::F8_E8M0 => Ok(bytes.iter().copied().map(power_of_two).collect()),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|&x| exact(f64::from_le_bytes(x))).collect(),
        _ => Ok(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect()),
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.as_chunks().0.iter().copied()
}

/// E8M0: an exponent and nothing else.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        // The only one that is below FP32's normal numbers.
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

fn exact(x: f64) -> Result<f32, String> {
    let rounded = x as f32;
    if f64::from(rounded) == x || x.is_nan() {
        return Ok(rounded);
    }
    Err(format!("F64 scales that are not exact in FP32, as {x}: round them to F32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(matrix: [usize; 2], shape: &[usize]) -> Grid {
        Grid::new(matrix, None, shape, None).unwrap()
    }

    #[test]
    fn exponents_are_powers_of_two() {
        for (byte, value) in [(0, 2f64.powi(-127)), (1, 2f64.powi(-126)), (127, 1.0), (254, 2f64.powi(127))] {
            assert_eq!(f64::from(power_of_two(byte)), value, "{byte}");
        }
        assert!(power_of_two(255).is_nan());
    }

    #[test]
    fn only_exact_doubles_are_taken() {
        assert_eq!(exact(0.25), Ok(0.25));
        assert_eq!(exact(2f64.powi(-149)), Ok(f32::from_bits(1)));
        assert_eq!(exact(f64::INFINITY), Ok(f32::INFINITY));
        assert!(exact(f64::NAN).unwrap().is_nan());
        for x in [0.1, 1e300, 2f64.powi(-150)] {
            assert!(exact(x).is_err(), "{x}");
        }
    }

    #[test]
    fn one_scale_is_one_for_all() {
        for shape in [&[][..], &[1], &[1, 1], &[1, 1, 1]] {
            let expanded = grid([300, 200], shape).expand(&[0.5], [300, 200]).unwrap();
            assert_eq!(expanded, (vec![0.5; 6], [300, 200]), "{shape:?}");
        }
    }

    #[test]
    fn rows_are_taken_where_128_of_them_agree() {
        let mut rows = [vec![1.0_f32; 128], vec![2.0; 72]].concat();
        for shape in [&[200][..], &[200, 1]] {
            let expanded = grid([200, 256], shape).expand(&rows, [200, 256]).unwrap();
            assert_eq!(expanded, (vec![1.0, 1.0, 2.0, 2.0], [1, 256]), "{shape:?}");
        }
        rows[127] = 3.0;
        let reason = grid([200, 256], &[200]).expand(&rows, [200, 256]).unwrap_err();
        assert!(reason.starts_with("one scale a row: the scales differ within 128x128"), "{reason}");
    }

    #[test]
    fn larger_blocks_are_split_and_smaller_ones_must_agree() {
        let large = grid([512, 384], &[2, 2]);
        assert_eq!(large.blocks, [[256, 192], [256, 256]]);
        let (scales, block) = grid([512, 512], &[2, 2]).expand(&[1.0, 2.0, 3.0, 4.0], [512, 512]).unwrap();
        assert_eq!(block, [256, 256]);
        assert_eq!(
            scales,
            [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0], [3.0, 3.0, 4.0, 4.0]].concat()
        );
        let small = grid([256, 128], &[4, 2]);
        assert_eq!(small.blocks, [[64, 64]]);
        assert_eq!(
            small.expand(&[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], [256, 128]).unwrap().0,
            [1.0, 2.0]
        );
        assert!(small.expand(&[1.0, 1.0, 1.0, 5.0, 2.0, 2.0, 2.0, 2.0], [256, 128]).is_err());
    }

    #[test]
    fn what_two_sizes_explain_is_ambiguous_unless_it_is_the_same_or_the_model_says() {
        let two = grid([192, 192], &[2, 2]);
        assert_eq!(two.blocks, [[96, 96], [96, 128], [128, 96], [128, 128]]);
        let reason = two.expand(&[1.0, 2.0, 3.0, 4.0], [192, 192]).unwrap_err();
        assert!(reason.starts_with("ambiguous: blocks of 96x96 and of 96x128 and of "), "{reason}");
        assert_eq!(two.expand(&[1.0; 4], [192, 192]).unwrap().0, [1.0; 4]);
        let told = Grid::new([192, 192], None, &[2, 2], Some([128, 128])).unwrap();
        assert_eq!(
            told.expand(&[1.0, 2.0, 3.0, 4.0], [192, 192]).unwrap(),
            (vec![1.0, 2.0, 3.0, 4.0], [128, 128])
        );
        let other = Grid::new([192, 192], None, &[2, 2], Some([64, 64])).unwrap_err();
        assert_eq!(other, "scales [2, 2] are not the [3, 3] of blocks 64x64, which config.json gives");
        // Shapes of DeepSeek-V3, and tails of which no even division is a block.
        for ([n, k], shape) in
            [([576, 7168], [5, 56]), ([2112, 7168], [17, 56]), ([136, 128], [2, 1]), ([7, 130], [1, 2])]
        {
            let sizes = grid([n, k], &shape).blocks;
            assert_eq!(sizes, [[128.min(n), 128.min(k)]], "{n} x {k}");
        }
    }

    #[test]
    fn stacks_have_scales_for_each_or_for_all() {
        let stack = |shape: &[usize]| Grid::new([256, 128], Some(3), shape, None);
        assert_eq!(stack(&[3]).unwrap(), Grid { shape: [1, 1], per_matrix: true, blocks: vec![[256, 128]] });
        assert_eq!(stack(&[1]).unwrap(), Grid { shape: [1, 1], per_matrix: false, blocks: vec![[256, 128]] });
        assert!(stack(&[3, 1, 1]).unwrap().per_matrix);
        assert_eq!(stack(&[3, 2, 1]).unwrap().blocks, [[128, 128]]);
        assert_eq!(stack(&[3, 256, 1]).unwrap().blocks, [[1, 128]]);
        assert_eq!(stack(&[3, 256]).unwrap().blocks, [[1, 128]]);
        for shape in [&[2, 1][..], &[6, 1], &[2, 2, 1], &[3, 2, 1, 1]] {
            assert!(stack(shape).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn scales_that_fit_nothing_are_refused() {
        for shape in [&[0][..], &[7, 1], &[0, 1], &[2, 0], &[300, 1], &[2, 1, 1], &[usize::MAX, 1]] {
            assert!(Grid::new([136, 200], None, shape, None).is_err(), "{shape:?}");
        }
    }
}
