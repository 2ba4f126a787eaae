//! Targets that ask for no loss.

use hecate_core::ops::{Ops, Reference};
use hecate_core::{AnyRule, Dual, Scalar};
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, MemoryConfig, MixerConfig,
    Objective, Replay, Surprise, SurpriseGate,
};
use hecate_model::rng::Rng;
use hecate_model::{Error, IGNORED, Model, ModelConfig, Params, State, Tape};

const VOCAB: usize = 7;
const TOKENS: [u32; 12] = [1, 5, 2, 2, 6, 0, 3, 1, 4, 4, 2, 6];
const TARGETS: [u32; 12] = [5, 2, 2, 6, 0, 3, 1, 4, 4, 2, 6, 0];

fn model(mixer: MixerConfig, channel: ChannelConfig) -> Model {
    let block = BlockConfig { repeat: 2, mixer, channel, ..BlockConfig::default() };
    Model::new(&ModelConfig { vocab: VOCAB, width: 8, context: 12, blocks: vec![block], ..ModelConfig::default() })
        .unwrap()
}

fn attention() -> MixerConfig {
    MixerConfig::Attention(AttentionConfig { heads: 2, kv_heads: None, window: Some(4), ..AttentionConfig::default() })
}

fn memory(rule: &str) -> MixerConfig {
    let rule = AnyRule::named(rule).unwrap().brief();
    MixerConfig::Memory(MemoryConfig { rule, heads: 2, conv: 3, ..MemoryConfig::default() })
}

/// Levels that change after two and three tokens.
fn continuum(arrangement: Arrangement, objective: Objective, gate: Option<SurpriseGate>) -> ChannelConfig {
    let level = |period| CmsLevel { period: Some(period), rate: 0.3, ..CmsLevel::default() };
    let levels = vec![level(2), level(3)];
    let config = CmsConfig { hidden: Some(6), arrangement, objective, levels, ..CmsConfig::default() };
    ChannelConfig::Cms(CmsConfig { gate, ..config })
}

fn moving() -> Vec<Model> {
    let gate = |signal| Some(SurpriseGate { signal, threshold: 1.0 });
    let channels = [
        continuum(Arrangement::Sequential, Objective::Task, None),
        continuum(Arrangement::Independent, Objective::Task, gate(Surprise::Loss)),
        continuum(Arrangement::Nested, Objective::Task, gate(Surprise::Entropy)),
    ];
    channels.map(|c| model(memory("titans"), c)).into()
}

/// The losses and gradients of one call, and the state after it.
fn run<O: Ops>(ops: &O, model: &Model, params: &Params<O::F>, targets: &[u32], weight: f64) -> Outcome<O::F> {
    let mut state = model.new_state();
    let (mut losses, mut grads) = (vec![O::F::zero(); 12], vec![O::F::zero(); model.params().len]);
    let (weight, mut tape) = (O::F::from_f64(weight), Tape::default());
    model.train(ops, params, &mut state, &TOKENS, targets, weight, &mut losses, &mut grads, &mut tape).unwrap();
    Outcome { losses, grads, state }
}

struct Outcome<F> {
    losses: Vec<F>,
    grads: Vec<F>,
    state: State<F>,
}

/// Every target whose place `keep` names.
fn masked(keep: impl Fn(usize) -> bool) -> Vec<u32> {
    TARGETS.iter().enumerate().map(|(t, &target)| if keep(t) { target } else { IGNORED }).collect()
}

fn third(t: usize) -> bool {
    t % 3 == 1
}

#[test]
fn gradients_are_exact_where_targets_are_ignored() {
    let local = model(attention(), continuum(Arrangement::Sequential, Objective::LocalL2, None));
    let still = [attention(), memory("titans"), memory("self_modifying")].map(|m| model(m, ChannelConfig::default()));
    for model in still.into_iter().chain(moving()).chain([local]) {
        let params: Params<f64> = model.params().init(3);
        let targets = masked(third);
        let grads = run(&Reference::<f64>::new(), &model, &params, &targets, 0.25).grads;
        for spec in &model.params().specs {
            let mut rng = Rng::new(11, &spec.name);
            let mut data: Vec<Dual<f64>> = params.data.iter().map(|&p| Dual::from_f64(p)).collect();
            let direction: Vec<f64> = spec.range.clone().map(|_| rng.normal()).collect();
            data[spec.range.clone()].iter_mut().zip(&direction).for_each(|(p, &d)| p.eps = d);
            let dual = Params { data: data.into() };
            let losses = run(&Reference::<Dual<f64>>::new(), &model, &dual, &targets, 0.25).losses;
            let exact: f64 = losses.iter().map(|l| 0.25 * l.eps).sum();
            let terms = grads[spec.range.clone()].iter().zip(&direction).map(|(g, d)| g * d);
            let (got, scale) = terms.fold((0.0, 1e-3), |(s, a), t| (s + t, a + t.abs()));
            assert!((got - exact).abs() <= 1e-10 * scale, "{}: {got} {exact}", spec.name);
        }
    }
}

