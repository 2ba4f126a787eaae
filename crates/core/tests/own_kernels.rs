//! Kernels of rules that are no setting of another, held to their references over settings that no preset has.

use hecate_core::conformance;
use hecate_core::rules::{Lattice, Trellis};
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
