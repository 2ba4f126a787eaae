//! Kernels of rules that are no setting of another, held to their references over settings that no preset has.

use hecate_core::conformance;
use hecate_core::rules::Lattice;
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
