//! Faults in what balances the router: loads, biases, the loss.

use check::case::{Cases, boxed};
use check::moe::Routing;
use check::router::bias_update::BiasUpdateCase;
use check::router::expert_load::ExpertLoadCase;
use check::router::sequence_balance_loss::SequenceBalanceLossCase;

use crate::{Trial, drawn};

pub const TRIALS: &[Trial] = &[LOAD, WIDE_LOAD, BIAS, LOSS];

const LOAD: Trial = Trial::Cases(load);
const WIDE_LOAD: Trial = Trial::Wide(|| drawn(load()));
const BIAS: Trial = Trial::Cases(|| {
    boxed([0, u32::MAX - 100].map(|least| BiasUpdateCase { least, ..BiasUpdateCase::new(258) }))
});
const LOSS: Trial = Trial::Cases(|| boxed([SequenceBalanceLossCase::new((2, 27), (72, 5))]));

/// Ids that are dropped, which is no fault; then ids that are none.
fn load() -> Cases {
    let case = ExpertLoadCase::new((90, 8), 40);
    boxed([case, ExpertLoadCase { routing: Routing::Strangers, ..case }])
}

faults! {
    last_routes_uncounted: LOAD, "params.t) * params.routes" => "params.t) * params.routes - 8", ["counts: counts["];
    gaps_counted: LOAD,
        "index / params.routes, index % params.routes" => "0, index", ["counts: counts["];
    narrow_ids_read_as_wide: LOAD, "indices.words_per_index == 1" => "false", ["outside"];
    minus_one_reported: LOAD, "id != UINT32_MAX" => "true", ["got one of ids of experts"];
    bad_id_counted: LOAD, "id < params.experts" => "id <= params.experts", ["outside", "around counts"];
    bad_id_of_a_count_unreported: LOAD, "id != UINT32_MAX" => "false", ["got one of nothing"];
    high_word_of_ids_ignored: WIDE_LOAD, "high == low >> 31 ? low : INT32_MIN" => "low", ["counts["];
    sign_of_64_bits_ignored: WIDE_LOAD, "high == low >> 31" => "high == 0", ["got one of ids of experts"];
    wide_ids_read_as_narrow: WIDE_LOAD, "column * indices.words_per_index" => "column", ["counts["];
    pitch_of_wide_ids_doubled: WIDE_LOAD,
        "row * indices.pitch" => "row * indices.pitch * indices.words_per_index", ["outside", "counts["];
    sign_reversed: BIAS, "load < loads.total ? bias" => "load > loads.total ? bias", ["bias: bias["];
    mean_is_not_neutral: BIAS, "if (load == loads.total) return;" => "", ["bias: bias["];
    loads_compared_in_32_bits: BIAS, "const uint64_t load =" => "const uint64_t load = (uint32_t)", ["bias: bias["];
    total_in_32_bits: BIAS, "shift < 64" => "shift < 32", ["bias: bias["];
    first_experts_only: BIAS, "e < params.experts; e += 32" => "e < 32; e += 32", ["bias: bias["];
    loss_of_half_the_tokens: LOSS, "t += Config::kWarps" => "t += 2 * Config::kWarps", ["bound: loss["];
    loss_of_the_first_sequence: LOSS,
        "static_cast<uint64_t>(ptx::cta_idx()) * params.length + t" => "t", ["bound: loss["];
    shares_not_normalised: LOSS, "s[i] / sum" => "s[i]", ["bound: loss["];
    no_barrier_before_the_warps_are_added: LOSS, "ptx::syncthreads();" => "", ["not ordered", "nothing has written"];
    one_warp_forgotten: LOSS, "warp < Config::kWarps" => "warp + 1 < Config::kWarps", ["bound: loss["];
}
