//! A tiny model of every mixer and channel, differentiated exactly as a whole.

use hecate_core::ops::{Ops, Reference};
use hecate_core::{AnyRule, Dims, Dual, Scalar};
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, CombineConfig, Consolidation,
    LevelConfig, MacConfig, MagConfig, MalConfig, MemoryConfig, Meta, MixerConfig, MlpConfig, MlpKindConfig,
    NormConfig, Objective, Reads, Replay, Surprise, SurpriseGate,
};
use hecate_model::rng::Rng;
use hecate_model::{Access, Kind, Logits, Model, ModelConfig, ParamSpec, Params, State, Tape, Workspace};

fn attention() -> AttentionConfig {
    AttentionConfig { heads: 2, kv_heads: Some(1), window: Some(3), ..AttentionConfig::default() }
}

/// A memory of two heads, whose keys and values are of different widths where the rule takes that.
fn memory(rule: AnyRule) -> MemoryConfig {
    let dk = if rule.check(Dims::new(3, 4)).is_ok() { 3 } else { 4 };
    let widths = MemoryConfig { key_width: Some(dk), value_width: Some(4), ..MemoryConfig::default() };
    MemoryConfig { rule, heads: 2, conv: 3, ..widths }
}

fn named(rule: &str) -> AnyRule {
    AnyRule::named(rule).unwrap()
}

