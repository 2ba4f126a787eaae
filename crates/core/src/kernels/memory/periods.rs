//! Kernel of [`crate::rules::Paced`] over the rules of this family.
//!
//! Between two changes the memory stands still, so that the tokens of a stretch are taken together. Beside W and S stand the
//! error buffers E and F:
//!
//! ```text
//! u  = rate (v - erase W k)
//! E' = E + (retain - 1) W + momentum S + u k^T
//! F' = F + (momentum - 1) S + u k^T                       where there is momentum
//! W' = W + E / period,  S' = S + F / period,  E = F = 0   at the last token of a period
//! y  = W q                                                from W' at that token
//! ```
//!
//! The way back goes through stretches from the last to the first, from the memory that each of them read. Gradients of E
//! and F pass a stretch as they are, and come from those of W and S at a change:
//!
//! ```text
//! dE = dW / period,  dF = dS / period                     at a change
//! D = dE + dF is the gradient of sum u k^T                see `still`
//! dretain = dE . W,  dmomentum = D . S                    the same for every token of a stretch; + derase of `still`
//! dW += sum (retain - 1) dE,  dS += sum momentum dE + sum (momentum - 1) dF
//! ```
//!
//! What E gathers is added token by token: hence the same bits for any cut.

use super::still::{Gradients, Rows, Still, add_scaled, inner, scale_rows, scaled};
use super::{Form, Tokens, form_of};
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::replay;
use crate::kernels::vector::{get, kernel, put};
use crate::rule::Dims;
use crate::rules::Paced;
use crate::scan::CHECKPOINT_TOKENS;
use crate::simd::Isa;

/// The kernel of the rule.
pub(crate) const KERNELS: &[Kernel<Paced>] = &[Kernel {
    name: "periods",
    about: "the tokens between two changes of a matrix at once",
    canonical: true,
    is_available: |rule, _| form_of(&rule.rule).is_some(),
    forward,
    backward,
    read,
    column: None,
}];

/// Vectors of a row that stay in registers while tokens pass.
const STRIP: usize = 4;

/// What a pass over a sequence needs to know.
#[derive(Clone, Copy)]
struct Pass<'a> {
    rule: &'a Paced,
    memory: Still,
    x: Tokens<'a>,
    pos: u64,
}

/// Tokens between which the memory stands still.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    first: usize,
    x: Tokens<'a>,
    /// The last of them changes the memory.
    due: bool,
}

impl<'a> Pass<'a> {
    fn new(rule: &'a Paced, d: Dims, seq: Sequence<'a, f32>, isa: Isa) -> Self {
        let form = form_of(&rule.rule).expect("the kernel was asked whether it is available");
        Self { rule, memory: Still { form, d, isa }, x: Tokens::new(form, d, seq), pos: seq.pos }
    }

    /// The tokens from `first` on: to the next change, the next kept state or the end.
    fn stretch(&self, first: usize) -> Stretch<'a> {
        let pos = self.pos + first as u64;
        let most = (CHECKPOINT_TOKENS - first % CHECKPOINT_TOKENS).min(self.x.count - first);
        let count = self.rule.until_due(pos).min(most as u64) as usize;
        let x = self.x.part(self.memory.d, first, count);
        Stretch { first, x, due: self.rule.is_due(pos + count as u64 - 1) }
    }

    /// The first token of the stretch that ends before `last`: behind a change, a kept state or the start of the sequence.
    fn begin(&self, last: usize) -> usize {
        let since_change = self.rule.since_due(self.pos + last as u64 - 1);
        last - 1 - since_change.min(((last - 1) % CHECKPOINT_TOKENS) as u64) as usize
    }

    /// Writes the tokens of a stretch; `p` and `u` are `[tokens, dv]` of scratch.
    fn write(&self, at: Stretch<'_>, state: &mut [f32], p: &mut [f32], u: &mut [f32]) {
        let Still { form, d, isa } = self.memory;
        let (memory, error) = state.split_at_mut(state.len() / 2);
        let (p, u) = (&mut p[..at.x.count * d.dv], &mut u[..at.x.count * d.dv]);
        self.memory.lacks(at.x, memory, p, u);
        scale_rows(isa, at.x.rate, u);
        gather(isa, form, d, at.x, u, memory, error);
        if at.due {
            add_scaled(isa, self.rule.share(), error, memory);
            error.fill(0.0);
        }
    }
}

