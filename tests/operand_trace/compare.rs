//! Compares the two machines' traces.

use deepseek_kernels::probe::Operation;

use crate::interpret::Logged;
use crate::parse::Program;

/// Each thread did the same in the same order. Returns the number of operations, or the first difference.
pub fn compare(program: &Program, ptx: &[Vec<Logged>], emulated: &[Vec<Operation>]) -> Result<usize, String> {
    if ptx.len() != emulated.len() {
        return Err(format!("{} threads, emulated {}", ptx.len(), emulated.len()));
    }
    for (thread, (ptx, emulated)) in ptx.iter().zip(emulated).enumerate() {
        let same = ptx.iter().zip(emulated).take_while(|(ptx, emulated)| ptx.operation == **emulated).count();
        if same == ptx.len().max(emulated.len()) {
            continue;
        }
        let ours = ptx.get(same).map_or("ends".to_owned(), |logged| {
            let instruction = program.instructions.iter().find(|i| i.line == logged.line);
            let form = instruction.map_or("", |i| &i.form);
            format!("PTX line {} {form} does {}", logged.line, logged.operation)
        });
        let theirs = emulated.get(same).map_or("ends".to_owned(), |operation| format!("does {operation}"));
        return Err(format!("thread {thread}, operation {same}: {ours}; the emulator {theirs}"));
    }
    Ok(ptx.iter().map(Vec::len).sum())
}
