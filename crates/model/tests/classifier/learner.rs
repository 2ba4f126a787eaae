//! Learning, call by call.

use hecate_model::classifier::{ClassifierConfig, DecayTowards, Heads, Learner, Learning, Projection};
use hecate_model::config::{AttentionConfig, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, MixerConfig};
use hecate_model::rng::Rng;

/// Points around corners of a square; of the second task, of another one.
fn points(task: usize, n: usize, seed: u64) -> (Vec<f32>, Vec<usize>) {
    let mut rng = Rng::new(seed, "points");
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for i in 0..n {
        let label = i % 2;
        let corner = if task == 0 { [1.0, -1.0] } else { [-1.0, -1.0] };
        let sign = if label == 0 { 1.0 } else { -1.0 };
        values.extend(corner.map(|c| (sign * c + 0.3 * rng.normal()) as f32));
        labels.push(label);
    }
    (values, labels)
}

fn config() -> ClassifierConfig {
    let level = |period| CmsLevel { period: Some(period), ..CmsLevel::default() };
    let cms = CmsConfig { hidden: Some(8), levels: vec![level(8), level(24)], ..CmsConfig::default() };
    let block =
        BlockConfig { repeat: 1, mixer: MixerConfig::None, channel: ChannelConfig::Cms(cms), ..BlockConfig::default() };
    let learning = Learning { batch: 8, replay: 20, ..Learning::default() };
    let heads = Heads::PerTask { classes: vec![2, 2] };
    ClassifierConfig { features: 2, heads, width: 8, blocks: vec![block], learning, ..ClassifierConfig::default() }
}

fn with(change: impl Fn(&mut Learning)) -> ClassifierConfig {
    let mut config = config();
    change(&mut config.learning);
    config
}

fn accuracy(learner: &mut Learner, task: usize) -> f64 {
    let (values, labels) = points(task, 100, 99);
    let p = learner.probabilities(&values, Some(task)).unwrap();
    let right = p.chunks_exact(2).zip(&labels).filter(|(p, label)| usize::from(p[1] > p[0]) == **label);
    right.count() as f64 / 100.0
}

fn taught(config: &ClassifierConfig) -> Learner {
    let mut learner = Learner::new(config, 1).unwrap();
    for task in 0..2 {
        let (values, labels) = points(task, 40, task as u64);
        learner.learn(&values, &labels, task, 10).unwrap();
    }
    learner
}

#[test]
fn two_tasks_are_learned_one_after_the_other() {
    let mut learner = taught(&config());
    assert!(accuracy(&mut learner, 0) > 0.95 && accuracy(&mut learner, 1) > 0.95);
    assert_eq!((learner.replayed(), learner.steps()), (20, 100));
}

#[test]
fn a_call_that_is_stopped_keeps_what_its_steps_learned_and_no_sample() {
    let mut learner = Learner::new(&config(), 1).unwrap();
    let (values, labels) = points(0, 40, 0);
    let mut left = 3;
    let mut go_on = || {
        left -= 1;
        left >= 0
    };
    let learned = learner.learn_while(&values, &labels, 0, 10, &mut go_on).unwrap();
    assert_eq!((learned.steps, learner.steps(), learner.replayed()), (3, 3, 0));
}

#[test]
fn every_setting_of_learning_is_read() {
    let plain = taught(&config());
    let changes: [fn(&mut Learning); 9] = [
        |l| l.rate = 1e-3,
        |l| l.final_rate = 0.5,
        |l| l.batch = 4,
        |l| l.clip = 1e-3,
        |l| l.standardize = false,
        |l| l.replay = 0,
        |l| l.replay_share = 1.0,
        |l| l.decay = 0.5,
        |l| (l.decay, l.decay_towards) = (0.01, DecayTowards::TaskStart),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert!(taught(&with(change)).params() != plain.params(), "change {i}");
    }
    let mut other = config();
    let ChannelConfig::Cms(cms) = &mut other.blocks[0].channel else { unreachable!() };
    cms.levels[1].period = Some(48);
    assert!(taught(&other).params() != plain.params());
}

