//! Continuum memories against their definition, token by token, with gradients from dual numbers.

use hecate_core::ops::{Cpu, Ops, Reference};
use hecate_core::{AnyRule, Dual, Scalar};
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, Consolidation, MacConfig, MagConfig,
    MalConfig, MemoryConfig, MixerConfig, MlpConfig, MlpKindConfig, NormConfig, Objective, Reads, Reduction, Replay,
    Surprise, SurpriseGate,
};
use hecate_model::state::NamedTensor;
use hecate_model::{Access, Lineage, Logits, Model, ModelConfig, Params, Parts, State, Tape, Workspace};
use std::collections::BTreeMap;

mod definition;

use definition::*;

const VOCAB: usize = 5;
const TOKENS: [u32; 19] = [1, 4, 2, 2, 0, 3, 1, 4, 4, 2, 3, 0, 0, 1, 3, 2, 4, 1, 0];
const NEVER: u64 = i64::MAX as u64;

fn attention() -> AttentionConfig {
    AttentionConfig { heads: 2, kv_heads: Some(1), window: Some(5), ..AttentionConfig::default() }
}

fn memory(rule: &str) -> MemoryConfig {
    let rule = AnyRule::named(rule).unwrap().brief();
    MemoryConfig { rule, heads: 2, conv: 3, ..MemoryConfig::default() }
}

fn mixers() -> Vec<MixerConfig> {
    let whole = AttentionConfig { window: None, ..attention() };
    vec![
        MixerConfig::None,
        MixerConfig::Attention(attention()),
        MixerConfig::Memory(MemoryConfig { persistent: 2, ..memory("titans") }),
        MixerConfig::Memory(memory("self_modifying")),
        MixerConfig::Mag(MagConfig { attention: attention(), memory: memory("gated_delta"), persistent: 1 }),
        MixerConfig::Mal(MalConfig { attention: attention(), memory: memory("titans_mlp"), persistent: 1 }),
        MixerConfig::Mac(MacConfig {
            segment: 4,
            attention: whole,
            memory: memory("titans"),
            persistent: 1,
            causal: true,
        }),
    ]
}

fn cms(arrangement: Arrangement) -> CmsConfig {
    let level = |period, rate| CmsLevel { period: Some(period), rate, ..CmsLevel::default() };
    let levels = vec![level(2, 0.5), level(4, 0.3), level(6, 1.1)];
    CmsConfig { hidden: Some(6), arrangement, levels, ..CmsConfig::default() }
}

fn model_of(mixer: &MixerConfig, cms: &CmsConfig, norm: NormConfig) -> Model {
    let block = |mixer: &MixerConfig, channel| BlockConfig { repeat: 1, norm, mixer: mixer.clone(), channel };
    let plain = ChannelConfig::Mlp(MlpConfig { hidden: Some(3), kind: MlpKindConfig::Gelu });
    let blocks = vec![
        block(mixer, ChannelConfig::Cms(cms.clone())),
        block(mixer, ChannelConfig::Cms(cms.clone())),
        BlockConfig { mixer: MixerConfig::Attention(attention()), ..block(mixer, plain) },
    ];
    Model::new(&ModelConfig { vocab: VOCAB, width: 4, context: 16, blocks, ..ModelConfig::default() }).unwrap()
}

fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * scale, "{what}, value {i}: {g} instead of {e}");
    }
}

/// Livelier than at the start, so that what is learned shows.
fn lively(model: &Model) -> Params<f64> {
    let mut params: Params<f64> = model.params().init(3);
    params.data.iter_mut().for_each(|p| *p *= 1.5);
    params
}

