//! Follow the regularised leader: the state gathers every step and forgets none, and the retention's map makes weights of
//! it [Miras v1 sec.3.2]. With weights that are the state it is gradient descent.

use super::Algorithm;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ftrl {}

impl Ftrl {
    /// Name in configs and tables.
    pub const NAME: &'static str = "ftrl";
}

impl Algorithm for Ftrl {
    fn keeps_all(&self) -> bool {
        true
    }
}
