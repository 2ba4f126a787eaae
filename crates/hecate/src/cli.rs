//! Commands and their arguments; help, completions and the man page are made from these.

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Sequence models that keep learning while they run.
#[derive(Debug, Parser)]
#[command(name = "hecate", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Threads to use; all cores where absent.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model, on the embedded novel unless told otherwise.
    #[command(alias = "build")]
    Train(Train),
    /// Continue a text, token by token, learning as it goes if a state is given.
    Generate(Generate),
    /// Measure bits per byte on a text.
    Eval(Eval),
    /// Look into weights, a checkpoint, a state or a config.
    Inspect(Inspect),
    /// Add a block or a level to a trained model.
    Grow(Grow),
    /// List the memory rules.
    Rules(Rules),
    /// List the optimizers and their settings.
    Optimizers(Optimizers),
    /// Measure this machine and the kernels on it.
    Bench(Bench),
    /// Run an experiment on what memories can do, or list the experiments.
    Experiment(Experiment),
    /// Say what this machine offers and whether everything works here.
    Doctor(Doctor),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct Train {
    /// A preset (`default`, `transformer`, ..) or a TOML file, then changes such as `train.steps=200`.
    #[arg(value_name = "CONFIG | KEY=VALUE")]
    pub config: Vec<String>,
    /// A text file or a folder of them.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Where the run is written; a new folder under `runs/` where absent.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Go on with an interrupted run.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "data", "out", "dry_run"])]
    pub resume: Option<PathBuf>,
    /// Write TensorBoard event files beside the log.
    #[arg(long)]
    pub tensorboard: bool,
    /// Print the resolved config, which parameters get which treatment and the memory estimate, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `grow`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("growth").required(true).args(["block", "level", "memory_level"])))]
pub struct Grow {
    /// A run folder or a checkpoint.
    pub model: PathBuf,
    /// Where the grown model is written: a folder that does not exist.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// One more block behind this one, counted from 0.
    #[arg(long, value_name = "BLOCK")]
    pub block: Option<usize>,
    /// One more level in every channel, which changes once in so many tokens.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub level: Option<u64>,
    /// One more level of the memory of every mixer that has one, which changes once in so many tokens.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub memory_level: Option<u64>,
    /// What the new part starts from, but for what leads from it, which starts at zero.
    #[arg(long, value_enum, default_value_t = StartArg::Cloned)]
    pub start: StartArg,
    /// Seed of a random start.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a new part starts from.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StartArg {
    /// The block, or the level beside it.
    Cloned,
    /// New numbers.
    Random,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// A run folder or a checkpoint; the newest run under `runs/` where absent.
    pub model: Option<PathBuf>,
    /// Text to continue; a line break where absent.
    #[arg(long, short)]
    pub prompt: Option<String>,
    /// A file with the text to continue.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Tokens to generate at most.
    #[arg(long, short = 'n', value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Divides the logits; 0 always takes the likeliest token.
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Keep the so many likeliest tokens; 0 keeps all.
    #[arg(long, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens that together have this probability.
    #[arg(long, allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Seed of the draws.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Stop after this text; may be given several times.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// A learned state: continued from where it exists, written back when done (with `--access learn`).
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// What the call may write.
    #[arg(long, value_enum, default_value_t = AccessArg::Learn)]
    pub access: AccessArg,
    /// Print text, tokens and the state's hash as JSON instead of streaming.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// A run folder or a checkpoint.
    pub model: PathBuf,
    /// A text file or folder; the text that the run held out where absent.
    pub text: Option<PathBuf>,
    /// What the memories may do while they read the text.
    #[arg(long, value_enum, default_value_t = AccessArg::Learn)]
    pub access: AccessArg,
    /// A learned state to start from; with `--access learn` it is written back.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Tokens of a piece in the measurement by position; twice the training context where absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub piece: Option<u32>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a call may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessArg {
    /// Memories write, and the state file is written back.
    Learn,
    /// Memories write into a copy; the state file stays as it is.
    Read,
    /// Memories are read and never written: the ablation.
    Frozen,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A `.safetensors` file, a run folder, a checkpoint folder; with `--config` a preset or config file.
    pub file: String,
    /// Show what a config describes: parameters, memory and floating-point operations per token.
    #[arg(long)]
    pub config: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rules`.
#[derive(Debug, Args)]
pub struct Rules {
    /// One rule with all its settings; the list where absent.
    #[arg(conflicts_with = "markdown")]
    pub name: Option<String>,
    /// Print the table of the README.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `optimizers`.
#[derive(Debug, Args)]
pub struct Optimizers {
    /// One optimizer with all its settings; the list where absent.
    #[arg(conflicts_with = "markdown")]
    pub name: Option<String>,
    /// Print the table of the documents.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Only rows whose name contains this.
    pub filter: Option<String>,
    /// Print the table as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `experiment`.
#[derive(Debug, Args)]
pub struct Experiment {
    /// Which one, or `all`; the list where absent.
    pub name: Option<String>,
    /// Seeds, where something is left to chance.
    #[arg(long, value_name = "N", default_value_t = hecate_train::experiment::SEEDS as u16,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub seeds: u16,
    /// Where the figures are written.
    #[arg(long, value_name = "FOLDER", default_value = "runs/experiments")]
    pub out: PathBuf,
    /// Print a document with tables, verdicts and figures.
    #[arg(long, conflicts_with = "json", requires = "name")]
    pub markdown: bool,
    /// Bring the part of such a document up to date.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "markdown"], requires = "name")]
    pub update: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print the facts as JSON.
    #[arg(long)]
    pub json: bool,
}
