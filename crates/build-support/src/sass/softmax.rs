//! Where ptxas has put the softmax of MLA decode and prefill: waits move over arithmetic, and arithmetic over waits.

use super::Instruction;
use super::rules::Violation;

/// A thread's exponentials per block of keys: 64 x 64 scores over 128 threads.
const EXPONENTIALS: usize = 64 * 64 / 128;

/// Where ptxas has put the softmax of a block of keys whose products and scores were in flight together.
pub(super) struct Softmax<'k> {
    /// The wait for the products of the block before.
    products: &'k Instruction,
    /// The wait for the scores.
    scores: &'k Instruction,
    /// Whether weights are stored for the other warpgroup between the products' issue and the wait for them.
    weights_handed_on: bool,
    /// Whether something arrives at a barrier between the wait for the products and that for the scores.
    values_given_back: bool,
    /// Exponentials between the wait for the scores and the next products.
    pub exponentials: usize,
}

/// Weights must be handed on beside the products, values given back beside the scores, and the softmax must stand beside the other warpgroup's products.
pub(super) fn wrong_order(softmax: Option<&Softmax>) -> Vec<Violation> {
    let Some(softmax) = softmax else {
        let rule =
            "no wait for the products alone: the values are given back only behind the scores".to_owned();
        return vec![Violation { instruction: None, rule }];
    };
    let mut violations = Vec::new();
    if !softmax.weights_handed_on {
        let rule = "no weights are stored between the products' issue and this wait: they are handed on beside no product";
        violations.push(Violation::by(softmax.products, rule));
    }
    if !softmax.values_given_back {
        let rule =
            "nothing is given back before this wait for the scores: the next keys are fetched too late";
        violations.push(Violation::by(softmax.scores, rule));
    }
    let count = softmax.exponentials;
    if count < EXPONENTIALS {
        let rule = format!(
            "{count} exponentials stand between this wait for the scores and the next products, expected {EXPONENTIALS}"
        );
        violations.push(Violation::by(softmax.scores, rule));
    }
    violations
}

/// The exponentials of MLA prefill's loop over blocks that stand behind the wait for the scores alone, and before the next one
/// for products or those themselves: beside the warpgroup's own. None where no wait is for the scores alone. A thread has one for
/// each of its scores of a block.
pub(super) fn beside_products(instructions: &[Instruction]) -> (Option<usize>, Vec<Violation>) {
    let waits = |i: &Instruction| i.opcode == "WARPGROUP.DEPBAR.LE";
    let alone = |i: &Instruction| waits(i) && i.operands == "gsb0, 0x1";
    let Some(scores) = instructions.iter().position(alone) else {
        let rule = "no wait for the scores alone: the softmax stands beside no product".to_owned();
        return (None, vec![Violation { instruction: None, rule }]);
    };
    let expected = instructions.iter().find_map(scores_of_a_thread).unwrap_or_default();
    let behind = &instructions[scores + 1..];
    let beside = behind.iter().take_while(|i| !waits(i) && i.base() != "HGMMA");
    let count = beside.filter(|i| i.opcode == "MUFU.EX2").count();
    let mut violations = Vec::new();
    if expected == 0 || count < expected {
        let rule = format!(
            "{count} exponentials stand between this wait for the scores and the one for the products, expected {expected}"
        );
        violations.push(Violation::by(&instructions[scores], rule));
    }
    (Some(count), violations)
}

/// Of a product of queries and keys, both in shared memory: `HGMMA.64x128x16` has 64 scores of each of 128 threads.
fn scores_of_a_thread(product: &Instruction) -> Option<usize> {
    let keys = product.opcode.strip_prefix("HGMMA.64x")?.split('x').next()?.parse::<usize>().ok()?;
    (!weights_from_registers(product)).then_some(64 * keys / 128)
}

/// The weights come from registers, all other operands from shared memory.
fn weights_from_registers(product: &Instruction) -> bool {
    product.operands.split(", ").nth(1).is_some_and(|a| a.starts_with('R'))
}

