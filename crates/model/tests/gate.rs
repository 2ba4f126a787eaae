//! A gate on surprise in every mixer that has a memory: it opens, shuts, says how often, and does not look at calls.

use hecate_core::AnyRule;
use hecate_core::ops::Reference;
use hecate_model::config::{
    AttentionConfig, BlockConfig, CombineConfig, LevelConfig, MacConfig, MagConfig, MalConfig, MemoryConfig,
    MixerConfig, Surprise, SurpriseGate,
};
use hecate_model::{Access, Kind, Logits, Model, ModelConfig, Params, State, Tape, Workspace};
use std::collections::BTreeMap;

const TOKENS: [u32; 25] = [1, 4, 2, 2, 0, 3, 1, 4, 4, 2, 3, 0, 0, 1, 3, 2, 4, 1, 0, 2, 2, 1, 3, 0, 4];

fn memory(rule: &str, gate: Option<SurpriseGate>) -> MemoryConfig {
    let rule = AnyRule::named(rule).unwrap().brief();
    MemoryConfig { rule, heads: 2, conv: 3, gate, ..MemoryConfig::default() }
}

/// Every mixer that takes a memory; memories with chunks, that make their own keys, and of several levels.
fn mixers(gate: Option<SurpriseGate>) -> Vec<MixerConfig> {
    let attention = AttentionConfig { heads: 2, window: Some(5), ..AttentionConfig::default() };
    let whole = AttentionConfig { window: None, ..attention.clone() };
    let level = |period| LevelConfig { rule: None, period: Some(period) };
    let levels = vec![level(1), level(3), level(4)];
    let plain = || memory("titans", gate);
    let mac = |causal, segment| MacConfig { segment, attention: whole.clone(), memory: plain(), persistent: 1, causal };
    let mut all = vec![
        MixerConfig::Memory(MemoryConfig { persistent: 2, ..plain() }),
        MixerConfig::Memory(memory("titans_mlp", gate)),
        MixerConfig::Memory(MemoryConfig { levels, combine: CombineConfig::Learned, ..plain() }),
        MixerConfig::Mag(MagConfig { attention: attention.clone(), memory: plain(), persistent: 1 }),
        MixerConfig::Mal(MalConfig { attention, memory: plain(), persistent: 1 }),
        MixerConfig::Mac(mac(true, 4)),
        MixerConfig::Mac(mac(false, 5)),
    ];
    if gate.is_none_or(|gate| gate.signal == Surprise::Norm) {
        all.push(MixerConfig::Memory(memory("self_modifying", gate)));
    }
    all
}

fn config_of(mixer: MixerConfig) -> ModelConfig {
    let blocks = vec![BlockConfig { repeat: 1, mixer, ..BlockConfig::default() }];
    ModelConfig { vocab: 5, width: 8, context: 16, blocks, ..ModelConfig::default() }
}

fn model(signal: Surprise, threshold: f64, which: usize) -> Model {
    let gate = (threshold >= 0.0).then_some(SurpriseGate { signal, threshold });
    Model::new(&config_of(mixers(gate).swap_remove(which))).unwrap()
}

fn params(model: &Model) -> Params<f64> {
    let mut params: Params<f64> = model.params().init(3);
    params.data.iter_mut().for_each(|p| *p *= 1.5);
    params
}

/// Losses and gradients of a training call over all tokens, and its traces.
fn train(model: &Model) -> (Vec<f64>, Vec<f64>, BTreeMap<String, f64>) {
    let (mut state, mut tape, n) = (model.new_state(), Tape::default(), TOKENS.len() - 1);
    let (mut losses, mut grads) = (vec![0.0; n], vec![0.0; model.params().len]);
    let (x, y, ops) = (&TOKENS[..n], &TOKENS[1..], Reference::<f64>::new());
    model.train(&ops, &params(model), &mut state, x, y, 1.0, &mut losses, &mut grads, &mut tape).unwrap();
    (losses, grads, model.traces(&tape, &state).into_iter().collect())
}

/// The shares of tokens written, memory by memory.
fn written(traces: &BTreeMap<String, f64>) -> Vec<f64> {
    traces.iter().filter(|(name, _)| name.ends_with("memory_written")).map(|(_, share)| *share).collect()
}

