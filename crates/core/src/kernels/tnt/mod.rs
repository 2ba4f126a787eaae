//! Kernels of [`Tnt`]: those of its memories, one beside the other.
//!
//! Global and local memories share inputs and the sum of their reads and never meet otherwise, so each runs through a
//! kernel of its own ([`super::miras`]), over pieces that no start of a shard divides. Queries of local memories are
//! brought to where keys were before that, token by token: see [`project`].

mod project;

use crate::kernel::{Cotangents, Kernel, Scratch, Sequence, rows_mut};
use crate::kernels::{miras, scratch};
use crate::rule::Dims;
use crate::rules::Miras;
use crate::rules::tnt::{Places, QUERY, Tnt};
use crate::scan::{CHECKPOINT_TOKENS, MAX_INPUTS, PerInput};
use project::Project;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// The kernels, in order of measured speed.
pub(crate) const KERNELS: &[Kernel<Tnt>] = &[
    Kernel {
        name: "blocks",
        about: "the fastest kernel of every memory",
        canonical: false,
        is_available: |rule, d| Parts::of(rule, d).is_some(),
        forward: forward::<FASTEST>,
        backward,
        read,
        column: None,
    },
    Kernel {
        name: "token",
        about: "the canonical kernel of every memory",
        canonical: true,
        is_available: |rule, d| Parts::of(rule, d).is_some(),
        forward: forward::<CANONICAL>,
        backward,
        read,
        column: None,
    },
];

/// Which kernel of a memory is meant.
const FASTEST: usize = 0;
const CANONICAL: usize = 1;

/// One memory.
struct Part {
    rule: Miras,
    kernels: [Kernel<Miras>; 2],
    /// Where its inputs are among those of a token.
    slots: PerInput<usize>,
    /// Its state, and for a local memory the start of its shards.
    own: Range<usize>,
    start: Option<Range<usize>>,
    /// What its queries are projected by.
    gram: Option<usize>,
}

/// Parts of a rule at one size, or none.
type Known = (Tnt, Dims, Option<Parts>);

/// A rule at one size: the global memory, then the local ones.
struct Parts {
    rule: Tnt,
    d: Dims,
    list: Vec<Part>,
    grams: Vec<Range<usize>>,
    project: Project,
}

thread_local! {
    static KNOWN: RefCell<Vec<Rc<Known>>> = const { RefCell::new(Vec::new()) };
}
/// Sizes that a thread remembers, so that a call for a single token allocates nothing; a model has a few.
const KEPT: usize = 16;

impl Parts {
    /// The parts, if every memory has kernels; kept for the next call.
    fn of(rule: &Tnt, d: Dims) -> Option<Rc<Known>> {
        let known = KNOWN.with_borrow_mut(|kept| {
            let at = kept.iter().position(|k| k.1 == d && k.0 == *rule).unwrap_or_else(|| {
                kept.truncate(KEPT - 1);
                kept.insert(0, Rc::new((rule.clone(), d, Self::new(rule, d))));
                0
            });
            kept[at].clone()
        });
        known.2.is_some().then_some(known)
    }

    fn new(rule: &Tnt, d: Dims) -> Option<Self> {
        let Places { global, locals, grams } = rule.places(d);
        let gram = |i: usize| if grams.len() == 1 { 0 } else { i };
        let mut places = vec![(global, None, None)];
        for (i, (start, own)) in locals.into_iter().enumerate() {
            places.push((own, Some(start), (!grams.is_empty()).then(|| gram(i))));
        }
        let mut list = Vec::new();
        for (n, (memory, (own, start, gram))) in rule.memories().into_iter().zip(places).enumerate() {
            let mut available = miras::KERNELS.iter().filter(|k| (k.is_available)(&memory, d)).copied();
            let canonical = available.clone().find(|k| k.canonical)?;
            let kernels = [available.next()?, canonical];
            let slots = rule.slots(n).into_iter().collect();
            list.push(Part { rule: memory, kernels, slots, own, start, gram });
        }
        let project = Project { kind: rule.projection, dk: d.dk };
        project.covers().then(|| Self { rule: rule.clone(), d, list, grams, project })
    }

    /// `(first, count)` of the pieces of a sequence that neither a shard nor a kept state divides.
    fn pieces(&self, seq: Sequence<'_, f32>) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (shard, pos, tokens, mut first) = (self.rule.shard.max(1) as u64, seq.pos, seq.tokens, 0);
        std::iter::from_fn(move || {
            let at = first;
            let rest = shard - (pos + at as u64) % shard;
            let count = (tokens - at).min(CHECKPOINT_TOKENS - at % CHECKPOINT_TOKENS);
            let count = count.min(usize::try_from(rest).unwrap_or(usize::MAX));
            first += count;
            (count > 0).then_some((at, count))
        })
    }

    /// Local memories begin anew with a shard.
    fn reset(&self, pos: u64, state: &mut [f32]) {
        if self.rule.resets(pos) {
            for (start, own) in self.list.iter().filter_map(|p| Some((p.start.clone()?, &p.own))) {
                state.copy_within(start, own.start);
            }
        }
    }

