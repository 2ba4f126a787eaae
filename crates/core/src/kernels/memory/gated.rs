//! Kernel of [`crate::rules::SurpriseGated`] over the rules of this family, token by token.
//!
//! A token's change is made beside the memory and measured there, or what it lacks is; where it surprises, it is the memory's
//! next state. The way back goes over the states before and behind every token, and passes the tokens that were skipped:
//!
//! ```text
//! W' = retain W + S',  S' = momentum S + u k^T            without momentum S' = u k^T
//! D = dW' + dS' is the gradient of u k^T                  see `still`
//! dretain = dW' . W (+ derase where it is what erases),  dmomentum = D . S,  dW = retain dW' + ..,  dS = momentum D
//! ```
//!
//! Where the reference squares in double precision, this squares in single: next to the threshold, and for movements
//! whose square is no number of that precision, a token may be decided otherwise.

use super::still::{Gradients, Rows, Still, add_scaled, inner, scale_rows, scaled};
use super::{Erase, Form, Tokens, form_of};
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::replay;
use crate::kernels::vector::{get, kernel, put};
use crate::rule::Dims;
use crate::rules::SurpriseGated;
use crate::rules::surprise_gated::Signal;
use crate::simd::Isa;

/// The kernel of the rule.
pub(crate) const KERNELS: &[Kernel<SurpriseGated>] = &[Kernel {
    name: "gated",
    about: "a matrix's change is made beside it and measured",
    canonical: true,
    is_available: |rule, _| form_of(&rule.rule).is_some(),
    forward,
    backward,
    read,
    column: None,
}];

/// What a pass over a sequence needs to know.
#[derive(Clone, Copy)]
struct Pass<'a> {
    rule: &'a SurpriseGated,
    memory: Still,
    x: Tokens<'a>,
}

/// Scratch of a token: what is predicted, what is written, and the memory that it would make.
struct Room<'a> {
    p: &'a mut [f32],
    u: &'a mut [f32],
    next: &'a mut [f32],
}

impl<'a> Pass<'a> {
    fn new(rule: &'a SurpriseGated, d: Dims, seq: Sequence<'a, f32>, isa: Isa) -> Self {
        let form = form_of(&rule.rule).expect("the kernel was asked whether it is available");
        Self { rule, memory: Still { form, d, isa }, x: Tokens::new(form, d, seq) }
    }

    /// Writes one token, if it surprises; whether it did.
    fn write(&self, x: Tokens<'_>, state: &mut [f32], room: &mut Room<'_>) -> bool {
        let Still { form, d, isa } = self.memory;
        let (memory, counts) = state.split_at_mut(room.next.len());
        self.memory.lacks(x, memory, room.p, room.u);
        // In this order a number that is none is written, for the caller to find.
        let skips = |by: f64| by < self.rule.threshold;
        let mut skipped = self.rule.signal == Signal::Loss && skips(self.loss(x, memory, room.p));
        if !skipped {
            scale_rows(isa, x.rate, room.u);
            let mut moved = 0.0;
            next(isa, form, d, x, room.u, memory, room.next, &mut moved);
            skipped = self.rule.signal == Signal::Norm && skips(moved.sqrt());
        }
        SurpriseGated::count(!skipped, counts);
        if !skipped {
            memory.copy_from_slice(room.next);
        }
        !skipped
    }

    /// `1/2 |p - v|^2`; where something is erased, `p` is predicted already.
    fn loss(&self, x: Tokens<'_>, memory: &[f32], p: &mut [f32]) -> f64 {
        if self.memory.form.erase == Erase::Nothing {
            self.memory.through(x.k, memory, p);
        }
        0.5 * p.iter().zip(x.v).map(|(p, v)| f64::from(p - v).powi(2)).sum::<f64>()
    }
}

/// See [`Kernel::forward`].
fn forward(
    rule: &SurpriseGated,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let pass = Pass::new(rule, d, seq, scratch.isa());
    let [p, u, next] = scratch.take([d.dv, d.dv, state.len() - SurpriseGated::COUNTS]);
    let mut room = Room { p, u, next };
    for (t, y) in y.chunks_exact_mut(d.dv).enumerate() {
        replay::keep(&mut saved, t, state);
        let x = pass.x.part(d, t, 1);
        pass.write(x, state, &mut room);
        pass.memory.through(x.q, state, y);
    }
}

/// See [`Kernel::read`].
fn read(rule: &SurpriseGated, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    Pass::new(rule, d, seq, scratch.isa()).memory.through(seq.inputs[2], state, y);
}

