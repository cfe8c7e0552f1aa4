//! The operand trace: nvcc's PTX of every kernel does, thread by thread and operand by operand, what the emulator does.
//!
//! The emulator never reads the inline PTX of `cuda/sm90/ptx/`, so a swapped operand or an inverted predicate there is
//! invisible to every other test. Here a scalar interpreter runs nvcc's PTX of a few CTAs, the emulator runs the same
//! launch in trace mode, both on the same made-up data, and each thread's sequence of hardware operations must be equal.

#[path = "../../src/bindings.rs"]
#[allow(dead_code, non_camel_case_types, non_upper_case_globals, non_snake_case, clippy::all)]
mod bindings;
mod compare;
mod decode;
#[path = "../../src/instances.rs"]
#[allow(dead_code)]
mod instances;
mod interpret;
mod launches;
mod parse;
mod planted;
mod scalar;
mod trace;
mod traps;

#[test]
fn runs() {
    let mut total = 0;
    for l in launches::all() {
        let p = parse::parse(&std::fs::read_to_string(format!("/tmp/ot/ptx/{}.ptx", l.kernel)).unwrap()).unwrap();
        for &block in &l.blocks {
            let logs = interpret::run(&p, interpret::Cta { block, grid: l.grid, params: &l.params, shared: 1024 }).unwrap();
            total += logs.iter().map(Vec::len).sum::<usize>();
        }
    }
    println!("{total}");
}

#[test]
fn plants() {
    let l = launches::all().into_iter().find(|l| l.kernel == "fp8_gemm_m128_n128_c2_bf16").unwrap();
    let text = std::fs::read_to_string(format!("/tmp/ot/ptx/{}.ptx", l.kernel)).unwrap();
    let p = parse::parse(&text).unwrap();
    let cta = interpret::Cta { block: 0, grid: l.grid, params: &l.params, shared: 1024 };
    let reference: Vec<Vec<trace::Operation>> = interpret::run(&p, cta).unwrap().into_iter().map(|t| t.into_iter().map(|l| l.operation).collect()).collect();
    for planted in planted::PLANTED {
        let text = planted.plant(&text).unwrap();
        let result = parse::parse(&text).and_then(|p| interpret::run(&p, cta).and_then(|logs| compare::compare(&p, &logs, &reference)));
        match result { Ok(n) => println!("MISSED {} {n}", planted.what), Err(m) => println!("{} {} ::: {}", if m.contains(planted.flagged) {"ok"} else {"WRONG"}, planted.what, m.chars().take(300).collect::<String>()) }
    }
}
