//! Decay towards the learned start instead of zero, so that a deep memory cannot fade into the state from which no
//! gradient leads. An extension of ours; recommended for deep memories.

use super::{Pull, Retention, Start, Tensor};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct L2Anchor {}

impl L2Anchor {
    /// Name in configs and tables.
    pub const NAME: &'static str = "l2_anchor";
}

impl Retention for L2Anchor {
    fn pull(&self) -> Pull {
        Pull::Start
    }
    // A memory that would start at zero starts small instead: there must be something to come back to.
    fn start(&self, t: &Tensor) -> Start {
        match t.start {
            Start::Zero => Start::Learned { deviation: 0.1 * (t.columns as f64).powf(-0.5) },
            start => start,
        }
    }
}
