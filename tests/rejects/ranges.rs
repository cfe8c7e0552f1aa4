//! Every field of every spec, changed to what its type can say: a plan says what was expected and what came, or its run is
//! right. Never a panic, and no number that has lost its upper bits.

mod operations;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use check::case::{Problem, attempt, memory_of};
use check::devices::emulated;
use check::families;
use check::planted::panic_text;
use deepseek_kernels::mla::{RopeTable, YarnRope};
use deepseek_kernels::{Device, Error};
use proptest::prelude::*;
use proptest::sample::Index;
use rayon::prelude::*;

/// Sizes: nothing, the steps that kernels work in with their neighbours, and what does not fit some type.
const SIZES: [usize; 28] = [
    0,
    1,
    2,
    7,
    8,
    9,
    31,
    32,
    33,
    64,
    127,
    128,
    129,
    256,
    512,
    513,
    1024,
    1025,
    (1 << 31) - 128,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 128,
    1 << 40,
    1 << 63,
    usize::MAX - 127,
    usize::MAX,
];
const NUMBERS: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    1e-30,
    65536.0,
    65537.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
];

/// Gives a field one of its values.
type Change<S> = Box<dyn Fn(&mut S) + Send + Sync>;

/// A spec that is good, and what its fields are changed to.
struct Specs<S> {
    /// As its cases have it.
    operation: &'static str,
    good: S,
    fields: Vec<(&'static str, Vec<Change<S>>)>,
    plan: fn(&Device, S) -> Result<(), Error>,
    /// What the cost of a run grows with.
    sizes: fn(&S) -> Vec<usize>,
    /// Inputs for a run, unless no case has such a spec.
    problem: fn(S) -> Option<Arc<dyn Problem>>,
}

/// The specs of any operation.
trait AnySpecs: Send + Sync {
    fn operation(&self) -> &'static str;
    /// Those of the list, and those of the spec.
    fn fields(&self) -> [Vec<String>; 2];
    /// How many values each field is changed to.
    fn values(&self) -> Vec<usize>;
    /// Changes some fields, each to one of its values, and plans; runs where that is no great work.
    fn attempt(&self, changes: &[(usize, usize)]);
}

impl<S: Copy + Debug + Send + Sync> AnySpecs for Specs<S> {
    fn operation(&self) -> &'static str {
        self.operation
    }

    fn fields(&self) -> [Vec<String>; 2] {
        let text = format!("{:#?}", self.good);
        let name = |line: &str| Some(line.strip_prefix("    ")?.split_once(": ")?.0.to_owned());
        let of_spec = text.lines().filter_map(name).filter(|name| !name.starts_with(' '));
        [self.fields.iter().map(|(name, _)| (*name).to_owned()).collect(), of_spec.collect()]
    }

    fn values(&self) -> Vec<usize> {
        self.fields.iter().map(|(_, values)| values.len()).collect()
    }

    fn attempt(&self, changes: &[(usize, usize)]) {
        const MOST: usize = 1 << 20;
        let mut spec = self.good;
        changes.iter().for_each(|&(field, value)| self.fields[field].1[value](&mut spec));
        let device = emulated(0);
        match (self.plan)(&device, spec) {
            Ok(()) => {}
            Err(Error::Spec { what, problem }) => {
                let text = Error::Spec { what, problem }.to_string();
                assert!(text.contains(" must be ") && text.contains(", got "), "{text}: {spec:?}");
                return;
            }
            Err(other) => panic!("{other}: {spec:?}"),
        }
        let cost =
            (self.sizes)(&spec).into_iter().fold(1, |all: usize, size| all.saturating_mul(size.max(1)));
        let problem = if cost <= MOST { (self.problem)(spec) } else { None };
        if let Some(problem) = problem {
            let ran = attempt(problem, &device, memory_of(self.operation));
            ran.map(drop).unwrap_or_else(|error| panic!("{error:#}: {spec:?}"));
        }
    }
}

