//! A gate on surprise in every mixer that has a memory: it opens, shuts, says how often, and does not look at calls. That of
//! continuum memories goes by what is written out here once more.

use hecate_core::ops::Reference;
use hecate_core::{AnyRule, Dual, Scalar};
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, CombineConfig, LevelConfig,
    MacConfig, MagConfig, MalConfig, MemoryConfig, MixerConfig, MlpKindConfig, Surprise, SurpriseGate,
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

type D = Dual<f64>;
/// Width of the stream and of a hidden layer of [`WrittenOut`].
const SIZES: [usize; 2] = [4, 3];

/// A model of one continuum memory alone, written out: `[inner, outer]` matrices of numbers that may carry a derivative.
struct WrittenOut {
    embedding: Vec<D>,
    head: Vec<D>,
    /// `up` and `down` of every level.
    levels: Vec<[Vec<D>; 2]>,
    /// The weight of every level where they stand side by side.
    mix: Option<Vec<D>>,
}

fn product(x: &[D], weight: &[D]) -> Vec<D> {
    let outer = weight.len() / x.len();
    (0..outer).map(|o| x.iter().zip(weight[o..].iter().step_by(outer)).map(|(&x, &w)| x * w).sum()).collect()
}

fn normed(x: &[D]) -> Vec<D> {
    let size = (x.iter().map(|&x| x * x).sum::<D>() / D::from_f64(x.len() as f64) + D::from_f64(1e-6)).sqrt();
    x.iter().map(|&x| x / size).collect()
}

fn gelu(x: D) -> D {
    let cubic = (x + x * x * x * D::from_f64(0.044715)) * D::from_f64((2.0 / std::f64::consts::PI).sqrt());
    D::from_f64(0.5) * x * (D::one() + cubic.tanh())
}

impl WrittenOut {
    /// The loss of a token's successor; what level `out.0` puts out at place `out.1` carries a derivative.
    fn loss(&self, token: u32, target: u32, out: Option<(usize, usize)>) -> D {
        let mut x = self.embedding[token as usize * SIZES[0]..][..SIZES[0]].to_vec();
        let side_by_side = normed(&x);
        for (l, [up, down]) in self.levels.iter().enumerate() {
            let input = if self.mix.is_some() { &side_by_side } else { &normed(&x) };
            let mut y = product(&product(input, up).into_iter().map(gelu).collect::<Vec<_>>(), down);
            out.iter().filter(|out| out.0 == l).for_each(|out| y[out.1].eps = 1.0);
            let by = self.mix.as_ref().map_or(D::one(), |mix| mix[l]);
            x.iter_mut().zip(y).for_each(|(x, y)| *x += by * y);
        }
        let logits = product(&normed(&x), &self.head);
        logits.iter().map(|l| l.exp()).sum::<D>().ln() - logits[target as usize]
    }

    /// The gradient of that loss with respect to a matrix of a level.
    fn gradient(&mut self, [token, target]: [u32; 2], level: usize, matrix: usize) -> Vec<f64> {
        let slope = |i: usize| {
            self.levels[level][matrix][i].eps = 1.0;
            let slope = self.loss(token, target, None).eps;
            self.levels[level][matrix][i].eps = 0.0;
            slope
        };
        (0..SIZES[0] * SIZES[1]).map(slope).collect()
    }
}

