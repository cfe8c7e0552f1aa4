//! What the compiler said of the kernels when the committed table was written.

use std::collections::BTreeMap;

/// A line about the compiler, names of columns, a line per kernel.
pub const TABLE: &str = include_str!("../../../benches/results/resources.txt");

/// Columns of a kernel by name.
pub type Row = BTreeMap<&'static str, &'static str>;

/// The kernels of a table.
pub fn rows(table: &'static str) -> BTreeMap<&'static str, Row> {
    let mut lines = table.lines().skip(1);
    let head: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    lines
        .map(|line| head.iter().copied().zip(line.split_whitespace()).collect::<Row>())
        .filter_map(|row| Some((*row.get("kernel")?, row)))
        .collect()
}

/// The compiler of a table.
pub fn compiler(table: &'static str) -> &'static str {
    table.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_table_is_read() {
        let rows = rows(TABLE);
        assert!(rows.len() > 40 && rows.values().all(|row| row.contains_key("registers")));
        assert!(compiler(TABLE).starts_with("nvcc release "));
    }
}
