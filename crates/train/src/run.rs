//! A whole run, from its folder to its report: what `hecate train` does.

use crate::checkpoint::Checkpoints;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::eval::{Evaluation, evaluate};
use crate::human;
use crate::interrupt::Interrupt;
use crate::loaded::{describe, export};
use crate::log::{self, LogWriter, PositionBin, Record};
use crate::machine::{Machine, ProcessMemory};
use crate::progress::Progress;
use crate::report;
use crate::run_config::RunConfig;
use crate::run_folder::{self, RunFolder};
use crate::stream::Stream;
use crate::tensorboard::EventWriter;
use crate::tokenizer::Tokenizer;
use crate::trainer::{Estimate, Held, StepReport, Trainer};
use hecate_core::ops::Cpu;
use hecate_model::{Access, Parts, Sampler, State, Workspace, generate};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of a sample printed on the way.
const SAMPLE_TOKENS: usize = 160;

/// What the caller wants besides the config.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Write TensorBoard event files too.
    pub tensorboard: bool,
    /// Show nothing on the way.
    pub quiet: bool,
    /// Single-precision peak of the threads in use, in operations per second, for the share of peak.
    pub peak_flops: Option<f64>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Where it lies.
    pub folder: PathBuf,
    /// Steps done.
    pub step: u64,
    /// False after Ctrl-C.
    pub finished: bool,
    /// Held-out bits per byte with the memories writing.
    pub learn: Option<Evaluation>,
    /// The same with the memories frozen, for models that have some.
    pub frozen: Option<Evaluation>,
    /// A generated text; none of a model whose tokens see those behind them.
    pub sample: Option<String>,
    /// Median tokens per second; none where no step was left to do.
    pub tokens_per_sec: Option<f64>,
    /// Median share of the machine's peak.
    pub share_of_peak: Option<f64>,
    /// Largest resident memory of the process in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

/// A run that is ready for its next step.
pub struct Run {
    folder: RunFolder,
    checkpoints: Checkpoints,
    trainer: Trainer,
    held: Held,
    text: Text,
    log: LogWriter,
    board: Option<EventWriter>,
    options: Options,
    /// Of every step: tokens per second, and the share of the machine's peak.
    speeds: Vec<f64>,
    shares: Vec<f64>,
}

impl Run {
    /// A new run, in `out` or else in a new folder under [`run_folder::DEFAULT_PARENT`] named after `name`. Nothing is
    /// made before the config and the text are known to fit. Checkpoint 0 is written.
    ///
    /// # Errors
    /// A config that cannot run, a text that is too short or unreadable, a folder that is taken, a full disk.
    pub fn create(config: &RunConfig, name: &str, out: Option<&Path>, options: Options) -> Result<Self> {
        let (trainer, held, text) = prepare(config)?;
        let folder = match out {
            Some(folder) => RunFolder::create(folder)?,
            None => RunFolder::create_numbered(Path::new(run_folder::DEFAULT_PARENT), name)?,
        };
        match begin(&folder, &trainer, &text.tokenizer) {
            Ok((checkpoints, log)) => Self::assemble(folder, checkpoints, trainer, held, text, log, options),
            Err(error) => {
                // What there was room for is of no use. That the folder was free was made sure above.
                drop(std::fs::remove_dir_all(folder.path()));
                Err(error)
            }
        }
    }

    /// The run in `folder`, from its newest complete checkpoint.
    ///
    /// # Errors
    /// No such run, no complete checkpoint, another text than the one it was trained on.
    pub fn resume(folder: &Path, options: Options) -> Result<Self> {
        let folder = RunFolder::open(folder)?;
        let config = RunConfig::read(&folder.join(run_folder::RUN_CONFIG))?;
        let (stream, text) = text(&config)?;
        let held = Held::look_up(stream.len() + text.held_out.len());
        let checkpoints = folder.checkpoints()?;
        let (trainer, checkpoints, log) = match checkpoints.latest_complete() {
            // It broke off before it began, where there is nothing to lose.
            Err(Error::NoCheckpoint { found: 0, .. }) if !folder.join(run_folder::LOG).exists() => {
                let trainer = Trainer::new(&config, stream)?;
                let (checkpoints, log) = begin(&folder, &trainer, &text.tokenizer)?;
                (trainer, checkpoints, log)
            }
            found => {
                let trainer = Trainer::resume(&config, stream, &found?)?;
                // What describes the model may have been lost since.
                describe(folder.path(), trainer.model(), &text.tokenizer, &trainer.config().sample)?;
                let (log, _) = LogWriter::resume(&folder.join(run_folder::LOG), trainer.step_count())?;
                (trainer, checkpoints, log)
            }
        };
        Self::assemble(folder, checkpoints, trainer, held, text, log, options)
    }

