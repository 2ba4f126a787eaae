//! A continuum memory system as a channel part.

use super::{BlockConfig, ChannelConfig, MAX_LEVELS, MlpConfig, MlpKindConfig, SurpriseGate, sized};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Longest period that a file can name.
const MAX_PERIOD: u64 = i64::MAX as u64;
/// Most pairs that a level keeps, or draws at once.
const MAX_REPLAY: usize = 1 << 16;

/// Perceptrons whose weights a sequence changes while it is read, each at its own pace [NestedLearning v1 eq.71].
///
/// Weights are `theta + delta`: `theta` is learned by the optimizer, `delta` belongs to the sequence and starts at zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CmsConfig {
    /// Hidden width of every perceptron, or of the one that `headwise` shares out; as in [`MlpConfig`] where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// The non-linearity.
    pub kind: MlpKindConfig,
    /// How the levels stand to each other.
    pub arrangement: Arrangement,
    /// What a level's weights are changed to lower.
    pub objective: Objective,
    /// Whether a step goes by the sum of the gradients of a period or by their mean.
    pub reduction: Reduction,
    /// With `nested`: what a level starts a longer period from learns at the pace of that period.
    #[serde(skip_serializing_if = "is_false")]
    pub online: bool,
    /// Tokens from which nothing is learned; all are learned from where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<SurpriseGate>,
    /// Learn the size of every level's step: `rate` is then where it starts. Levels that the optimizer steps keep theirs.
    #[serde(skip_serializing_if = "is_false")]
    pub learn_rates: bool,
    /// Learn when levels change, the fastest aside: at every change of that one each may change, if its gate opens. Gates
    /// start as the periods have it. Levels that the optimizer steps keep their periods.
    #[serde(skip_serializing_if = "is_false")]
    pub learn_periods: bool,
    /// What gradients go through.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: Meta,
    /// Keep a slow copy of what every level adds; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consolidation: Option<Consolidation>,
    /// Learn again from earlier tokens at every change; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// The levels, fastest first.
    pub levels: Vec<CmsLevel>,
}

/// What the gradients of a training step go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meta {
    /// What a level has learned from is a constant: gradients reach the weights, and learned rates, through `delta` alone.
    #[default]
    FirstOrder,
    /// Through every change too, exactly, second derivatives and all: the work grows with the square of the sequence, in
    /// double precision by the reference. For short sequences, and to judge `first_order` by.
    Unroll,
}

/// A slow copy of what a level has added: `stable = keep stable + (1 - keep) delta` at every change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consolidation {
    /// The share of the copy that a change keeps.
    pub keep: f64,
    /// What is read.
    #[serde(default)]
    pub reads: Reads,
}

/// What is read of a level that keeps a slow copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// `theta + delta + stable`.
    #[default]
    Both,
    /// `theta + delta`; the copy is what `nested` starts a level from.
    Fast,
}

/// Pairs of what a perceptron took and what it should have given, kept in the state and learned again.
///
/// What it should have given is its output, moved against the gradient of that time by its length: half the squared
/// distance from there has that gradient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Pairs that are kept, the newest ones.
    pub size: usize,
    /// Pairs that are drawn at a change.
    pub draw: usize,
    /// What their mean gradient counts beside that of the period's tokens.
    pub weight: f64,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Replay {
    fn default() -> Self {
        // As many pairs as a slice has tokens, out of a context, counted like the new ones.
        Self { size: 512, draw: 64, weight: 1.0, seed: 0 }
    }
}

fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

fn is_false(x: &bool) -> bool {
    !x
}

/// How the levels of a continuum memory stand to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrangement {
    /// One behind the other, fastest first, each with its norm and its residual [NestedLearning v1 eq.73].
    #[default]
    Sequential,
    /// Side by side, added up with learned weights that start at one over their number [NestedLearning v1 eq.74].
    Independent,
    /// As `sequential`; after every period of a level, the next faster one starts anew [NestedLearning v1 eq.72].
    Nested,
    /// One perceptron; every level has a share of its hidden units.
    Headwise,
}

/// What the weights of a level are changed to lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The loss of the next token, along the column of the token.
    #[default]
    Task,
    /// Half the mean squared distance of what the perceptron gives from what it takes.
    LocalL2,
}

/// What a step goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean of the gradients of a period's tokens.
    #[default]
    Mean,
    /// Their sum, as the paper has it: rates go with one over the period.
    Sum,
}

