//! Settings that do not exist are refused with the reason.

use hecate_core::{AnyRule, Dims};
use serde_json::{Value, json};

fn reason(settings: Value, d: Dims) -> String {
    let mut table = json!({"name": "miras"});
    table.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    match serde_json::from_value::<AnyRule>(table.clone()) {
        Ok(rule) => rule.check(d).expect_err(&format!("{table} is refused")).to_string(),
        Err(error) => error.to_string(),
    }
}

fn expect_refused(list: &[(Value, &str)]) {
    for (settings, said) in list {
        let got = reason(settings.clone(), Dims::new(4, 4));
        assert!(got.contains(said), "{settings}: {got}");
    }
}

#[test]
fn closed_forms_that_do_not_exist_are_refused() {
    expect_refused(&[
        (json!({"algorithm": "newton", "bias": "dot"}), "is for bias `l2`"),
        (json!({"algorithm": "newton", "bias": "l1"}), "is for bias `l2`"),
        (json!({"algorithm": "newton", "structure": "mlp"}), "solves for a matrix"),
        (json!({"algorithm": "newton", "structure": "diagonal"}), "solves for a matrix"),
        (json!({"algorithm": "newton", "retention": "l2_anchor"}), "no pull to a start"),
        (json!({"algorithm": "newton", "retention": "kl"}), "no closed form together"),
        (json!({"algorithm": "newton", "window": 2}), "one token at a time"),
        (json!({"algorithm": "newton", "chunk": 4}), "one token at a time"),
        (json!({"algorithm": "newton", "window": 1}), "no rate and no residual"),
        (json!({"algorithm": "newton", "steps": 2}), "no rate and no residual"),
        (json!({"algorithm": "newton", "gates": "value"}), "no rate and no residual"),
        (json!({"algorithm": "newton", "clip": 1.0}), "no rate and no residual"),
        (json!({"algorithm": "implicit", "structure": "gated_mlp"}), "solves for a matrix"),
        (json!({"algorithm": "implicit", "bias": "kl"}), "no closed form for an implicit step"),
        (json!({"algorithm": "implicit", "bias": "robust"}), "no closed form for an implicit step"),
        (json!({"algorithm": "implicit", "bias": "huber_norm"}), "no closed form for an implicit step"),
        (json!({"algorithm": "implicit", "bias": "huber_switch"}), "no closed form for an implicit step"),
        (
            json!({"algorithm": "implicit", "bias": {"name": "lp", "form": "tanh"}}),
            "no closed form for an implicit step",
        ),
        (
            json!({"algorithm": "implicit", "bias": {"name": "l1", "form": "tanh"}}),
            "no closed form for an implicit step",
        ),
        (json!({"algorithm": "implicit", "retention": "elastic"}), "no closed form together"),
        (json!({"algorithm": "implicit", "retention": "sphere"}), "no closed form together"),
        (json!({"algorithm": "implicit", "window": 2}), "one token at a time"),
        (json!({"algorithm": "implicit", "chunk": 2}), "one token at a time"),
    ]);
}

#[test]
fn settings_without_a_meaning_are_refused() {
    expect_refused(&[
        // Algorithms that forget nothing, under retentions that do.
        (json!({"algorithm": "ftrl", "retention": "l2"}), "forgets nothing"),
        (json!({"algorithm": "ftrl", "retention": "l2_anchor"}), "forgets nothing"),
        (json!({"algorithm": "ftrl", "retention": "chi2"}), "forgets nothing"),
        (json!({"algorithm": "ftrl", "retention": "elastic"}), "forgets nothing"),
        (json!({"algorithm": "ftrl", "retention": "sphere"}), "forgets nothing"),
        (json!({"algorithm": "ftrl", "retention": "ball"}), "forgets nothing"),
        (json!({"structure": "diagonal", "retention": "sphere"}), "columns of unit length"),
        (json!({"structure": "diagonal", "features": "polynomial"}), "a vector maps"),
        (json!({"structure": {"name": "mlp", "layers": 3}, "gates": "value"}), "per value channel"),
        (json!({"structure": "mlp", "gates": "key"}), "per key channel"),
        (json!({"features": "fourier", "gates": "key"}), "per key channel"),
        (json!({"chunk": 4, "gradient": "decayed"}), "at the chunk start"),
        (json!({"retention": "none", "decay": "retnet"}), "nothing decays"),
        (json!({"algorithm": "ftrl", "retention": "kl", "decay": "lightning"}), "nothing decays"),
    ]);
}

#[test]
fn numbers_out_of_range_and_unknown_names_are_refused() {
    expect_refused(&[
        (json!({"steps": 0}), "steps = 0"),
        (json!({"steps": 5}), "steps = 5"),
        (json!({"chunk": 0}), "chunk = 0"),
        (json!({"window": 2000}), "window = 2000"),
        (json!({"clip": 0.0}), "clip"),
        (json!({"structure": {"name": "mlp", "layers": 1}}), "layers = 1"),
        (json!({"structure": {"name": "mlp", "layers": 9}}), "layers = 9"),
        (json!({"structure": {"name": "gated_mlp", "expansion": 0}}), "expansion = 0"),
        (json!({"features": {"name": "polynomial", "degree": 4}}), "degree = 4"),
        (json!({"features": {"name": "fourier", "features": 7}}), "features = 7"),
        (json!({"features": {"name": "fourier", "scale": 0.0}}), "scale = 0"),
        (json!({"bias": {"name": "lp", "p": 0.5}}), "p = 0.5"),
        (json!({"bias": {"name": "robust", "shift": -1.0}}), "shift = -1"),
        (json!({"retention": {"name": "lq_exact", "q": 1.5}}), "q = 1.5"),
        (json!({"retention": {"name": "lq_literal", "floor": 0.0}}), "floor = 0"),
        (json!({"retention": {"name": "elastic", "sparsity": -0.1}}), "sparsity = -0.1"),
        (json!({"retention": {"name": "elastic_ftrl", "sparsity": 0.0}}), "sparsity = 0"),
        (json!({"retention": {"name": "tanh", "bound": 0.0}}), "bound = 0"),
        (json!({"retention": {"name": "ball", "radius": 0.0}}), "radius = 0"),
        (json!({"algorithm": {"name": "muon", "iterations": 0}}), "iterations = 0"),
        (json!({"algorithm": {"name": "newton", "lambda": 0.0}}), "lambda = 0"),
        // Names and keys that no list has.
        (json!({"retention": "forget"}), "unknown retention `forget`, expected one of none"),
        (json!({"bias": {"name": "l2", "power": 2}}), "power"),
    ]);
}

#[test]
fn sizes_that_a_structure_does_not_fit_are_refused() {
    let free = json!({"name": "mlp", "residual": false});
    for (settings, d, said) in [
        (json!({"structure": "diagonal"}), Dims::new(4, 3), "a vector maps 4 features"),
        (json!({"structure": "mlp"}), Dims::new(4, 3), "a residual adds keys to values"),
        (json!({"structure": free}), Dims::new(4, 1), "norm over a single value"),
        (json!({"structure": {"name": "gated_mlp", "residual": false}}), Dims::new(4, 1), "norm over a single value"),
        (
            json!({"structure": {"name": "mlp", "residual": false}, "gates": "value"}),
            Dims::new(4, 3),
            "per value channel",
        ),
    ] {
        let got = reason(settings.clone(), d);
        assert!(got.contains(said), "{settings}: {got}");
    }
}
