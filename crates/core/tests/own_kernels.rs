//! Kernels of rules that are no setting of another, held to their references over settings that no preset has.

use hecate_core::rules::{Lattice, Paced, SelfModifying, SurpriseGated, Trellis};
use hecate_core::{AnyRule, Dims, conformance};
use serde_json::json;

#[test]
fn the_kernel_of_lattice_is_the_reference_for_every_variant_chunk_and_retention() {
    for variant in ["decoding", "encoding", "similarity"] {
        for (chunk, retract) in [(1, false), (2, true), (16, true), (33, false), (64, true), (200, true)] {
            let settings = json!({"variant": variant, "chunk": chunk, "retract": retract});
            let rule: Lattice = serde_json::from_value(settings.clone()).expect("the settings exist");
            let report = conformance::kernels(&rule);
            assert!(report.passed(), "{settings}\n{report}");
        }
    }
}

#[test]
fn the_kernel_of_trellis_is_the_reference_for_every_code_number_of_slots_and_chunk() {
    let codes = |write: &str, read: &str, out: &str| json!({"write": write, "read": read, "out": out});
    for (codes, slots, chunk, sweeps) in [
        (codes("ln_silu", "ln_silu", "ln_silu"), Some(5), 1, 0),
        (codes("l2_silu", "l2_silu", "l2_silu"), Some(33), 1, 0),
        (codes("identity", "ln_silu", "identity"), Some(16), 1, 0),
        (codes("ln_silu", "identity", "l2_silu"), Some(48), 7, 6),
        (codes("ln_silu", "l2_silu", "identity"), None, 2, 0),
        (codes("l2_silu", "identity", "ln_silu"), Some(24), 16, 0),
        (codes("identity", "l2_silu", "identity"), Some(3), 64, 0),
        (codes("ln_silu", "ln_silu", "identity"), Some(20), 200, 0),
    ] {
        let mut settings = codes;
        settings["slots"] = json!(slots);
        settings["chunk"] = json!(chunk);
        settings["sweeps"] = json!(sweeps);
        let rule: Trellis = serde_json::from_value(settings.clone()).expect("the settings exist");
        let report = conformance::kernels(&rule);
        assert!(report.passed(), "{settings}\n{report}");
    }
}

#[test]
fn the_kernels_of_self_modifying_memories_are_the_reference_for_every_structure_momentum_and_chunk() {
    let mlp = |norm: bool, activation: &str| json!({"name": "mlp", "norm": norm, "activation": activation});
    for (structure, chunks, changes) in [
        (json!("matrix"), (1, 1), json!({"momentum": "gate"})),
        (json!("matrix"), (16, 64), json!({"momentum": {"constant": 0.9}, "adaptive_q": true})),
        (json!("matrix"), (7, 5), json!({"momentum": "gate", "precond": "none"})),
        (mlp(true, "silu"), (16, 64), json!({"momentum": "gate"})),
        (mlp(true, "gelu"), (5, 9), json!({"momentum": "gate", "adaptive_q": true, "precond": "first_only"})),
        (mlp(false, "silu"), (16, 4), json!({"momentum": {"constant": 0.5}, "targets": "raw"})),
        (mlp(true, "silu"), (1, 16), json!({"momentum": {"constant": 0.0}, "bias": "dot"})),
        (mlp(true, "gelu"), (64, 16), json!({"adaptive_q": true, "precond": "first_only"})),
        (mlp(false, "gelu"), (8, 8), json!({"precond": "none", "targets": "raw"})),
    ] {
        let mut settings = json!({"structure": structure, "chunk": chunks.0, "chunk_memory": chunks.1});
        settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let rule: SelfModifying = serde_json::from_value(settings.clone()).expect("the settings exist");
        let report = conformance::kernels(&rule);
        assert!(report.passed(), "{settings}\n{report}");
    }
}

#[test]
fn the_kernel_of_a_slow_level_is_the_reference_for_every_rule_of_the_family_and_period() {
    for rule in ["linear_attention", "delta", "gated_delta", "decay_delta", "titans"] {
        for period in [2, 3, 8, 63, 64, 65, 512] {
            let rule: Paced =
                serde_json::from_value(json!({"rule": rule, "period": period})).expect("the settings exist");
            assert_eq!(AnyRule::from(rule.clone()).kernels(Dims::new(8, 8))[0].name, "periods");
            let report = conformance::kernels(&rule);
            assert!(report.passed(), "{rule:?}\n{report}");
        }
    }
}

#[test]
fn the_kernel_of_a_gated_memory_is_the_reference_for_every_rule_of_the_family_and_signal() {
    for rule in ["linear_attention", "delta", "gated_delta", "decay_delta", "titans"] {
        for (signal, threshold) in [("norm", 0.0), ("norm", 0.3), ("norm", 1e9), ("loss", 0.5), ("loss", 3.0)] {
            let settings = json!({"rule": rule, "signal": signal, "threshold": threshold});
            let rule: SurpriseGated = serde_json::from_value(settings.clone()).expect("the settings exist");
            assert_eq!(AnyRule::from(rule.clone()).kernels(Dims::new(8, 8))[0].name, "gated");
            let report = conformance::kernels(&rule);
            assert!(report.passed(), "{settings}\n{report}");
        }
    }
}