/// One level of a continuum memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CmsLevel {
    /// Tokens from one change to the next; 8, 64, 512 and so on by the place in the list where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// Size of a step inside a training sequence; 0 for a level that stands still. A level whose period is no shorter
    /// than the context is stepped by the optimizer there.
    pub rate: f64,
    /// Size of a step outside of training; `rate` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serve_rate: Option<f64>,
    /// Steps over which the rate rises to its value, after a reset.
    #[serde(skip_serializing_if = "is_zero")]
    pub warmup: u64,
    /// The share of what the sequence added that a step takes away.
    #[serde(skip_serializing_if = "is_nothing")]
    pub decay: f64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}
fn is_nothing(x: &f64) -> bool {
    *x == 0.0
}

impl Default for CmsConfig {
    fn default() -> Self {
        // The periods of [NestedLearning v1 sec.7.1] at the sizes of this project.
        Self {
            hidden: None,
            kind: MlpKindConfig::default(),
            arrangement: Arrangement::default(),
            objective: Objective::default(),
            reduction: Reduction::default(),
            online: false,
            gate: None,
            learn_rates: false,
            learn_periods: false,
            meta: Meta::default(),
            consolidation: None,
            replay: None,
            levels: vec![CmsLevel::default(); 3],
        }
    }
}

impl Default for CmsLevel {
    fn default() -> Self {
        Self { period: None, rate: 0.01, serve_rate: None, warmup: 0, decay: 0.0 }
    }
}

impl CmsLevel {
    /// Size of a step outside of training.
    pub fn serve_rate(&self) -> f64 {
        self.serve_rate.unwrap_or(self.rate)
    }
    /// Whether a sequence ever changes it.
    pub fn moves(&self) -> bool {
        self.rate > 0.0 || self.serve_rate() > 0.0
    }

    fn check(&self, key: &str) -> Result<()> {
        if self.period.is_some_and(|p| p == 0 || p > MAX_PERIOD) {
            return Err(Error::config(
                format!("{key}.period"),
                "must be at least 1; `rate = 0` for one that stands still",
            ));
        }
        for (name, rate) in [("rate", self.rate), ("serve_rate", self.serve_rate())] {
            if !(rate.is_finite() && rate >= 0.0) {
                return Err(Error::config(format!("{key}.{name}"), format!("{rate} is not a number of at least 0")));
            }
        }
        if !(0.0..=1.0).contains(&self.decay) {
            return Err(Error::config(format!("{key}.decay"), format!("{} is not between 0 and 1", self.decay)));
        }
        Ok(())
    }
}

impl CmsConfig {
    /// The perceptron of one level, or the one that `headwise` shares out.
    pub fn mlp(&self) -> MlpConfig {
        MlpConfig { hidden: self.hidden, kind: self.kind }
    }

    /// The period of every level, fastest first.
    pub fn periods(&self) -> Vec<u64> {
        let period = |(i, level): (usize, &CmsLevel)| level.period.unwrap_or(8_u64.saturating_pow(i as u32 + 1));
        self.levels.iter().enumerate().map(period).collect()
    }

