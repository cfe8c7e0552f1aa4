//! The loop in which a kernel multiplies: what its own instructions take, products and waits aside.

use std::ops::RangeInclusive;

use anyhow::Result;

use super::{Instruction, Kernel};

/// A round of the loop around wgmmas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// In which a warp issues all instructions of the round, what waits aside: the sum of their stalls.
    pub cycles: u32,
    pub wgmmas: u32,
}

pub(super) fn is_wgmma(instruction: &Instruction) -> bool {
    matches!(instruction.base(), "QGMMA" | "HGMMA" | "IGMMA" | "BGMMA")
}

/// Of the innermost loops around wgmmas that with the most of them: a warpgroup's K loop, or the one that scores.
pub fn round(kernel: &Kernel) -> Result<Option<Round>> {
    let mut loops: Vec<RangeInclusive<usize>> = Vec::new();
    for index in (0..kernel.instructions.len()).filter(|&index| is_wgmma(&kernel.instructions[index])) {
        loops.extend(kernel.loop_around(index)?);
    }
    let contains = |outer: &RangeInclusive<usize>, inner: &RangeInclusive<usize>| {
        outer != inner && outer.contains(inner.start()) && outer.contains(inner.end())
    };
    let innermost = loops.iter().filter(|outer| !loops.iter().any(|inner| contains(outer, inner)));
    let rounds = innermost.map(|range| {
        let instructions = &kernel.instructions[range.clone()];
        Round {
            cycles: instructions.iter().map(|instruction| u32::from(instruction.stall)).sum(),
            wgmmas: instructions.iter().filter(|instruction| is_wgmma(instruction)).count() as u32,
        }
    });
    Ok(rounds.max_by_key(|round| round.wgmmas))
}

#[cfg(test)]
mod tests {
    use super::super::{assembled, parse};
    use super::*;

    fn round_of(source: &str) -> Option<Round> {
        round(&parse(&assembled(source)).unwrap()).unwrap()
    }

    #[test]
    fn the_loop_with_the_most_products_counts() {
        let multiply = "QGMMA.64x16x32.F32.E4M3.E4M3 R24, gdesc[UR4]\n";
        // A tile's loop around two K loops, with products of its own in between.
        let source = format!(
            "TILE:\nNOP\nA:\n{multiply}NOP\n@P0 BRA `(A)\n{multiply}{multiply}{multiply}B:\n{multiply}{multiply}\
             @P1 BRA `(B)\n@P2 BRA `(TILE)\nEXIT"
        );
        assert_eq!(round_of(&source), Some(Round { cycles: 3, wgmmas: 2 }));
        assert_eq!(round_of(&format!("{multiply}EXIT")), None);
    }
}
