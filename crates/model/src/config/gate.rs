//! A gate on surprise: of the levels of a continuum memory, and of the memories of mixers.

use crate::error::{Error, Result};
use hecate_core::AnyRule;
use hecate_core::rules::SurpriseGated;
use hecate_core::rules::surprise_gated::Signal;
use serde::{Deserialize, Serialize};

/// Lets a memory learn from tokens that surprise, and skips the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurpriseGate {
    /// What says how much a token surprises.
    pub signal: Surprise,
    /// Tokens below it are skipped.
    pub threshold: f64,
}

/// What says how much a token surprises. All of them are of one token, whatever stands around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surprise {
    /// Euclidean norm: of the gradient of what a level puts out; of what a token would change in a mixer's memory.
    Norm,
    /// Loss of the token's successor in nats; in a mixer, half the squared distance of what the memory recalls under the
    /// token's key from its value.
    Loss,
    /// Entropy of the prediction in nats; not in mixers.
    Entropy,
}

impl SurpriseGate {
    pub(super) fn check(&self, key: &str) -> Result<()> {
        match self.threshold.is_finite() && self.threshold >= 0.0 {
            true => Ok(()),
            false => {
                let reason = format!("{} is not a number of at least 0", self.threshold);
                Err(Error::config(format!("{key}.threshold"), reason))
            }
        }
    }

    /// Refuses what no memory inside a mixer knows.
    pub(super) fn check_mixer(&self, key: &str) -> Result<()> {
        if self.signal == Surprise::Entropy {
            let reason = "\"entropy\" is that of the next token's distribution, which a memory inside a mixer does not \
                          know: use \"norm\" or \"loss\"";
            return Err(Error::config(format!("{key}.signal"), reason));
        }
        self.check(key)
    }

    /// The rule behind this gate.
    pub(super) fn around(&self, rule: AnyRule) -> AnyRule {
        let signal = match self.signal {
            Surprise::Norm => Signal::Norm,
            Surprise::Loss => Signal::Loss,
            Surprise::Entropy => unreachable!("the configuration was checked"),
        };
        SurpriseGated { rule: Box::new(rule), signal, threshold: self.threshold }.into()
    }
}