#[test]
fn a_slow_level_moves_only_when_its_period_is_over() {
    let mut learner = Learner::new(&config(), 1).unwrap();
    let place = |name: &str| {
        let specs = &Learner::new(&config(), 1).unwrap().classifier().params().specs.clone();
        specs.iter().find(|spec| spec.name == name).unwrap().range.clone()
    };
    let [fast, slow] = [0, 1].map(|l| place(&format!("blocks.0.channel.levels.{l}.up.weight")));
    let (values, labels) = points(0, 8, 0);
    for step in 1..=6 {
        let before = learner.params().clone();
        learner.learn(&values, &labels, 0, 1).unwrap();
        let moved = |range: &std::ops::Range<usize>| learner.params().data[range.clone()] != before.data[range.clone()];
        assert_eq!((moved(&fast), moved(&slow)), (true, step % 3 == 0), "step {step}");
    }
}

#[test]
fn the_head_of_another_task_rests_unless_its_samples_are_replayed() {
    let head = |learner: &Learner| {
        let specs = &learner.classifier().params().specs;
        let range = specs.iter().find(|spec| spec.name == "tasks.0.head.weight").unwrap().range.clone();
        learner.params().data[range].to_vec()
    };
    for (replay, rests) in [(0, true), (20, false)] {
        let mut learner = Learner::new(&with(|l| l.replay = replay), 1).unwrap();
        let (values, labels) = points(0, 40, 0);
        learner.learn(&values, &labels, 0, 2).unwrap();
        let before = head(&learner);
        learner.learn(&values, &labels, 1, 2).unwrap();
        assert_eq!(head(&learner) == before, rests);
    }
}

#[test]
fn frozen_projections_stay_as_they_were_drawn() {
    let attention = MixerConfig::Attention(AttentionConfig { heads: 2, ..AttentionConfig::default() });
    let mut config = with(|l| (l.freeze, l.decay) = (vec![Projection::K, Projection::Q], 0.1));
    assert!(Learner::new(&config, 1).err().unwrap().to_string().contains("learning.freeze"));
    config.blocks[0].mixer = attention;
    config.patches = 2;
    let start = Learner::new(&config, 1).unwrap();
    let learner = taught(&config);
    for spec in &learner.classifier().params().specs {
        let same = learner.params().data[spec.range.clone()] == start.params().data[spec.range.clone()];
        let frozen = spec.name.ends_with(".k.weight") || spec.name.ends_with(".q.weight");
        assert_eq!(same, frozen, "{}", spec.name);
    }
}

#[test]
fn it_learns_from_its_own_predictions_where_it_is_sure() {
    let mut learner = taught(&with(|l| l.confidence = 0.6));
    let (values, _) = points(0, 60, 7);
    let before = learner.params().clone();
    let learned = learner.learn_from_itself(&values, Some(0)).unwrap();
    assert!(learned.samples > 40 && learned.steps == 2, "{learned:?}");
    assert!(*learner.params() != before && accuracy(&mut learner, 0) > 0.95);
    // What it is told is learned from as if it were the label: without a task too.
    assert!(learner.learn_from_itself(&values, None).unwrap().samples > 0);
    let mut shy = taught(&with(|l| l.confidence = 1.0));
    let before = shy.params().clone();
    assert_eq!(shy.learn_from_itself(&values, None).unwrap().samples, 0);
    assert!(*shy.params() == before);
}