/// See [`Kernel::forward`].
fn forward(
    rule: &Paced,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let pass = Pass::new(rule, d, seq, scratch.isa());
    let rows = CHECKPOINT_TOKENS.min(seq.tokens) * d.dv;
    let [p, u] = scratch.take([rows, rows]);
    let mut first = 0;
    while first < seq.tokens {
        replay::keep(&mut saved, first, state);
        let at = pass.stretch(first);
        let (before, last) = (at.x.count - usize::from(at.due), first + at.x.count);
        let (y, y_due) = y[first * d.dv..last * d.dv].split_at_mut(before * d.dv);
        let (q, q_due) = at.x.q.split_at(before * d.dk);
        pass.memory.through(q, state, y);
        pass.write(at, state, p, u);
        pass.memory.through(q_due, state, y_due);
        first = last;
    }
}

/// See [`Kernel::read`].
fn read(rule: &Paced, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    Pass::new(rule, d, seq, scratch.isa()).memory.through(seq.inputs[2], state, y);
}

/// See [`Kernel::backward`].
fn backward(rule: &Paced, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let pass = Pass::new(rule, d, seq, scratch.isa());
    let (half, rows) = (ct.start.len() / 2, CHECKPOINT_TOKENS.min(seq.tokens) * d.dv);
    let (mut first, mut stretches) = (0, 0);
    while first < seq.tokens {
        (first, stretches) = (first + pass.stretch(first).x.count, stretches + 1);
    }
    // The memory before every stretch, and behind the last; the state that makes them.
    let lens = [(stretches + 1) * half, 2 * half, rows, rows, rows, rows, pass.memory.matrix()];
    let [memories, state, p, e, u, du, both] = scratch.take(lens);
    state.copy_from_slice(ct.start);
    memories[..half].copy_from_slice(&state[..half]);
    first = 0;
    for kept in memories.chunks_exact_mut(half).skip(1) {
        let at = pass.stretch(first);
        pass.write(at, state, p, u);
        kept.copy_from_slice(&state[..half]);
        first += at.x.count;
    }
    let mut rows = Rows { p, e, u, du };
    let mut last = seq.tokens;
    for i in (0..stretches).rev() {
        let around = [&memories[i * half..(i + 1) * half], &memories[(i + 1) * half..(i + 2) * half]];
        let at = pass.stretch(pass.begin(last));
        let mut grads = Gradients::of(pass.memory, at.first, at.x.count, ct.dinputs);
        let dy = &ct.dy[at.first * d.dv..last * d.dv];
        pass.stretch_backward(at, around, dy, &mut grads, ct.dstate, (&mut rows, both));
        last = at.first;
    }
}