/// Serving in calls of several lengths, and what it has added in the end.
fn check_serving(what: &str, model: &Model, rights: &Rights, (logits, ends): &(Vec<f64>, BTreeMap<String, Vec<f64>>)) {
    let moved = |m: &Vec<f64>| m.iter().any(|x| x.abs() > 1e-4);
    assert!(ends.iter().any(|(name, m)| name.ends_with(".delta") && moved(m)), "nothing was learned");
    let (ops, params, tensors) = (Reference::<f64>::new(), lively(model), model.state_layout().fast_tensors());
    for cut in [TOKENS.len(), 1, 5] {
        let (mut state, mut got, mut ws, mut from) = (model.new_state(), Vec::new(), Workspace::default(), 0);
        for (to, access) in rights {
            for piece in TOKENS[from..*to].chunks(cut) {
                got.extend(model.forward(&ops, &params, &mut state, piece, access, Logits::All, &mut ws).unwrap());
            }
            from = *to;
        }
        close(what, &got, logits, 1e-9);
        // The last change lies behind the last token but one, and is made when the last one comes.
        for (name, expected) in ends {
            close(&format!("{what}, served, {name}"), &state.fast[place(&tensors, name)], expected, 1e-9);
        }
    }
}

/// Serving, and a training pass over the same tokens.
fn check(mixer: &MixerConfig, cms: &CmsConfig, norm: NormConfig) {
    let model = model_of(mixer, cms, norm);
    let (what, params) = (format!("{:?} of {mixer:?}", cms.arrangement), lively(&model));
    let served = by_definition(&model, &params, ALL);
    check_serving(&what, &model, ALL.unwrap(), &served);
    let alike = |level: &CmsLevel| level.serve_rate.is_none() && level.period < Some(model.config().context as u64);
    let (logits, ends) = if cms.levels.iter().all(alike) { served } else { by_definition(&model, &params, None) };
    let (ops, tensors) = (Reference::<f64>::new(), model.state_layout().fast_tensors());
    let n = TOKENS.len() - 1;
    let (mut state, mut losses) = (model.new_state::<f64>(), vec![0.0; n]);
    let (mut grads, mut tape) = (vec![0.0; model.params().len], Tape::default());
    for (from, to) in [(0, 7), (7, n)] {
        let (x, y) = (&TOKENS[from..to], &TOKENS[from + 1..to + 1]);
        model.train(&ops, &params, &mut state, x, y, 1.0, &mut losses[from..to], &mut grads, &mut tape).unwrap();
    }
    for (name, expected) in &ends {
        close(&format!("{what}, {name}"), &state.fast[place(&tensors, name)], expected, 1e-9);
    }
    let expected: Vec<f64> = (0..n).map(|t| loss(&logits[t * VOCAB..][..VOCAB], TOKENS[t + 1])).collect();
    close(&format!("{what}, losses"), &losses, &expected, 1e-9);
}

#[test]
fn every_mixer_lets_levels_learn_what_their_definition_says() {
    for mixer in &mixers() {
        check(mixer, &cms(Arrangement::Sequential), NormConfig::Pre);
    }
}

#[test]
fn every_arrangement_and_setting_does_what_its_definition_says() {
    let mixer = MixerConfig::Memory(memory("titans"));
    for arrangement in [Arrangement::Independent, Arrangement::Nested, Arrangement::Headwise] {
        check(&mixer, &cms(arrangement), NormConfig::Pre);
    }
    let online = CmsConfig { online: true, ..cms(Arrangement::Nested) };
    check(&mixer, &online, NormConfig::Post);
    let mut other = CmsConfig { reduction: Reduction::Sum, kind: MlpKindConfig::Gelu, ..cms(Arrangement::Headwise) };
    for level in &mut other.levels {
        (level.rate, level.decay, level.warmup) = (0.1, 0.2, 3);
    }
    check(&mixer, &other, NormConfig::Pre);
    for (arrangement, reads) in [
        (Arrangement::Independent, Reads::Both),
        (Arrangement::Nested, Reads::Both),
        (Arrangement::Headwise, Reads::Both),
        (Arrangement::Nested, Reads::Fast),
    ] {
        let consolidation = Some(Consolidation { keep: 0.6, reads });
        check(&mixer, &CmsConfig { consolidation, ..cms(arrangement) }, NormConfig::Pre);
    }
    for (signal, threshold) in [(Surprise::Loss, 1.7), (Surprise::Entropy, 1.45)] {
        let gate = Some(SurpriseGate { signal, threshold });
        check(&mixer, &CmsConfig { gate, ..cms(Arrangement::Sequential) }, NormConfig::Pre);
    }
}

