//! Kernels of TNT, held to its reference over settings that no preset has.

use hecate_core::AnyRule;
use hecate_core::conformance;
use serde_json::{Value, json};

#[test]
fn every_kernel_is_the_reference_whatever_is_shared_and_projected() {
    let chunks = |global: usize, shard: usize, locals: &[usize], projection: &str| json!({"global_chunk": global, "shard": shard, "locals": locals, "projection": projection});
    let with = |mut settings: Value, more: Value| {
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    for settings in [
        with(chunks(32, 48, &[1, 16], "orth"), json!({"structure": "matrix", "retain": true})),
        with(chunks(8, 20, &[5, 2], "chunk"), json!({"shared_start": true, "shared_rate": true})),
        with(chunks(8, 20, &[5], "shard_raw"), json!({"structure": "matrix"})),
        chunks(128, 64, &[8], "none"),
    ] {
        let rule: AnyRule =
            serde_json::from_value(with(settings.clone(), json!({"name": "tnt"}))).expect("the settings exist");
        let report = conformance::kernels(rule.erased());
        assert!(report.passed(), "{settings}\n{report}");
    }
}
