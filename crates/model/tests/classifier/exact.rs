//! The gradient of a whole classifier of every mixer and channel, and what a prediction depends on.

use hecate_core::ops::{Cpu, Ops, Reference};
use hecate_core::{AnyRule, Dual, Scalar};
use hecate_model::classifier::{Classifier, ClassifierConfig, Heads, Samples, SamplesTape};
use hecate_model::config::{
    Arrangement, AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, MacConfig, MagConfig, MalConfig,
    MemoryConfig, MixerConfig, MlpConfig, MlpKindConfig, NormConfig,
};
use hecate_model::rng::Rng;
use hecate_model::{ParamSpec, Params};

const TASKS: [usize; 4] = [1, 0, 1, 1];
const LABELS: [usize; 4] = [2, 0, 1, 2];
const WEIGHT: f64 = 0.25;

fn mixers() -> Vec<MixerConfig> {
    let attention = AttentionConfig { heads: 2, ..AttentionConfig::default() };
    let memory = |rule: &str| {
        // Brief, so that what four tokens write is read by the last of them.
        let rule = AnyRule::named(rule).unwrap().brief();
        MemoryConfig { rule, heads: 2, conv: 3, ..MemoryConfig::default() }
    };
    let [titans, own, deep] = ["titans", "self_modifying", "titans_mlp"].map(memory);
    let window = AttentionConfig { window: Some(2), ..attention.clone() };
    let printed =
        MacConfig { segment: 2, causal: false, attention: attention.clone(), memory: titans.clone(), persistent: 1 };
    vec![
        MixerConfig::None,
        MixerConfig::Attention(attention.clone()),
        MixerConfig::Memory(titans.clone()),
        MixerConfig::Memory(own),
        MixerConfig::Memory(deep),
        MixerConfig::Mag(MagConfig { attention: window, memory: titans.clone(), persistent: 1 }),
        MixerConfig::Mal(MalConfig { attention, memory: titans, persistent: 1 }),
        MixerConfig::Mac(printed),
    ]
}

fn channels() -> Vec<ChannelConfig> {
    let levels = [2, 3].map(|period| CmsLevel { period: Some(period), ..CmsLevel::default() }).to_vec();
    let cms = |arrangement| CmsConfig { hidden: Some(6), arrangement, levels: levels.clone(), ..CmsConfig::default() };
    vec![
        ChannelConfig::Mlp(MlpConfig { hidden: Some(5), kind: MlpKindConfig::Gelu }),
        ChannelConfig::Cms(cms(Arrangement::Sequential)),
        ChannelConfig::Cms(cms(Arrangement::Independent)),
    ]
}

/// Every mixer with every channel, with either kind of heads; parts where there is something to mix.
fn configs() -> Vec<ClassifierConfig> {
    let mut out = Vec::new();
    for mixer in mixers() {
        for (i, channel) in channels().into_iter().enumerate() {
            let mixes = mixer != MixerConfig::None;
            let heads = match i {
                0 => Heads::Shared { classes: 3, tasks: 2 },
                _ => Heads::PerTask { classes: vec![2, 3] },
            };
            let norm = if i == 2 { NormConfig::Post } else { NormConfig::Pre };
            let plain = BlockConfig { repeat: 1, norm, mixer: mixer.clone(), channel };
            let blocks = vec![BlockConfig { mixer: MixerConfig::None, ..plain.clone() }, plain];
            let patches = if mixes { 4 } else { 1 };
            let base = ClassifierConfig::default();
            out.push(ClassifierConfig { features: 8, heads, task_embedding: i < 2, patches, width: 8, blocks, ..base });
        }
    }
    out
}

fn values<F: Scalar>(n: usize) -> Vec<F> {
    let mut rng = Rng::new(5, "samples");
    (0..n).map(|_| F::from_f64(rng.normal())).collect()
}

/// Losses and gradients of four samples.
fn run<O: Ops>(ops: &O, classifier: &Classifier, params: &Params<O::F>) -> (Vec<O::F>, Vec<O::F>) {
    let values = values(TASKS.len() * classifier.config().features);
    let (mut losses, mut grads) = (vec![O::F::zero(); TASKS.len()], vec![O::F::zero(); classifier.params().len]);
    let samples = Samples { values: &values, tasks: &TASKS };
    let (weight, mut tape) = (O::F::from_f64(WEIGHT), SamplesTape::default());
    classifier.train(ops, params, samples, &LABELS, weight, &mut losses, &mut grads, &mut tape).unwrap();
    (losses, grads)
}