    fn assemble(
        folder: RunFolder,
        checkpoints: Checkpoints,
        trainer: Trainer,
        held: Held,
        text: Text,
        mut log: LogWriter,
        options: Options,
    ) -> Result<Self> {
        let config = serde_json::to_value(trainer.config()).expect("a config is plain data");
        log.write(&Record::Run(log::Run {
            step: trainer.step_count(),
            version: env!("CARGO_PKG_VERSION").into(),
            unix_secs: unix_secs() as u64,
            config,
            machine: serde_json::to_value(Machine::look_up()).expect("facts are plain data"),
        }))?;
        let board = if options.tensorboard { Some(board(&folder, trainer.step_count())?) } else { None };
        let (speeds, shares) = (Vec::new(), Vec::new());
        Ok(Self { folder, checkpoints, trainer, held, text, log, board, options, speeds, shares })
    }

    /// Where the run lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
    /// The run's trainer.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }
    /// Checkpoints newer than the one that it goes on from, which are damaged; before the first step.
    ///
    /// # Errors
    /// Folders that cannot be listed.
    pub fn passed_over(&self) -> Result<Vec<PathBuf>> {
        self.checkpoints.after(self.trainer.step_count())
    }
    /// What text it reads, in one line.
    pub fn text(&self) -> &str {
        &self.text.about
    }
    /// The memory that the run will take.
    ///
    /// # Errors
    /// As [`Trainer::estimate`].
    pub fn estimate(&mut self) -> Result<Estimate> {
        self.trainer.estimate(self.held)
    }

    /// Trains to the last step, or until Ctrl-C; then measures, samples and reports.
    ///
    /// # Errors
    /// A non-finite value with its place (the last good checkpoint stays), or what the disk says.
    pub fn run(&mut self, interrupt: &Interrupt) -> Result<Outcome> {
        let started = Instant::now();
        match self.work(interrupt, started) {
            Err(Error::Stopped) => self.stop(started),
            other => other,
        }
    }

    /// [`Run::run`] up to [`Error::Stopped`].
    fn work(&mut self, interrupt: &Interrupt, started: Instant) -> Result<Outcome> {
        let train = self.trainer.config().train.clone();
        let mut progress = Progress::new(train.steps, self.trainer.step_count(), self.options.quiet);
        while self.trainer.step_count() < train.steps {
            if interrupt.requested() {
                return Err(Error::Stopped);
            }
            let before = Instant::now();
            let report = self.trainer.step()?;
            self.record(&report, before.elapsed().as_secs_f64(), &mut progress)?;
            let due = |every: u64| every > 0 && report.step % every == 0 && report.step < train.steps;
            if due(train.checkpoint_every) {
                self.trainer.save(&self.checkpoints)?;
            }
            if due(train.sample_every)
                && let Some(text) = self.sample(SAMPLE_TOKENS, interrupt)?
            {
                progress.say(&format!("  | {}", text.trim().replace('\n', "\n  | ")));
            }
        }
        let bytes = self.text.held_out.len();
        progress.say(&format!(
            "all {} steps are done; measuring on {} of held-out text",
            train.steps,
            human::bytes(bytes as u64)
        ));
        progress.finish();
        self.finish(started, interrupt)
    }

    fn record(&mut self, report: &StepReport, secs: f64, progress: &mut Progress) -> Result<()> {
        let tokens_per_sec = report.tokens as f64 / secs;
        let share_of_peak = self.options.peak_flops.map(|peak| tokens_per_sec * flops_per_token(&self.trainer) / peak);
        self.speeds.push(tokens_per_sec);
        self.shares.extend(share_of_peak);
        let step = log::Step {
            step: report.step,
            tokens: report.step * report.tokens,
            loss: report.loss,
            bits_per_byte: report.loss / std::f64::consts::LN_2,
            grad_norm: report.grad_norm,
            lr: report.rate,
            tokens_per_sec,
            share_of_peak,
            secs,
            traces: report.traces.clone(),
        };
        if let Some(board) = &mut self.board {
            let scalars = [("loss", step.loss), ("bits_per_byte", step.bits_per_byte), ("grad_norm", step.grad_norm)];
            let rest = [("lr", step.lr), ("tokens_per_sec", tokens_per_sec)];
            let traces = step.traces.iter().map(|(k, &v)| (k.as_str(), v));
            let all: Vec<(&str, f64)> = scalars.into_iter().chain(rest).chain(traces).collect();
            board.scalars(unix_secs(), step.step, &all)?;
        }
        progress.step(&step);
        self.log.write(&Record::Step(step))
    }

