//! A memory of a mixer: its rule, its levels, its gate.

use super::{MAX_LEVELS, MAX_WIDTH, SurpriseGate, check_persistent, is_zero, sized};
use crate::error::{Error, Result};
use hecate_core::rules::Paced;
use hecate_core::{Activation, AnyRule, Dims};
use serde::{Deserialize, Serialize};

/// A memory and what makes its inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// The rule: a name, or a table with `name` and its settings.
    pub rule: AnyRule,
    /// Independent memories.
    pub heads: usize,
    /// Width of keys and queries; `width / heads` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_width: Option<usize>,
    /// Width of values; `width / heads` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_width: Option<usize>,
    /// Taps of the short causal convolution on keys, values and queries; 0 leaves it out.
    pub conv: usize,
    /// Levels that are read together, fastest first; `rule` alone where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<LevelConfig>,
    /// How the reads of levels are added up.
    #[serde(skip_serializing_if = "is_scaled")]
    pub combine: CombineConfig,
    /// Tokens that are not written, by any level; all are written where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<SurpriseGate>,
    /// Learned rows that the memory takes before the first token; where it is part of another mixer, that one has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub persistent: usize,
}

/// One level of a memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelConfig {
    /// Its rule; that of the memory where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<AnyRule>,
    /// Tokens from one change to the next; 1, 8, 64, 512 and so on by the place in the list where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
}

/// How the reads of levels are added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CombineConfig {
    /// As they are.
    Sum,
    /// Divided by the root of their number, beyond two.
    #[default]
    Scaled,
    /// Times learned numbers that start at one.
    Learned,
}

impl CombineConfig {
    /// The fixed weight of each of so many levels; what learned ones start from.
    pub(crate) fn scale(self, levels: usize) -> f64 {
        match self {
            CombineConfig::Scaled if levels > 2 => (levels as f64).powf(-0.5),
            _ => 1.0,
        }
    }
}

fn is_scaled(combine: &CombineConfig) -> bool {
    *combine == CombineConfig::Scaled
}

impl Default for MemoryConfig {
    fn default() -> Self {
        // Four taps, as in the models that the papers compare with.
        let rule = AnyRule::named("titans").expect("titans is registered");
        Self {
            rule,
            heads: 4,
            key_width: None,
            value_width: None,
            conv: 4,
            levels: Vec::new(),
            combine: CombineConfig::Scaled,
            gate: None,
            persistent: 0,
        }
    }
}

impl MemoryConfig {
    /// Size of one head in a stream of `width`.
    pub fn dims(&self, width: usize) -> Dims {
        let share = width / self.heads.max(1);
        Dims::new(self.key_width.unwrap_or(share), self.value_width.unwrap_or(share))
    }

    /// What every level runs, fastest first: its rule behind the gate, and behind that the period. The gate goes by what a
    /// token alone would change, so that a skipped token adds nothing to what a period gathers.
    pub(crate) fn wrapped_rules(&self) -> Vec<AnyRule> {
        let wrap = |(rule, period): (AnyRule, u64)| {
            let rule = match &self.gate {
                Some(gate) => gate.around(rule),
                None => rule,
            };
            match period {
                1 => rule,
                _ => AnyRule::from(Paced { rule: Box::new(rule), period }),
            }
        };
        self.rules().into_iter().map(wrap).collect()
    }

    /// Rule and period of every level, fastest first; one with period 1 where the config lists none.
    pub fn rules(&self) -> Vec<(AnyRule, u64)> {
        if self.levels.is_empty() {
            return vec![(self.rule.clone(), 1)];
        }
        let level = |(i, level): (usize, &LevelConfig)| {
            let rule = level.rule.clone().unwrap_or_else(|| self.rule.clone());
            (rule, level.period.unwrap_or(8_u64.saturating_pow(i as u32)))
        };
        self.levels.iter().enumerate().map(level).collect()
    }

    /// Levels are listed fastest first; a period that is longer than one needs a rule without one.
    fn check_levels(&self, key: &str, dims: Dims) -> Result<()> {
        if self.levels.len() > MAX_LEVELS {
            let reason = format!("{} levels are more than this build allows, which is {MAX_LEVELS}", self.levels.len());
            return Err(Error::config(format!("{key}.levels"), reason));
        }
        if let Some(gate) = &self.gate {
            gate.check_mixer(&format!("{key}.gate"))?;
        }
        let rules = self.rules();
        for (i, ((_, period), wrapped)) in rules.iter().zip(self.wrapped_rules()).enumerate() {
            let key = if self.levels.is_empty() { format!("{key}.rule") } else { format!("{key}.levels.{i}") };
            if i > 0 && *period < rules[i - 1].1 {
                let reason =
                    format!("{period} is shorter than {} of the level before: list the fastest first", rules[i - 1].1);
                return Err(Error::config(format!("{key}.period"), reason));
            }
            wrapped.check(dims).map_err(Error::core(key))?;
        }
        Ok(())
    }

    pub(super) fn check(&self, key: &str, width: usize) -> Result<()> {
        sized(&format!("{key}.heads"), self.heads, MAX_WIDTH)?;
        let given = self.key_width.is_some() && self.value_width.is_some();
        if !given && !width.is_multiple_of(self.heads) {
            let reason = format!("{} does not divide width = {width}; set key_width and value_width", self.heads);
            return Err(Error::config(format!("{key}.heads"), reason));
        }
        let dims = self.dims(width);
        sized(&format!("{key}.key_width"), dims.dk, MAX_WIDTH)?;
        sized(&format!("{key}.value_width"), dims.dv, MAX_WIDTH)?;
        if self.conv > 64 {
            return Err(Error::config(format!("{key}.conv"), "more than 64 taps is no short convolution"));
        }
        check_persistent(key, self.persistent)?;
        self.check_levels(key, dims)?;
        for (rule, _) in self.rules() {
            let shares = rule.inputs().iter().any(|i| i.activation == Activation::Share);
            if shares && self.heads.checked_mul(dims.dk) != Some(width) {
                let (name, heads) = (rule.name(), self.heads);
                let reason = format!(
                    "rule `{name}` takes the stream itself, a share per head: {heads} heads of {} are not width = {width}",
                    dims.dk
                );
                return Err(Error::config(format!("{key}.heads"), reason));
            }
        }
        Ok(())
    }

    /// As part of another mixer.
    pub(super) fn check_part(&self, key: &str, width: usize) -> Result<()> {
        if self.persistent > 0 {
            let reason = "the mixer itself has the persistent rows: set `persistent` there";
            return Err(Error::config(format!("{key}.persistent"), reason));
        }
        self.check(key, width)
    }
}
