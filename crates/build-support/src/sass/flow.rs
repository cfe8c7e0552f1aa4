//! Where control goes from an instruction, and which instructions are part of a loop.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};

use super::{Instruction, Kernel};

impl Kernel {
    /// Whether control can come back to the instruction. A wait that spins is a loop of its own; the way back from one
    /// that stands at the end of the kernel is not.
    pub fn is_in_loop(&self, index: usize) -> Result<bool> {
        self.is_in_loop_without(index, |_| false)
    }

    /// Whether control can come back to the instruction past no instruction that `leaves`.
    pub fn is_in_loop_without(&self, index: usize, leaves: impl Fn(&Instruction) -> bool) -> Result<bool> {
        Ok(self.reached(self.successors(index)?, leaves)?[index])
    }

    /// Which instructions control comes to from the start of the kernel past none that `stops` it; those themselves are among
    /// them.
    pub fn reached_without(&self, stops: impl Fn(&Instruction) -> bool) -> Result<Vec<bool>> {
        self.reached(vec![0], stops)
    }

    /// From where the nearest branch behind an instruction goes, in front of it, to that branch: mostly the innermost loop
    /// around it, as far as its code lies together.
    pub fn loop_around(&self, index: usize) -> Result<Option<RangeInclusive<usize>>> {
        let mut nearest: Option<RangeInclusive<usize>> = None;
        for end in index..self.instructions.len() {
            let Some(start) = self.target(&self.instructions[end])?.filter(|&start| start <= index) else {
                continue;
            };
            if self.instructions[end].base() == "BRA"
                && nearest.as_ref().is_none_or(|n| end - start < n.end() - n.start())
            {
                nearest = Some(start..=end);
            }
        }
        Ok(nearest)
    }

    fn reached(&self, mut open: Vec<usize>, stops: impl Fn(&Instruction) -> bool) -> Result<Vec<bool>> {
        let mut seen = vec![false; self.instructions.len()];
        while let Some(next) = open.pop() {
            if !std::mem::replace(&mut seen[next], true) && !stops(&self.instructions[next]) {
                open.extend(self.successors(next)?);
            }
        }
        Ok(seen)
    }

    fn successors(&self, index: usize) -> Result<Vec<usize>> {
        let instruction = &self.instructions[index];
        let target = self.target(instruction)?;
        let (mut next, falls_through) = match (instruction.base(), target) {
            // Its label is where the BSYNC of the same barrier goes.
            ("BSSY", Some(_)) => (Vec::new(), true),
            ("BSYNC", None) => (self.reconvergence(index)?, false),
            ("RET", _) => (self.returns(), instruction.guarded),
            ("EXIT", None) => (Vec::new(), instruction.guarded),
            // `BRA P1, label` and `BRA.DIV UR4, label` may fall through too.
            ("BRA", Some(target)) => {
                let only_a_label = instruction.opcode == "BRA" && instruction.operands.starts_with('`');
                (vec![target], instruction.guarded || !only_a_label)
            }
            ("CALL", Some(target)) => (vec![target], instruction.guarded),
            ("BRA" | "BRX" | "BRXU" | "JMP" | "JMX" | "JMXU" | "CALL", _) => {
                bail!("{instruction}: goes where only its registers know")
            }
            (_, target) => (Vec::from_iter(target), true),
        };
        next.extend((falls_through && index + 1 < self.instructions.len()).then_some(index + 1));
        Ok(next)
    }

    /// What a label among the operands points to.
    fn target(&self, instruction: &Instruction) -> Result<Option<usize>> {
        let Some((_, label)) = instruction.operands.split_once("`(") else { return Ok(None) };
        let label = label.split(')').next().unwrap_or_default();
        let index = self.labels.get(label).with_context(|| format!("{instruction}: no label {label}"))?;
        Ok(Some(*index))
    }

    /// Where a BSYNC goes: mostly what follows it is the end of a BSSY; else any end of its barrier.
    fn reconvergence(&self, index: usize) -> Result<Vec<usize>> {
        let barrier = first_operand(&self.instructions[index]);
        let mut ends = Vec::new();
        for other in &self.instructions {
            if other.base() == "BSSY" && first_operand(other) == barrier {
                ends.extend(self.target(other)?);
            }
        }
        Ok(if ends.contains(&(index + 1)) { vec![index + 1] } else { ends })
    }

    /// What follows the calls: where a subroutine may return to.
    fn returns(&self) -> Vec<usize> {
        let calls = (0..self.instructions.len()).filter(|&i| self.instructions[i].base() == "CALL");
        calls.map(|i| i + 1).filter(|&i| i < self.instructions.len()).collect()
    }
}

