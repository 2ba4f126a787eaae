//! Named rules of the literature that are settings of [`Miras`].

use super::structure::Mlp;
use super::{Miras, algorithm};

/// A named rule.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name in configs and tables.
    pub name: &'static str,
    /// Its recurrence, on one line.
    pub equation: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    settings: fn() -> Miras,
}

impl Preset {
    /// The preset of that name.
    pub(super) fn named(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|p| p.name == name)
    }

    /// The rule, under the preset's name.
    pub fn rule(&self) -> Miras {
        Miras { name: self.name, ..(self.settings)() }
    }
}

/// Every named rule.
pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "titans_mlp",
        equation: "S' = momentum S - rate G(W); W' = retain W + S'; y = q + LN(W1' gelu(W2' q))",
        source: "[Titans v1 eq.13]",
        settings: || Miras {
            structure: Mlp::default().into(),
            algorithm: algorithm::Momentum::default().into(),
            ..Miras::default()
        },
    },
    Preset {
        name: "titans_mlp_chunk8",
        equation: "titans_mlp with gradients at the start of chunks of 8",
        source: "[Titans v1 eq.16]",
        settings: || Miras {
            structure: Mlp::default().into(),
            algorithm: algorithm::Momentum::default().into(),
            chunk: 8,
            ..Miras::default()
        },
    },
];