/// A field that is new has to be listed, and so has an operation.
#[test]
fn every_field_is_listed() {
    let all = operations::all();
    for specs in &all {
        let [listed, there] = specs.fields();
        assert_eq!(listed, there, "fields of {}", specs.operation());
    }
    let listed: BTreeSet<_> = all.iter().map(|specs| specs.operation()).collect();
    let cases = families::all(|family| (family.smoke)());
    // What has several kernels has a name for each.
    let known = |operation: &str| {
        let of_several = ["mla_decode", "mla_absorb", "kv_append"].into_iter();
        let several = of_several.filter(|name| operation.starts_with(name)).any(|name| listed.contains(name));
        several || listed.contains(operation)
    };
    let missed: BTreeSet<_> = cases.iter().map(|case| case.operation()).filter(|name| !known(name)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn one_field_at_a_time() {
    let all = operations::all();
    let changes: Vec<_> = all
        .iter()
        .flat_map(|specs| {
            let values = specs.values().into_iter().enumerate();
            values.flat_map(move |(field, values)| (0..values).map(move |value| (&**specs, (field, value))))
        })
        .collect();
    let wrong = |(specs, change): (&dyn AnySpecs, _)| {
        let panic = catch_unwind(AssertUnwindSafe(|| specs.attempt(&[change]))).err()?;
        Some(format!("{}: {}", specs.operation(), panic_text(&*panic)))
    };
    let wrong: Vec<String> = changes.into_par_iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn several_fields(which in any::<Index>(), changes in prop::collection::vec(any::<[Index; 2]>(), 2..4)) {
        let all = operations::all();
        let specs = which.get(&all);
        let values = specs.values();
        let change = |[field, value]: &[Index; 2]| {
            let field = field.index(values.len());
            (field, value.index(values[field]))
        };
        specs.attempt(&changes.iter().map(change).collect::<Vec<_>>());
    }
}

/// Frequencies that turn no pair backwards or more than a radian a position, and a scale that attention takes.
fn sensible(table: Result<RopeTable, Error>) {
    match table {
        Ok(table) => {
            assert!(table.frequencies().iter().all(|f| (0.0..=1.0).contains(f)), "{table:?}");
            let scale = table.softmax_scale(192) as f32;
            assert!(scale > 0.0 && scale.is_finite(), "{table:?}");
            assert!(table.cos_sin(3).expect("few").iter().all(|x| x.is_finite()), "{table:?}");
        }
        Err(error) => assert!(error.to_string().contains(", got "), "{error}"),
    }
}

#[test]
fn tables_of_angles() {
    let wide = [f64::MIN_POSITIVE, 5e-324, 1.0_f64.next_up(), 1e300, f64::MAX, f64::INFINITY, f64::NAN];
    let numbers: Vec<f64> = NUMBERS.iter().map(|&x| f64::from(x)).chain(wide).collect();
    numbers.iter().for_each(|&theta| sensible(RopeTable::plain(theta)));
    let one: [fn(f64) -> YarnRope; 6] = [
        |x| YarnRope::DEEPSEEK_V3.theta(x),
        |x| YarnRope::new(x, 4096),
        |x| YarnRope::DEEPSEEK_V3.beta_fast(x),
        |x| YarnRope::DEEPSEEK_V3.beta_slow(x),
        |x| YarnRope::DEEPSEEK_V3.mscale(x),
        |x| YarnRope::DEEPSEEK_V3.mscale_all_dim(x),
    ];
    one.iter().for_each(|change| numbers.iter().for_each(|&x| sensible(RopeTable::yarn(change(x)))));
    for positions in SIZES {
        sensible(RopeTable::yarn(YarnRope::new(40.0, positions)));
        for x in &numbers {
            sensible(RopeTable::yarn(YarnRope::new(*x, positions).beta_fast(*x).beta_slow(*x).mscale(*x)));
        }
    }
}
