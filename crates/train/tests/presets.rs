//! The presets in `configs/`: every family at every size.

use hecate_model::{Model, ParamSpec};
use hecate_train::run_config::RunConfig;
use hecate_train::settings;
use hecate_train::stream::{Boundary, Stream};
use hecate_train::trainer::Trainer;
use std::path::{Path, PathBuf};

const FAMILIES: [&str; 7] =
    ["transformer", "titans_lmm", "titans_mag", "titans_mal", "titans_mac", "hope", "hope_attention"];

/// The preset of a family in a folder of `configs/`, or in itself where `size` is empty.
fn preset(size: &str, family: &str) -> RunConfig {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(size).join(format!("{family}.toml"));
    RunConfig::from_table(settings::read_file(&path).unwrap(), &path.display().to_string()).unwrap()
}

#[test]
fn every_family_has_the_size_that_its_folder_says() {
    for (size, parameters) in [("smoke", 0.25e6), ("pilot", 160e6), ("mid", 760e6), ("target", 1.3e9)] {
        for family in FAMILIES {
            let count = Model::new(&preset(size, family).model).unwrap().params().count() as f64;
            let most = if size == "smoke" { 2.0 } else { 1.1 };
            assert!((parameters / most..parameters * most).contains(&count), "{size}/{family}: {count} parameters");
        }
    }
}

/// One real step on a text, with one lane.
fn step(size: &str, family: &str) {
    let mut config = preset(size, family);
    (config.train.lanes, config.train.steps) = (1, 1);
    let tokens: Vec<u32> = (0..3 * config.model.context as u32).map(|i| (i * i / 7 + i) % 96 + 32).collect();
    let stream = Stream::from_tokens("text", tokens, vec![0], Boundary::Carry);
    let mut trainer = Trainer::new(&config, stream).unwrap();
    let before = trainer.params().clone();
    let report = trainer.step().unwrap();
    // A model that knows nothing guesses one byte in 256.
    assert!((report.loss - 256_f64.ln()).abs() < 0.3, "{size}/{family}: {report:?}");
    assert!(report.grad_norm > 0.0 && trainer.params() != &before, "{size}/{family}");
}

#[test]
fn every_small_preset_takes_a_step() {
    FAMILIES.iter().for_each(|family| step("smoke", family));
    ["levels", "hybrid"].iter().for_each(|family| step("", family));
}

/// What is learned only where a sequence starts goes on being learned behind the first step.
#[test]
fn no_parameter_of_a_preset_stands_still() {
    for (size, family) in FAMILIES.map(|f| ("smoke", f)).into_iter().chain([("", "levels"), ("", "hybrid")]) {
        let mut config = preset(size, family);
        config.train.lanes = 1;
        let turn = config.train.reset_every.max(1);
        config.train.steps = 1 + turn;
        let tokens: Vec<u32> = (0..4000).map(|i| (i * i / 7 + i) % 96 + 32).collect();
        let stream = Stream::from_tokens("text", tokens, vec![0], Boundary::Carry);
        let mut trainer = Trainer::new(&config, stream).unwrap();
        assert_eq!(trainer.rarely_learned(), 0, "{size}/{family}");
        trainer.step().unwrap();
        let mut still: Vec<ParamSpec> = trainer.trained().specs.clone();
        for _ in 0..turn {
            trainer.step().unwrap();
            still.retain(|spec| trainer.gradient()[spec.range.clone()].iter().all(|&g| g == 0.0));
        }
        let names: Vec<&str> = still.iter().map(|spec| spec.name.as_str()).collect();
        assert!(names.is_empty(), "{size}/{family}: {names:?}");
    }
}

#[test]
#[ignore = "slow: a step of seven models of 160 million parameters, some minutes and up to ten GiB"]
fn every_pilot_takes_a_step() {
    FAMILIES.iter().for_each(|family| step("pilot", family));
}
