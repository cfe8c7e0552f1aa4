//! What `ptxas -v` says about a kernel: builds refuse spills with it.

/// What one thread, and one CTA, of a kernel occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread at entry.
    pub registers: u32,
    /// Bytes of local memory of a thread.
    pub stack: u32,
    /// Bytes written to local memory because registers ran out.
    pub spill_stores: u32,
    /// Bytes read back.
    pub spill_loads: u32,
    /// Named barriers.
    pub barriers: u32,
    /// Bytes of static shared memory.
    pub static_smem: u32,
}

/// Reads the report of a file with one kernel.
pub fn parse(report: &str) -> Result<Resources, String> {
    let number_before = |unit: &str| {
        let before = &report[..report.find(unit)?];
        before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let required =
        |unit: &str| number_before(unit).ok_or_else(|| format!("no number of \"{unit}\" in:\n{report}"));
    Ok(Resources {
        registers: required(" registers,")?,
        stack: required(" bytes stack frame")?,
        spill_stores: required(" bytes spill stores")?,
        spill_loads: required(" bytes spill loads")?,
        barriers: number_before(" barriers").unwrap_or(0),
        static_smem: number_before(" bytes smem").unwrap_or(0),
    })
}

/// Fails when ptxas ran out of registers, or gave up overlapping wgmma or applying setmaxnreg. It prints the latter two
/// as mere "info" lines.
pub(crate) fn refuse_slow(report: &str) -> Result<(), String> {
    let resources = parse(report)?;
    let spills = resources.spill_stores > 0 || resources.spill_loads > 0;
    if spills || report.contains("Potential Performance Loss") {
        return Err(report.trim_end().to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(spill_stores: u32, spill_loads: u32) -> String {
        format!(
            "ptxas info    : 0 bytes gmem\n\
             ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
             ptxas info    : Function properties for k\n\
             \x20   0 bytes stack frame, {spill_stores} bytes spill stores, {spill_loads} bytes spill loads\n\
             ptxas info    : Used 168 registers, used 9 barriers, 64 bytes smem\n"
        )
    }

    #[test]
    fn every_number_is_read() {
        let expected = Resources {
            registers: 168,
            stack: 0,
            spill_stores: 4,
            spill_loads: 12,
            barriers: 9,
            static_smem: 64,
        };
        assert_eq!(parse(&report(4, 12)), Ok(expected));
        assert!(parse("ptxas fatal : something").is_err());
    }

    #[test]
    fn spills_and_performance_losses_are_refused() {
        assert_eq!(refuse_slow(&report(0, 0)), Ok(()));
        assert!(refuse_slow(&report(8, 0)).unwrap_err().contains("8 bytes spill stores"));
        assert!(refuse_slow(&report(0, 8)).unwrap_err().contains("8 bytes spill loads"));
        let serialized = report(0, 0) + "ptxas info : (C7511) Potential Performance Loss: wgmma serialized";
        assert!(refuse_slow(&serialized).unwrap_err().contains("C7511"));
    }
}