/// Levels with another step in serving than in training; the slowest has none in training, where it is the optimizer's.
#[test]
fn levels_move_at_the_pace_of_serving_and_at_that_of_training() {
    use Arrangement::*;
    for (arrangement, online) in [(Sequential, false), (Independent, false), (Nested, true), (Headwise, false)] {
        let mut both = CmsConfig { online, ..cms(arrangement) };
        (both.levels[0].serve_rate, both.levels[1].serve_rate) = (Some(0.9), Some(0.0));
        both.levels[2].period = Some(16);
        check(&MixerConfig::Attention(attention()), &both, NormConfig::Pre);
    }
}

/// Levels that must not write neither move nor gather, whoever shares a perceptron with them; the others go on.
#[test]
fn rights_by_level_do_what_their_definition_says() {
    use Arrangement::*;
    let only = |levels: &[usize]| Access::LearnOnly(Parts::levels(levels));
    let frozen = |levels: &[usize]| Access::Frozen(Parts::levels(levels));
    let n = TOKENS.len();
    let block = Access::Frozen(Parts { blocks: Some(vec![1]), levels: Some(vec![0, 1]) });
    for arrangement in [Sequential, Independent, Nested, Headwise] {
        let model = model_of(&MixerConfig::Attention(attention()), &cms(arrangement), NormConfig::Pre);
        for rights in [
            vec![(n, only(&[0, 2]))],
            vec![(n, frozen(&[0]))],
            vec![(n, block.clone())],
            vec![(5, Access::Learn), (11, only(&[1])), (n, frozen(&[2]))],
        ] {
            let expected = by_definition(&model, &lively(&model), Some(&rights));
            check_serving(&format!("{arrangement:?} under {rights:?}"), &model, &rights, &expected);
        }
    }
}

/// Shut by a threshold that no token reaches, open at 0, in between it depends on the token.
#[test]
fn a_surprise_gate_opens_and_shuts_and_says_how_often() {
    let mixer = MixerConfig::Memory(memory("titans"));
    for signal in [Surprise::Norm, Surprise::Loss, Surprise::Entropy] {
        let run = |threshold| {
            let gate = Some(SurpriseGate { signal, threshold });
            let model = model_of(&mixer, &CmsConfig { gate, ..cms(Arrangement::Sequential) }, NormConfig::Pre);
            let params = lively(&model);
            let (mut state, mut tape, n) = (model.new_state(), Tape::default(), TOKENS.len() - 1);
            let (mut losses, mut grads) = (vec![0.0; n], vec![0.0; model.params().len]);
            let (x, y, ops) = (&TOKENS[..n], &TOKENS[1..], Reference::<f64>::new());
            model.train(&ops, &params, &mut state, x, y, 1.0, &mut losses, &mut grads, &mut tape).unwrap();
            let traces: BTreeMap<String, f64> = model.traces(&tape, &state).into_iter().collect();
            let added = traces["blocks.0.channel.levels.0.up.added_norm"];
            (added, traces["blocks.0.levels.0.written"])
        };
        let (added, written) = run(0.0);
        assert!(added > 1e-3 && (written - 1.0).abs() < 1e-12, "{signal:?} open: {added}, {written}");
        assert_eq!(run(1e6), (0.0, 0.0), "{signal:?} shut");
        let between = (0..600).map(|i| run(0.005 * f64::from(i))).find(|(_, written)| (0.2..0.8).contains(written));
        assert!(between.is_some_and(|(some, _)| some > 1e-4 && some != added), "{signal:?} in between: {between:?}");
    }
}

/// The loss of a level's own is written out here once more: half the mean squared distance of output and input.
#[test]
fn a_local_objective_goes_by_what_the_level_takes() {
    local(None);
}

/// With one pair kept and drawn, every token is learned twice at once: from its own loss, and as the pair of its input and
/// of where its output should go; the second has the same gradient.
#[test]
fn a_pair_that_is_replayed_at_once_counts_by_its_weight() {
    local(Some(Replay { size: 1, draw: 2, weight: 0.5, seed: 0 }));
}