fn first_operand(instruction: &Instruction) -> &str {
    instruction.operands.split(',').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::super::{assembled, parse};

    /// The NOPs that are in a loop, by number.
    fn looped(source: &str) -> Vec<usize> {
        let kernel = parse(&assembled(source)).unwrap();
        let is_nop = |&i: &usize| kernel.instructions[i].base() == "NOP";
        let nops: Vec<usize> = (0..kernel.instructions.len()).filter(is_nop).collect();
        (0..nops.len()).filter(|&n| kernel.is_in_loop(nops[n]).unwrap()).collect()
    }

    #[test]
    fn a_backward_branch_makes_a_loop() {
        assert_eq!(looped("NOP\nL1:\nNOP\nNOP\n@P0 BRA `(L1)\nNOP\nEXIT"), [1, 2]);
        assert_eq!(looped("NOP\nL1:\nNOP\n@P0 EXIT\nNOP\nBRA `(L1)\nNOP"), [1, 2]);
        assert_eq!(looped("@P0 BRA `(L1)\nNOP\nEXIT\nL1:\nNOP\nEXIT"), [0; 0]);
    }

    /// A wait that fails goes to the end of the kernel, spins there, and comes back: that alone is no loop of the code
    /// between.
    #[test]
    fn the_way_back_from_a_spinning_wait_is_no_loop() {
        let wait = "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2\n";
        let spin = format!("RETRY:\n{wait}@!P0 BRA `(RETRY)\nBRA `(BACK)\n");
        assert_eq!(looped(&format!("{wait}@!P0 BRA `(RETRY)\nBACK:\nNOP\nEXIT\nNOP\n{spin}")), [0; 0]);
        let in_a_loop =
            format!("TOP:\n{wait}@!P0 BRA `(RETRY)\nBACK:\nNOP\n@P1 BRA `(TOP)\nNOP\nEXIT\n{spin}");
        assert_eq!(looped(&in_a_loop), [0]);
    }

    /// The out-of-line part of a loop is part of it; what lies between the two is not.
    #[test]
    fn a_loop_may_lie_in_pieces() {
        let source =
            "TOP:\nNOP\n@P0 BRA `(FAR)\nBACK:\nNOP\n@P1 BRA `(TOP)\nNOP\nEXIT\nFAR:\nNOP\nBRA `(BACK)";
        assert_eq!(looped(source), [0, 1, 3]);
    }

    #[test]
    fn threads_meet_where_their_barrier_says() {
        let source =
            "BSSY B0, `(END)\n@P0 BRA `(ELSE)\nNOP\nBSYNC B0\nEND:\nNOP\nEXIT\nELSE:\nNOP\nBSYNC B0\nNOP";
        assert_eq!(looped(source), [0; 0]);
        let again = "TOP:\nBSSY B0, `(END)\n@P0 BRA `(ELSE)\nBSYNC B0\nEND:\n@P1 BRA `(TOP)\nEXIT\nELSE:\nNOP\nBSYNC B0\nNOP";
        assert_eq!(looped(again), [0]);
    }

    #[test]
    fn a_subroutine_belongs_to_the_loops_that_call_it() {
        let called =
            "TOP:\nCALL.REL.NOINC `(SUB)\nNOP\n@P0 BRA `(TOP)\nEXIT\nSUB:\nNOP\nRET.REL.NODEC R4 `(.text.k)";
        assert_eq!(looped(called), [0, 1]);
        assert_eq!(
            looped("CALL.REL.NOINC `(SUB)\nNOP\nEXIT\nSUB:\nNOP\nRET.REL.NODEC R4 `(.text.k)"),
            [0; 0]
        );
    }

    #[test]
    fn the_innermost_loop_is_the_shortest() {
        let source = "A:\nNOP\nB:\nNOP\n@P0 BRA `(B)\nNOP\n@P1 BRA `(A)\nEXIT";
        let kernel = parse(&assembled(source)).unwrap();
        let around = |index| kernel.loop_around(index).unwrap();
        assert_eq!([0, 1, 2, 3].map(around), [Some(0..=4), Some(1..=2), Some(1..=2), Some(0..=4)]);
        assert_eq!(around(5), None);
    }

    #[test]
    fn a_branch_to_nowhere_is_an_error() {
        for source in ["NOP\nBRX R4\nEXIT", "NOP\nBRA `(LOST)\nEXIT"] {
            assert!(parse(&assembled(source)).unwrap().is_in_loop(0).is_err(), "{source}");
        }
    }
}
