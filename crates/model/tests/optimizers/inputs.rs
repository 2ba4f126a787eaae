//! What a training pass gathers for optimizers that ask for the inputs of matrices.

use hecate_core::ops::{Cpu, Ops, Reference};
use hecate_model::config::{BlockConfig, ModelConfig};
use hecate_model::optim::is_matrix;
use hecate_model::{Model, Params, Tape};

const TOKENS: usize = 9;

fn model() -> Model {
    let config = ModelConfig {
        vocab: 17,
        width: 16,
        context: TOKENS,
        blocks: vec![BlockConfig { repeat: 2, ..BlockConfig::default() }],
        ..ModelConfig::default()
    };
    Model::new(&config).unwrap()
}

/// The gradient's buffer of one pass, with the inputs behind it or without.
fn pass<O: Ops>(ops: &O, model: &Model, params: &Params<O::F>, gathers: bool) -> Vec<O::F> {
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 5 % 17).collect();
    let len = if gathers { model.inputs().len } else { model.params().len };
    let (mut grads, mut losses) = (vec![O::F::default(); len], vec![O::F::default(); TOKENS]);
    let (mut state, mut tape) = (model.new_state(), Tape::gathering(gathers));
    let weight = hecate_core::Scalar::from_f64(0.1);
    model.train(ops, params, &mut state, &ids, &ids, weight, &mut losses, &mut grads, &mut tape).unwrap();
    grads
}

#[test]
fn gathering_the_inputs_leaves_the_gradient_as_it_is() {
    let model = model();
    let params: Params<f32> = model.params().init(5);
    let (with, without) =
        (pass(&Cpu::training(), &model, &params, true), pass(&Cpu::training(), &model, &params, false));
    assert!(with.iter().zip(&without).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// The queries' inputs in the first block are known without the model; all are sums of squares, and every matrix has one.
#[test]
fn inputs_of_every_matrix_are_gathered_as_the_layer_sees_them() {
    let model = model();
    let params: Params<f64> = model.params().init(5);
    let buffer = pass(&Reference::<f64>::new(), &model, &params, true);
    let (layout, places) = (model.params(), model.inputs());
    for spec in &layout.specs {
        let at = places.find(&spec.range);
        assert_eq!(at.is_some(), is_matrix(spec), "{}", spec.name);
        let Some(at) = at else { continue };
        let (sum, n) = (&buffer[at], spec.shape[0]);
        assert!((0..n).all(|i| sum[i * n + i] > 0.0), "{}", spec.name);
        assert!((0..n * n).all(|i| (sum[i] - sum[i % n * n + i / n]).abs() < 1e-12), "{}", spec.name);
    }
    let range = |name: &str| layout.specs.iter().find(|s| s.name == name).unwrap().range.clone();
    let (table, scale) = (&params.data[range("embedding.weight")], &params.data[range("blocks.0.mixer_norm.scale")]);
    let mut x = vec![0.0; TOKENS * 16];
    for (t, x) in x.chunks_exact_mut(16).enumerate() {
        x.copy_from_slice(&table[t * 5 % 17 * 16..][..16]);
    }
    let (mut normed, mut want) = (x.clone(), vec![0.0; 256]);
    Reference::new().rms_norm_forward(16, &x, scale, &mut normed);
    Reference::new().add_gram(16, &normed, &mut want);
    let got = &buffer[places.find(&range("blocks.0.mixer.attention.q.weight")).unwrap()];
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-12));
}
