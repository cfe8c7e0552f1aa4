//! The operand trace: nvcc's PTX of every kernel does, thread by thread and operand by operand, what the
//! emulator does.
//!
//! The emulator never reads the inline PTX of `cuda/hopper/sm90/ptx/`, so a swapped operand or an inverted predicate
//! there is invisible to every other test. Here a scalar interpreter runs nvcc's PTX, the emulator runs the
//! same launch in trace mode, both on the same made-up data, and each thread's sequence of hardware
//! operations must be equal.
//!
//! The same text says what addresses are computed from: no product of 32 bits that may not fit them.

#![cfg_attr(not(has_emulator), allow(dead_code))]

mod addresses;
mod compare;
mod decode;
#[cfg(has_emulator)]
mod emulate;
mod interpret;
mod parse;
mod planted;
mod scalar;
mod trace;
mod traps;

#[cfg(has_emulator)]
mod against_the_emulator {
    use std::collections::BTreeSet;
    use std::path::Path;

    use check::families::FAMILIES;
    use check::trace::Launch;
    use deepseek_kernels::table::kernels;

    use crate::addresses::BOUNDED;
    use crate::emulate::{self, Traces};
    use crate::interpret::{Cta, run};
    use crate::parse::{Program, parse};
    use crate::planted::PLANTED;
    use crate::{addresses, compare, trace};

    /// Whether build.rs had an nvcc.
    fn nvcc_was_there() -> bool {
        if !cfg!(has_cubins) {
            println!("SKIPPED operand_trace: no nvcc");
        }
        cfg!(has_cubins)
    }

    fn ptx(kernel: &str) -> String {
        let path = Path::new(env!("DK_KERNEL_DIR")).join(kernel).with_extension("ptx");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Of every kernel.
    fn launches() -> impl Iterator<Item = Launch> {
        FAMILIES.into_iter().flat_map(|family| (family.traced)())
    }

    /// Compares all CTAs of a launch; returns the number of operations.
    fn compare_all(program: &Program, launch: &Launch, emulated: &Traces) -> Result<usize, String> {
        let mut operations = 0;
        for (index, emulated) in (0..launch.grid).zip(emulated) {
            let cta = Cta { index, grid: launch.grid, params: &launch.params, shared: trace::SHARED_BASE };
            operations += compare::compare(program, &run(program, cta)?, emulated)
                .map_err(|difference| format!("{} CTA {index} {difference}", launch.kernel))?;
        }
        Ok(operations)
    }

    #[test]
    fn every_kernel_does_the_same_as_ptx() {
        if !nvcc_was_there() {
            return;
        }
        let mut operations = 0;
        for launch in launches() {
            let program = parse(&ptx(&launch.kernel)).unwrap();
            let emulated = emulate::run(&launch, program.threads as usize).unwrap();
            operations += compare_all(&program, &launch, &emulated).unwrap();
        }
        println!("{operations} operations are the same");
    }

    #[test]
    fn every_kernel_is_traced() {
        let traced: Vec<String> = launches().map(|launch| launch.kernel).collect();
        for kernel in kernels() {
            assert!(traced.contains(&kernel.name), "{} has no launch", kernel.name);
        }
    }

    /// The products of a kernel that may not fit, each with its line in the sources.
    fn products(text: &str) -> Vec<(String, addresses::Product)> {
        let places = addresses::places(text);
        let source = |product: addresses::Product| {
            let place = places[product.line - 1].as_ref().expect("a line of the sources");
            (addresses::source(place), product)
        };
        addresses::products(&parse(text).unwrap()).into_iter().map(source).collect()
    }

    #[test]
    fn no_address_rests_on_a_product_that_may_not_fit() {
        if !nvcc_was_there() {
            return;
        }
        let (mut wrong, mut used) = (BTreeSet::new(), [false; BOUNDED.len()]);
        for kernel in kernels().filter(|kernel| !kernel.name.starts_with("probe")) {
            for (source, product) in products(&ptx(&kernel.name)) {
                match BOUNDED.iter().position(|bounded| bounded.explains(&source)) {
                    Some(entry) => used[entry] = true,
                    None => drop(wrong.insert(format!("{source}\n    {}: {}", kernel.name, product.text))),
                }
            }
        }
        let wrong: Vec<String> = wrong.into_iter().collect();
        assert!(wrong.is_empty(), "64 bits, or who sees to it that 32 are enough:\n{}", wrong.join("\n"));
        let unused = BOUNDED.iter().zip(used).filter(|(_, used)| !used);
        let stale: Vec<String> = unused.map(|(bounded, _)| bounded.to_string()).collect();
        assert!(stale.is_empty(), "no product there any more:\n{}", stale.join("\n"));
    }

    /// As nvcc writes it where a `static_cast<uint64_t>` is missing.
    #[test]
    fn a_product_of_32_bits_is_flagged() {
        if !nvcc_was_there() {
            return;
        }
        for kernel in ["rope", "combine", "merge_states", "dequantize", "kv_append"] {
            let text = ptx(kernel);
            let wide =
                text.lines().find(|line| line.trim().starts_with("mul.wide.u32") && line.contains("%rd"));
            let wide = wide.unwrap_or_else(|| panic!("{kernel} has no product of 64 bits"));
            let (registers, factor) = wide.trim().trim_end_matches(';').rsplit_once(", ").expect("a factor");
            let (result, other) =
                registers.trim_start_matches("mul.wide.u32").trim().split_once(", ").expect("registers");
            let narrow =
                format!("{{ .reg .b32 t; mul.lo.s32 t, {other}, {factor}; cvt.u64.u32 {result}, t; }}");
            let planted = text.replacen(wide, &narrow, 1);
            let found = products(&planted).len();
            assert_eq!(found, products(&text).len() + 1, "{kernel}: {}", wide.trim());
        }
    }

    #[test]
    fn planted_errors_are_flagged() {
        if !nvcc_was_there() {
            return;
        }
        let clustered = |launch: &Launch| launch.kernel == "fp8_gemm_m128_n128_c2_bf16";
        let launches: Vec<Launch> = launches().filter(clustered).collect();
        let text = ptx(&launches[0].kernel);
        let threads = parse(&text).unwrap().threads as usize;
        let emulated: Vec<Traces> =
            launches.iter().map(|launch| emulate::run(launch, threads).unwrap()).collect();
        for planted in PLANTED {
            let program = planted.plant(&text).and_then(|text| parse(&text));
            let report = program.and_then(|program| {
                let mut runs = launches.iter().zip(&emulated);
                runs.try_for_each(|(launch, emulated)| compare_all(&program, launch, emulated).map(drop))
            });
            let report = report.expect_err(planted.what);
            assert!(report.contains(planted.flagged), "{}: {report}", planted.what);
        }
    }
}