    /// Takes the keys of a piece into the matrices and projects its queries, `[grams, tokens, dk]`. `kept` receives the
    /// matrices behind each key, `[grams, tokens, dk, dk]`, unless it is empty.
    fn queries(&self, piece: Sequence<'_, f32>, state: &mut [f32], q: &mut [f32], kept: &mut [f32], scratch: &Scratch) {
        let (n, dk) = (piece.tokens, self.d.dk);
        for (i, at) in self.grams.iter().enumerate() {
            let gram = &mut state[at.clone()];
            for t in 0..n {
                if self.rule.forgets(i, piece.pos + t as u64) {
                    gram.fill(0.0);
                }
                let (key, query) = (row(piece.inputs[0], t, dk), row(piece.inputs[QUERY], t, dk));
                self.project.see(scratch.isa(), gram, key);
                self.project.project(scratch.isa(), gram, query, &mut q[(i * n + t) * dk..][..dk]);
                if !kept.is_empty() {
                    kept[(i * n + t) * dk * dk..][..dk * dk].copy_from_slice(gram);
                }
            }
        }
    }

    /// The inputs of one memory, with its own queries.
    fn inputs<'a>(&self, part: &Part, piece: Sequence<'a, f32>, q: &'a [f32]) -> PerInput<&'a [f32]> {
        let mut inputs: PerInput<&[f32]> = part.slots.iter().map(|&slot| piece.inputs[slot]).collect();
        if let Some(gram) = part.gram {
            inputs[QUERY] = &q[gram * piece.tokens * self.d.dk..][..piece.tokens * self.d.dk];
        }
        inputs
    }

    /// Every memory over one piece.
    fn run(
        &self,
        which: usize,
        piece: Sequence<'_, f32>,
        state: &mut [f32],
        y: &mut [f32],
        [q, other]: [&mut [f32]; 2],
        scratch: &mut Scratch,
    ) {
        self.reset(piece.pos, state);
        self.queries(piece, state, q, &mut [], scratch);
        for (n, part) in self.list.iter().enumerate() {
            let inputs = self.inputs(part, piece, q);
            let seq = Sequence { inputs: &inputs, ..piece };
            let own = &mut state[part.own.clone()];
            let to = if n == 0 { &mut *y } else { &mut other[..y.len()] };
            (part.kernels[which].forward)(&part.rule, self.d, seq, own, to, None, scratch);
            if n > 0 {
                y.iter_mut().zip(&*other).for_each(|(y, x)| *y += x);
            }
        }
    }

    /// Back through a piece; `state` lies before it and is lost.
    fn back(
        &self,
        piece: Sequence<'_, f32>,
        state: &mut [f32],
        dy: &[f32],
        dx: &mut PerInput<&mut [f32]>,
        dstate: &mut [f32],
        [q, dq, kept]: [&mut [f32]; 3],
        scratch: &mut Scratch,
    ) {
        let n = piece.tokens * self.d.dk;
        self.reset(piece.pos, state);
        let before: Vec<f32> = self.grams.iter().flat_map(|at| state[at.clone()].to_vec()).collect();
        self.queries(piece, state, q, kept, scratch);
        dq[..self.grams.len() * n].fill(0.0);
        for part in &self.list {
            let inputs = self.inputs(part, piece, q);
            let mut all: PerInput<Option<&mut [f32]>> = dx.iter_mut().map(|x| Some(&mut **x)).collect();
            if let Some(gram) = part.gram {
                all[QUERY] = Some(&mut dq[gram * n..(gram + 1) * n]);
            }
            let mut own: [&mut [f32]; MAX_INPUTS] = Default::default();
            for (own, &slot) in own.iter_mut().zip(&part.slots) {
                *own = all[slot].take().unwrap_or_default();
            }
            let ct = Cotangents {
                start: &state[part.own.clone()],
                dy,
                dinputs: &mut own[..part.slots.len()],
                dstate: &mut dstate[part.own.clone()],
            };
            (part.kernels[FASTEST].backward)(&part.rule, self.d, Sequence { inputs: &inputs, ..piece }, ct, scratch);
        }
        if self.rule.resets(piece.pos) {
            for (start, own) in self.list.iter().filter_map(|p| Some((p.start.clone()?, &p.own))) {
                for (i, start) in start.enumerate() {
                    let back = std::mem::take(&mut dstate[own.start + i]);
                    dstate[start] += back;
                }
            }
        }
        self.queries_backward(piece, [&before, &*kept, &*dq], dx, dstate, scratch);
    }