/// The two ends of the transpose identity for one tensor, and the scale of their terms.
fn both_sides(classifier: &Classifier, params: &Params<f64>, grads: &[f64], spec: &ParamSpec) -> [f64; 3] {
    let mut rng = Rng::new(11, &spec.name);
    let mut data: Vec<Dual<f64>> = params.data.iter().map(|&x| Dual::from_f64(x)).collect();
    let direction: Vec<f64> = spec.range.clone().map(|_| rng.normal()).collect();
    data[spec.range.clone()].iter_mut().zip(&direction).for_each(|(p, &d)| p.eps = d);
    let (losses, _) = run(&Reference::<Dual<f64>>::new(), classifier, &Params { data: data.into() });
    let forward = losses.iter().map(|l| WEIGHT * l.eps).sum();
    let terms = grads[spec.range.clone()].iter().zip(&direction).map(|(g, d)| g * d);
    let (backward, scale) = terms.fold((0.0, 1e-3), |(s, a), t| (s + t, a + t.abs()));
    [forward, backward, scale]
}

#[test]
fn gradients_of_whole_classifiers_are_exact_and_every_parameter_is_alive() {
    for config in configs() {
        let classifier = Classifier::new(&config).unwrap();
        let params: Params<f64> = classifier.params().init(3);
        let (_, grads) = run(&Reference::<f64>::new(), &classifier, &params);
        for spec in classifier.params().specs.iter().filter(|spec| !spec.range.is_empty()) {
            let [forward, backward, scale] = both_sides(&classifier, &params, &grads, spec);
            let error = (forward - backward).abs();
            assert!(error <= 1e-10 * scale, "{}: {forward} {backward}\n{:?}", spec.name, config.blocks);
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let effect = norm(&grads[spec.range.clone()]) * norm(&params.data[spec.range.clone()]).max(1e-2);
            assert!(effect > 1e-5, "{} has no effect ({effect:e}) in {:?}", spec.name, config.blocks);
        }
    }
}

#[test]
fn a_prediction_depends_on_its_sample_alone_to_the_last_bit() {
    for config in configs() {
        let classifier = Classifier::new(&config).unwrap();
        let (params, mut tape) = (classifier.params().init(3), SamplesTape::default());
        let (features, ops) = (config.features, Cpu::inference());
        let values: Vec<f32> = values(TASKS.len() * features);
        let samples = Samples { values: &values, tasks: &TASKS };
        let all = classifier.forward(&ops, &params, samples, &mut tape).unwrap().to_vec();
        for i in (0..TASKS.len()).rev() {
            let one = Samples { values: &values[i * features..][..features], tasks: &TASKS[i..=i] };
            let alone = classifier.forward(&ops, &params, one, &mut tape).unwrap();
            assert_eq!(alone, &all[i * classifier.outputs()..][..classifier.outputs()], "{:?}", config.blocks);
        }
    }
}

#[test]
fn training_and_serving_say_the_same_of_a_sample() {
    for config in configs() {
        let classifier = Classifier::new(&config).unwrap();
        let params: Params<f64> = classifier.params().init(4);
        let ops = Reference::<f64>::new();
        let (losses, _) = run(&ops, &classifier, &params);
        let values: Vec<f64> = values(TASKS.len() * config.features);
        let mut tape = SamplesTape::default();
        let logits = classifier.forward(&ops, &params, Samples { values: &values, tasks: &TASKS }, &mut tape).unwrap();
        for (i, row) in logits.chunks_exact(classifier.outputs()).enumerate() {
            let classes = config.heads.classes()[config.heads.of(TASKS[i])];
            let sum: f64 = row[..classes].iter().map(|l| l.exp()).sum();
            assert!((losses[i] - (sum.ln() - row[LABELS[i]])).abs() < 1e-12);
        }
    }
}

/// The order of the parts matters where a mixer sees it, and the widths of inner perceptrons do.
#[test]
fn every_part_of_a_sample_reaches_its_prediction() {
    for config in configs() {
        let classifier = Classifier::new(&config).unwrap();
        let (params, ops, mut tape) =
            (classifier.params().init::<f64>(3), Reference::<f64>::new(), SamplesTape::default());
        let mut values: Vec<f64> = values(config.features);
        let mut of = |values: &[f64]| {
            classifier.forward(&ops, &params, Samples { values, tasks: &[1] }, &mut tape).unwrap().to_vec()
        };
        let before = of(&values);
        for feature in 0..config.features {
            values[feature] += 0.5;
            let after = of(&values);
            values[feature] -= 0.5;
            assert!(before != after, "feature {feature} of {:?}", config.blocks);
        }
    }
}