fn local(replay: Option<Replay>) {
    let level = CmsLevel { period: Some(1), rate: 0.7, ..CmsLevel::default() };
    let (kind, hidden, objective) = (MlpKindConfig::Gelu, Some(3), Objective::LocalL2);
    let config = CmsConfig { kind, hidden, objective, replay, levels: vec![level], ..CmsConfig::default() };
    let rate = 0.7 * (1.0 + replay.map_or(0.0, |r| r.weight));
    let channel = ChannelConfig::Cms(config);
    let blocks = vec![BlockConfig { repeat: 1, norm: NormConfig::Pre, mixer: MixerConfig::None, channel }];
    let model =
        Model::new(&ModelConfig { vocab: VOCAB, width: 4, context: 16, blocks, ..ModelConfig::default() }).unwrap();
    let params: Params<f64> = model.params().init(3);
    let of = |name: &str| {
        let spec = model.params().specs.iter().find(|s| s.name == name).unwrap();
        params.data[spec.range.clone()].to_vec()
    };
    let weights = [of("blocks.0.channel.levels.0.up.weight"), of("blocks.0.channel.levels.0.down.weight")];
    let mut added = [vec![0.0; 12], vec![0.0; 12]];
    for &token in &TOKENS[..6] {
        let x = of("embedding.weight")[token as usize * 4..][..4].to_vec();
        let size = (x.iter().map(|x| x * x).sum::<f64>() / 4.0 + 1e-6).sqrt();
        let n: Vec<f64> = x.iter().map(|x| x / size).collect();
        let own_loss = |m: usize, i: usize| {
            let w = |which: usize, at: usize| {
                let eps = if (which, at) == (m, i) { 1.0 } else { 0.0 };
                Dual { re: weights[which][at] + added[which][at], eps }
            };
            let gelu = |x: Dual<f64>| {
                let cubic =
                    (x + x * x * x * Dual::from_f64(0.044715)) * Dual::from_f64((2.0 / std::f64::consts::PI).sqrt());
                Dual::from_f64(0.5) * x * (Dual::one() + cubic.tanh())
            };
            let hidden: Vec<Dual<f64>> =
                (0..3).map(|h| gelu((0..4).map(|c| w(0, c * 3 + h) * Dual::from_f64(n[c])).sum())).collect();
            let distance =
                |c: usize| (0..3).map(|h| w(1, h * 4 + c) * hidden[h]).sum::<Dual<f64>>() - Dual::from_f64(n[c]);
            (0..4).map(|c| Dual::from_f64(0.125) * distance(c) * distance(c)).sum::<Dual<f64>>().eps
        };
        let slopes: Vec<Vec<f64>> = (0..2).map(|m| (0..12).map(|i| own_loss(m, i)).collect()).collect();
        for (added, slopes) in added.iter_mut().zip(&slopes) {
            added.iter_mut().zip(slopes).for_each(|(a, s)| *a -= rate * s);
        }
    }
    let (mut state, mut ws) = (model.new_state(), Workspace::default());
    // The last token's change waits for the one behind it.
    model
        .forward(&Reference::<f64>::new(), &params, &mut state, &TOKENS[..7], &Access::Learn, Logits::Last, &mut ws)
        .unwrap();
    let tensors = model.state_layout().fast_tensors();
    for (m, name) in ["up", "down"].into_iter().enumerate() {
        let at = place(&tensors, &format!("blocks.0.channel.levels.0.{name}.delta"));
        close(name, &state.fast[at], &added[m], 1e-10);
    }
}

