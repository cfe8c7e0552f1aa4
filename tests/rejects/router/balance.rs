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
        message(ExpertLoad::plan(&device, ExpertLoadSpec { tokens, routes, experts }))
    };
    assert_eq!(load(1 << 31, 1, 8), "tokens must be at most 2147483647, got 2147483648");
    assert_eq!(load(1, 33, 8), "experts of a token must be at most 32, got 33");
    assert_eq!(load(1, 8, 513), "experts must be at most 512, got 513");
    let update = BiasUpdate::plan(&device, BiasUpdateSpec { experts: 513, speed: 1e-3 });
    assert_eq!(message(update), "experts must be at most 512, got 513");
    let spec = SequenceBalanceLossSpec { sequences: 2, length: 3, experts: 8, top_k: 2, alpha: 1.0 };
    let loss = |spec| message(SequenceBalanceLoss::plan(&device, spec));
    let too_long = SequenceBalanceLossSpec { length: 1 << 30, ..spec };
    assert_eq!(loss(too_long), "tokens must be at most 2147483647, got 2147483648");
    let many = SequenceBalanceLossSpec { top_k: 33, ..spec };
    assert_eq!(loss(many), "routed experts of a token must be at most 32, got 33");
}

mod load {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::Memory;
    use check::router::expert_load::{ExpertLoadCase, ExpertLoadRun};
    use deepseek_kernels::Matrix;

    fn count() -> ExpertLoadRun {
        let problem = Arc::new(ExpertLoadCase::new((3, 2), 8).problem());
        ExpertLoadRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
    }

    rejects! {
        count(), |plan, stream, args| args.run(plan, stream);
        ids_with_a_row_too_many: |args, spare| args.ids = Matrix::new(&spare.integers, 4, 2)?
            => "expected ids [tokens, routes] [3, 2], got [4, 2]";
        counts_too_short: |args, spare| args.counts = (&mut spare.words[..7]).into()
            => "[1, 8] with pitch 8 needs 8 elements, the slice has 7";
    }
}

mod update {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::Memory;
    use check::router::bias_update::{BiasUpdateCase, BiasUpdateRun};

    fn update() -> BiasUpdateRun {
        let problem = Arc::new(BiasUpdateCase::new(8).problem());
        BiasUpdateRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
    }

    rejects! {
        update(), |plan, stream, args| args.run(plan, stream);
        counts_too_short: |args, spare| args.counts = (&spare.words[..7]).into()
            => "[1, 8] with pitch 8 needs 8 elements, the slice has 7";
        bias_too_short: |args, spare| args.bias = (&mut spare.floats[..6]).into()
            => "[1, 8] with pitch 8 needs 8 elements, the slice has 6";
        no_max_vio: |args, spare| args.max_vio = (&mut spare.floats[..0]).into()
            => "[1, 1] with pitch 1 needs 1 elements, the slice has 0";
    }
}

mod loss {
    use std::sync::Arc;

    use check::devices::emulated;
    use check::memory::Memory;
    use check::router::sequence_balance_loss::{SequenceBalanceLossCase, SequenceBalanceLossRun};
    use deepseek_kernels::Matrix;

    fn judge() -> SequenceBalanceLossRun {
        let problem = Arc::new(SequenceBalanceLossCase::new((2, 3), (8, 2)).problem());
        SequenceBalanceLossRun::new(problem, &emulated(0), Memory::Plain).expect("operands")
    }

    rejects! {
        judge(), |plan, stream, args| args.run(plan, stream);
        scores_with_a_row_missing: |args, spare| args.scores = Matrix::new(&spare.floats, 5, 8)?
            => "expected scores [sequences * length, experts] [6, 8], got [5, 8]";
        loss_too_short: |args, spare| args.loss = (&mut spare.floats[..1]).into()
            => "[1, 2] with pitch 2 needs 2 elements, the slice has 1";
    }
}
