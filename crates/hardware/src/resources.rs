//! What the compiler said of the kernels when the committed table was written: a driver must say the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use check::resources::{Row, TABLE, rows};
use deepseek_kernels::KernelAttributes;

/// Differences between the driver's attributes of the kernels and the table.
///
/// # Errors
/// When the table cannot be read.
pub fn differences(kernels: &[KernelAttributes]) -> Result<Vec<String>> {
    compare(&rows(TABLE), kernels)
}

fn compare(table: &BTreeMap<&'static str, Row>, kernels: &[KernelAttributes]) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for kernel in kernels {
        let Some(row) = table.get(kernel.name) else {
            differences.push(format!("{}: not in the table", kernel.name));
            continue;
        };
        let number = |column: &str| -> Result<i32> {
            let cell = row.get(column).with_context(|| format!("{}: no column {column}", kernel.name))?;
            cell.parse().with_context(|| format!("{}: {column} is {cell}", kernel.name))
        };
        let mut compare = |what: &str, expected: i32, got: i32| {
            if got != expected {
                differences.push(format!("{}: expected {expected} {what}, got {got}", kernel.name));
            }
        };
        compare("registers", number("registers")?, kernel.registers);
        compare("bytes of local memory", number("stack")?, kernel.local_bytes);
        // What the table adds up is the kernel's own and what a launch asks for.
        compare(
            "bytes of shared memory",
            number("smem")?,
            kernel.static_smem_bytes + kernel.dynamic_smem_bytes,
        );
        if kernel.max_threads < kernel.threads {
            bail!("{}: {} threads are launched, {} can run", kernel.name, kernel.threads, kernel.max_threads);
        }
    }
    let missing = table.keys().filter(|name| !kernels.iter().any(|kernel| kernel.name == **name));
    differences.extend(missing.map(|name| format!("{name}: not loaded")));
    differences.sort_unstable();
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "nvcc release 13.0\nkernel  registers  stack  spills  smem\nrope  26  0  0  64\ngone  1  0  0  0\n";

    fn kernel(name: &'static str) -> KernelAttributes {
        KernelAttributes {
            name,
            registers: 26,
            local_bytes: 0,
            static_smem_bytes: 16,
            dynamic_smem_bytes: 48,
            max_threads: 256,
            threads: 256,
        }
    }

    #[test]
    fn every_difference_is_named() {
        let table = rows(SMALL);
        let slow = KernelAttributes { registers: 40, local_bytes: 8, ..kernel("rope") };
        let found = compare(&table, &[slow, kernel("new")]).unwrap();
        assert_eq!(
            found,
            [
                "gone: not loaded",
                "new: not in the table",
                "rope: expected 0 bytes of local memory, got 8",
                "rope: expected 26 registers, got 40"
            ]
        );
        assert!(compare(&table, &[KernelAttributes { threads: 512, ..kernel("rope") }]).is_err());
    }
}