/// What a level has gathered when its rights end waits for the first change that it is allowed.
#[test]
fn gradients_wait_while_a_level_is_frozen_over_its_change() {
    let level = CmsLevel { period: Some(4), rate: 0.5, ..CmsLevel::default() };
    let config = CmsConfig { hidden: Some(6), levels: vec![level], ..CmsConfig::default() };
    let model = model_of(&MixerConfig::None, &config, NormConfig::Pre);
    let params: Params<f64> = model.params().init(3);
    let tensors = model.state_layout().fast_tensors();
    let at = |what: &str| place(&tensors, &format!("blocks.0.channel.levels.0.up.{what}"));
    let (mut state, mut ws) = (model.new_state(), Workspace::default());
    let mut read = |state: &mut State<f64>, ids: &[u32], access: &Access| {
        model.forward(&Reference::<f64>::new(), &params, state, ids, access, Logits::Last, &mut ws).unwrap();
    };
    read(&mut state, &TOKENS[..2], &Access::Learn);
    read(&mut state, &TOKENS[2..8], &Access::Frozen(Parts::all()));
    let (waited, added) = (state.fast[at("gathered")].to_vec(), state.fast[at("delta")].to_vec());
    assert!(waited.iter().any(|g| *g != 0.0) && added.iter().all(|d| *d == 0.0));
    let mut alone = state.clone();
    alone.fast[at("gathered")].fill(0.0);
    read(&mut state, &TOKENS[8..13], &Access::Learn);
    read(&mut alone, &TOKENS[8..13], &Access::Learn);
    assert!(state.fast[at("gathered")].iter().all(|g| *g == 0.0), "all of it was taken in");
    let more: Vec<f64> = at("delta").map(|i| state.fast[i] - alone.fast[i]).collect();
    let expected: Vec<f64> = waited.iter().map(|g| -0.5 / 4.0 * g).collect();
    close("what waited", &more, &expected, 1e-9);
}

/// A state file whose open tokens are none of the vocabulary's, or too many, is an error and no panic.
#[test]
fn open_tokens_of_a_file_are_checked() {
    let model = model_of(&MixerConfig::Memory(memory("titans")), &cms(Arrangement::Sequential), NormConfig::Pre);
    let params: Params<f32> = model.params().init(3);
    let (mut state, mut ws, ops) = (model.new_state(), Workspace::default(), Cpu::inference());
    model.forward(&ops, &params, &mut state, &TOKENS[..9], &Access::Learn, Logits::Last, &mut ws).unwrap();
    let lineage = Lineage { base: "b".into(), config: "c".into(), isa: "i".into() };
    let bytes = state.to_bytes(&lineage).unwrap();
    let at = bytes.windows(9).position(|w| w == b"tokens\\\":").expect("a header of open tokens");
    let digit = at + bytes[at..].iter().position(u8::is_ascii_digit).unwrap();
    let mut strange = bytes.clone();
    strange[digit] = b'9';
    let mut read = State::from_bytes(model.state_layout().clone(), &lineage, strange).unwrap();
    let next = model.forward(&ops, &params, &mut read, &TOKENS[9..12], &Access::Learn, Logits::Last, &mut ws);
    assert!(next.unwrap_err().to_string().contains("outside the vocabulary"));
    // The last tensor of the file is one of the state before its open tokens.
    let mut broken = bytes;
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(State::from_bytes(model.state_layout().clone(), &lineage, broken).is_err());
}

/// Names of a perceptron's parameters, and of the same ones in a continuum memory of one level.
fn renamed(name: &str) -> String {
    match name.split_once(".channel.levels.0.") {
        Some((block, "norm.scale")) => format!("{block}.channel_norm.scale"),
        Some((block, rest)) => format!("{block}.channel.{rest}"),
        None => name.to_string(),
    }
}

