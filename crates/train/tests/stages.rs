//! Training in two stages: a deep memory with long chunks, then from its weights with short ones, the memory alone.

use hecate_model::Kind;
use hecate_model::ModelConfig;
use hecate_model::config::{BlockConfig, ChannelConfig, MemoryConfig, MixerConfig, MlpConfig};
use hecate_train::interrupt::Interrupt;
use hecate_train::loaded::Loaded;
use hecate_train::run::{Options, Run};
use hecate_train::run_config::{RunConfig, TrainConfig};
use hecate_train::stream::{Boundary, Stream};
use hecate_train::trainer::Trainer;
use std::path::Path;
use std::sync::LazyLock;

/// A process can listen for signals only once.
static INTERRUPT: LazyLock<Interrupt> = LazyLock::new(|| Interrupt::install().unwrap());

/// Titans with an MLP memory, `chunk` tokens to a gradient.
fn config(chunk: usize) -> RunConfig {
    let rule = serde_json::json!({"name": "titans_mlp", "chunk": chunk});
    let memory = MemoryConfig { rule: serde_json::from_value(rule).unwrap(), heads: 2, ..MemoryConfig::default() };
    let channel = ChannelConfig::Mlp(MlpConfig { hidden: Some(16), ..MlpConfig::default() });
    let blocks = vec![BlockConfig { repeat: 1, mixer: MixerConfig::Memory(memory), channel, ..BlockConfig::default() }];
    let train = TrainConfig { steps: 3, lanes: 3, reset_every: 3, sample_every: 0, ..TrainConfig::default() };
    RunConfig {
        train,
        model: ModelConfig { width: 16, context: 40, blocks, ..ModelConfig::default() },
        ..RunConfig::default()
    }
}

fn stream() -> Stream {
    let text: Vec<u32> = (0..3000_u32).map(|i| (i * i / 7 + i) % 96 + 32).collect();
    Stream::from_tokens("text", text, vec![0], Boundary::Carry)
}

/// A finished run of the first stage in `folder`.
fn first_stage(folder: &Path) {
    let text = folder.with_extension("txt");
    std::fs::write(&text, "a line of text that says little\n".repeat(200)).unwrap();
    let mut config = config(16);
    config.data.path = Some(text);
    config.sample.max_tokens = 5;
    let options = Options { quiet: true, ..Options::default() };
    let mut run = Run::create(&config, "first", Some(folder), options).unwrap();
    assert!(run.run(&INTERRUPT).unwrap().finished);
}

fn second_stage(folder: &Path) -> RunConfig {
    let mut config = config(4);
    config.train.from = Some(folder.to_path_buf());
    config.train.only = vec!["blocks.*.mixer.*".into()];
    config
}

#[test]
fn a_second_stage_starts_from_the_first_and_trains_what_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("first");
    first_stage(&folder);
    let old = Loaded::open(&folder).unwrap();
    let mut trainer = Trainer::new(&second_stage(&folder), stream()).unwrap();
    assert_eq!(trainer.params(), &old.params);
    assert!(trainer.trained().specs.iter().all(|s| s.name.starts_with("blocks.0.mixer.")));
    for _ in 0..3 {
        trainer.step().unwrap();
    }
    let mut trained = 0;
    for spec in &trainer.model().params().specs {
        let (new, old) = (&trainer.params().data[spec.range.clone()], &old.params.data[spec.range.clone()]);
        let moves = spec.name.starts_with("blocks.0.mixer.");
        assert_eq!(new != old, moves, "{}", spec.name);
        if !moves {
            assert!(trainer.gradient()[spec.range.clone()].iter().all(|&g| g == 0.0), "{}", spec.name);
        }
        trained += if moves { spec.range.len() } else { 0 };
    }
    assert_eq!(trainer.trained().count(), trained);

    // Everything that the next step depends on is in a checkpoint, the optimizer of the trained tensors included.
    let checkpoints = hecate_train::checkpoint::Checkpoints::open(&dir.path().join("checkpoints")).unwrap();
    trainer.save(&checkpoints).unwrap();
    let checkpoint = checkpoints.latest_complete().unwrap();
    let mut resumed = Trainer::resume(&second_stage(&folder), stream(), &checkpoint).unwrap();
    let all = Trainer::resume(&RunConfig { train: config(4).train, ..second_stage(&folder) }, stream(), &checkpoint);
    assert!(all.err().unwrap().to_string().contains("tensors"));
    for _ in 0..2 {
        assert_eq!(trainer.step().unwrap(), resumed.step().unwrap());
    }
    assert_eq!(trainer.params(), resumed.params());
}