#[test]
fn decay_towards_the_start_of_a_task_keeps_near_what_was_known() {
    let distance = |config: &ClassifierConfig| {
        let mut learner = Learner::new(config, 1).unwrap();
        let (values, labels) = points(0, 40, 0);
        learner.learn(&values, &labels, 0, 10).unwrap();
        let before = learner.params().clone();
        let (values, labels) = points(1, 40, 1);
        learner.learn(&values, &labels, 1, 10).unwrap();
        let pairs = learner.params().data.iter().zip(before.data.iter());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let free = distance(&with(|l| l.decay = 0.0));
    let held = distance(&with(|l| (l.decay, l.decay_towards) = (30.0, DecayTowards::TaskStart)));
    let to_zero = distance(&with(|l| l.decay = 30.0));
    assert!(held < 0.8 * free && to_zero > free, "{held} {free} {to_zero}");
}

#[test]
fn probabilities_without_a_task_are_over_the_classes_of_all() {
    let (values, _) = points(0, 3, 5);
    for heads in [Heads::PerTask { classes: vec![2, 2] }, Heads::Shared { classes: 2, tasks: 2 }] {
        for task_embedding in [false, true] {
            let config = ClassifierConfig { heads: heads.clone(), task_embedding, ..config() };
            let mut learner = taught(&config);
            let columns = if matches!(heads, Heads::PerTask { .. }) { 4 } else { 2 };
            let p = learner.probabilities(&values, None).unwrap();
            assert_eq!(p.len(), 3 * columns);
            assert!(p.chunks_exact(columns).all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-12));
            let same = learner.probabilities(&values, Some(1)).unwrap() == p;
            assert_eq!(same, columns == 2 && !task_embedding);
        }
    }
}

/// A save and a load in between change no bit of what follows, and neither does one more task of what was there.
#[test]
fn a_saved_learner_goes_on_as_if_it_had_never_stopped() {
    for config in [config(), with(|l| l.decay_towards = DecayTowards::TaskStart)] {
        let mut learner = taught(&config);
        let (mut again, note) = Learner::from_bytes(learner.to_bytes("a note").unwrap()).unwrap();
        assert_eq!(note, "a note");
        let (values, labels) = points(0, 30, 3);
        for one in [&mut learner, &mut again] {
            one.learn(&values, &labels, 0, 2).unwrap();
            one.learn_from_itself(&values, None).unwrap();
        }
        assert_eq!(learner.to_bytes("").unwrap(), again.to_bytes("").unwrap());
    }
}

#[test]
fn one_more_task_leaves_everything_learned_as_it_was() {
    for task_embedding in [false, true] {
        let mut config = with(|l| l.decay_towards = DecayTowards::TaskStart);
        config.task_embedding = task_embedding;
        let mut learner = taught(&config);
        let (values, labels) = points(1, 20, 3);
        let before = learner.probabilities(&values, Some(1)).unwrap();
        let mut grown = Learner::from_bytes(learner.to_bytes("").unwrap()).unwrap().0;
        grown.add_task(2).unwrap();
        assert_eq!(grown.probabilities(&values, Some(1)).unwrap(), before);
        // Its optimizer goes on where it was.
        for one in [&mut learner, &mut grown] {
            one.learn(&values, &labels, 1, 1).unwrap();
        }
        let old = learner.params().data.len();
        assert_eq!(learner.params().data[..], grown.params().data[..old]);
        grown.learn(&values, &labels, 2, 10).unwrap();
        assert!(accuracy(&mut grown, 1) > 0.95);
    }
    let shared = ClassifierConfig { heads: Heads::Shared { classes: 2, tasks: 1 }, ..config() };
    let mut learner = Learner::new(&shared, 0).unwrap();
    learner.add_task(2).unwrap();
    assert!(learner.add_task(3).unwrap_err().to_string().contains("per_task"));
}

