//! Gradient descent, one step per token.

use super::Algorithm;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gd {}

impl Gd {
    /// Name in configs and tables.
    pub const NAME: &'static str = "gd";
}

impl Algorithm for Gd {}