/// See [`Kernel::backward`].
fn backward(rule: &SurpriseGated, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let pass = Pass::new(rule, d, seq, scratch.isa());
    let (n, len, matrix) = (seq.tokens, ct.start.len(), pass.memory.matrix());
    let lens = [replay::room(n, len), n, d.dv, d.dv, d.dv, d.dv, len - SurpriseGated::COUNTS, matrix];
    let [states, open, p, e, u, du, next, both] = scratch.take(lens);
    let Cotangents { start, dy, dinputs, dstate } = ct;
    // Tokens are written twice on the way; one that was skipped the first time needs no asking again.
    open.fill(1.0);
    let mut with = (open, Rows { p, e, u, du }, next, both, dinputs, dstate);
    replay::backward(
        n,
        start,
        states,
        &mut with,
        |(open, rows, next, ..), t, state| {
            if open[t] == 0.0 {
                return SurpriseGated::count(false, &mut state[len - SurpriseGated::COUNTS..]);
            }
            let mut room = Room { p: &mut *rows.p, u: &mut *rows.u, next };
            open[t] = f32::from(pass.write(pass.x.part(d, t, 1), state, &mut room));
        },
        |(open, rows, _, both, dinputs, dstate), t, [before, behind]| {
            let mut grads = Gradients::of(pass.memory, t, 1, dinputs);
            let (dmemory, dcounts) = dstate.split_at_mut(len - SurpriseGated::COUNTS);
            let x = pass.x.part(d, t, 1);
            pass.memory.read_backward(&dy[t * d.dv..(t + 1) * d.dv], x.q, behind, grads.q, dmemory);
            SurpriseGated::count_backward(dcounts);
            if open[t] != 0.0 {
                pass.write_backward(x, before, &mut grads, dmemory, (rows, both));
            }
        },
    );
}

impl Pass<'_> {
    /// Transpose of a token's write onto the memory `before` it; `dmemory` goes from behind to before.
    fn write_backward(
        &self,
        x: Tokens<'_>,
        before: &[f32],
        grads: &mut Gradients<'_>,
        dmemory: &mut [f32],
        (rows, both): (&mut Rows<'_>, &mut [f32]),
    ) {
        let (Still { form, isa, .. }, matrix) = (self.memory, self.memory.matrix());
        let ((w, s), (dw, ds)) = (before.split_at(matrix), dmemory.split_at_mut(matrix));
        both.copy_from_slice(dw);
        if form.momentum {
            add_scaled(isa, 1.0, ds, both);
            grads.momentum[0] += inner(isa, both, &s[..matrix]);
            scaled(isa, x.momentum[0], both, ds);
        }
        if form.retain {
            grads.retain[0] += inner(isa, dw, w);
            scale_rows(isa, x.retain, dw);
        }
        self.memory.write_backward(x, before, both, grads, dmemory, rows);
    }
}

kernel! {
    /// The memory that a token would make, and how far it lies from this one, squared.
    fn next(
        s: S,
        form: Form,
        d: Dims,
        x: Tokens<'a>,
        u: &'a [f32],
        memory: &'a [f32],
        next: &'a mut [f32],
        moved: &'a mut f64,
    ) {
        let (w, m) = memory.split_at(d.dk * d.dv);
        let (next_w, next_m) = next.split_at_mut(d.dk * d.dv);
        let retain = s.splat(if form.retain { x.retain[0] } else { 1.0 });
        let momentum = s.splat(if form.momentum { x.momentum[0] } else { 0.0 });
        for (i, (next_w, &u)) in next_w.chunks_exact_mut(d.dk).zip(u).enumerate() {
            let row = i * d.dk..(i + 1) * d.dk;
            let (w, m) = (&w[row.clone()], m.get(row.clone()).unwrap_or_default());
            let next_m = next_m.get_mut(row).unwrap_or_default();
            let (by, mut sum) = (s.splat(u), s.splat(0.0));
            for c in (0..d.dk).step_by(S::LANES) {
                let (old, wrote) = (get(s, w, c), s.mul(by, get(s, x.k, c)));
                // What is not there must not be touched: a masked load outside of all memory is slow.
                let step = if form.momentum {
                    let old = get(s, m, c);
                    let step = s.fma(momentum, old, wrote);
                    let moved = s.sub(step, old);
                    sum = s.fma(moved, moved, sum);
                    put(s, next_m, c, step);
                    step
                } else {
                    wrote
                };
                let new = s.fma(retain, old, step);
                let moved = s.sub(new, old);
                sum = s.fma(moved, moved, sum);
                put(s, next_w, c, new);
            }
            *moved += f64::from(s.sum(sum));
        }
    }
}