#[test]
fn what_cannot_be_is_refused_with_its_key() {
    let change = |change: fn(&mut ClassifierConfig)| {
        let mut config = config();
        change(&mut config);
        Learner::new(&config, 0).err().map_or(String::new(), |e| e.to_string())
    };
    let level = |f: fn(&mut CmsConfig)| {
        let mut config = config();
        let ChannelConfig::Cms(cms) = &mut config.blocks[0].channel else { unreachable!() };
        f(cms);
        Learner::new(&config, 0).err().map_or(String::new(), |e| e.to_string())
    };
    use hecate_model::config::{Arrangement, Objective, Reduction};
    use hecate_model::optim::methods::AnyOptimizer;
    for (key, message) in [
        ("features", change(|c| c.features = 0)),
        ("patches", change(|c| c.patches = 3)),
        ("patches", change(|c| c.patches = 2)),
        ("width", change(|c| c.width = 0)),
        ("blocks", change(|c| c.blocks.clear())),
        ("heads.tasks", change(|c| c.heads = Heads::PerTask { classes: vec![] })),
        ("heads.classes", change(|c| c.heads = Heads::Shared { classes: 0, tasks: 1 })),
        ("learning.batch", change(|c| c.learning.batch = 0)),
        ("learning.chunk", change(|c| c.learning.chunk = 0)),
        ("learning.rate", change(|c| c.learning.rate = f64::NAN)),
        ("learning.final_rate", change(|c| c.learning.final_rate = 2.0)),
        ("learning.confidence", change(|c| c.learning.confidence = 1.5)),
        ("learning.decay", change(|c| c.learning.decay = 999.0)),
        ("learning.replay_share", change(|c| c.learning.replay_share = -1.0)),
        (
            "learning.optimizer",
            change(|c| {
                c.learning.optimizer = AnyOptimizer::all().into_iter().find(AnyOptimizer::needs_inputs).unwrap();
            }),
        ),
        ("channel.arrangement", level(|c| c.arrangement = Arrangement::Nested)),
        ("learn_rates", level(|c| c.learn_rates = true)),
        ("channel.arrangement", level(|c| c.arrangement = Arrangement::Headwise)),
        ("channel.objective", level(|c| c.objective = Objective::LocalL2)),
        ("channel.reduction", level(|c| c.reduction = Reduction::Sum)),
        ("channel.levels.0", level(|c| c.levels[0].warmup = 2)),
        ("channel.levels.0", level(|c| c.levels[0].rate = 5.0)),
    ] {
        assert!(message.contains(&format!("`{key}`")) || message.contains(key), "{key}: {message:?}");
    }
    let mut learner = taught(&config());
    let (values, _) = points(0, 2, 0);
    for wrong in [
        learner.learn(&values, &[0, 2], 0, 1).unwrap_err(),
        learner.learn(&values, &[0, 1], 2, 1).unwrap_err(),
        learner.learn(&values, &[0], 0, 1).unwrap_err(),
        learner.probabilities(&values[1..], Some(0)).unwrap_err(),
        learner.probabilities(&values, Some(2)).unwrap_err(),
        learner.learn_from_itself(&values, Some(2)).unwrap_err(),
    ] {
        assert!(wrong.to_string().contains("config key"), "{wrong}");
    }
    assert!(taught(&config()).params() == learner.params());
}

#[test]
fn a_file_that_is_cut_foreign_or_of_another_version_is_refused() {
    let bytes = taught(&config()).to_bytes("").unwrap();
    for len in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(Learner::from_bytes(bytes[..len].to_vec()).is_err());
    }
    let swapped = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        Learner::from_bytes(bytes).err().map_or(String::new(), |e| e.to_string())
    };
    assert!(swapped("hecate-classifier 1", "hecate-classifier 9").contains("this build reads"));
    assert!(swapped("optimizer.m.", "optimizer.n.").contains("optimizer.m."));
    assert!(swapped(r#"\"seed\":1"#, r#"\"sees\":1"#).contains("counts"));
    let wide = swapped(r#"\"width\":8"#, r#"\"width\":9"#);
    assert!(wide.contains("expected F32") || wide.contains("cannot hold"), "{wide}");
}