    fn stop(&mut self, started: Instant) -> Result<Outcome> {
        let step = self.trainer.step_count();
        if self.checkpoints.steps()?.last() != Some(&step) {
            self.trainer.save(&self.checkpoints)?;
        }
        self.end("interrupted", started)?;
        report::write(self.folder.path())?;
        Ok(self.outcome(false, None, None, None))
    }

    fn finish(&mut self, started: Instant, interrupt: &Interrupt) -> Result<Outcome> {
        let step = self.trainer.step_count();
        if self.checkpoints.steps()?.last() != Some(&step) {
            self.trainer.save(&self.checkpoints)?;
        }
        let trainer = &self.trainer;
        export(self.folder.path(), trainer.model(), trainer.params())?;
        let (learn, frozen) = self.measure(interrupt)?;
        let sample = self.sample(self.trainer.config().sample.max_tokens, interrupt)?;
        self.end("finished", started)?;
        report::write(self.folder.path())?;
        Ok(self.outcome(true, Some(learn), frozen, sample))
    }

    /// Held-out bits per byte, with the memories writing and with them frozen, side by side.
    fn measure(&mut self, interrupt: &Interrupt) -> Result<(Evaluation, Option<Evaluation>)> {
        let before = Instant::now();
        let (trainer, held_out) = (&self.trainer, &self.text.held_out);
        let piece = 2 * trainer.config().model.context;
        let one = |access: Access| {
            let ops = Cpu::inference().with_parallel(false);
            let mut state = trainer.model().new_state();
            let tick = &mut |_| interrupt.flow();
            evaluate(&ops, trainer.model(), trainer.params(), held_out, &mut state, &access, piece, tick)
        };
        let frozen = || trainer.model().remembers().then(|| one(Access::Frozen(Parts::all()))).transpose();
        let (learn, frozen) = rayon::join(|| one(Access::Learn), frozen);
        let (learn, frozen) = (learn?, frozen?);
        let secs = before.elapsed().as_secs_f64();
        for (name, e) in [("learn", Some(&learn)), ("frozen", frozen.as_ref())] {
            let Some(e) = e else { continue };
            let bin = |p: &crate::eval::Position| PositionBin {
                end: p.to as u64,
                bytes: p.tokens,
                bits_per_byte: p.bits_per_byte,
            };
            self.log.write(&Record::Eval(log::Eval {
                step: self.trainer.step_count(),
                name: name.into(),
                bytes: e.bytes,
                bits_per_byte: e.bits_per_byte,
                by_position: e.by_position.iter().map(bin).collect(),
                secs,
            }))?;
        }
        Ok((learn, frozen))
    }

    /// A short text from a new state; also into the log. None of a model that cannot go token by token.
    fn sample(&mut self, tokens: usize, interrupt: &Interrupt) -> Result<Option<String>> {
        let trainer = &self.trainer;
        if trainer.model().sees_ahead().is_some() {
            return Ok(None);
        }
        let mut sampler = Sampler::new(&trainer.config().sample)?;
        let (mut state, mut ws) = (trainer.model().new_state(), Workspace::default());
        let mut ids = Vec::with_capacity(tokens);
        let mut each = |id| {
            ids.push(id);
            interrupt.flow()
        };
        let (ops, access) = (Cpu::inference(), Access::Learn);
        let (model, params) = (trainer.model(), trainer.params());
        generate(&ops, model, params, &mut state, &[], &mut sampler, tokens, &access, &mut ws, &mut each)?;
        if interrupt.requested() {
            return Err(Error::Stopped);
        }
        let text = String::from_utf8_lossy(&self.text.tokenizer.decode(&ids)?).into_owned();
        let step = self.trainer.step_count();
        self.log.write(&Record::Sample(log::Sample { step, prompt: String::new(), text: text.clone() }))?;
        Ok(Some(crate::tokenizer::printable(&text)))
    }