#[test]
fn weights_that_do_not_fit_and_patterns_without_a_match_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("first");
    first_stage(&folder);
    let refused = |config: &RunConfig| Trainer::new(config, stream()).err().unwrap().to_string();
    let with = |rule: &str| {
        let mut config = second_stage(&folder);
        let MixerConfig::Memory(memory) = &mut config.model.blocks[0].mixer else { unreachable!() };
        memory.rule = serde_json::from_str(rule).unwrap();
        refused(&config)
    };
    let wider = with(r#"{"name": "titans_mlp", "structure": {"name": "mlp", "expansion": 2}}"#);
    assert!(wider.contains("blocks.0.mixer.start.W1") && wider.contains("shape"), "{wider}");
    let fewer = with(r#""titans""#);
    assert!(fewer.contains("`blocks.0.mixer.start.W1` has no place"), "{fewer}");
    let deeper = with(r#"{"name": "titans_mlp", "structure": {"name": "mlp", "layers": 3}}"#);
    assert!(deeper.contains("blocks.0.mixer.start.W"), "{deeper}");
    let mut config = config(4);
    config.train.only = vec!["*.memory.*".into()];
    let message = refused(&config);
    assert!(message.contains("`*.memory.*` matches no tensor") && message.contains("embedding.weight"), "{message}");
    config.train.only.clear();
    config.train.from = Some(dir.path().join("nowhere"));
    assert!(refused(&config).contains("nowhere"));
}

/// With as many steps between new states as there are lanes, one lane starts anew in every step.
#[test]
fn starts_are_learned_in_every_step_where_lanes_start_anew_in_turn() {
    let mut trainer = Trainer::new(&config(4), stream()).unwrap();
    for step in 0..7_u64 {
        trainer.step().unwrap();
        let context = trainer.config().model.context as u64;
        for (lane, state) in trainer.states().iter().enumerate() {
            let since = (step + lane as u64) % 3;
            assert_eq!(state.position, context * (1 + since.min(step)), "lane {lane} after step {step}");
        }
        for spec in trainer.model().params().specs.iter().filter(|s| s.kind == Kind::Start) {
            assert!(trainer.gradient()[spec.range.clone()].iter().any(|&g| g != 0.0), "{} in {step}", spec.name);
        }
    }
    // Without that, only the first step has a gradient for them.
    let mut config = config(4);
    config.train.reset_every = 0;
    let mut trainer = Trainer::new(&config, stream()).unwrap();
    trainer.step().unwrap();
    trainer.step().unwrap();
    let starts: Vec<_> = trainer.model().params().specs.iter().filter(|s| s.kind == Kind::Start).collect();
    assert!(starts.iter().all(|s| trainer.gradient()[s.range.clone()].iter().all(|&g| g == 0.0)));
}

/// A document that starts in the middle of a step starts from the learned values, and gives them a gradient.
#[test]
fn starts_are_learned_where_documents_start() {
    let text: Vec<u32> = (0..3000_u32).map(|i| (i * i / 7 + i) % 96 + 32).collect();
    let stream = Stream::from_tokens("text", text, vec![0, 61], Boundary::Reset);
    let mut config = config(4);
    (config.train.lanes, config.train.reset_every) = (1, 0);
    let mut trainer = Trainer::new(&config, stream).unwrap();
    for (learns, position) in [(true, 40), (true, 20), (false, 60)] {
        trainer.step().unwrap();
        assert_eq!(trainer.states()[0].position, position);
        for spec in trainer.model().params().specs.iter().filter(|s| s.kind == Kind::Start) {
            let any = trainer.gradient()[spec.range.clone()].iter().any(|&g| g != 0.0);
            assert_eq!(any, learns, "{} at {position}", spec.name);
        }
    }
}
