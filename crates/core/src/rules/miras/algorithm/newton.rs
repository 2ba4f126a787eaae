//! Recursive least squares: the minimiser of all squared errors so far [Mesa v1 sec.3]. The state holds the inverse
//! covariance of the keys, which starts as the identity over `lambda`.

use super::{Algorithm, Solve};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Newton {
    /// How strongly the memory is held where it started.
    pub lambda: f64,
}

impl Default for Newton {
    fn default() -> Self {
        Self { lambda: 1.0 }
    }
}

impl Newton {
    /// Name in configs and tables.
    pub const NAME: &'static str = "newton";
}

impl Algorithm for Newton {
    fn check(&self) -> Result<()> {
        if self.lambda.is_finite() && self.lambda > 0.0 {
            return Ok(());
        }
        let reason = format!("lambda = {}: a number above zero", self.lambda);
        Err(Error::Invalid { place: "algorithm `newton`".into(), reason })
    }
    fn solve(&self) -> Solve {
        Solve::Newton
    }
    fn covariance(&self) -> Option<f64> {
        Some(1.0 / self.lambda)
    }
}
