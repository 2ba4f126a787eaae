//! Decay towards zero: local and global squared distance [Miras v1 eq.7], [Titans v1 eq.13].
//!
//! Unlike the derivation, where both follow from one pair of weights, `retain` and `rate` are free of one another.

use super::{Pull, Retention};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct L2 {}

impl L2 {
    /// Name in configs and tables.
    pub const NAME: &'static str = "l2";
}

impl Retention for L2 {
    fn pull(&self) -> Pull {
        Pull::Zero
    }
}
