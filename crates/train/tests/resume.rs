//! Runs of models with continuum memories, cut in the middle of everything that these carry from step to step.

use hecate_core::AnyRule;
use hecate_model::ModelConfig;
use hecate_model::config::{
    Arrangement, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, Consolidation, MemoryConfig, MixerConfig, Reads,
    Replay, Surprise, SurpriseGate,
};
use hecate_model::optim::Schedule;
use hecate_train::checkpoint::Checkpoints;
use hecate_train::run_config::{RunConfig, TrainConfig};
use hecate_train::stream::{Boundary, Stream};
use hecate_train::trainer::Trainer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Of a step's 24 tokens; after five steps the levels of 7 and 11 are inside a period, and the optimizer, whose level is
/// due at every third step, inside its own.
const PERIODS: [u64; 3] = [7, 11, 72];

/// HOPE with everything that a continuum memory can have; what excludes each other, in turn.
fn continua() -> Vec<CmsConfig> {
    let level = |period| CmsLevel { period: Some(period), rate: 0.1, ..CmsLevel::default() };
    let base = |arrangement| CmsConfig {
        hidden: Some(12),
        arrangement,
        gate: Some(SurpriseGate { signal: Surprise::Norm, threshold: 0.1 }),
        levels: PERIODS.map(level).to_vec(),
        ..CmsConfig::default()
    };
    let replay = Some(Replay { size: 30, draw: 5, ..Replay::default() });
    let consolidation = Some(Consolidation { keep: 0.7, reads: Reads::Both });
    vec![
        CmsConfig { learn_rates: true, replay, ..base(Arrangement::Sequential) },
        CmsConfig { learn_rates: true, learn_periods: true, ..base(Arrangement::Independent) },
        CmsConfig { online: true, consolidation, replay, ..base(Arrangement::Nested) },
        CmsConfig { consolidation, ..base(Arrangement::Headwise) },
    ]
}

fn config(cms: CmsConfig) -> RunConfig {
    let rule = AnyRule::named("self_modifying").unwrap();
    let mixer = MixerConfig::Memory(MemoryConfig { rule, heads: 2, ..MemoryConfig::default() });
    let blocks = vec![BlockConfig { repeat: 2, mixer, channel: ChannelConfig::Cms(cms), ..BlockConfig::default() }];
    RunConfig {
        train: TrainConfig { steps: 10, lanes: 2, reset_every: 4, ..TrainConfig::default() },
        schedule: Schedule { peak: 3e-3, warmup_steps: 0, floor: 1.0 },
        model: ModelConfig { width: 8, context: 24, blocks, ..ModelConfig::default() },
        ..RunConfig::default()
    }
}

fn stream() -> Stream {
    let text: Vec<u32> = (0..3000_u32).map(|i| (i * i / 7 + i) % 96 + 32).collect();
    Stream::from_tokens("text", text, vec![0], Boundary::Carry)
}

/// Takes steps until there are so many, and writes a checkpoint.
fn train(trainer: &mut Trainer, steps: u64, checkpoints: &Checkpoints) {
    while trainer.step_count() < steps {
        trainer.step().unwrap();
    }
    trainer.save(checkpoints).unwrap();
}

/// All files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    all.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn ten_steps_and_five_and_five_end_in_the_same_files() {
    let mut there = BTreeSet::new();
    for cms in continua() {
        let (config, folder) = (config(cms), tempfile::tempdir().unwrap());
        let [whole, cut] = ["whole", "cut"].map(|name| Checkpoints::open(&folder.path().join(name)).unwrap());
        train(&mut Trainer::new(&config, stream()).unwrap(), 10, &whole);
        train(&mut Trainer::new(&config, stream()).unwrap(), 5, &cut);
        let checkpoint = cut.latest_complete().unwrap();
        let mut resumed = Trainer::resume(&config, stream(), &checkpoint).unwrap();
        // What a resumed run must bring along, beside the weights: it is there.
        let (model, state) = (resumed.model(), &resumed.states()[0]);
        for what in ["up.delta", "up.gathered", "down.stable", "replay.inputs", "written"] {
            let own = |spec: &&hecate_model::state::StateSpec| spec.name.ends_with(what);
            for spec in model.state_layout().fast.iter().filter(own).take(1) {
                assert!(state.fast[spec.range.clone()].iter().any(|&x| x != 0.0), "{} is empty", spec.name);
                there.insert(what);
            }
        }
        train(&mut resumed, 10, &cut);
        let [whole, cut] = [whole, cut].map(|checkpoints| files(&checkpoints.path(10)));
        assert!(whole.len() >= 6 && whole.keys().eq(cut.keys()), "{:?} {:?}", whole.keys(), cut.keys());
        for (name, bytes) in &whole {
            assert!(cut[name] == *bytes, "{name} of {:?}", config.model.blocks[0].channel);
        }
    }
    assert_eq!(there.len(), 5, "{there:?}");
}