/// The length of the gradient of what a level puts out says whether it learns from a token.
#[test]
fn a_norm_behind_a_level_is_that_of_the_gradient_of_what_it_puts_out() {
    for (arrangement, threshold) in [(Arrangement::Sequential, 0.2), (Arrangement::Independent, 0.17)] {
        let periods = [2, 3];
        let level = |period| CmsLevel { period: Some(period), rate: 0.4, ..CmsLevel::default() };
        let levels = periods.map(level).to_vec();
        let gate = Some(SurpriseGate { signal: Surprise::Norm, threshold });
        let (hidden, kind) = (Some(SIZES[1]), MlpKindConfig::Gelu);
        let channel = ChannelConfig::Cms(CmsConfig { hidden, kind, arrangement, gate, levels, ..CmsConfig::default() });
        let blocks = vec![BlockConfig { mixer: MixerConfig::None, channel, repeat: 1, ..BlockConfig::default() }];
        let config = ModelConfig { vocab: 5, width: SIZES[0], context: 32, blocks, ..ModelConfig::default() };
        let model = Model::new(&config).unwrap();
        let mut params: Params<f64> = model.params().init(3);
        let spec = |name: &str| model.params().specs.iter().find(|s| s.name == name);
        // What a level puts out counts by its weight.
        if let Some(spec) = spec("blocks.0.channel.level_weights") {
            params.data[spec.range.clone()].copy_from_slice(&[0.4, 0.6]);
        }
        let of = |name: &str| -> Option<Vec<D>> {
            let spec = spec(name)?;
            Some(params.data[spec.range.clone()].iter().map(|&p| D::from_f64(p)).collect())
        };
        let matrix = |l: usize, name: &str| of(&format!("blocks.0.channel.levels.{l}.{name}.weight")).unwrap();
        let mut written_out = WrittenOut {
            embedding: of("embedding.weight").unwrap(),
            head: of("head.weight").unwrap(),
            levels: (0..2).map(|l| ["up", "down"].map(|name| matrix(l, name))).collect(),
            mix: of("blocks.0.channel.level_weights"),
        };
        let start = written_out.levels.clone();
        let (n, mut gathered, mut learned) = (TOKENS.len() - 1, [[[0.0; 12]; 2]; 2], [0; 2]);
        for t in 0..n {
            let pair = [TOKENS[t], TOKENS[t + 1]];
            for l in 0..2 {
                let dout = (0..SIZES[0]).map(|c| written_out.loss(pair[0], pair[1], Some((l, c))).eps);
                let norm: f64 = dout.map(|d| d * d).sum::<f64>().sqrt();
                assert!((norm / threshold - 1.0).abs() > 1e-6, "{norm} is too close to tell");
                if norm < threshold {
                    continue;
                }
                learned[l] += 1;
                for (m, gathered) in gathered[l].iter_mut().enumerate() {
                    gathered.iter_mut().zip(written_out.gradient(pair, l, m)).for_each(|(g, d)| *g += d);
                }
            }
            for l in (0..2).filter(|&l| (t as u64 + 1).is_multiple_of(periods[l])) {
                for (weights, gathered) in written_out.levels[l].iter_mut().zip(&mut gathered[l]) {
                    weights.iter_mut().zip(&*gathered).for_each(|(w, g)| w.re -= 0.4 / periods[l] as f64 * g);
                    *gathered = [0.0; 12];
                }
            }
        }
        assert!(learned.iter().all(|&some| 4 < some && some < n - 4), "{learned:?} of {n} tokens");
        let (mut state, mut tape) = (model.new_state(), Tape::default());
        let (mut losses, mut grads) = (vec![0.0; n], vec![0.0; model.params().len]);
        let (x, y, ops) = (&TOKENS[..n], &TOKENS[1..], Reference::<f64>::new());
        model.train(&ops, &params, &mut state, x, y, 1.0, &mut losses, &mut grads, &mut tape).unwrap();
        for (l, name, m) in [(0, "up", 0), (0, "down", 1), (1, "up", 0), (1, "down", 1)] {
            let name = format!("blocks.0.channel.levels.{l}.{name}.delta");
            let place = model.state_layout().fast.iter().find(|s| s.name == name).unwrap().range.clone();
            for (got, (now, start)) in state.fast[place].iter().zip(written_out.levels[l][m].iter().zip(&start[l][m])) {
                assert!((got - (now.re - start.re)).abs() < 1e-10, "{arrangement:?}, {name}: {got}");
            }
        }
    }
}
