//! Gradient descent with momentum [Titans v1 eq.10]. Unlike in the paper's first
//! table [Miras v1 sec.4], there is one minus sign in all.

use super::Algorithm;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Momentum {}

impl Momentum {
    /// Name in configs and tables.
    pub const NAME: &'static str = "momentum";
}

impl Algorithm for Momentum {
    fn momentum(&self) -> bool {
        true
    }
}
