//! The memory that a run says it will take, against the most that the process held.

mod common;
use common::*;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Share by which the two may differ.
const TOLERANCE: f64 = 0.2;

#[test]
fn a_run_takes_the_memory_that_it_said_it_would() {
    if !Path::new("/proc/self/status").exists() {
        eprintln!("skipped: this system has no /proc that tells the memory of a process");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let block = |repeat| {
        let mixer = "mixer={type=\"mag\",attention={heads=4,window=64},memory={rule=\"titans\",heads=4}}";
        format!("model.blocks=[{{repeat={repeat},{mixer},channel={{type=\"mlp\"}}}}]")
    };
    let small = ["model.width=64", "model.context=128", "train.lanes=4", &block(1)];
    let larger = ["model.width=256", "model.context=512", "train.lanes=8", &block(4)];
    for (name, more) in [("small", small), ("larger", larger)] {
        let (said, took) = said_and_took(dir.path(), name, &more);
        let ratio = said / took;
        assert!((ratio - 1.0).abs() <= TOLERANCE, "{name}: it said {said} MiB and took {took} MiB");
    }
}

/// Trains for one step: MiB that were announced, and that the process held at its peak.
fn said_and_took(folder: &Path, out: &str, more: &[&str]) -> (f64, f64) {
    let mut args = vec!["train", "default", "train.steps=1", "sample.max_tokens=8", "--data", "text.txt", "--out", out];
    args.extend(["--threads", "2"]);
    args.extend(more);
    let mut child = hecate(folder).args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0;
    // The peak never falls, so that the last look before the end sees it.
    while child.try_wait().unwrap().is_none() {
        peak = peak_mib(&std::fs::read_to_string(&status).unwrap_or_default()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(1));
    }
    let shown = child.wait_with_output().unwrap();
    let text = String::from_utf8(shown.stderr).unwrap();
    assert!(shown.status.success(), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("memory: ")).expect("the estimate is printed");
    (mib(line), peak)
}

/// The field `VmHWM` of a process that has not ended.
fn peak_mib(status: &str) -> Option<f64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kib.trim().parse::<f64>().ok()? / 1024.0)
}

/// The number and unit at the start of a text, in MiB.
fn mib(text: &str) -> f64 {
    let mut words = text.split_whitespace();
    let number: f64 = words.next().unwrap().parse().unwrap();
    number
        * match words.next().unwrap() {
            "KiB" => 1.0 / 1024.0,
            "MiB" => 1.0,
            "GiB" => 1024.0,
            unit => panic!("unknown unit {unit}"),
        }
}