/// Rules for every way in which a memory can be part of a model: a state that starts at zero and one that is learned,
/// alone and with momentum and anchors; gates damped, of other kinds, and constant per head.
fn mechanisms() -> Vec<AnyRule> {
    let table = |text: &str| serde_json::from_str(text).unwrap();
    vec![
        named("titans"),
        named("titans_mlp"),
        table(r#"{"name": "titans_mlp", "chunk": 4, "structure": {"name": "mlp", "layers": 3}}"#),
        table(r#"{"name": "miras", "window": 3, "algorithm": "momentum"}"#),
        table(r#"{"name": "miras", "gates": "value", "retention": "l2_anchor", "chunk": 4}"#),
        table(r#"{"name": "miras", "steps": 2}"#),
    ]
}

/// Three levels of different rules, which change at every token and at every second and third.
fn levels(combine: CombineConfig) -> MemoryConfig {
    let level = |rule: &str, period| LevelConfig { rule: Some(named(rule)), period: Some(period) };
    let levels = vec![level("titans", 1), level("titans_mlp", 2), level("gated_delta", 3)];
    MemoryConfig { levels, combine, ..memory(named("titans_mlp")) }
}

/// Every mixer that takes a memory, with this one; segments and calls end at different tokens.
fn around(memory: &MemoryConfig) -> Vec<MixerConfig> {
    let window = AttentionConfig { window: None, ..attention() };
    let mac = MacConfig { segment: 4, attention: window, memory: memory.clone(), persistent: 2, causal: true };
    // Both calls of the test begin with a segment, as this form demands.
    let printed = MacConfig { segment: 3, causal: false, ..mac.clone() };
    let bare = MacConfig { persistent: 0, ..mac.clone() };
    vec![
        MixerConfig::Memory(MemoryConfig { persistent: 2, ..memory.clone() }),
        MixerConfig::Mag(MagConfig { attention: attention(), memory: memory.clone(), persistent: 0 }),
        MixerConfig::Mag(MagConfig { attention: attention(), memory: memory.clone(), persistent: 2 }),
        MixerConfig::Mal(MalConfig { attention: attention(), memory: memory.clone(), persistent: 2 }),
        MixerConfig::Mal(MalConfig { attention: attention(), memory: memory.clone(), persistent: 0 }),
        MixerConfig::Mac(mac),
        MixerConfig::Mac(printed),
        MixerConfig::Mac(bare),
    ]
}

/// Continuum memories whose levels change after two, three and eight tokens, and others; of what they learned from gradients
/// take no notice.
fn first_order() -> Vec<ChannelConfig> {
    let level = |period| CmsLevel { period: Some(period), rate: 0.3, warmup: 2, ..CmsLevel::default() };
    let all = [Arrangement::Sequential, Arrangement::Independent, Arrangement::Nested, Arrangement::Headwise];
    let objectives = [Objective::Task, Objective::LocalL2];
    let config = |(arrangement, objective)| {
        let online = arrangement == Arrangement::Nested;
        // Without decay, gradients go through several changes at once.
        let decay = if arrangement == Arrangement::Independent { 0.1 } else { 0.0 };
        let levels = [2, 3, 8].map(|period| CmsLevel { decay, ..level(period) }).to_vec();
        let kind = if objective == Objective::Task { MlpKindConfig::Gated } else { MlpKindConfig::Gelu };
        let hidden = Some(6);
        ChannelConfig::Cms(CmsConfig { hidden, kind, arrangement, objective, online, levels, ..CmsConfig::default() })
    };
    all.into_iter().flat_map(|a| objectives.map(|o| (a, o))).map(config).chain(additions()).collect()
}

/// Continuum memories with learned rates, slow copies, replay and gates, and levels that training leaves to the optimizer.
fn additions() -> Vec<ChannelConfig> {
    let level = |period, decay| CmsLevel { period: Some(period), rate: 0.3, warmup: 2, decay, ..CmsLevel::default() };
    let base =
        |decay| CmsConfig { hidden: Some(6), levels: vec![level(2, decay), level(3, 0.0)], ..CmsConfig::default() };
    let learned = |arrangement, decay| CmsConfig { arrangement, learn_rates: true, ..base(decay) };
    let slow = |arrangement, reads| CmsConfig {
        arrangement,
        consolidation: Some(Consolidation { keep: 0.7, reads }),
        ..base(0.1)
    };
    let replay = Some(Replay { size: 5, draw: 3, weight: 0.5, seed: 1 });
    let gate = |signal, threshold| Some(SurpriseGate { signal, threshold });
    let served = vec![CmsLevel { serve_rate: Some(0.9), ..level(2, 0.0) }, level(CONTEXT as u64, 0.1)];
    let large = CmsLevel { rate: 10.0, warmup: 0, ..level(2, 0.0) };
    let all = [
        learned(Arrangement::Sequential, 0.0),
        learned(Arrangement::Independent, 0.1),
        learned(Arrangement::Nested, 0.1),
        slow(Arrangement::Sequential, Reads::Both),
        slow(Arrangement::Nested, Reads::Fast),
        CmsConfig { replay, ..learned(Arrangement::Sequential, 0.0) },
        // A gate learns from what its changes did to the few tokens behind them: large ones, to be seen.
        CmsConfig { learn_periods: true, levels: vec![level(2, 0.0), large.clone()], ..base(0.0) },
        CmsConfig { learn_periods: true, levels: vec![level(2, 0.0), large], ..learned(Arrangement::Independent, 0.0) },
        CmsConfig { gate: gate(Surprise::Norm, 0.2), ..base(0.0) },
        CmsConfig { gate: gate(Surprise::Loss, 1.93), arrangement: Arrangement::Independent, ..base(0.0) },
        CmsConfig { levels: served.clone(), ..base(0.0) },
        CmsConfig { arrangement: Arrangement::Headwise, levels: served.clone(), ..base(0.0) },
        CmsConfig { arrangement: Arrangement::Nested, online: true, levels: served, ..base(0.0) },
    ];
    all.into_iter().map(ChannelConfig::Cms).collect()
}

/// Whether serving changes what training does not, or by other steps.
fn is_served_otherwise(channel: &ChannelConfig) -> bool {
    let ChannelConfig::Cms(cms) = channel else { return false };
    cms.levels.iter().any(|level| level.serve_rate.is_some() || level.period >= Some(CONTEXT as u64))
}

/// Continuum memories whose changes gradients go through.
fn unrolled() -> Vec<CmsConfig> {
    let level = |period, decay| CmsLevel { period: Some(period), rate: 0.4, warmup: 2, decay, ..CmsLevel::default() };
    let levels = vec![level(2, 0.0), level(3, 0.1)];
    let base = |arrangement| CmsConfig {
        hidden: Some(6),
        arrangement,
        meta: Meta::Unroll,
        levels: levels.clone(),
        ..CmsConfig::default()
    };
    let gate = Some(SurpriseGate { signal: Surprise::Loss, threshold: 1.93 });
    vec![
        CmsConfig { learn_rates: true, ..base(Arrangement::Sequential) },
        CmsConfig { gate, ..base(Arrangement::Independent) },
        CmsConfig { online: true, ..base(Arrangement::Nested) },
        CmsConfig { learn_rates: true, ..base(Arrangement::Nested) },
    ]
}

/// Every mixer with every perceptron and norm and with a continuum memory; attention and a memory with every continuum
/// memory, HOPE with every third; every mechanism in every mixer that takes a memory; every rule alone.
fn configs() -> Vec<ModelConfig> {
    let (alone, gated, gelu) = (
        ChannelConfig::None,
        ChannelConfig::Mlp(MlpConfig { hidden: Some(5), kind: MlpKindConfig::Gated }),
        ChannelConfig::Mlp(MlpConfig { hidden: Some(5), kind: MlpKindConfig::Gelu }),
    );
    let mut out = Vec::new();
    let mut add = |mixer: MixerConfig, channel: &ChannelConfig, tie_embeddings| {
        let norm = if tie_embeddings && *channel != alone { NormConfig::Post } else { NormConfig::Pre };
        let blocks = vec![BlockConfig { repeat: 1, norm, mixer, channel: channel.clone() }];
        out.push(ModelConfig {
            vocab: 7,
            width: 8,
            context: CONTEXT,
            tie_embeddings,
            blocks,
            ..ModelConfig::default()
        });
    };
    let plain = memory(named("titans"));
    let more = [MixerConfig::Attention(attention()), MixerConfig::Memory(plain.clone())];
    for mixer in around(&plain).into_iter().chain(more) {
        for (channel, tie_embeddings) in [(&gated, false), (&gelu, true), (&alone, false)] {
            add(mixer.clone(), channel, tie_embeddings);
        }
    }
    add(MixerConfig::None, &gelu, false);
    for (channel, mixer) in unrolled().into_iter().zip([3, 5]) {
        add(around(&plain)[mixer].clone(), &ChannelConfig::Cms(channel), true);
    }
    let continua = first_order().into_iter().chain(unrolled().into_iter().map(ChannelConfig::Cms));
    for (i, channel) in continua.enumerate() {
        add(MixerConfig::Memory(plain.clone()), &channel, false);
        add(MixerConfig::Attention(attention()), &channel, true);
        // It has many tensors, each of which is a run.
        if i % 3 == 1 {
            add(MixerConfig::Memory(memory(named("self_modifying").brief())), &channel, false);
        }
    }
    let gate = Some(SurpriseGate { signal: Surprise::Norm, threshold: 0.3 });
    let gated_memory = MemoryConfig { gate, ..plain.clone() };
    let causal = |mixer: &MixerConfig| !matches!(mixer, MixerConfig::Mac(MacConfig { causal: false, .. }));
    let several = [plain.clone(), levels(CombineConfig::Learned), gated_memory];
    let mixers = several.iter().flat_map(around).filter(causal);
    for (mixer, channel) in mixers.zip(first_order().iter().cycle()) {
        add(mixer, channel, false);
    }
    for combine in [CombineConfig::Scaled, CombineConfig::Learned, CombineConfig::Sum] {
        around(&levels(combine)).into_iter().for_each(|mixer| add(mixer, &alone, true));
    }
    // Thresholds that some of these tokens reach.
    for (signal, threshold) in [(Surprise::Norm, 0.3), (Surprise::Loss, 0.4)] {
        let gate = Some(SurpriseGate { signal, threshold });
        around(&MemoryConfig { gate, ..plain.clone() }).into_iter().for_each(|mixer| add(mixer, &alone, true));
    }
    for rule in mechanisms() {
        around(&memory(rule)).into_iter().for_each(|mixer| add(mixer, &alone, true));
    }
    // Brief, so that what the nine tokens write is read by some of them.
    for rule in AnyRule::all().iter().map(AnyRule::brief).chain(mechanisms()) {
        add(MixerConfig::Memory(memory(rule)), &alone, true);
    }
    out
}

/// Tokens of a training call.
const CONTEXT: usize = 9;
const TOKENS: [u32; 16] = [1, 5, 2, 2, 6, 0, 3, 1, 4, 4, 2, 6, 5, 0, 1, 3];

fn lift<F: Scalar>(x: &[f64]) -> Vec<F> {
    x.iter().map(|&x| F::from_f64(x)).collect()
}

/// Losses and gradients of nine tokens of the stream; `before` tokens before them only move the state.
fn run<O: Ops>(ops: &O, model: &Model, params: &Params<O::F>, before: usize) -> (Vec<O::F>, Vec<O::F>) {
    let mut state = model.new_state();
    let mut ws = Workspace::default();
    model.forward(ops, params, &mut state, &TOKENS[..before], &Access::Learn, Logits::Last, &mut ws).unwrap();
    let mut constant: State<O::F> = state.clone();
    constant.data.iter_mut().chain(constant.fast.iter_mut()).for_each(|x| *x = x.detach());
    let mut losses = vec![O::F::zero(); CONTEXT];
    let mut grads = vec![O::F::zero(); model.params().len];
    let weight = O::F::from_f64(0.25);
    let mut tape = Tape::default();
    let (x, y) = (&TOKENS[before..before + CONTEXT], &TOKENS[before + 1..before + 1 + CONTEXT]);
    model.train(ops, params, &mut constant, x, y, weight, &mut losses, &mut grads, &mut tape).unwrap();
    (losses, grads)
}

/// The two ends of the transpose identity for one tensor, and the scale of their terms.
fn both_sides(model: &Model, params: &Params<f64>, grads: &[f64], spec: &ParamSpec, before: usize) -> [f64; 3] {
    // One direction per tensor, so that a mistake names its tensor.
    let mut rng = Rng::new(11, &spec.name);
    let mut data: Vec<Dual<f64>> = lift(&params.data);
    let direction: Vec<f64> = spec.range.clone().map(|_| rng.normal()).collect();
    for (p, d) in data[spec.range.clone()].iter_mut().zip(&direction) {
        p.eps = *d;
    }
    let (losses, _) = run(&Reference::<Dual<f64>>::new(), model, &Params { data: data.into() }, before);
    let forward: f64 = losses.iter().map(|l| 0.25 * l.eps).sum();
    let terms = grads[spec.range.clone()].iter().zip(&direction).map(|(g, d)| g * d);
    let (backward, scale) = terms.fold((0.0, 1e-3), |(s, a), t| (s + t, a + t.abs()));
    [forward, backward, scale]
}

/// From the first token, where learned starts have a gradient, and from a later one, inside a chunk, where they have
/// none.
#[test]
fn gradients_of_whole_models_are_exact() {
    for config in configs() {
        let model = Model::new(&config).unwrap();
        let params: Params<f64> = model.params().init(3);
        for before in [0, 6] {
            let (_, grads) = run(&Reference::<f64>::new(), &model, &params, before);
            for spec in &model.params().specs {
                let [forward, backward, scale] = both_sides(&model, &params, &grads, spec, before);
                let error = (forward - backward).abs();
                assert!(
                    error <= 1e-10 * scale,
                    "{} after {before}: {forward} {backward}\n{:?}",
                    spec.name,
                    config.blocks
                );
                if before > 0 && spec.kind == Kind::Start {
                    assert!(grads[spec.range.clone()].iter().all(|&g| g == 0.0), "{}", spec.name);
                }
            }
        }
    }
}

#[test]
fn every_parameter_is_alive_at_its_default_start() {
    for config in configs() {
        let model = Model::new(&config).unwrap();
        let params: Params<f64> = model.params().init(5);
        let [start, middle] = [0, 6].map(|before| run(&Reference::<f64>::new(), &model, &params, before).1);
        for spec in model.params().specs.iter().filter(|spec| !spec.range.is_empty()) {
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let first = matches!(spec.kind, Kind::Start | Kind::Persistent);
            let grads = if first { &start } else { &middle };
            // Relative effect: how much the loss moves when the tensor moves by its own size.
            // One that starts at zero moves by a hundredth; a gate over changes, which is a logit, by a tenth.
            let least = if spec.name.contains(".gate.") { 0.1 } else { 0.01 };
            let effect = norm(&grads[spec.range.clone()]) * norm(&params.data[spec.range.clone()]).max(least);
            assert!(effect > 1e-4, "{} has no effect ({effect:e}) in {:?}", spec.name, config.blocks);
        }
    }
}

#[test]
fn a_config_is_read_as_it_was_written_rules_and_all() {
    for config in configs() {
        let text = serde_json::to_string(&config).unwrap();
        let again: ModelConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(again, config);
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}

#[test]
fn the_first_loss_is_that_of_a_uniform_guess_within_two_per_cent() {
    for (vocab, tie_embeddings) in [(256, false), (256, true), (4096, false), (4096, true)] {
        let config = ModelConfig { vocab, width: 64, tie_embeddings, ..ModelConfig::default() };
        let model = Model::new(&config).unwrap();
        let params: Params<f64> = model.params().init(1);
        let (mut state, mut tape) = (model.new_state(), Tape::default());
        let mut rng = Rng::new(2, "tokens");
        let ids: Vec<u32> = (0..33).map(|_| (rng.bits() % vocab as u64) as u32).collect();
        let (mut losses, mut grads) = (vec![0.0; 32], vec![0.0; model.params().len]);
        let ops = Reference::<f64>::new();
        model.train(&ops, &params, &mut state, &ids[..32], &ids[1..], 1.0, &mut losses, &mut grads, &mut tape).unwrap();
        let mean = losses.iter().sum::<f64>() / 32.0;
        let uniform = (vocab as f64).ln();
        assert!((mean / uniform - 1.0).abs() < 0.02, "{mean} {uniform}");
    }
}

#[test]
fn training_and_serving_walk_the_same_way() {
    for config in configs() {
        let model = Model::new(&config).unwrap();
        let params: Params<f64> = model.params().init(4);
        let ops = Reference::<f64>::new();
        let (mut a, mut b) = (model.new_state(), model.new_state());
        let mut losses = vec![0.0; 15];
        let mut grads = vec![0.0; model.params().len];
        let mut tape = Tape::default();
        model
            .train(&ops, &params, &mut a, &TOKENS[..15], &TOKENS[1..], 1.0, &mut losses, &mut grads, &mut tape)
            .unwrap();
        let mut ws = Workspace::default();
        let logits =
            model.forward(&ops, &params, &mut b, &TOKENS[..15], &Access::Learn, Logits::All, &mut ws).unwrap().to_vec();
        let mut again = vec![0.0; 15];
        ops.cross_entropy_forward(config.vocab, &logits, &TOKENS[1..], &mut again);
        if is_served_otherwise(&config.blocks[0].channel) {
            assert!(losses[..2] == again[..2] && losses[2] != again[2], "{:?}", config.blocks);
            continue;
        }
        assert_eq!(losses, again);
        assert_eq!(a.position, b.position);
        // Gates of continuum memories let some of these tokens through.
        let traces = model.traces(&tape, &a).into_iter();
        let written: Vec<f64> =
            traces.filter(|(name, _)| name.ends_with("0.written")).map(|(_, share)| share).collect();
        assert!(written.iter().all(|share| (0.1..0.9).contains(share)), "{written:?} in {:?}", config.blocks);
        for t in a.layout().tensors().iter().filter(|t| !t.name.contains("attention")) {
            for run in &t.runs {
                assert_eq!(a.data[run.clone()], b.data[run.clone()], "{}", t.name);
            }
        }
    }
}

#[test]
fn heads_that_share_the_stream_are_together_as_wide_as_it() {
    let config = |heads| {
        let memory =
            MemoryConfig { heads, key_width: Some(4), value_width: Some(4), ..memory(named("self_modifying")) };
        let blocks = vec![BlockConfig {
            repeat: 1,
            mixer: MixerConfig::Memory(memory),
            channel: ChannelConfig::None,
            ..BlockConfig::default()
        }];
        ModelConfig { width: 8, blocks, ..ModelConfig::default() }
    };
    assert!(config(2).check().is_ok());
    let error = config(3).check().unwrap_err().to_string();
    assert!(error.contains("heads") && error.contains("self_modifying") && error.contains("width = 8"), "{error}");
}