/// A level that stands still, or that is never due, is a perceptron bit for bit: losses, gradients and logits.
#[test]
fn a_level_that_never_moves_is_a_perceptron_bit_for_bit() {
    let mixer = MixerConfig::Memory(memory("titans"));
    let build = |channel| {
        let blocks = vec![BlockConfig { repeat: 2, norm: NormConfig::Pre, mixer: mixer.clone(), channel }];
        Model::new(&ModelConfig { vocab: VOCAB, width: 16, context: 16, blocks, ..ModelConfig::default() }).unwrap()
    };
    let (hidden, kind) = (Some(24), MlpKindConfig::Gated);
    let plain = build(ChannelConfig::Mlp(MlpConfig { hidden, kind }));
    let params: Params<f32> = plain.params().init(1);
    let one = |rate, period| vec![CmsLevel { rate, period: Some(period), ..CmsLevel::default() }];
    let three = |rate| [one(rate, NEVER), one(rate, NEVER), one(rate, NEVER)].concat();
    let still = |arrangement, levels| {
        ChannelConfig::Cms(CmsConfig { hidden, kind, arrangement, levels, ..CmsConfig::default() })
    };
    let measure = |model: &Model, ops: &Cpu| {
        let mut own: Params<f32> = model.params().init(1);
        let place = |name: &str| plain.params().specs.iter().find(|s| s.name == name).unwrap().range.clone();
        for spec in &model.params().specs {
            own.data[spec.range.clone()].copy_from_slice(&params.data[place(&renamed(&spec.name))]);
        }
        let (mut state, mut ws, mut out) = (model.new_state(), Workspace::default(), Vec::<f32>::new());
        for piece in TOKENS.chunks(5) {
            out.extend(model.forward(ops, &own, &mut state, piece, &Access::Learn, Logits::All, &mut ws).unwrap());
        }
        let (mut state, mut losses, mut grads) = (model.new_state(), vec![0.0; 18], vec![0.0; model.params().len]);
        let (x, y) = (&TOKENS[..18], &TOKENS[1..]);
        model.train(ops, &own, &mut state, x, y, 1.0, &mut losses, &mut grads, &mut Tape::default()).unwrap();
        let named = |spec: &hecate_model::ParamSpec| (renamed(&spec.name), grads[spec.range.clone()].to_vec());
        let grads: BTreeMap<String, Vec<f32>> = model.params().specs.iter().map(named).collect();
        (out, losses, grads)
    };
    for ops in [Cpu::inference(), Cpu::training()] {
        let expected = measure(&plain, &ops);
        for channel in [
            still(Arrangement::Sequential, one(0.0, 2)),
            still(Arrangement::Sequential, one(0.5, NEVER)),
            still(Arrangement::Headwise, three(0.0)),
            still(Arrangement::Headwise, three(0.5)),
        ] {
            let model = build(channel.clone());
            assert_eq!(model.state_layout().fast.is_empty(), format!("{channel:?}").contains("rate: 0.0"));
            assert!(measure(&model, &ops) == expected, "{channel:?}");
        }
        let moving = build(still(Arrangement::Sequential, one(0.5, 2)));
        assert!(measure(&moving, &ops) != expected, "one that moves is another");
    }
}

/// With its weights at zero a gate keeps the period; open at every asking, the level changes with the fastest; shut, never.
#[test]
fn a_learned_period_starts_as_the_set_one_and_follows_its_gate() {
    let mixer = MixerConfig::Memory(memory("titans"));
    let level = |period, rate| CmsLevel { period: Some(period), rate, ..CmsLevel::default() };
    let fixed = CmsConfig { levels: vec![level(2, 0.5), level(4, 0.3)], ..cms(Arrangement::Sequential) };
    let fast = CmsConfig { levels: vec![level(2, 0.5), level(2, 0.15)], ..fixed.clone() };
    let run = |cms: &CmsConfig, bias: f64| {
        let model = model_of(&mixer, cms, NormConfig::Pre);
        let mut params: Params<f64> = model.params().init(3);
        for spec in model.params().specs.iter().filter(|s| s.name.ends_with("gate.bias")) {
            params.data[spec.range.clone()].fill(bias);
        }
        let (mut state, mut tape, n) = (model.new_state(), Tape::default(), TOKENS.len() - 1);
        let (mut losses, mut grads) = (vec![0.0; n], vec![0.0; model.params().len]);
        let (x, y, ops) = (&TOKENS[..n], &TOKENS[1..], Reference::<f64>::new());
        model.train(&ops, &params, &mut state, x, y, 1.0, &mut losses, &mut grads, &mut tape).unwrap();
        let traces: BTreeMap<String, f64> = model.traces(&tape, &state).into_iter().collect();
        (losses, traces.get("blocks.0.levels.1.mean_period").copied())
    };
    let learned = CmsConfig { learn_periods: true, ..fixed.clone() };
    assert_eq!(run(&learned, 0.0).0, run(&fixed, 0.0).0);
    assert_eq!(run(&learned, 0.0).1, Some(18.0 / 4.0));
    // The mean over the period of four is half of that over two.
    let (losses, period) = run(&learned, 100.0);
    close("always open", &losses, &run(&fast, 0.0).0, 1e-12);
    assert_eq!(period, Some(2.0));
    assert_eq!(run(&learned, -100.0).1, Some(18.0));
    assert!(run(&learned, -100.0).0 != losses);
}
