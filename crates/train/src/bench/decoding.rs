//! Rows about decoding: one token after another, the largest logit chosen, on a state that may be far along.

use super::harness::{Case, Work};
use super::models::{against_reference, bytes, formula, laid_out, tokens};
use hecate_core::ops::Cpu;
use hecate_model::{Access, GenerationConfig, Logits, Model, ModelConfig, Params, Sampler, State, Workspace, generate};
use std::ops::ControlFlow;

/// A model in use.
pub(super) struct Served {
    pub model: Model,
    pub params: Params<f32>,
    pub state: State<f32>,
    ws: Workspace<f32>,
}

impl Served {
    /// Freshly initialised, before its first token.
    pub fn new(config: &ModelConfig) -> Self {
        let model = laid_out(config);
        let (params, state) = (model.params().init(0), model.new_state());
        Self { model, params, state, ws: Workspace::default() }
    }

    /// Logits of `ids`, or of the last of them.
    pub fn forward(&mut self, ops: &Cpu, ids: &[u32], want: Logits) -> &[f32] {
        let Self { model, params, state, ws } = self;
        model.forward(ops, params, state, ids, &Access::Learn, want, ws).expect("fresh models are finite")
    }

    /// Reads the pending token, then all but the last of `n` tokens that it draws; gives what it drew.
    fn decode(&mut self, ops: &Cpu, n: usize) -> Vec<u32> {
        let mut drawn = Vec::with_capacity(n);
        let mut each = |id| {
            drawn.push(id);
            ControlFlow::Continue(())
        };
        let Self { model, params, state, ws } = self;
        generate(ops, model, params, state, &[], &mut largest(), n, &Access::Learn, ws, &mut each)
            .expect("fresh models are finite");
        drawn
    }
}

/// The kernels that serve, on the instruction set and threads of `cpu`.
pub(super) fn inference(cpu: &Cpu) -> Cpu {
    Cpu::inference().with_isa(cpu.isa()).with_parallel(cpu.parallel())
}

/// Takes the largest logit: the row is about the model, not about sorting its logits.
fn largest() -> Sampler {
    let config = GenerationConfig { temperature: 0.0, ..GenerationConfig::default() };
    Sampler::new(&config).expect("temperature 0 is allowed")
}

/// `n` tokens, one after another, after `start` tokens that were read before.
pub(super) fn decoding(name: &str, config: &ModelConfig, start: usize, n: usize) -> Case {
    let config = config.clone();
    Case {
        name: format!("{name} decoding {}..{}", start + 1, start + n),
        formula: format!("T {}", formula(&config)),
        flops: n as f64 * (laid_out(&config).flops(n, start as u64) + laid_out(&config).learning(false).flops),
        bytes: bytes(&config, n, false),
        tokens: Some(n),
        build: Box::new(move || {
            let ids = tokens(&config, start + 1);
            let mut served = Served::new(&config);
            served.forward(&Cpu::inference(), &ids[..start], Logits::Last);
            served.state.pending = Some(ids[start]);
            let (mut right, mut checked) = (against_reference(&config), Served::new(&config));
            let (first, origin) = (served.state.clone(), served.state.clone());
            Work {
                fault: Box::new(move |cpu| right(cpu).or_else(|| against_prefill(&mut checked, &first, cpu, n))),
                call: Box::new(move |cpu| {
                    served.state.clone_from(&origin);
                    served.decode(&inference(cpu), n);
                }),
            }
        }),
    }
}

/// Compares `n` tokens decoded from `origin` with one call that reads the same tokens: logits and state, bit for bit.
fn against_prefill(served: &mut Served, origin: &State<f32>, cpu: &Cpu, n: usize) -> Option<String> {
    let ops = inference(cpu);
    served.state.clone_from(origin);
    let drawn = served.decode(&ops, n);
    let decoded = served.state.clone();
    let read: Vec<u32> = origin.pending.into_iter().chain(drawn.iter().copied()).take(n).collect();

    served.state.clone_from(origin);
    let logits = served.forward(&ops, &read, Logits::All).to_vec();
    served.state.pending = drawn.last().copied();
    if served.state.hash() != decoded.hash() {
        return Some("the states after decoding and after one call differ".into());
    }
    served.state.clone_from(origin);
    let mut sampler = largest();
    let vocab = served.model.config().vocab;
    (0..n).find_map(|t| {
        let row = &logits[t * vocab..][..vocab];
        let same =
            served.forward(&ops, &read[t..=t], Logits::Last).iter().zip(row).all(|(a, b)| a.to_bits() == b.to_bits());
        (!same || sampler.sample(row) != drawn[t]).then(|| format!("token {t} differs from that of one call"))
    })
}
