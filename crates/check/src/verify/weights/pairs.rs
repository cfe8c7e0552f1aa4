//! Which tensor holds the scales of which, by their names.

/// The ends of a scale's name, and what stands in their place in the name of the weight. The first that exists is meant.
const SCALES: [(&str, &[&str]); 8] = [
    // `q_proj.weight_scale_inv` of DeepSeek and Hugging Face; `w13_scale` of stacked experts.
    ("_scale_inv", &["", "_weight"]),
    // `q_proj.weight_scale` of compressed-tensors, ModelOpt, FBGEMM.
    ("_scale", &["", "_weight"]),
    ("_scales", &["", "_weight"]),
    // `wq_a.scale` of DeepSeek's own format, beside `wq_a.weight`.
    (".scale_inv", &[".weight", ""]),
    (".scale", &[".weight", ""]),
    (".scales", &[".weight", ""]),
    // ComfyUI; Mistral's own format.
    (".scale_weight", &[".weight"]),
    (".qscale_weight", &[".weight"]),
];

/// Last parts of names of what is no weight's scale: of activations, and of the cache.
const OF_ACTIVATIONS: [&str; 12] = [
    "input_scale",
    "input_scale_inv",
    "output_scale",
    "activation_scale",
    "act_scale",
    "scale_input",
    "qscale_act",
    "q_scale",
    "k_scale",
    "v_scale",
    "kv_scale",
    "prob_scale",
];

/// What a tensor's name says of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Role {
    /// Scales of activations or of a cache.
    ActivationScale,
    /// Scales, of the weight that has one of these names.
    Scale(Vec<String>),
    Other,
}

/// What a name says.
pub fn role(name: &str) -> Role {
    let last = name.rsplit('.').next().unwrap_or(name);
    if OF_ACTIVATIONS.contains(&last) {
        return Role::ActivationScale;
    }
    let stems = SCALES.iter().filter_map(|(end, weights)| Some((name.strip_suffix(end)?, weights)));
    let names: Vec<String> = stems
        .filter(|(stem, _)| !stem.is_empty())
        .flat_map(|(stem, weights)| weights.iter().map(move |end| format!("{stem}{end}")))
        .collect();
    if names.is_empty() { Role::Other } else { Role::Scale(names) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_name_their_weight() {
        for (scale, weight) in [
            ("l.weight_scale_inv", "l.weight"),
            ("l.weight_scale", "l.weight"),
            ("l.scale", "l.weight"),
            ("l.weight.scale", "l.weight"),
            ("l.scale_weight", "l.weight"),
            ("l.qscale_weight", "l.weight"),
            ("experts.gate_up_proj_scale_inv", "experts.gate_up_proj"),
            ("experts.w13_scale", "experts.w13_weight"),
            ("w_scale_inv", "w"),
        ] {
            let Role::Scale(names) = role(scale) else { panic!("{scale}") };
            assert!(names.iter().any(|name| name == weight), "{scale}: {names:?}");
        }
        for name in ["l.weight", "scale", "_scale", "l.input_layernorm.weight", "l.weight_scale_2"] {
            assert_eq!(role(name), Role::Other, "{name}");
        }
        for name in ["l.input_scale", "self_attn.k_scale", "k_scale"] {
            assert_eq!(role(name), Role::ActivationScale, "{name}");
        }
    }
}
