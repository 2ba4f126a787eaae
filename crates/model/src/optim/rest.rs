//! How an optimizer of matrices treats everything else.

use super::methods::AdamW;
use super::step::{Optimizer, within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// AdamW for the tensors that are no matrices between hidden layers: embedding, head, gates, convolutions, norms, starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rest {
    /// Their learning rate over that of the matrices.
    pub rate: f64,
    /// As in [`AdamW`].
    pub beta1: f64,
    /// As in [`AdamW`].
    pub beta2: f64,
    /// As in [`AdamW`].
    pub eps: f64,
    /// As in [`AdamW`].
    pub weight_decay: f64,
}

impl Default for Rest {
    fn default() -> Self {
        // What AdamW does with them when it has all of them.
        let AdamW { beta1, beta2, eps, weight_decay } = AdamW::default();
        Self { rate: 1.0, beta1, beta2, eps, weight_decay }
    }
}

impl Rest {
    /// The optimizer that treats them.
    pub fn adamw(&self) -> AdamW {
        let &Self { rate: _, beta1, beta2, eps, weight_decay } = self;
        AdamW { beta1, beta2, eps, weight_decay }
    }

    pub(super) fn check(&self) -> Result<()> {
        within("rest.rate", self.rate, 0.0, 1e6)?;
        self.adamw().check().map_err(|e| match e {
            Error::Config { key, reason } => Error::config(key.replacen("optimizer.", "optimizer.rest.", 1), reason),
            other => other,
        })
    }
}
