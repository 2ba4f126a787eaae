//! Kernels of the generic rule, held to its reference over settings that no preset has.

use hecate_core::AnyRule;
use hecate_core::conformance;
use serde_json::{Value, json};

fn rule(mut settings: Value) -> AnyRule {
    settings["name"] = json!("miras");
    serde_json::from_value(settings).expect("the settings exist")
}

/// Settings that between them reach every branch of the kernels.
fn settings() -> Vec<Value> {
    let mlp = |layers: usize, activation: &str, residual: bool, norm: bool| json!({"name": "mlp", "layers": layers, "expansion": 2, "activation": activation, "residual": residual, "norm": norm});
    let gated = |norm: bool| json!({"name": "gated_mlp", "expansion": 2, "norm": norm});
    let muon =
        |when: &str, polynomial: &str| json!({"name": "muon", "when": when, "polynomial": polynomial, "iterations": 2});
    let moving = json!({"name": "implicit"});
    vec![
        json!({}),
        json!({"retention": "none", "algorithm": "momentum"}),
        json!({"gradient": "decayed", "steps": 3}),
        json!({"gates": "key"}),
        json!({"gates": "key", "gradient": "decayed"}),
        json!({"steps": 2, "algorithm": "momentum"}),
        json!({"algorithm": moving}),
        json!({"algorithm": moving, "retention": "none", "features": "elu", "steps": 2}),
        json!({"bias": "dot", "retention": "none", "features": {"name": "polynomial"}}),
        json!({"bias": "dot", "algorithm": "ftrl", "retention": "none"}),
        json!({"chunk": 16, "structure": gated(true), "retention": "l2_anchor", "algorithm": "momentum"}),
        json!({"chunk": 8, "structure": gated(false), "bias": "huber", "retention": "l2_anchor", "window": 3}),
        json!({"chunk": 16, "bias": "lp", "features": {"name": "polynomial"}}),
        json!({"chunk": 16, "bias": "huber_switch", "window": 4, "algorithm": "momentum"}),
        json!({"chunk": 4, "bias": "kl", "features": "elu"}),
        json!({"retention": "tanh", "chunk": 5, "bias": "l2"}),
        json!({"retention": "kl", "chunk": 8}),
        json!({"retention": "lq_exact", "bias": "lp"}),
        json!({"retention": "lq_literal", "chunk": 16, "algorithm": "momentum"}),
        json!({"retention": "sigmoid", "chunk": 16, "read": "start"}),
        json!({"retention": "ball", "window": 2}),
        json!({"algorithm": muon("chunk", "muon"), "chunk": 8}),
        json!({"algorithm": muon("chunk", "cubic"), "chunk": 16, "read": "pre", "window": 3}),
        json!({"algorithm": muon("chunk", "quintic"), "chunk": 7, "read": "start", "structure": mlp(2, "gelu", true, true)}),
        json!({"algorithm": muon("token", "quintic"), "retention": "l2_anchor"}),
        json!({"algorithm": muon("chunk", "muon"), "chunk": 64, "structure": mlp(2, "gelu", true, true), "retention": "l2_anchor"}),
        json!({"retention": "kl", "chunk": 16, "algorithm": "momentum", "window": 3}),
        json!({"retention": "kl", "chunk": 12, "structure": mlp(2, "gelu", true, true)}),
        json!({"retention": "kl", "chunk": 16, "read": "start"}),
        json!({"retention": {"name": "lq_exact", "q": 2.5}, "chunk": 5}),
        json!({"retention": {"name": "lq_exact", "q": 3.0}, "structure": mlp(2, "silu", false, false)}),
        json!({"retention": {"name": "lq_literal", "floor": 0.01}, "chunk": 4}),
        json!({"retention": "sigmoid", "chunk": 7, "structure": gated(true)}),
        json!({"chunk": 7, "window": 4, "features": {"name": "polynomial", "degree": 3}, "algorithm": "momentum", "retention": "l2_anchor"}),
        json!({"window": 3, "features": {"name": "polynomial"}, "read": "pre"}),
        json!({"chunk": 16, "window": 5, "features": {"name": "polynomial"}, "bias": "huber", "structure": mlp(2, "gelu", true, true), "algorithm": "momentum"}),
        json!({"chunk": 40, "window": 2, "features": {"name": "polynomial"}, "read": "start", "structure": gated(false)}),
        json!({"chunk": 8, "window": 3, "features": {"name": "polynomial"}, "algorithm": muon("chunk", "muon")}),
        json!({"chunk": 8, "window": 3, "features": {"name": "polynomial"}, "algorithm": muon("token", "quintic"), "structure": mlp(2, "gelu", true, true)}),
        json!({"chunk": 4, "algorithm": muon("token", "cubic"), "read": "pre"}),
        json!({"chunk": 7}),
        json!({"chunk": 64, "algorithm": "momentum", "retention": "none"}),
        json!({"chunk": 100, "bias": "dot", "window": 5}),
        json!({"chunk": 5, "window": 9, "algorithm": "momentum", "retention": "l2_anchor"}),
        json!({"chunk": 16, "read": "pre", "clip": 0.5, "algorithm": "momentum"}),
        json!({"chunk": 16, "read": "start", "window": 2, "clip": 0.5}),
        json!({"chunk": 1, "window": 3, "clip": 0.5, "read": "pre"}),
        json!({"chunk": 16, "structure": mlp(2, "gelu", true, true), "algorithm": "momentum"}),
        json!({"chunk": 64, "structure": mlp(2, "silu", false, false), "algorithm": "momentum", "retention": "l2_anchor"}),
        json!({"chunk": 6, "structure": mlp(3, "gelu", false, true), "retention": "none", "window": 4}),
        json!({"chunk": 32, "structure": mlp(2, "silu", true, false), "read": "start", "retention": "l2_anchor"}),
        json!({"chunk": 9, "structure": mlp(4, "silu", true, true), "read": "pre", "algorithm": "momentum"}),
        json!({"structure": mlp(2, "gelu", true, true), "retention": "l2_anchor", "algorithm": "momentum"}),
        json!({"chunk": 2, "structure": mlp(2, "gelu", true, true), "retention": "l2_anchor"}),
    ]
}

#[test]
fn every_kernel_is_the_reference_over_settings_that_no_preset_has() {
    let rules: Vec<(Value, AnyRule)> = settings().into_iter().map(|s| (s.clone(), rule(s))).collect();
    let hold = |(_, rule): &(Value, AnyRule)| conformance::kernels(rule.erased());
    let reports = conformance::side_by_side(&rules, |(_, rule)| conformance::cost(rule.erased()), hold);
    for ((settings, _), report) in rules.iter().zip(reports) {
        assert!(report.passed(), "{settings}\n{report}");
    }
}
