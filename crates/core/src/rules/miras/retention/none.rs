//! No retention beyond staying near the last state: plain gradient descent [Miras v1 eq.5-6].

use super::{Pull, Retention};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct None {}

impl None {
    /// Name in configs and tables.
    pub const NAME: &'static str = "none";
}

impl Retention for None {
    fn pull(&self) -> Pull {
        Pull::Keep
    }
}
