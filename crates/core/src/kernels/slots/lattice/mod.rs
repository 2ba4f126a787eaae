//! Kernel of [`Lattice`]. Its state `[dv, dk]` has a slot per column, so that it is taken as it lies.
//!
//! Per token: what the slots say of it (a sum over slots, then one over rows), the step with the lengths behind it, and
//! the read together with the way back to unit length. A state behind a retraction has lengths of one but for rounding;
//! they are taken as they are, as the reference does.

mod backward;
mod forward;

use super::strips::{over_slots, strips};
use super::{LANES, add, anchor, pieces, row, starts};
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::memory::row::{pad, unpad};
use crate::kernels::scratch;
use crate::kernels::vector::{get, put};
use crate::rule::Dims;
use crate::rules::Lattice;
use crate::scan::CHECKPOINT_TOKENS;
use crate::simd::{Simd, Vectorized};
use backward::{Backward, Grads};
use forward::{Forward, Trail, invert, squares};

/// The kernel.
pub(crate) const KERNELS: &[Kernel<Lattice>] = &[Kernel {
    name: "slots",
    about: "token after token, slots side by side in vectors",
    canonical: true,
    is_available: |_, _| true,
    forward,
    backward,
    read,
    column: None,
}];

/// The inputs of a run of tokens; keys and queries padded, `[count, width]`, values `[count, rows]`.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    rule: &'a Lattice,
    pos: u64,
    count: usize,
    width: usize,
    rows: usize,
    key: &'a [f32],
    query: &'a [f32],
    value: &'a [f32],
    /// Empty without retraction.
    retain: &'a [f32],
    rate: &'a [f32],
}

impl<'a> Tokens<'a> {
    /// Tokens `first..first + count` of a sequence; `lists` takes the padded ones.
    fn new(
        rule: &'a Lattice,
        d: Dims,
        seq: Sequence<'a, f32>,
        (first, count): (usize, usize),
        [key, query]: [&'a mut [f32]; 2],
    ) -> Self {
        let (width, last) = (d.dk.next_multiple_of(LANES), first + count);
        pad(&seq.inputs[0][first * d.dk..last * d.dk], d.dk, key, width);
        pad(&seq.inputs[2][first * d.dk..last * d.dk], d.dk, query, width);
        let gates = &seq.inputs[3..];
        let (retain, rate) = if rule.retract { (gates[0], gates[1]) } else { (&[][..], gates[0]) };
        Self {
            rule,
            pos: seq.pos + first as u64,
            count,
            width,
            rows: d.dv,
            key,
            query,
            value: &seq.inputs[1][first * d.dv..last * d.dv],
            retain: retain.get(first..last).unwrap_or_default(),
            rate: &rate[first..last],
        }
    }
    /// Values of a padded matrix.
    fn len(&self) -> usize {
        self.rows * self.width
    }
    fn retain(&self, t: usize) -> f32 {
        self.retain.get(t).copied().unwrap_or(1.0)
    }
    /// Which state of a [`Trail`] with every state the step of token `t` is taken from.
    fn anchor(&self, t: usize) -> usize {
        anchor((self.rule.chunk > 1).then_some(self.rule.chunk), self.pos, t)
    }
}

/// Copies a state into the first states of a trail, and finds their lengths.
struct Enter<'a, 'b> {
    d: Dims,
    state: &'b [f32],
    trail: &'b mut Trail<'a>,
}

impl Vectorized for Enter<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.d.dk.next_multiple_of(LANES);
        let Trail { states, inverses, .. } = self.trail;
        for (matrix, place) in self.state.chunks_exact(self.d.dk * self.d.dv).zip([1, 0]) {
            let to = &mut states[place * self.d.dv * width..(place + 1) * self.d.dv * width];
            pad(matrix, self.d.dk, to, width);
            let inverse = &mut inverses[place * width..(place + 1) * width];
            strips!(S, width, |at| squares(s, at, width, to, inverse));
            invert(s, inverse);
        }
    }
}

/// Copies the padded slots, and the padded anchor where the rule has chunks, into a state.
fn leave(d: Dims, slots: &[f32], anchor: &[f32], state: &mut [f32]) {
    let width = d.dk.next_multiple_of(LANES);
    let (s, rest) = state.split_at_mut(d.dk * d.dv);
    unpad(slots, width, s, d.dk);
    if !rest.is_empty() {
        unpad(anchor, width, rest, d.dk);
    }
}

/// An empty run of tokens: for sizes.
fn sizes(rule: &Lattice, d: Dims) -> Tokens<'_> {
    let (width, rows) = (d.dk.next_multiple_of(LANES), d.dv);
    Tokens { rule, pos: 0, count: 0, width, rows, key: &[], query: &[], value: &[], retain: &[], rate: &[] }
}

fn trail<'a>([states, inverses, moved, along, h, g, b, weights]: [&'a mut [f32]; 8], every: bool) -> Trail<'a> {
    Trail { every, states, inverses, moved, along, h, g, b, weights }
}

