//! Decay towards the learned start instead of zero, so that a deep memory cannot fade into the state from which no
//! gradient leads. An extension of ours; recommended for deep memories.

use super::{Pull, Retention};
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
}
