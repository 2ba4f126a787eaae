//! What a classifier is, and how it learns.
//!
//! Unknown keys and values are errors that list the known ones. Every default is in one `Default`, with its reason.

use crate::config::{
    Arrangement, BlockConfig, ChannelConfig, CmsConfig, CmsLevel, MAX_LENGTH, MAX_WIDTH, MixerConfig, ModelConfig,
    Objective, Reduction, sized,
};
use crate::error::{Error, Result};
use crate::optim::methods::{AdamW, AnyOptimizer};
use serde::{Deserialize, Serialize};

/// Most tasks that a classifier tells apart.
const MAX_TASKS: usize = 1 << 12;

/// A classifier of vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// Numbers of a sample.
    pub features: usize,
    /// What the stream is turned into.
    pub heads: Heads,
    /// A learned row for each task, added to every token of a sample.
    pub task_embedding: bool,
    /// Equal parts into which a sample is cut; each is a token, and the prediction is read at the last.
    pub patches: usize,
    /// Width of the stream.
    pub width: usize,
    /// The blocks, first to last: how deep, and how wide the perceptrons and memories inside them are. A level of a
    /// continuum memory is stepped once in as many samples as its period says, and always where its rate is 0.
    pub blocks: Vec<BlockConfig>,
    /// How it learns.
    pub learning: Learning,
}

/// What the stream is turned into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Heads {
    /// One head for all tasks.
    Shared {
        /// Classes.
        classes: usize,
        /// Tasks that are told apart in training: by their embedding, and by where decay pulls to.
        tasks: usize,
    },
    /// A head for every task.
    PerTask {
        /// Classes of each task.
        classes: Vec<usize>,
    },
}

impl Heads {
    /// Number of tasks.
    pub fn tasks(&self) -> usize {
        match self {
            Heads::Shared { tasks, .. } => *tasks,
            Heads::PerTask { classes } => classes.len(),
        }
    }
    /// Classes of every head.
    pub fn classes(&self) -> Vec<usize> {
        match self {
            Heads::Shared { classes, .. } => vec![*classes],
            Heads::PerTask { classes } => classes.clone(),
        }
    }
    /// The head of a task.
    pub fn of(&self, task: usize) -> usize {
        match self {
            Heads::Shared { .. } => 0,
            Heads::PerTask { .. } => task,
        }
    }
}

/// How a classifier learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Learning {
    /// What steps the parameters.
    pub optimizer: AnyOptimizer,
    /// Size of a step.
    pub rate: f64,
    /// In a call of several passes the rate falls evenly from pass to pass, to this share of it.
    pub final_rate: f64,
    /// Samples of a step.
    pub batch: usize,
    /// Bound on the length of a gradient; 0 for none.
    pub clip: f64,
    /// Bring every feature to mean 0 and deviation 1 by the samples of the first call, at most four deviations away.
    pub standardize: bool,
    /// Projections that stay as they were drawn.
    pub freeze: Vec<Projection>,
    /// Samples kept to be learned from again: an even draw of all that came.
    pub replay: usize,
    /// Kept samples in a step, as a share of the new ones.
    pub replay_share: f64,
    /// The share of the distance to `decay_towards` that a step of rate 1 takes away from matrices.
    pub decay: f64,
    /// Where decay pulls to.
    pub decay_towards: DecayTowards,
    /// The least probability of a prediction that is learned from as if it were a label.
    pub confidence: f64,
    /// Samples without labels that are predicted before some of them are learned from.
    pub chunk: usize,
}

/// A projection inside mixers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// To keys.
    K,
    /// To values.
    V,
    /// To queries.
    Q,
}

impl Projection {
    /// How names of its weights end.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Projection::K => ".k.weight",
            Projection::V => ".v.weight",
            Projection::Q => ".q.weight",
        }
    }
}

/// Where decay pulls to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayTowards {
    /// Zero.
    #[default]
    Zero,
    /// What the parameters were before the first sample of the task at hand.
    TaskStart,
}

impl Default for Learning {
    fn default() -> Self {
        // Decay is a setting of its own here, so that it can pull to another place than zero. The rate is that of small
        // models in this crate; a tenth of it at the end keeps the last batches from having the last word. Batches of 32
        // leave a few hundred samples some tens of steps per pass. Two of three samples of a step are new.
        Self {
            optimizer: AnyOptimizer::AdamW(AdamW { beta2: 0.999, weight_decay: 0.0, ..AdamW::default() }),
            rate: 3e-3,
            final_rate: 0.1,
            batch: 32,
            clip: 1.0,
            standardize: true,
            freeze: Vec::new(),
            replay: 0,
            replay_share: 0.5,
            decay: 0.01,
            decay_towards: DecayTowards::Zero,
            confidence: 0.9,
            chunk: 32,
        }
    }
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        // Blocks without a mixer: a sample of one token has nothing to mix.
        Self {
            features: 64,
            heads: Heads::Shared { classes: 10, tasks: 1 },
            task_embedding: false,
            patches: 1,
            width: 64,
            blocks: vec![levels_block(128, &[32, 128, 512])],
            learning: Learning::default(),
        }
    }
}

/// A block of perceptrons, one behind the other, that are stepped once in so many samples.
pub(super) fn levels_block(hidden: usize, periods: &[u64]) -> BlockConfig {
    let level = |&period: &u64| CmsLevel { period: Some(period), ..CmsLevel::default() };
    let cms = CmsConfig { hidden: Some(hidden), levels: periods.iter().map(level).collect(), ..CmsConfig::default() };
    BlockConfig { repeat: 1, mixer: MixerConfig::None, channel: ChannelConfig::Cms(cms), ..BlockConfig::default() }
}

