//! A run that is interrupted, killed or resumed ends in the same bits as one that never stopped.

mod common;
use common::*;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_resumed_run_ends_in_the_same_bits_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    train(dir.path(), "whole", 12, &[]);
    train(dir.path(), "again", 12, &["--threads", "1"]);
    assert_eq!(bytes(dir.path(), "whole/model.safetensors"), bytes(dir.path(), "again/model.safetensors"));
    // The newest checkpoint of the twin is damaged, so that it must go on from the one before, and say so.
    std::fs::write(dir.path().join("again/checkpoints/step-12/model.safetensors"), "cut").unwrap();
    std::fs::remove_file(dir.path().join("again/model.safetensors")).unwrap();
    let resumed = run(dir.path(), &["train", "--resume", "again", "--threads", "2"]);
    let said = String::from_utf8(resumed.stderr).unwrap();
    assert!(resumed.status.success() && said.contains("step-12 is damaged and passed over"), "{said}");
    for file in ["model.safetensors", "checkpoints/step-12/optimizer.safetensors", "checkpoints/step-12/trainer.json"] {
        assert_eq!(bytes(dir.path(), &format!("whole/{file}")), bytes(dir.path(), &format!("again/{file}")), "{file}");
    }
}

#[test]
fn a_run_that_broke_off_before_it_began_starts_and_a_finished_one_is_only_measured() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    train(dir.path(), "whole", 4, &[]);
    // What a kill between the config and the first checkpoint leaves.
    std::fs::create_dir_all(dir.path().join("early/checkpoints")).unwrap();
    std::fs::copy(dir.path().join("whole/run.toml"), dir.path().join("early/run.toml")).unwrap();
    succeed(dir.path(), &["train", "--resume", "early"]);
    let weights = bytes(dir.path(), "whole/model.safetensors");
    assert!(bytes(dir.path(), "early/model.safetensors") == weights);
    // What describes the model comes back, and no speed is made up where no step was made.
    std::fs::remove_file(dir.path().join("whole/config.json")).unwrap();
    let shown = succeed(dir.path(), &["train", "--resume", "whole"]);
    assert!(shown.contains("held-out") && !shown.contains("tokens per second"), "{shown}");
    assert!(bytes(dir.path(), "whole/model.safetensors") == weights);
    succeed(dir.path(), &["generate", "whole", "-n", "3"]);
    // A log without checkpoints was a run that lost them: it does not begin anew in silence.
    std::fs::remove_dir_all(dir.path().join("whole/checkpoints")).unwrap();
    assert!(refuse(dir.path(), &["train", "--resume", "whole"]).contains("no complete checkpoint"));
}

#[test]
fn a_run_killed_at_random_moments_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    // Far longer than the test: both runs are killed, so that the machine's speed does not matter.
    let start = |out| {
        let mut args = vec!["train", "default", "train.steps=10000000", "--data", "text.txt", "--out", out];
        args.extend(TINY);
        args
    };
    let (mut kills, mut seed) = (0, 12345_u64);
    // Until the run has made its first checkpoint there is nothing to resume; from then on every kill is survived.
    let mut next = start("killed");
    // On a machine that is busy elsewhere, more kills and longer lives until the run has come forward.
    while kills < 50 || kills < 400 && losses(dir.path(), "killed").len() <= 100 {
        let mut child = hecate(dir.path()).args(&next).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros(20_000 + (seed >> 33) % (200_000 * (1 + kills / 50))));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        let said = child.wait_with_output().unwrap();
        assert!(ended.is_none(), "{}", String::from_utf8_lossy(&said.stderr));
        if next[1] == "--resume" || dir.path().join("killed/checkpoints/step-0").exists() {
            kills += 1;
            next = vec!["train", "--resume", "killed"];
        } else {
            // Killed before there was anything to lose.
            drop(std::fs::remove_dir_all(dir.path().join("killed")));
        }
    }
    let killed = losses(dir.path(), "killed");
    assert!(killed.len() > 100, "the run came forward: {} steps", killed.len());
    let mut whole =
        hecate(dir.path()).args(start("whole")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while losses(dir.path(), "whole").len() < killed.len() {
        std::thread::sleep(Duration::from_millis(50));
    }
    whole.kill().unwrap();
    whole.wait().unwrap();
    // Losses are written with all their digits, and each depends on every weight and state before it.
    assert!(losses(dir.path(), "whole")[..killed.len()] == killed, "the runs differ");
}

/// The loss of every step in a run's log; the steps must be 1, 2, 3 and so on. A torn last line is left out.
fn losses(folder: &std::path::Path, run: &str) -> Vec<String> {
    let log = std::fs::read_to_string(folder.join(run).join("log.jsonl")).unwrap_or_default();
    let records = log.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
    let steps = records.filter(|r| r.get("grad_norm").is_some());
    let loss = |(i, r): (usize, serde_json::Value)| {
        assert_eq!(r["step"], i as u64 + 1, "every step is in the log once");
        r["loss"].to_string()
    };
    steps.enumerate().map(loss).collect()
}

/// What Ctrl-C does.
#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    train(dir.path(), "whole", 300, &[]);
    let mut args = vec!["train", "default", "train.steps=300"];
    args.extend(TINY);
    // At a sample too, and in one.
    args.extend(["train.sample_every=1", "--data", "text.txt", "--out", "stopped"]);
    let child = hecate(dir.path()).args(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    while !dir.path().join("stopped/log.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(150));
    interrupt(&child);
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(130), "what comes next in a script must not begin");
    assert!(text.contains("hecate train --resume stopped"), "{text}");
    succeed(dir.path(), &["train", "--resume", "stopped"]);
    assert_eq!(bytes(dir.path(), "whole/model.safetensors"), bytes(dir.path(), "stopped/model.safetensors"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_learned_from_a_text_that_goes_on() {
    use std::io::Read;
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    train(dir.path(), "run", 3, &[]);
    let args = ["generate", "run", "--prompt", "line", "-n", "1000000000", "--state", "kept"];
    let mut child = hecate(dir.path()).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut text = child.stdout.take().unwrap();
    text.read_exact(&mut [0; 500]).unwrap();
    interrupt(&child);
    text.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(succeed(dir.path(), &["inspect", "kept"]).contains("blocks.0.memory.W"));
}