    /// Transpose of [`Parts::queries`]: `before` holds the matrices before the piece, `kept` those behind each key.
    fn queries_backward(
        &self,
        piece: Sequence<'_, f32>,
        [before, kept, dq]: [&[f32]; 3],
        dx: &mut PerInput<&mut [f32]>,
        dstate: &mut [f32],
        scratch: &Scratch,
    ) {
        let (n, dk) = (piece.tokens, self.d.dk);
        let zeros = vec![0.0; dk * dk];
        for (i, at) in self.grams.iter().enumerate() {
            let dgram = &mut dstate[at.clone()];
            for t in (0..n).rev() {
                let fresh = self.rule.forgets(i, piece.pos + t as u64);
                let behind = |t: usize| &kept[(i * n + t) * dk * dk..][..dk * dk];
                let prev = match t {
                    _ if fresh => &zeros[..],
                    0 => &before[i * dk * dk..(i + 1) * dk * dk],
                    _ => behind(t - 1),
                };
                let (key, query) = (row(piece.inputs[0], t, dk), row(piece.inputs[QUERY], t, dk));
                let at = t * dk..(t + 1) * dk;
                let (dquery, isa) = (&dq[(i * n + t) * dk..][..dk], scratch.isa());
                self.project.project_backward(isa, behind(t), query, dquery, dgram, &mut dx[QUERY][at.clone()]);
                self.project.see_backward(isa, prev, key, dgram, &mut dx[0][at]);
                if fresh {
                    dgram.fill(0.0);
                }
            }
        }
    }

    /// Room for the queries and the reads of a piece.
    fn room(&self) -> [usize; 2] {
        [self.grams.len() * CHECKPOINT_TOKENS * self.d.dk, CHECKPOINT_TOKENS * self.d.dv]
    }
}

/// Row `t` of a list of rows.
fn row(x: &[f32], t: usize, width: usize) -> &[f32] {
    &x[t * width..(t + 1) * width]
}

/// See [`Kernel::forward`].
fn forward<const WHICH: usize>(
    rule: &Tnt,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let known = Parts::of(rule, d).expect("the kernel is available");
    let parts = known.2.as_ref().expect("the kernel is available");
    let mut space = scratch::borrow();
    let [q, other] = space.take(parts.room());
    for (first, count) in parts.pieces(seq) {
        if let (Some(saved), 0) = (&mut saved, first % CHECKPOINT_TOKENS) {
            saved[first / CHECKPOINT_TOKENS * state.len()..][..state.len()].copy_from_slice(state);
        }
        let inputs = seq.rows(first, count);
        let piece = Sequence { tokens: count, pos: seq.pos + first as u64, inputs: &inputs };
        let y = &mut y[first * d.dv..(first + count) * d.dv];
        parts.run(WHICH, piece, state, y, [&mut *q, &mut *other], scratch);
    }
}

/// See [`Kernel::read`].
fn read(rule: &Tnt, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let known = Parts::of(rule, d).expect("the kernel is available");
    let parts = known.2.as_ref().expect("the kernel is available");
    let mut space = scratch::borrow();
    let [q, other] = space.take([parts.grams.len() * seq.tokens * d.dk, seq.tokens * d.dv]);
    for (gram, q) in parts.grams.iter().zip(q.chunks_exact_mut((seq.tokens * d.dk).max(1))) {
        for (t, q) in q.chunks_exact_mut(d.dk).enumerate() {
            parts.project.project(scratch.isa(), &state[gram.clone()], row(seq.inputs[QUERY], t, d.dk), q);
        }
    }
    for (n, part) in parts.list.iter().enumerate() {
        let inputs = parts.inputs(part, seq, q);
        let to = if n == 0 { &mut *y } else { &mut *other };
        let seq = Sequence { inputs: &inputs, ..seq };
        (part.kernels[CANONICAL].read)(&part.rule, d, seq, &state[part.own.clone()], to, scratch);
        if n > 0 {
            y.iter_mut().zip(&*other).for_each(|(y, x)| *y += x);
        }
    }
}

/// See [`Kernel::backward`]. The state before every piece is recomputed from the start.
fn backward(rule: &Tnt, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let known = Parts::of(rule, d).expect("the kernel is available");
    let parts = known.2.as_ref().expect("the kernel is available");
    let Cotangents { start, dy, dinputs, dstate } = ct;
    let (list, len): (Vec<(usize, usize)>, usize) = (parts.pieces(seq).collect(), start.len());
    let [queries, reads] = parts.room();
    let mut space = scratch::borrow();
    let [states, q, dq, other, unread, kept] =
        space.take([list.len() * len, queries, queries, reads, reads, queries * d.dk]);
    for (i, &(first, count)) in list.iter().enumerate() {
        if i == 0 {
            states[..len].copy_from_slice(start);
        }
        if i + 1 < list.len() {
            states.copy_within(i * len..(i + 1) * len, (i + 1) * len);
            let (state, inputs) = (&mut states[(i + 1) * len..][..len], seq.rows(first, count));
            let piece = Sequence { tokens: count, pos: seq.pos + first as u64, inputs: &inputs };
            parts.run(FASTEST, piece, state, &mut unread[..count * d.dv], [&mut *q, &mut *other], scratch);
        }
    }
    for (&(first, count), state) in list.iter().zip(states.chunks_exact_mut(len)).rev() {
        let inputs = seq.rows(first, count);
        let mut dx = rows_mut(dinputs, seq.tokens, first, count);
        let dy = &dy[first * d.dv..(first + count) * d.dv];
        let piece = Sequence { tokens: count, pos: seq.pos + first as u64, inputs: &inputs };
        parts.back(piece, state, dy, &mut dx, dstate, [&mut *q, &mut *dq, &mut *kept], scratch);
    }
}