impl ClassifierConfig {
    /// The blocks with `repeat` written out.
    pub fn expanded(&self) -> Vec<BlockConfig> {
        self.as_model().expanded()
    }

    /// A model of the same blocks, whose checks then hold here too.
    fn as_model(&self) -> ModelConfig {
        ModelConfig { width: self.width, blocks: self.blocks.clone(), ..ModelConfig::default() }
    }

    /// Refuses what cannot be built, naming the key.
    ///
    /// # Errors
    /// [`Error::Config`], or [`Error::Core`] where a rule refuses.
    pub fn check(&self) -> Result<()> {
        sized("features", self.features, MAX_LENGTH)?;
        sized("patches", self.patches, MAX_LENGTH)?;
        if !self.features.is_multiple_of(self.patches) {
            let reason = format!("{} features cannot be cut into {} equal parts", self.features, self.patches);
            return Err(Error::config("patches", reason));
        }
        self.check_heads()?;
        sized("width", self.width, MAX_WIDTH)?;
        self.as_model().check_blocks()?;
        let blocks = self.expanded();
        if self.patches > 1 && blocks.iter().all(|block| block.mixer == MixerConfig::None) {
            let reason =
                "without a mixer the last part would be all that is seen; give a block a mixer or set patches = 1";
            return Err(Error::config("patches", reason));
        }
        for (i, block) in blocks.iter().enumerate() {
            if let ChannelConfig::Cms(cms) = &block.channel {
                check_levels(&format!("blocks.{i}.channel"), cms)?;
            }
        }
        self.learning.check()
    }

    fn check_heads(&self) -> Result<()> {
        sized("heads.tasks", self.heads.tasks(), MAX_TASKS)?;
        let mut classes = self.heads.classes().into_iter();
        classes.try_for_each(|n| sized("heads.classes", n, MAX_WIDTH))
    }
}

/// A level of a classifier is stepped by the optimizer, whatever its period: what it would learn inside a sequence has no
/// meaning in one sample.
fn check_levels(key: &str, cms: &CmsConfig) -> Result<()> {
    let refuse = |name: &str, why: &str| Err(Error::config(format!("{key}.{name}"), why));
    match cms.arrangement {
        Arrangement::Nested => {
            return refuse("arrangement", "`nested` starts levels anew inside a sequence; use `sequential`");
        }
        Arrangement::Headwise => {
            return refuse(
                "arrangement",
                "levels of `headwise` share a matrix, which has one pace here; use `independent`",
            );
        }
        Arrangement::Sequential | Arrangement::Independent => {}
    }
    if cms.objective != Objective::Task {
        return refuse("objective", "levels of a classifier learn from its labels; use `task`");
    }
    if cms.reduction != Reduction::Mean {
        return refuse("reduction", "steps of a classifier go by means; use `mean`, and `learning.rate` for the size");
    }
    if cms.gate.is_some() {
        return refuse("gate", "a classifier learns from every sample that it is given; leave the gate out");
    }
    let plain = CmsConfig {
        hidden: cms.hidden,
        kind: cms.kind,
        arrangement: cms.arrangement,
        levels: cms.levels.clone(),
        ..CmsConfig::default()
    };
    if *cms != plain {
        let why = "levels here are stepped by the optimizer: leave out learn_rates, learn_periods, meta, consolidation and \
                   replay (`learning.replay` keeps samples)";
        return refuse("levels", why);
    }
    for (i, level) in cms.levels.iter().enumerate() {
        // A level with rate 0 is a perceptron, here as elsewhere.
        let rate = if level.rate == 0.0 { 0.0 } else { CmsLevel::default().rate };
        if *level != (CmsLevel { period: level.period, rate, ..CmsLevel::default() }) {
            let why =
                "a level of a classifier has a period, or the rate 0 of a perceptron; the rest is under `learning`";
            return refuse(&format!("levels.{i}"), why);
        }
    }
    Ok(())
}

impl Learning {
    fn check(&self) -> Result<()> {
        self.optimizer.check()?;
        if self.optimizer.needs_inputs() {
            let reason = format!(
                "`{}` goes by the inputs of matrices, which a classifier does not gather",
                self.optimizer.name()
            );
            return Err(Error::config("learning.optimizer", reason));
        }
        let within = |name: &str, x: f64, low: f64, high: f64| {
            let reason = || format!("{x} is not between {low} and {high}");
            if (low..=high).contains(&x) { Ok(()) } else { Err(Error::config(format!("learning.{name}"), reason())) }
        };
        within("rate", self.rate, 0.0, 1e3)?;
        within("final_rate", self.final_rate, 0.0, 1.0)?;
        within("clip", self.clip, 0.0, f64::MAX)?;
        within("replay_share", self.replay_share, 0.0, 1e3)?;
        within("decay", self.decay, 0.0, 1e3)?;
        within("confidence", self.confidence, 0.0, 1.0)?;
        sized("learning.batch", self.batch, MAX_LENGTH)?;
        sized("learning.chunk", self.chunk, MAX_LENGTH)?;
        sized("learning.replay", self.replay.max(1), MAX_LENGTH)?;
        if self.rate * self.decay > 1.0 {
            return Err(Error::config("learning.decay", format!("{} at rate {} overshoots", self.decay, self.rate)));
        }
        Ok(())
    }
}
