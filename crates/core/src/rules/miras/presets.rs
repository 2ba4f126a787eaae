//! Named rules of the literature that are settings of [`Miras`].
//!
//! Chunks are those of training: 64 for memories that gather gradients at their start, 16 where a state per token is
//! formed. `chunk = 1` gives the rule token by token, as papers write it first.

use super::retention::{self, Kl, LqExact, LqLiteral};
use super::structure::{GatedMlp, Mlp};
use super::{Decay, Gates, GradientAt, Miras, algorithm, bias, features};

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

/// Tokens of a chunk whose gradients are products of matrices.
const CHUNK: usize = 64;
/// Tokens of a chunk in which every token forms a state.
const SHORT_CHUNK: usize = 16;
/// Tokens that each write of an Omega rule descends the loss of; [Atlas v1 sec.3.2] names no number.
const WINDOW: usize = 16;

/// Every named rule.
pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "retnet",
        equation: "W' = decay W + rate v kᵀ; y = W' q; one constant decay per head",
        source: "[RetNet v4 sec.2.1]",
        settings: || Miras { decay: Decay::Retnet, ..hebbian() },
    },
    Preset {
        name: "lightning",
        equation: "W' = decay W + rate v kᵀ; y = W' q; one constant decay per head",
        source: "[Lightning v2 sec.3]",
        settings: || Miras { decay: Decay::Lightning, ..hebbian() },
    },
    Preset {
        name: "gla",
        equation: "W' = W diag(retain) + rate v kᵀ; y = W' q",
        source: "[GLA v6 eq.3]",
        settings: || Miras { gates: Gates::Key, ..hebbian() },
    },
    // Its decay, exp(-softplus(a)), is the sigmoid of -a: the activation that `retain` has anyway.
    Preset {
        name: "mamba2",
        equation: "W' = retain W + rate v kᵀ; y = W' q",
        source: "[Mamba2 v1 sec.3]",
        settings: hebbian,
    },
    Preset {
        name: "deltanet",
        equation: "W' = W - rate (W k - v) kᵀ; y = W' q",
        source: "[DeltaNet v6 eq.2]",
        settings: || Miras { retention: retention::None::default().into(), ..Miras::default() },
    },
    // The residual of the step's end: (W k - v) / (1 + rate |k|^2).
    Preset {
        name: "longhorn",
        equation: "W' = W - rate / (1 + rate |k|²) (W k - v) kᵀ; y = W' q",
        source: "[Longhorn v1 sec.3]",
        settings: || Miras {
            retention: retention::None::default().into(),
            algorithm: algorithm::Implicit::default().into(),
            ..Miras::default()
        },
    },
    // The memory fades before its first step, so that a token multiplies it by a product of reflections.
    Preset {
        name: "delta_product",
        equation: "W' = retain W, then twice W' = W' - rateᵢ (W' kᵢ - vᵢ) kᵢᵀ; y = W' q",
        source: "[DeltaProduct v4 eq.3]",
        settings: || Miras { steps: 2, gradient: GradientAt::Decayed, ..Miras::default() },
    },
    Preset {
        name: "mesa",
        equation: "P = P / retain; g = P k / (1 + kᵀP k); W' = W - (W k - v) gᵀ; P' = P - g (P k)ᵀ; y = W' q",
        source: "[Mesa v1 sec.3]",
        settings: || Miras { algorithm: algorithm::Newton::default().into(), ..Miras::default() },
    },
    // Unlike the paper, the matrix is read as it is, without a norm and a residual around it.
    Preset {
        name: "ttt_linear",
        equation: "W' = W - rate (A k - v) kᵀ; y = W' q; A the matrix at the chunk start",
        source: "[TTT v4 sec.2.7]",
        settings: || Miras { retention: retention::None::default().into(), chunk: CHUNK, ..Miras::default() },
    },
    Preset {
        name: "ttt_mlp",
        equation: "W' = W - rate G(A); y = q + LN(W1' gelu(W2' q)); A the memory at the chunk start",
        source: "[TTT v4 sec.2.7]",
        settings: || Miras { retention: retention::None::default().into(), ..deep() },
    },
    Preset {
        name: "titans_mlp",
        equation: "S' = momentum S - rate G(A); W' = retain W + S'; y = q + LN(W1' gelu(W2' q))",
        source: "[Titans v1 eq.13]",
        settings: || Miras { algorithm: algorithm::Momentum::default().into(), ..deep() },
    },
    Preset {
        name: "titans_mlp_chunk8",
        equation: "titans_mlp with gradients at the start of chunks of 8",
        source: "[Titans v1 eq.16]",
        settings: || Miras { algorithm: algorithm::Momentum::default().into(), chunk: 8, ..deep() },
    },
    Preset {
        name: "moneta",
        equation: "Z' = retain Z - rate G(psi(A)), l3 loss; psi(Z) = sign(Z) |Z|³ / norm4(Z)²",
        source: "[Miras v1 eq.24]",
        settings: || Miras { chunk: CHUNK, ..moneta() },
    },
    Preset {
        name: "moneta_exact",
        equation: "moneta token by token",
        source: "[Miras v1 eq.24]",
        settings: moneta,
    },
    // The residual and the map as printed; see `lq_literal` for what the printed map does.
    Preset {
        name: "moneta_literal",
        equation: "Z' = retain Z - rate G(psi(Z)), r = 3 tanh(10 e) (e² + 1e-6); psi(Z) = Z / max(norm4(Z), floor)²",
        source: "[Miras v1 eq.24]",
        settings: || Miras {
            bias: bias::Lp { form: bias::Form::Tanh, ..bias::Lp::default() }.into(),
            retention: LqLiteral::default().into(),
            ..moneta()
        },
    },
    Preset {
        name: "yaad",
        equation: "W' = retain W - rate G(A); r = e while |e| <= threshold, threshold sign(e) beyond",
        source: "[Miras v1 eq.26]",
        settings: || Miras { bias: bias::HuberSwitch::default().into(), ..deep() },
    },
    // Unlike the paper, a chunk is exact in the logits: it needs no first token of its own and never leaves the simplex.
    Preset {
        name: "memora",
        equation: "Z' = retain Z - rate G(psi(A)); psi = n softmax per row",
        source: "[Miras v1 eq.27]",
        settings: || Miras { retention: Kl::default().into(), chunk: SHORT_CHUNK, ..deep() },
    },
    Preset {
        name: "dla",
        equation: "W' = retain W - rate G(A), r = -v; y = q + LN(W1' gelu(W2' q))",
        source: "[Atlas v1 eq.19]",
        settings: || Miras { bias: bias::Dot::default().into(), ..deep() },
    },
    Preset {
        name: "swla",
        equation: "W' = retain W + sumᵢ windowᵢ vᵢ kᵢᵀ over the last 16 tokens; y = W' q",
        source: "[Atlas v1 eq.20]",
        settings: || Miras { window: WINDOW, ..hebbian() },
    },
    Preset {
        name: "omeganet",
        equation: "W' = retain W - sumᵢ windowᵢ Gᵢ(A) over the last 16 tokens; keys through phi of degree 2",
        source: "[Atlas v1 eq.10]",
        settings: || Miras { chunk: CHUNK, ..omega() },
    },
    Preset {
        name: "atlas",
        equation: "S' = momentum S - sumᵢ windowᵢ Gᵢ(A); W' = retain W + ns_rate NS5(S'); keys through phi of degree 2",
        source: "[Atlas v1 eq.32]",
        settings: atlas,
    },
    Preset {
        name: "atlas_plus",
        equation: "atlas with M(W, x) = x + LN(W1 (gelu(W2 phi(x)) * W3 phi(x)))",
        source: "[Atlas v1 eq.43]",
        settings: || Miras { structure: GatedMlp::default().into(), ..atlas() },
    },
];

/// A matrix that adds up associations.
fn hebbian() -> Miras {
    Miras { bias: bias::Dot::default().into(), ..Miras::default() }
}

/// A perceptron with gradients at the start of chunks.
///
/// Unlike the papers of the Omega rules and of `dla`, which norm nothing inside the memory, all named rules with a
/// perceptron normalise what it gives: only then is the memory bounded whatever is written. `norm = false` is their form.
fn deep() -> Miras {
    Miras { structure: Mlp::default().into(), chunk: CHUNK, ..Miras::default() }
}

fn moneta() -> Miras {
    Miras { bias: bias::Lp::default().into(), retention: LqExact::default().into(), chunk: 1, ..deep() }
}

fn omega() -> Miras {
    Miras { features: features::Polynomial::default().into(), window: WINDOW, ..deep() }
}

fn atlas() -> Miras {
    Miras { algorithm: algorithm::Muon::default().into(), chunk: SHORT_CHUNK, ..omega() }
}