/// See [`Kernel::forward`].
fn forward(
    rule: &Lattice,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (z, isa) = (sizes(rule, d), scratch.isa());
    let (len, list) = (z.len(), seq.tokens.min(CHECKPOINT_TOKENS) * z.width);
    let [a, b, c, e, f, g, h, i] = Trail::lens(&z, None);
    let [key, query, a, b, c, e, f, g, h, i] = scratch.take([list, list, a, b, c, e, f, g, h, i]);
    let mut trail = trail([a, b, c, e, f, g, h, i], false);
    isa.run(Enter { d, state, trail: &mut trail });
    for (i, (first, count)) in pieces(seq.tokens).enumerate() {
        if let Some(saved) = &mut saved {
            leave(d, &trail.states[len..], &trail.states[..len], &mut saved[i * state.len()..(i + 1) * state.len()]);
        }
        let wide = count * z.width;
        let x = Tokens::new(rule, d, seq, (first, count), [&mut key[..wide], &mut query[..wide]]);
        let y = &mut y[first * d.dv..(first + count) * d.dv];
        isa.run(Forward { x, trail: &mut trail, y });
    }
    leave(d, &trail.states[len..], &trail.states[..len], state);
}

/// Reads for every token from the state 1 of a trail; `query` is lost.
struct Read<'a> {
    width: usize,
    states: &'a [f32],
    inverse: &'a [f32],
    query: &'a mut [f32],
    rows: usize,
    y: &'a mut [f32],
}

impl Vectorized for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.rows * self.width;
        for (query, y) in self.query.chunks_exact_mut(self.width).zip(self.y.chunks_exact_mut(self.rows)) {
            for c in (0..self.width).step_by(S::LANES) {
                let weight = s.mul(get(s, query, c), get(s, self.inverse, c));
                put(s, query, c, weight);
            }
            over_slots(s, self.width, &self.states[len..2 * len], query, y);
        }
    }
}

/// See [`Kernel::read`].
fn read(rule: &Lattice, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let (z, isa) = (sizes(rule, d), scratch.isa());
    let [a, b, c, e, f, g, h, i] = Trail::lens(&z, None);
    let [query, a, b, c, e, f, g, h, i] = scratch.take([seq.tokens * z.width, a, b, c, e, f, g, h, i]);
    let mut trail = trail([a, b, c, e, f, g, h, i], false);
    isa.run(Enter { d, state: &state[..d.dk * d.dv], trail: &mut trail });
    pad(seq.inputs[2], d.dk, query, z.width);
    let inverse = row(trail.inverses, 1, z.width);
    isa.run(Read { width: z.width, states: trail.states, inverse, query, rows: d.dv, y });
}

/// See [`Kernel::backward`]. States are recomputed piece by piece from those at the pieces' starts.
fn backward(rule: &Lattice, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let (z, isa, most) = (sizes(rule, d), scratch.isa(), seq.tokens.min(CHECKPOINT_TOKENS));
    let mut known = scratch::borrow();
    let starts = starts(KERNELS[0].forward, rule, d, seq, ct.start, &mut known, scratch);
    let (list, len) = (most * z.width, z.len());
    let anchor = if rule.chunk > 1 { len } else { 0 };
    let mut grads = scratch::borrow();
    let [slots, anchor, dkey, dquery, dvalue, dretain, drate, l0, l1, l2, l3, l4, l5] = grads.take([
        len,
        anchor,
        list,
        list,
        most * z.rows,
        most,
        most,
        z.width,
        z.width,
        z.width,
        z.width,
        z.width,
        z.width,
    ]);
    let mut lanes = [l0, l1, l2, l3, l4, l5];
    let [a, b, c, e, f, g, h, i] = Trail::lens(&z, Some(most));
    let [key, query, a, b, c, e, f, g, h, i] = scratch.take([list, list, a, b, c, e, f, g, h, i]);
    let mut trail = trail([a, b, c, e, f, g, h, i], true);
    let (ds, danchor) = ct.dstate.split_at_mut(d.dk * d.dv);
    pad(ds, d.dk, slots, z.width);
    pad(danchor, d.dk, anchor, z.width);
    for ((first, count), start) in pieces(seq.tokens).zip(starts.chunks_exact(ct.start.len())).rev() {
        let wide = count * z.width;
        let x = Tokens::new(rule, d, seq, (first, count), [&mut key[..wide], &mut query[..wide]]);
        isa.run(Enter { d, state: start, trail: &mut trail });
        isa.run(Forward { x, trail: &mut trail, y: &mut [] });
        let d = Grads {
            slots: &mut *slots,
            anchor: &mut *anchor,
            key: &mut *dkey,
            query: &mut *dquery,
            value: &mut *dvalue,
            retain: &mut dretain[..x.retain.len()],
            rate: &mut *drate,
            lanes: lanes.each_mut().map(|list| &mut **list),
        };
        isa.run(Backward { x, trail: &mut trail, dy: &ct.dy[first * x.rows..(first + count) * x.rows], d });
        let at = (first, count);
        add(ct.dinputs[0], seq.tokens, at, dkey, z.width);
        add(ct.dinputs[1], seq.tokens, at, dvalue, z.rows);
        add(ct.dinputs[2], seq.tokens, at, dquery, z.width);
        let gates = if rule.retract { [&*dretain, &*drate] } else { [&*drate; 2] };
        for (to, from) in ct.dinputs[3..].iter_mut().zip(gates) {
            add(to, seq.tokens, at, from, 1);
        }
    }
    leave(d, slots, anchor, ct.dstate);
}