#[test]
fn an_ignored_target_is_one_at_weight_zero() {
    let ops = Reference::<f64>::new();
    for mixer in [attention(), memory("gated_delta")] {
        let model = model(mixer, ChannelConfig::default());
        let params: Params<f64> = model.params().init(4);
        let [all, some, others] =
            [masked(|_| true), masked(third), masked(|t| !third(t))].map(|y| run(&ops, &model, &params, &y, 0.25));
        for t in 0..12 {
            assert_eq!(some.losses[t], if third(t) { all.losses[t] } else { 0.0 });
        }
        assert_eq!(some.state.data, all.state.data);
        // What is asked for and what is not make up the whole.
        for ((&a, &b), &whole) in some.grads.iter().zip(&others.grads).zip(&all.grads) {
            assert!((a + b - whole).abs() < 1e-12 * (1.0 + whole.abs()), "{a} + {b}, {whole}");
        }
        assert_ne!(some.grads, all.grads);
        let none = run(&ops, &model, &params, &masked(|_| false), 0.25);
        assert!(none.losses.iter().all(|&l| l == 0.0));
        assert_eq!(none.grads, run(&ops, &model, &params, &TARGETS, 0.0).grads);
        assert!(none.grads.iter().all(|&g| g == 0.0));
    }
}

#[test]
fn levels_learn_nothing_from_what_is_not_asked_for() {
    let ops = Reference::<f64>::new();
    for model in moving() {
        let params: Params<f64> = model.params().init(5);
        let added = |targets: &[u32]| {
            let state = run(&ops, &model, &params, targets, 0.25).state;
            let names = model.state_layout().fast.iter().filter(|spec| spec.name.ends_with(".delta"));
            names.flat_map(|spec| state.fast[spec.range.clone()].to_vec()).collect::<Vec<f64>>()
        };
        let (all, first, none) = (added(&TARGETS), added(&masked(|t| t < 6)), added(&masked(|_| false)));
        assert!(none.iter().all(|&x| x == 0.0));
        assert!(first.iter().any(|&x| x != 0.0) && first != all);
    }
}

/// What nothing was learned from is not learned again either.
#[test]
fn pairs_are_kept_of_tokens_that_are_asked_for() {
    let replay = Some(Replay { size: 9, draw: 3, ..Replay::default() });
    let ChannelConfig::Cms(config) = continuum(Arrangement::Sequential, Objective::Task, None) else { unreachable!() };
    let model = model(memory("titans"), ChannelConfig::Cms(CmsConfig { replay, ..config }));
    let (ops, params): (_, Params<f64>) = (Reference::<f64>::new(), model.params().init(5));
    for (targets, asked) in [(masked(|_| false), 0.0), (masked(third), 4.0), (masked(|_| true), 9.0)] {
        let state = run(&ops, &model, &params, &targets, 0.25).state;
        let of = |end: &str| {
            let specs = model.state_layout().fast.iter().filter(|spec| spec.name.ends_with(end));
            specs.flat_map(|spec| state.fast[spec.range.clone()].to_vec()).collect::<Vec<f64>>()
        };
        assert_eq!(of("replay.filled"), [asked; 4]);
        assert_eq!(of(".delta").iter().all(|&x| x == 0.0), asked == 0.0);
    }
}

#[test]
fn no_other_token_outside_the_vocabulary_passes() {
    let model = model(attention(), ChannelConfig::default());
    let params: Params<f64> = model.params().init(6);
    let train = |tokens: &[u32], targets: &[u32]| {
        let (mut losses, mut grads) = (vec![0.0; tokens.len()], vec![0.0; model.params().len]);
        let (mut state, mut tape) = (model.new_state(), Tape::default());
        let ops = Reference::<f64>::new();
        model.train(&ops, &params, &mut state, tokens, targets, 1.0, &mut losses, &mut grads, &mut tape)
    };
    assert!(train(&[1, 2], &[IGNORED, 3]).is_ok());
    let position = |result| match result {
        Err(Error::Token { position, .. }) => position,
        other => panic!("{other:?}"),
    };
    assert_eq!(position(train(&[1, 2, 3], &[IGNORED, 3, VOCAB as u32])), 2);
    assert_eq!(position(train(&[1, IGNORED], &[2, 3])), 1);
}
