//! Kernels of matrix memories that write a matrix of rank one per token: one family, five rules.
//!
//! ```text
//! p  = W k                           prediction
//! c  = rate (v - erase p)            erase: 0 (Nothing), 1 (Previous) or retain (Decayed)
//! S' = momentum S + c k^T            without momentum: S' = c k^T
//! W' = retain W + S'                 without retain: 1
//! y  = W' q
//! ```
//!
//! [`sequential`] takes one pass over the state per token and is canonical; [`chunk`] takes many tokens at once
//! through small matrix products. The first works on the transposed state, `[dk, dv]`, so that every sum over keys
//! runs down the rows and no vector is ever summed across; the second takes the state as it is and turns lists of
//! tokens instead, which are smaller. A call with a single token is not worth a transposition: [`token`] does it in
//! place, with the bits of [`sequential`].
//!
//! Two rules around one of the family have kernels here too: [`periods`] is for memories that change once per period of
//! tokens, [`gated`] for those that skip tokens. Both stand on [`still`], a memory that some tokens meet as it is.
#![allow(unsafe_code)]
// Loops over the rows and vectors of a tile read best by index.
#![allow(clippy::needless_range_loop)]

mod ahead;
mod chunk;
mod chunk_backward;
mod coefficients;
pub(crate) mod gated;
pub(crate) mod periods;
pub(crate) mod row;
mod sequential;
mod solve;
mod still;
pub(in crate::kernels) mod tile;
mod token;

use crate::kernel::{Kernel, Sequence};
use crate::rule::{Dims, MemoryRule};
use crate::rules::{AnyRule, DecayDelta, Delta, GatedDelta, LinearAttention, Titans};

/// Which memory a token's error is taken against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Erase {
    /// None: the value is written as it comes.
    Nothing,
    /// The memory before the token.
    Previous,
    /// The memory before the token, after its decay.
    Decayed,
}

/// A member of the family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// What the error is taken against.
    pub erase: Erase,
    /// Whether the rule has the input `retain`.
    pub retain: bool,
    /// Whether the rule has the input `momentum`, and with it the state `S` behind `W`.
    pub momentum: bool,
}

/// A rule of the family. Its inputs are `k, v, q`, then `retain`, `rate` and `momentum` as far as it has them.
pub(crate) trait RankOne: MemoryRule {
    /// Which member it is.
    const FORM: Form;
}

/// The form of a rule that is one of the family.
fn form_of(rule: &AnyRule) -> Option<Form> {
    Some(match rule {
        AnyRule::LinearAttention(_) => LinearAttention::FORM,
        AnyRule::Delta(_) => Delta::FORM,
        AnyRule::GatedDelta(_) => GatedDelta::FORM,
        AnyRule::DecayDelta(_) => DecayDelta::FORM,
        AnyRule::Titans(_) => Titans::FORM,
        _ => return None,
    })
}

/// The kernels of a rule, in order of measured speed.
pub(crate) const fn kernels<R: RankOne>() -> [Kernel<R>; 2] {
    [
        Kernel {
            name: "sequential",
            about: "one pass over the state per token; chunk form backward",
            canonical: true,
            is_available: |_, _| true,
            forward: sequential::forward,
            backward: chunk_backward::backward,
            read: sequential::read,
            column: None,
        },
        Kernel {
            name: "chunk",
            about: "many tokens at once through a triangular solve and small products",
            canonical: false,
            is_available: |_, _| true,
            forward: chunk::forward,
            backward: chunk_backward::backward,
            read: sequential::read,
            column: None,
        },
    ]
}

/// A sequence's inputs by name; gates that the rule does not have are empty.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    count: usize,
    k: &'a [f32],
    v: &'a [f32],
    q: &'a [f32],
    retain: &'a [f32],
    rate: &'a [f32],
    momentum: &'a [f32],
}

impl<'a> Tokens<'a> {
    fn new(form: Form, d: Dims, seq: Sequence<'a, f32>) -> Self {
        let x = seq.inputs;
        let [retain, rate, momentum] = gate_places(form);
        let gate = |place: Option<usize>| place.map_or(&[][..], |at| x[at]);
        assert!(x[0].len() == seq.tokens * d.dk && x[1].len() == seq.tokens * d.dv && x[2].len() == x[0].len());
        assert!([retain, rate, momentum].into_iter().flatten().all(|at| x[at].len() == seq.tokens));
        Self {
            count: seq.tokens,
            k: x[0],
            v: x[1],
            q: x[2],
            retain: gate(retain),
            rate: gate(rate),
            momentum: gate(momentum),
        }
    }
}

impl<'a> Tokens<'a> {
    /// Tokens `first..first + count`, for rows of these widths.
    fn part(self, d: Dims, first: usize, count: usize) -> Self {
        let last = first + count;
        let (keys, values) = (first * d.dk..last * d.dk, first * d.dv..last * d.dv);
        let gate = |x: &'a [f32]| if x.is_empty() { x } else { &x[first..last] };
        Self {
            count,
            k: &self.k[keys.clone()],
            v: &self.v[values],
            q: &self.q[keys],
            retain: gate(self.retain),
            rate: gate(self.rate),
            momentum: gate(self.momentum),
        }
    }
}

/// Indices of the inputs `retain`, `rate` and `momentum`.
fn gate_places(form: Form) -> [Option<usize>; 3] {
    let rate = 3 + usize::from(form.retain);
    [form.retain.then_some(3), Some(rate), form.momentum.then_some(rate + 1)]
}

/// Lengths of rows are rounded up to this many values, the widest vector, and filled with zeros.
const PAD: usize = 16;

fn padded(n: usize) -> usize {
    n.next_multiple_of(PAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_with_the_kernels_of_the_family_has_a_form_and_no_other() {
        let names = |rule: &AnyRule| rule.kernels(Dims::new(8, 8)).iter().map(|k| k.name).collect::<Vec<_>>();
        let family = |rule: &AnyRule| names(rule) == kernels::<Delta>().map(|k| k.name);
        assert!(AnyRule::all().iter().all(|rule| form_of(rule).is_some() == family(rule)));
        assert_eq!(AnyRule::all().iter().filter(|rule| family(rule)).count(), 5);
    }
}