/// Of the loop over blocks; the first block's softmax has no products beside it.
pub(super) fn of_a_block(instructions: &[Instruction]) -> Option<Softmax<'_>> {
    let is_wait = |pending: &str| {
        let operands = format!("gsb0, {pending}");
        move |i: &Instruction| i.opcode == "WARPGROUP.DEPBAR.LE" && i.operands == operands
    };
    let multiplies = |i: &Instruction| i.base() == "HGMMA";
    let weighs = |i: &Instruction| multiplies(i) && weights_from_registers(i);
    let products = instructions.iter().position(is_wait("0x1"))?;
    let scores = products + instructions[products..].iter().position(is_wait("0x0"))?;
    let issued = instructions[..products].iter().rposition(weighs)?;
    let next = scores + instructions[scores..].iter().position(multiplies)?;
    Some(Softmax {
        products: &instructions[products],
        scores: &instructions[scores],
        weights_handed_on: instructions[issued..products].iter().any(|i| i.base() == "STSM"),
        values_given_back: instructions[products..scores]
            .iter()
            .any(|i| i.opcode.starts_with("SYNCS.ARRIVE")),
        exponentials: instructions[scores..next].iter().filter(|i| i.opcode == "MUFU.EX2").count(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::{examined, texts};

    const STORE: &str = "STSM.16.M88.4 [R2], R4\n";
    const ARRIVE: &str = "SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR4], RZ\n";

    /// The loop over blocks, with so many exponentials before the next products and behind them.
    fn softmax(before: usize, after: usize) -> String {
        let exponentials = |count: usize| "MUFU.EX2 R4, R4\n".repeat(count);
        let first = exponentials(34);
        let (before, after) = (exponentials(before), exponentials(after));
        format!(
            "UTMACCTL.PF [UR4]\n@P0 UTMALDG.3D [UR8], [UR4]\nWARPGROUP.DEPBAR.LE gsb0, 0x0\n{first}TOP:\nHGMMA.64x256x16.F32.BF16 R24, R4, gdesc[UR4], R24, gsb0\n{after}{STORE}\
             HGMMA.64x64x16.F32.BF16 R152, gdesc[UR8], RZ, !UPT, gsb0\nWARPGROUP.DEPBAR.LE gsb0, 0x1\n{ARRIVE}\
             WARPGROUP.DEPBAR.LE gsb0, 0x0\n@P1 BRA `(NO_MASK)\nFMNMX R2, R2, R3, !PT\nNO_MASK:\n{before}@P0 BRA `(TOP)\n\
             HGMMA.64x256x16.F32.BF16 R24, R4, gdesc[UR4], R24, gsb0\nWARPGROUP.DEPBAR.LE gsb0, 0x0\nEXIT"
        )
    }

    fn text(source: &str) -> String {
        texts(&examined("mla_decode_bf16_c1", source)).concat()
    }

    #[test]
    fn the_softmax_stands_between_scores_and_products() {
        let good = examined("mla_decode_bf16_c1", &softmax(34, 0));
        assert_eq!((good.overlapped, texts(&good)), (Some(34), vec![]));
        let late = examined("mla_decode_bf16_c1", &softmax(12, 22));
        assert_eq!(late.overlapped, Some(12));
        let text = texts(&late).concat();
        assert!(text.contains("WARPGROUP.DEPBAR.LE gsb0, 0x0: 12 exponentials"), "{text}");
        // Elsewhere it is nobody's business.
        assert_eq!(examined("combine", &softmax(12, 22)).violations, []);
    }

    #[test]
    fn weights_are_handed_on_beside_the_products() {
        let late = softmax(34, 0).replace(STORE, "").replace(ARRIVE, &format!("{ARRIVE}{STORE}"));
        assert!(text(&late).contains("0x1: no weights are stored between"), "{}", text(&late));
    }

    #[test]
    fn values_are_given_back_while_the_scores_run() {
        let never = text(&softmax(34, 0).replace(ARRIVE, ""));
        assert!(never.contains("nothing is given back before this wait"), "{never}");
        let scores = "WARPGROUP.DEPBAR.LE gsb0, 0x0\n@P1";
        let late = text(
            &softmax(34, 0)
                .replace(&format!("{ARRIVE}{scores}"), &format!("{scores} BRA `(TOP)\n{ARRIVE}@P1")),
        );
        assert!(late.contains("nothing is given back before this wait"), "{late}");
        let serial = "WARPGROUP.DEPBAR.LE gsb0, 0x0\nMUFU.EX2 R4, R4\nEXIT";
        assert!(text(serial).contains("no wait for the products alone"));
    }

    /// The loop of MLA prefill over blocks of 128 keys, with so many exponentials before the wait for the products and behind it.
    fn prefill(before: usize, after: usize) -> String {
        let exponentials = |count: usize| "MUFU.EX2 R4, R4\n".repeat(count);
        let products = "HGMMA.64x128x16.F32.BF16 R24, R4, gdesc[UR4].tnspB, R24, gsb0\n";
        let wait = "WARPGROUP.DEPBAR.LE gsb0, 0x0\n";
        let (moved, after) = if after == 0 { ("", String::new()) } else { (wait, exponentials(after)) };
        format!(
            "UTMACCTL.PF [UR4]\n@P0 UTMALDG.3D [UR8], [UR4]\nTOP:\n{wait}\
             HGMMA.64x128x16.F32.BF16 R152, gdesc[UR8], RZ, !UPT, gsb0\n{products}\
             WARPGROUP.DEPBAR.LE gsb0, 0x1\n{}{moved}{after}@P0 BRA `(TOP)\n{products}{wait}EXIT",
            exponentials(before)
        )
    }

    #[test]
    fn the_softmax_of_a_prefill_stands_beside_its_products() {
        const NAME: &str = "mla_prefill_n128_v128";
        let good = examined(NAME, &prefill(66, 0));
        assert_eq!((good.overlapped, texts(&good)), (Some(66), vec![]));
        let late = examined(NAME, &prefill(2, 64));
        assert_eq!(late.overlapped, Some(2));
        let text = texts(&late).concat();
        assert!(text.contains("WARPGROUP.DEPBAR.LE gsb0, 0x1: 2 exponentials"), "{text}");
        let serial = prefill(66, 0).replace("0x1", "0x0");
        assert!(texts(&examined(NAME, &serial)).concat().contains("no wait for the scores alone"));
        // Of half as many keys a thread has half as many scores.
        let narrow = |before, after| {
            prefill(before, after).replace("HGMMA.64x128x16.F32.BF16 R152", "HGMMA.64x64x16.F32.BF16 R152")
        };
        assert_eq!(texts(&examined(NAME, &narrow(34, 0))), [""; 0]);
        assert!(texts(&examined(NAME, &narrow(31, 3))).concat().contains("31 exponentials"));
        let nothing = prefill(66, 0).replace("R152, gdesc[UR8]", "R152, R8");
        assert!(texts(&examined(NAME, &nothing)).concat().contains("expected 0"));
    }
}