    fn end(&mut self, reason: &str, started: Instant) -> Result<()> {
        let (step, secs) = (self.trainer.step_count(), started.elapsed().as_secs_f64());
        self.log.write(&Record::End(log::End { step, reason: reason.into(), secs }))
    }

    fn outcome(
        &self,
        finished: bool,
        learn: Option<Evaluation>,
        frozen: Option<Evaluation>,
        sample: Option<String>,
    ) -> Outcome {
        Outcome {
            folder: self.folder.path().to_path_buf(),
            step: self.trainer.step_count(),
            finished,
            learn,
            frozen,
            sample,
            tokens_per_sec: median(&self.speeds),
            share_of_peak: median(&self.shares),
            peak_memory: ProcessMemory::look_up().map(|m| m.peak_bytes),
        }
    }
}

/// Floating-point operations of a token in the step that was made last: the mean over lanes, each of which attends to what
/// its state held before.
fn flops_per_token(trainer: &Trainer) -> f64 {
    let (model, context) = (trainer.model(), trainer.config().model.context);
    let before = |state: &State<f32>| model.flops(context, state.position.saturating_sub(context as u64));
    let lanes = trainer.states();
    3.0 * lanes.iter().map(before).sum::<f64>() / lanes.len() as f64 + model.learning(true).flops
}

fn median(all: &[f64]) -> Option<f64> {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// What a run needs before it has a folder. The config is checked before its text is read.
fn prepare(config: &RunConfig) -> Result<(Trainer, Held, Text)> {
    config.check()?;
    let (stream, text) = text(config)?;
    let held = Held::look_up(stream.len() + text.held_out.len());
    Ok((Trainer::new(config, stream)?, held, text))
}

/// Writes what a new run's folder holds before its first step.
fn begin(folder: &RunFolder, trainer: &Trainer, tokenizer: &Tokenizer) -> Result<(Checkpoints, LogWriter)> {
    let resolved = toml::to_string(trainer.config()).expect("a config is plain data");
    crate::atomic::write(&folder.join(run_folder::RUN_CONFIG), resolved.as_bytes())?;
    describe(folder.path(), trainer.model(), tokenizer, &trainer.config().sample)?;
    let checkpoints = folder.checkpoints()?;
    trainer.save(&checkpoints)?;
    let log = LogWriter::create(&folder.join(run_folder::LOG))?;
    Ok((checkpoints, log))
}

/// A run before it has a folder: what `--dry-run` shows.
pub struct Plan {
    /// What would train.
    pub trainer: Trainer,
    /// What text it would read, in one line.
    pub text: String,
    /// The memory that it would take.
    pub estimate: Estimate,
}

impl Plan {
    /// The plan of a config.
    ///
    /// # Errors
    /// As [`Run::create`], less what a folder can refuse.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let (mut trainer, held, text) = prepare(config)?;
        let estimate = trainer.estimate(held)?;
        Ok(Self { trainer, text: text.about, estimate })
    }
}

/// Seconds since 1970.
fn unix_secs() -> f64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64())
}

/// Event files for TensorBoard, in a folder of their own.
fn board(folder: &RunFolder, step: u64) -> Result<EventWriter> {
    let path = folder.join(run_folder::EVENTS);
    std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
    EventWriter::create(&path, unix_secs(), (step > 0).then_some(step))
}

/// What is known of a run's text besides its training part.
pub(crate) struct Text {
    pub(crate) held_out: Stream,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) about: String,
}

/// The run's text as tokens: the training part and the rest.
pub(crate) fn text(config: &RunConfig) -> Result<(Stream, Text)> {
    let corpus = match &config.data.path {
        Some(path) => Corpus::read(path)?,
        None => Corpus::moby_dick(),
    };
    let tokenizer = Tokenizer::Bytes;
    if config.model.vocab != tokenizer.vocab() {
        let reason =
            format!("`model.vocab` is {}, but the byte tokenizer has {}", config.model.vocab, tokenizer.vocab());
        return Err(Error::Config { origin: "the run's config".into(), reason });
    }
    let (train, held_out) = corpus.split(config.data.held_out)?;
    let stream = |part| Stream::new(&corpus.origin, part, tokenizer, config.data.boundary);
    Ok((stream(train), Text { held_out: stream(held_out), tokenizer, about: corpus.about() }))
}
