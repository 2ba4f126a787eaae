//! The step whose residual is taken at its own end: `W' = Wd - rate r(W' k, v) k^T`, the minimiser of the loss and
//! half the squared distance to the decayed memory [Longhorn v1 sec.3]. Stable for every rate.

use super::{Algorithm, Solve};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Implicit {}

impl Implicit {
    /// Name in configs and tables.
    pub const NAME: &'static str = "implicit";
}

impl Algorithm for Implicit {
    fn solve(&self) -> Solve {
        Solve::Implicit
    }
}