    /// What can be added to the levels, and beside what it means nothing.
    fn check_additions(&self, key: &str) -> Result<()> {
        let no = |name: &str, reason: String| Err(Error::config(format!("{key}.{name}"), reason));
        let headwise = self.arrangement == Arrangement::Headwise;
        if self.learn_rates {
            if headwise {
                return no("learn_rates", "levels of `headwise` share their matrices: use another arrangement".into());
            }
            if self.online {
                return no(
                    "learn_rates",
                    "not beside `online`, whose start steps too: set `rate` of every level".into(),
                );
            }
            if self.consolidation.is_some() {
                return no("learn_rates", "not beside `consolidation`: set `rate` of every level".into());
            }
            if let Some(i) = self.levels.iter().position(|level| level.serve_rate.is_some()) {
                return no(&format!("levels.{i}.serve_rate"), "rates are learned: leave it out".into());
            }
        }
        if self.learn_periods {
            let decays = self.levels.iter().any(|level| level.decay > 0.0);
            let beside = [
                ("arrangement = \"headwise\"", headwise),
                ("arrangement = \"nested\"", self.arrangement == Arrangement::Nested),
                ("meta = \"unroll\"", self.meta == Meta::Unroll),
                ("consolidation", self.consolidation.is_some()),
                ("replay", self.replay.is_some()),
                ("levels.decay", decays),
            ];
            if let Some((what, _)) = beside.iter().find(|(_, there)| *there) {
                return no("learn_periods", format!("not beside `{what}`, which goes by fixed periods"));
            }
            if self.levels.len() == 1 {
                return no("learn_periods", "the fastest level keeps its period, and there is no other".into());
            }
        }
        if self.meta == Meta::Unroll {
            let reason = |what: &str| format!("\"unroll\" goes through the task's loss alone: not with `{what}`");
            let with = [
                ("objective = \"local_l2\"", self.objective == Objective::LocalL2),
                ("consolidation", self.consolidation.is_some()),
                ("replay", self.replay.is_some()),
                ("arrangement = \"headwise\"", headwise),
            ];
            if let Some((what, _)) = with.iter().find(|(_, there)| *there) {
                return no("meta", reason(what));
            }
        }
        if let Some(c) = &self.consolidation {
            if !(0.0..1.0).contains(&c.keep) {
                return no("consolidation.keep", format!("{} is not at least 0 and below 1", c.keep));
            }
            if c.reads == Reads::Fast && (self.arrangement != Arrangement::Nested || self.online) {
                let reason =
                    "nothing would read the copy: use \"both\", or `nested` without `online`, which starts from it";
                return no("consolidation.reads", reason.into());
            }
        }
        if let Some(replay) = &self.replay {
            if headwise {
                return no("replay", "levels of `headwise` share one perceptron: use another arrangement".into());
            }
            sized(&format!("{key}.replay.size"), replay.size, MAX_REPLAY)?;
            sized(&format!("{key}.replay.draw"), replay.draw, MAX_REPLAY)?;
            if !(replay.weight.is_finite() && replay.weight > 0.0) {
                return no("replay.weight", format!("{} is not a number above 0", replay.weight));
            }
        }
        Ok(())
    }

    pub(super) fn check(&self, key: &str, width: usize) -> Result<()> {
        sized(&format!("{key}.hidden"), self.mlp().hidden(width), 16 * super::MAX_WIDTH)?;
        sized(&format!("{key}.levels"), self.levels.len(), MAX_LEVELS)?;
        for (i, level) in self.levels.iter().enumerate() {
            level.check(&format!("{key}.levels.{i}"))?;
        }
        let periods = self.periods();
        if let Some(i) = (1..periods.len()).find(|&i| periods[i] < periods[i - 1]) {
            let reason = format!(
                "{} is shorter than {} of the level before: list the fastest first",
                periods[i],
                periods[i - 1]
            );
            return Err(Error::config(format!("{key}.levels.{i}.period"), reason));
        }
        if self.online && self.arrangement != Arrangement::Nested {
            return Err(Error::config(format!("{key}.online"), "only `nested` starts a level anew"));
        }
        self.check_additions(key)?;
        if let Some(gate) = &self.gate {
            gate.check(&format!("{key}.gate"))?;
        }
        let hidden = self.mlp().hidden(width);
        if self.arrangement == Arrangement::Headwise && !hidden.is_multiple_of(self.levels.len()) {
            let reason = format!("{hidden} hidden units cannot be shared out among {} levels", self.levels.len());
            return Err(Error::config(format!("{key}.hidden"), reason));
        }
        Ok(())
    }
}

/// What continuum memories ask of each other, and of mixers.
pub(super) fn check_together(blocks: &[BlockConfig]) -> Result<()> {
    let mut metas = blocks.iter().enumerate().filter_map(|(i, block)| match &block.channel {
        ChannelConfig::Cms(cms) => Some((i, cms.meta)),
        _ => None,
    });
    let Some((first, meta)) = metas.next() else { return Ok(()) };
    if let Some((i, _)) = metas.find(|(_, other)| *other != meta) {
        let reason =
            format!("another one than that of block {first}: gradients go through all changes of a model or none");
        return Err(Error::config(format!("blocks.{i}.channel.meta"), reason));
    }
    if let Some(i) = blocks.iter().position(BlockConfig::sees_ahead) {
        let reason = "continuum memories learn from tokens as they come, and mac with causal = false lets a token see \
                      those behind it; use causal = true";
        return Err(Error::config(format!("blocks.{i}.mixer.causal"), reason));
    }
    Ok(())
}