impl Pass<'_> {
    /// Transpose of a stretch between the memories before and behind it; `dstate` goes from behind to before.
    fn stretch_backward(
        &self,
        at: Stretch<'_>,
        [before, behind]: [&[f32]; 2],
        dy: &[f32],
        grads: &mut Gradients<'_>,
        dstate: &mut [f32],
        (rows, both): (&mut Rows<'_>, &mut [f32]),
    ) {
        let Still { form, d, isa } = self.memory;
        let (dmemory, derror) = dstate.split_at_mut(before.len());
        let quiet = at.x.count - usize::from(at.due);
        let ((dy, dy_due), (q, q_due)) = (dy.split_at(quiet * d.dv), at.x.q.split_at(quiet * d.dk));
        let (dq, dq_due) = grads.q.split_at_mut(quiet * d.dk);
        if at.due {
            self.memory.read_backward(dy_due, q_due, behind, dq_due, dmemory);
            scaled(isa, self.rule.share(), dmemory, derror);
        }
        self.memory.read_backward(dy, q, before, dq, dmemory);
        let (de, df) = derror.split_at(self.memory.matrix());
        both.copy_from_slice(de);
        if form.momentum {
            add_scaled(isa, 1.0, df, both);
        }
        self.memory.write_backward(at.x, before, both, grads, dmemory, rows);
        self.gates_backward(at.x, before, grads, dmemory, [de, df, both]);
    }

    /// The part of it that goes through `retain` and `momentum`.
    fn gates_backward(
        &self,
        x: Tokens<'_>,
        memory: &[f32],
        grads: &mut Gradients<'_>,
        dmemory: &mut [f32],
        [de, df, both]: [&[f32]; 3],
    ) {
        let (Still { form, isa, .. }, matrix) = (self.memory, self.memory.matrix());
        let ((w, s), (dw, ds)) = (memory.split_at(matrix), dmemory.split_at_mut(matrix));
        if form.retain {
            let along = inner(isa, de, w);
            grads.retain.iter_mut().for_each(|dretain| *dretain += along);
            add_scaled(isa, x.retain.iter().map(|r| r - 1.0).sum(), de, dw);
        }
        if form.momentum {
            let along = inner(isa, both, s);
            grads.momentum.iter_mut().for_each(|dmomentum| *dmomentum += along);
            add_scaled(isa, x.momentum.iter().sum(), de, ds);
            add_scaled(isa, x.momentum.iter().map(|m| m - 1.0).sum(), df, ds);
        }
    }
}

kernel! {
    /// What tokens add to the error buffers, token by token.
    fn gather(s: S, form: Form, d: Dims, x: Tokens<'a>, u: &'a [f32], memory: &'a [f32], error: &'a mut [f32]) {
        let (w, m) = memory.split_at(d.dk * d.dv);
        let (e, f) = error.split_at_mut(d.dk * d.dv);
        let one = s.splat(1.0);
        for (i, e) in e.chunks_exact_mut(d.dk).enumerate() {
            let row = i * d.dk..(i + 1) * d.dk;
            let (w, m) = (&w[row.clone()], m.get(row.clone()).unwrap_or_default());
            let f = f.get_mut(row).unwrap_or_default();
            for first in (0..d.dk).step_by(STRIP * S::LANES) {
                let zero = [s.splat(0.0); STRIP];
                let (mut es, mut fs, mut ws, mut ms) = (zero, zero, zero, zero);
                for j in 0..STRIP {
                    let c = first + j * S::LANES;
                    (es[j], ws[j]) = (get(s, e, c), get(s, w, c));
                    // What is not there must not be touched: a masked load outside of all memory is slow.
                    if form.momentum {
                        (fs[j], ms[j]) = (get(s, f, c), get(s, m, c));
                    }
                }
                for t in 0..x.count {
                    let (k, by) = (&x.k[t * d.dk..(t + 1) * d.dk], s.splat(u[t * d.dv + i]));
                    if form.retain {
                        let less = s.sub(s.splat(x.retain[t]), one);
                        for j in 0..STRIP {
                            es[j] = s.fma(less, ws[j], es[j]);
                        }
                    }
                    if form.momentum {
                        let kept = s.splat(x.momentum[t]);
                        let less = s.sub(kept, one);
                        for j in 0..STRIP {
                            es[j] = s.fma(kept, ms[j], es[j]);
                            fs[j] = s.fma(by, get(s, k, first + j * S::LANES), s.fma(less, ms[j], fs[j]));
                        }
                    }
                    for j in 0..STRIP {
                        es[j] = s.fma(by, get(s, k, first + j * S::LANES), es[j]);
                    }
                }
                for j in 0..STRIP {
                    let c = first + j * S::LANES;
                    put(s, e, c, es[j]);
                    if form.momentum {
                        put(s, f, c, fs[j]);
                    }
                }
            }
        }
    }
}
