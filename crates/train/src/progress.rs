//! What a person sees while a run works: a bar with the step line on a terminal, plain lines elsewhere.

use crate::human;
use crate::log::Step;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};

/// Seconds between two plain lines.
const PLAIN_SECS: f64 = 10.0;
/// Weight of the newest step in the smoothed seconds per step.
const SMOOTHING: f64 = 0.1;

/// Shows the progress of a run on standard error.
pub struct Progress {
    out: Out,
    total: u64,
    /// Steps seen by this process.
    seen: u64,
    secs_per_step: f64,
    since_line: f64,
}

enum Out {
    Bar(ProgressBar),
    Plain(Box<dyn Write + Send>),
    Quiet,
}

impl Progress {
    /// For a run of `total` steps of which `done` are done: a bar if standard error is a terminal, otherwise a
    /// line every ten seconds; with `quiet` nothing at all.
    pub fn new(total: u64, done: u64, quiet: bool) -> Self {
        let out = if quiet {
            Out::Quiet
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{wide_msg}\n{bar:40} {percent:>3} %  {prefix}")
                .expect("the template is valid");
            bar.set_style(style.progress_chars("━╸ "));
            bar.set_position(done);
            Out::Bar(bar)
        } else {
            Out::Plain(Box::new(io::stderr()))
        };
        Self::over(out, total)
    }

    /// Plain lines into `out`, for tests and for callers that have a place of their own.
    pub fn plain(total: u64, out: impl Write + Send + 'static) -> Self {
        Self::over(Out::Plain(Box::new(out)), total)
    }

    fn over(out: Out, total: u64) -> Self {
        Self { out, total, seen: 0, secs_per_step: f64::NAN, since_line: f64::INFINITY }
    }

    /// Shows a step. Plain lines come for the first step, the last one, and every ten seconds of step time.
    pub fn step(&mut self, step: &Step) {
        self.seen += 1;
        // The first step warms up caches and is slower, so the second one replaces it.
        let weight = if self.seen <= 2 { 1.0 } else { SMOOTHING };
        self.secs_per_step = (1.0 - weight) * self.secs_per_step.max(0.0) + weight * step.secs;
        self.since_line += step.secs;
        let due = self.since_line >= PLAIN_SECS || step.step >= self.total;
        let left = human::secs(self.secs_left(step.step));
        match &mut self.out {
            Out::Bar(bar) => {
                bar.set_position(step.step);
                bar.set_message(step_line(step, self.total));
                bar.set_prefix(format!("{left} left"));
            }
            // A closed pipe must not end a run.
            Out::Plain(out) if due && step.step < self.total => {
                drop(writeln!(out, "{}  {left} left", step_line(step, self.total)));
            }
            Out::Plain(out) if due => drop(writeln!(out, "{}", step_line(step, self.total))),
            _ => {}
        }
        if due {
            self.since_line = 0.0;
        }
    }

    /// Estimated seconds until the last step, from smoothed step times; NaN before the first one.
    pub fn secs_left(&self, done: u64) -> f64 {
        self.secs_per_step * self.total.saturating_sub(done) as f64
    }

    /// Shows text (a sample, a measurement) above the bar.
    pub fn say(&mut self, text: &str) {
        match &mut self.out {
            Out::Bar(bar) => bar.println(text),
            Out::Plain(out) => drop(writeln!(out, "{text}")),
            Out::Quiet => {}
        }
    }

    /// Removes the bar; what was said stays.
    pub fn finish(&mut self) {
        match &mut self.out {
            Out::Bar(bar) => bar.finish_and_clear(),
            Out::Plain(out) => drop(out.flush()),
            Out::Quiet => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The step line: `step 120/600  loss 1.532  2.21 bits/byte  grad 0.84  26.6 k tok/s  41 % peak`.
pub fn step_line(step: &Step, total: u64) -> String {
    let width = total.to_string().len();
    let mut line = format!(
        "step {:>width$}/{total}  loss {:.3}  {:.3} bits/byte  grad {:.2}  {} tok/s",
        step.step,
        step.loss,
        step.bits_per_byte,
        step.grad_norm,
        human::count(step.tokens_per_sec),
    );
    if let Some(share) = step.share_of_peak {
        line += &format!("  {:.0} % peak", 100.0 * share);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn step(step: u64, secs: f64) -> Step {
        Step {
            step,
            secs,
            loss: 1.5324,
            bits_per_byte: 2.2108,
            grad_norm: 0.842,
            tokens_per_sec: 26_600.0,
            share_of_peak: Some(0.412),
            ..Step::default()
        }
    }

    #[test]
    fn the_step_line_says_what_the_design_asks_for() {
        let line = step_line(&step(120, 0.15), 1600);
        assert_eq!(line, "step  120/1600  loss 1.532  2.211 bits/byte  grad 0.84  26.6 k tok/s  41 % peak");
        let unmeasured = Step { share_of_peak: None, ..step(1600, 0.15) };
        assert!(step_line(&unmeasured, 1600).ends_with("26.6 k tok/s"));
    }

    #[test]
    fn plain_lines_come_first_last_and_every_ten_seconds() {
        let out = Shared::default();
        let mut progress = Progress::plain(100, out.clone());
        (1..=100).for_each(|s| progress.step(&step(s, 0.3)));
        let shown: Vec<u64> =
            out.text().lines().map(|l| l[5..].trim_start().split('/').next().unwrap().parse().unwrap()).collect();
        assert_eq!(shown, [1, 35, 69, 100]);
        assert!(out.text().contains("% peak  30 s left\n") && out.text().ends_with("% peak\n"), "{}", out.text());
        assert!(!out.text().contains('\r') && !out.text().contains('\u{1b}'));
    }

    #[test]
    fn the_time_left_follows_the_smoothed_step_time() {
        let mut progress = Progress::plain(1000, Shared::default());
        assert!(progress.secs_left(0).is_nan());
        progress.step(&step(1, 60.0));
        progress.step(&step(2, 0.2));
        assert!((progress.secs_left(2) - 199.6).abs() < 1e-9, "the slow first step is forgotten");
        for s in 3..=200 {
            progress.step(&step(s, if s % 2 == 0 { 0.1 } else { 0.3 }));
        }
        let left = progress.secs_left(200);
        assert!((140.0..180.0).contains(&left), "{left}");
    }

    #[test]
    fn a_broken_pipe_does_not_end_the_run() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        }
        let mut progress = Progress::plain(2, Broken);
        progress.step(&step(1, 1.0));
        progress.say("a sample");
        progress.finish();
    }

    #[test]
    fn quiet_means_no_output_and_still_an_estimate() {
        let mut progress = Progress::new(10, 0, true);
        progress.step(&step(1, 2.0));
        assert_eq!(progress.secs_left(1), 18.0);
    }
}
