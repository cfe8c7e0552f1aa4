//! Where ptxas has put the softmax of MLA decode: waits move over arithmetic, and arithmetic over waits.

use super::Instruction;
use super::rules::Violation;

/// A thread's exponentials per block of keys: 64 x 64 scores over 128 threads.
const EXPONENTIALS: usize = 64 * 64 / 128;

/// Where ptxas has put the softmax of a block of keys whose products and scores were in flight together.
pub(super) struct Softmax<'k> {
    /// The wait for the scores.
    scores: &'k Instruction,
    /// Whether something arrives at a barrier between the wait for the products and that for the scores.
    values_given_back: bool,
    /// Exponentials before the last branch in front of the weights' stores: that of the wait for their place.
    pub exponentials: usize,
}

/// The values of a block must be given back while the next scores run, and the softmax beside the other warpgroup's products.
pub(super) fn wrong_order(softmax: Option<&Softmax>) -> Option<Violation> {
    let Some(softmax) = softmax else {
        let rule =
            "no wait for the products alone: the values are given back only behind the scores".to_owned();
        return Some(Violation { instruction: None, rule });
    };
    let count = softmax.exponentials;
    if !softmax.values_given_back {
        let rule =
            "nothing is given back before this wait for the scores: the next keys are fetched too late";
        return Some(Violation::by(softmax.scores, rule));
    }
    let rule = format!(
        "{count} exponentials stand between this wait for the scores and the wait for the place of the weights, expected \
         {EXPONENTIALS}: the rest of the softmax runs beside no product"
    );
    (count < EXPONENTIALS).then(|| Violation::by(softmax.scores, rule))
}

/// Of the loop over blocks; the first block's softmax has no products beside it.
pub(super) fn of_a_block(instructions: &[Instruction]) -> Option<Softmax<'_>> {
    let is_wait = |pending: &str| {
        let operands = format!("gsb0, {pending}");
        move |i: &Instruction| i.opcode == "WARPGROUP.DEPBAR.LE" && i.operands == operands
    };
    let products = instructions.iter().position(is_wait("0x1"))?;
    let scores = products + instructions[products..].iter().position(is_wait("0x0"))?;
    let stores = scores + instructions[scores..].iter().position(|i| i.base() == "STSM")?;
    let place = instructions[scores..stores].iter().rposition(|i| i.base() == "BRA").unwrap_or(0);
    let softmax = &instructions[scores..scores + place];
    Some(Softmax {
        scores: &instructions[scores],
        values_given_back: instructions[products..scores]
            .iter()
            .any(|i| i.opcode.starts_with("SYNCS.ARRIVE")),
        exponentials: softmax.iter().filter(|i| i.opcode == "MUFU.EX2").count(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::{examined, texts};

    /// A block's products and scores, its softmax with `before` exponentials in front of the wait for the place of the weights
    /// and `after` behind it.
    fn softmax(before: usize, after: usize) -> String {
        let exponentials = |count: usize| "MUFU.EX2 R4, R4\n".repeat(count);
        let first = exponentials(34);
        let (before, after) = (exponentials(before), exponentials(after));
        format!(
            "WARPGROUP.DEPBAR.LE gsb0, 0x0\n{first}TOP:\nWARPGROUP.DEPBAR.LE gsb0, 0x1\n\
             SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR4], RZ\nWARPGROUP.DEPBAR.LE gsb0, 0x0\n@P1 BRA `(NO_MASK)\nFMNMX R2, R2, R3, !PT\n\
             NO_MASK:\n{before}SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2\n@!P0 BRA `(TOP)\n{after}\
             STSM.16.M88.4 [R2], R4\n@P0 BRA `(TOP)\nWARPGROUP.DEPBAR.LE gsb0, 0x0\nEXIT"
        )
    }

    #[test]
    fn the_softmax_stands_before_the_wait_for_the_place_of_its_weights() {
        let good = examined("mla_decode_bf16_c1", &softmax(34, 0));
        assert_eq!((good.overlapped, texts(&good)), (Some(34), vec![]));
        let late = examined("mla_decode_bf16_c1", &softmax(12, 22));
        assert_eq!(late.overlapped, Some(12));
        let text = texts(&late).concat();
        assert!(text.starts_with("/*0270*/ WARPGROUP.DEPBAR.LE gsb0, 0x0: 12 exponentials"), "{text}");
        assert_eq!(texts(&examined("mla_decode_fp8_c2", &softmax(31, 3))).len(), 1);
        // Elsewhere it is nobody's business.
        assert_eq!(examined("combine", &softmax(12, 22)).violations, []);
    }

    #[test]
    fn values_are_given_back_while_the_scores_run() {
        let text = |source: &str| texts(&examined("mla_decode_bf16_c1", source)).concat();
        let arrival = "SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR4], RZ\n";
        let never = text(&softmax(34, 0).replace(arrival, ""));
        assert!(never.contains("nothing is given back before this wait"), "{never}");
        let scores = "WARPGROUP.DEPBAR.LE gsb0, 0x0\n@P1";
        let late = text(
            &softmax(34, 0)
                .replace(&format!("{arrival}{scores}"), &format!("{scores} BRA `(TOP)\n{arrival}@P1")),
        );
        assert!(late.contains("nothing is given back before this wait"), "{late}");
        let serial = "WARPGROUP.DEPBAR.LE gsb0, 0x0\nMUFU.EX2 R4, R4\nEXIT";
        assert!(text(serial).starts_with("no wait for the products alone"));
    }
}
