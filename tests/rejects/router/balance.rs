//! Of what balances the router.

use check::devices::emulated;
use deepseek_kernels::router::{
    BiasUpdate, BiasUpdateSpec, ExpertLoad, ExpertLoadSpec, SequenceBalanceLoss, SequenceBalanceLossSpec,
};

use crate::message;

#[test]
fn plans() {
    let device = emulated(0);
    let load = |tokens, routes, experts| {
        message(ExpertLoad::plan(&device, ExpertLoadSpec::new(tokens, routes, experts)))
    };
    assert_eq!(load(1 << 31, 1, 8), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(load(1, 33, 8), "experts of a token must be at most 32, got 33");
    assert_eq!(load(1, 8, 1025), "experts must be at most 1024, got 1025");
    let update = BiasUpdate::plan(&device, BiasUpdateSpec::new(1025, 1e-3));
    assert_eq!(message(update), "experts must be at most 1024, got 1025");
    let backwards = BiasUpdate::plan(&device, BiasUpdateSpec::new(8, -1e-3));
    assert_eq!(message(backwards), "speed must be finite and not negative, got -0.001");
    let loss = |length, top_k| {
        let spec = SequenceBalanceLossSpec::new(2, length, 8, top_k, 1.0);
        message(SequenceBalanceLoss::plan(&device, spec))
    };
    assert_eq!(loss(1 << 30, 2), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(loss(3, 33), "routed experts of a token must be at most 32, got 33");
    assert_eq!(loss(3, 0), "routed experts of a token must be at least 1, got 0");
    assert_eq!(loss(3, 9), "top_k, of the experts, must be at most 8, got 9");
    let spec = SequenceBalanceLossSpec::new(2, 3, 8, 2, f32::INFINITY);
    let endless = message(SequenceBalanceLoss::plan(&device, spec));
    assert_eq!(endless, "alpha must be finite and not negative, got inf");
}

mod load {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::{Arena, Memory};
    use check::router::expert_load::{ExpertLoadCase, ExpertLoadRun};
    use deepseek_kernels::{Matrix, Vector};

    fn count() -> ExpertLoadRun {
        let problem = Arc::new(ExpertLoadCase::new((3, 2), 8).problem());
        ExpertLoadRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
    }

    rejects! {
        count();
        ids_with_a_row_too_many: |args, spare| args.ids = Matrix::new(&spare.integers, 4, 2)?.into()
            => "expected ids [tokens, routes] [3, 2], got [4, 2]";
        wide_ids_of_another_shape: |args, spare| args.ids = Matrix::with_pitch(&spare.longs, 3, 3, 4)?.into()
            => "expected ids [tokens, routes] [3, 2], got [3, 3]";
        unsigned_ids_in_a_row: |args, spare| args.ids = Vector::new(&spare.words, 6)?.into()
            => "expected ids [tokens, routes] [3, 2], got [1, 6]";
        counts_too_short: |args, spare| args.counts = (&mut spare.words[..7]).into()
            => "expected counts [experts] [8], got [7]";
        counts_too_long: |args, spare| args.counts = (&mut spare.words[..9]).into()
            => "expected counts [experts] [8], got [9]";
    }
}

mod update {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::{Arena, Memory};
    use check::router::bias_update::{BiasUpdateCase, BiasUpdateRun};

    fn update() -> BiasUpdateRun {
        let problem = Arc::new(BiasUpdateCase::new(8).problem());
        BiasUpdateRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
    }

    rejects! {
        update();
        counts_too_short: |args, spare| args.counts = (&spare.words[..7]).into()
            => "expected counts [experts] [8], got [7]";
        bias_too_short: |args, spare| args.bias = (&mut spare.floats[..6]).into()
            => "expected bias [experts] [8], got [6]";
        bias_too_long: |args, spare| args.bias = (&mut spare.floats).into()
            => "expected bias [experts] [8], got [524288]";
        no_max_vio: |args, spare| args.max_vio = (&mut spare.floats[..0]).into()
            => "expected max_vio [1] [1], got [0]";
    }
}

mod loss {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::{Arena, Memory};
    use check::router::sequence_balance_loss::{SequenceBalanceLossCase, SequenceBalanceLossRun};
    use deepseek_kernels::Matrix;

    fn judge() -> SequenceBalanceLossRun {
        let problem = Arc::new(SequenceBalanceLossCase::new((2, 3), (8, 2)).problem());
        SequenceBalanceLossRun::new(problem, &mut Arena::new(&emulated(0), Memory::Plain)).expect("operands")
    }

    rejects! {
        judge();
        scores_with_a_row_missing: |args, spare| args.scores = Matrix::new(&spare.floats, 5, 8)?
            => "expected scores [sequences * length, experts] [6, 8], got [5, 8]";
        loss_too_short: |args, spare| args.loss = (&mut spare.floats[..1]).into()
            => "expected loss [sequences] [2], got [1]";
    }
}
