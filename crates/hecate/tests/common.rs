//! The command as a user runs it, on a model that trains in a moment.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output};

/// A tiny run: every part of a real one in a fraction of a second.
pub const TINY: &[&str] = &[
    "model.width=16",
    "model.context=32",
    "train.lanes=2",
    "train.sample_every=0",
    "train.checkpoint_every=3",
    "sample.max_tokens=8",
    "model.blocks=[{mixer={type=\"mag\",attention={heads=2,window=8},memory={rule=\"titans\",heads=2}},channel={type=\"mlp\"}}]",
];

/// The command in `folder`.
pub fn hecate(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hecate"));
    command.current_dir(folder);
    command
}

/// Runs it to the end.
pub fn run(folder: &Path, args: &[&str]) -> Output {
    hecate(folder).args(args).output().unwrap()
}

/// Runs it, and expects success.
pub fn succeed(folder: &Path, args: &[&str]) -> String {
    let out = run(folder, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Runs it, and expects failure with one clear line on standard error.
pub fn refuse(folder: &Path, args: &[&str]) -> String {
    let out = run(folder, args);
    assert!(!out.status.success(), "{args:?} was accepted");
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{args:?}: {text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

/// A text of a few thousand bytes.
pub fn write_text(path: &Path) {
    let text: String = (0..400).map(|i| format!("line {} of the text. ", i * 7919 % 1000)).collect();
    std::fs::write(path, text).unwrap();
}

/// Trains the tiny run for `steps` steps into `out`.
pub fn train(folder: &Path, out: &str, steps: u64, more: &[&str]) -> String {
    let steps = format!("train.steps={steps}");
    let mut args = vec!["train", "default", steps.as_str()];
    args.extend(TINY);
    args.extend(["--data", "text.txt", "--out", out]);
    args.extend(more);
    succeed(folder, &args)
}

/// The bytes of a file of a run.
pub fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}
