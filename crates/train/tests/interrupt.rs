//! Real signals to a real process: the test starts itself as a child that works until it is told to stop.

#![cfg(unix)]

use hecate_train::interrupt::Interrupt;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "HECATE_TEST_INTERRUPT_ROLE";

/// The child: `polite` stops at the first signal, `deaf` never looks. Neither lives longer than a minute.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let interrupt = Interrupt::install().unwrap();
    assert!(Interrupt::install().is_err(), "a second handler would replace the first");
    println!("ready");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if role == "polite" && interrupt.requested() {
            std::process::exit(7);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(role: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_process", "--exact", "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // The harness prints the test's name first, on the same line or its own.
    while !line.ends_with("ready\n") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child ended before it was ready");
    }
    (child, out)
}

fn send(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn wait(mut child: Child) -> ExitStatus {
    child.wait().unwrap()
}

#[test]
fn the_first_signal_lets_the_loop_stop_by_itself() {
    for signal in ["-INT", "-TERM"] {
        let (child, _out) = start("polite");
        send(&child, signal);
        assert_eq!(wait(child).code(), Some(7), "{signal}");
    }
}

#[test]
fn the_second_signal_ends_the_process_at_once() {
    let (mut child, _out) = start("deaf");
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    send(&child, "-INT");
    let mut line = String::new();
    while !line.contains("press Ctrl-C again") {
        line.clear();
        assert!(messages.read_line(&mut line).unwrap() > 0, "the first signal says how to stop at once");
    }
    assert!(child.try_wait().unwrap().is_none(), "the first signal does not end the process");
    send(&child, "-INT");
    assert_eq!(wait(child).code(), Some(130));
}