/// Tokens in calls that end where these say; the state and the logits of each.
fn serve(model: &Model, cuts: &[usize]) -> (State<f64>, Vec<f64>) {
    let (mut state, mut ws, mut logits) = (model.new_state(), Workspace::default(), Vec::new());
    let (params, ops, mut from) = (params(model), Reference::<f64>::new(), 0);
    for &to in cuts {
        let (learn, tokens) = (Access::Learn, &TOKENS[from..to]);
        logits.extend(model.forward(&ops, &params, &mut state, tokens, &learn, Logits::All, &mut ws).unwrap());
        from = to;
    }
    (state, logits)
}

#[test]
fn a_surprise_gate_opens_and_shuts_in_every_mixer_and_says_how_often() {
    for signal in [Surprise::Norm, Surprise::Loss] {
        for which in 0..mixers(Some(SurpriseGate { signal, threshold: 0.0 })).len() {
            let at = |threshold| train(&model(signal, threshold, which));
            let what = format!("{signal:?} in {:?}", model(signal, 0.0, which).config().blocks[0].mixer);
            let (losses, grads, plain) = at(-1.0);
            assert!(written(&plain).is_empty(), "{what}");
            let open = at(0.0);
            assert!(open.0 == losses && open.1 == grads, "{what} open is the mixer without a gate");
            assert!(written(&open.2).iter().all(|share| (share - 1.0).abs() < 1e-12), "{what} open");
            let shut = at(1e9);
            assert!(shut.0 != losses && written(&shut.2).iter().all(|&share| share == 0.0), "{what} shut");
            // A memory that was never written is what it started as: nothing, or what is learned.
            let norms = |t: &BTreeMap<String, f64>| {
                t.iter().filter(|(name, _)| name.ends_with("memory_norm")).map(|(_, norm)| norm).sum::<f64>()
            };
            let starts = model(signal, 1e9, which).params().specs.iter().any(|spec| spec.kind == Kind::Start);
            assert!(norms(&shut.2) != norms(&open.2) && (starts || norms(&shut.2) == 0.0), "{what} shut");
            let shares = |i: i32| written(&at(1.2_f64.powi(i)).2);
            let between = (-40..20).map(shares).find(|all| all.iter().all(|share| (0.2..0.8).contains(share)));
            assert!(between.is_some(), "{what} in between: {:?}", (-40..20).map(shares).collect::<Vec<_>>());
        }
    }
}

#[test]
fn what_is_written_does_not_depend_on_where_calls_end() {
    for which in 0..mixers(None).len() {
        for threshold in [0.02, 0.1, 0.4] {
            let model = model(Surprise::Norm, threshold, which);
            let (state, logits) = serve(&model, &[25]);
            // The printed form of memory as context takes whole segments.
            for cuts in [&[5, 15, 25][..], &[5, 10, 15, 20, 25]] {
                let (pieces, again) = serve(&model, cuts);
                let mixer = &model.config().blocks[0].mixer;
                assert!(logits == again && state == pieces, "{threshold} cut at {cuts:?}: {mixer:?}");
            }
        }
    }
}

#[test]
fn gates_that_no_mixer_can_have_are_refused_by_name() {
    let gate = |signal, threshold| Some(SurpriseGate { signal, threshold });
    let level = |period| LevelConfig { rule: None, period: Some(period) };
    let slow = MemoryConfig { levels: vec![level(1), level(4)], ..memory("titans_mlp", gate(Surprise::Norm, 0.1)) };
    let twice = AnyRule::named("surprise_gated").unwrap();
    for (memory, place, reason) in [
        (memory("titans", gate(Surprise::Entropy, 0.1)), "mixer.gate.signal", "use \"norm\" or \"loss\""),
        (memory("titans", gate(Surprise::Norm, -0.1)), "mixer.gate.threshold", "-0.1"),
        (memory("self_modifying", gate(Surprise::Loss, 0.1)), "mixer.rule", "use \"norm\""),
        (memory("paced", gate(Surprise::Norm, 0.1)), "mixer.rule", "put the gate inside"),
        (MemoryConfig { rule: twice, ..memory("titans", gate(Surprise::Norm, 0.1)) }, "mixer.rule", "behind a gate"),
        (slow, "mixer.levels.1", "chunk = 1"),
    ] {
        let error = Model::new(&config_of(MixerConfig::Memory(memory))).err().unwrap().to_string();
        assert!(error.contains(place) && error.contains(reason), "{error}");
    }
}
