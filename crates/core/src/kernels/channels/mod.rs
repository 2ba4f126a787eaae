//! Kernels of matrix memories whose channels of keys are kept each by its own share:
//!
//! ```text
//! s  = W ask                                        where the rule erases
//! W' = W diag(keep) - s erase^T + v key^T
//! y  = W' q
//! ```
//!
//! Rows of `W` never meet, so a row goes through a whole sequence by itself, in the orientation in which the state lies.
//! A rule says what `keep`, `ask`, `erase` and `key` are made of; see [`Channels`].

mod passes;

use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::memory::row::{pad, unpad};
use crate::kernels::scratch;
use crate::rule::{Dims, MemoryRule};
use crate::scan::{CHECKPOINT_TOKENS, PerInput};
use passes::{Backward, Forward, Gradients, Lists, ROWS, Read};

/// Rows are padded to a multiple of the longest vector.
const LANES: usize = 16;

/// What a token does to each channel, or its gradient: `[dk]` each.
pub(crate) struct Made<T> {
    pub keep: T,
    /// The key that is predicted with and the one that is erased under, where the rule erases.
    pub ask: T,
    pub erase: T,
    /// The key that the value is written under.
    pub key: T,
}

/// A rule of this family.
pub(crate) trait Channels: MemoryRule {
    /// Whether a setting belongs to the family.
    fn belongs(&self) -> bool {
        true
    }
    /// Whether it erases what it predicts.
    fn erases(&self) -> bool;
    /// Indices of value and query among the inputs.
    fn value_and_query(&self) -> [usize; 2];
    /// Makes the channels of one token from its inputs.
    fn make(&self, x: &[&[f32]], to: Made<&mut [f32]>);
    /// Transpose of [`Channels::make`]; adds into `dx`.
    fn make_backward(&self, x: &[&[f32]], d: Made<&[f32]>, dx: &mut [&mut [f32]]);
}

/// The kernels of a rule of the family.
pub(crate) const fn kernels<R: Channels>() -> [Kernel<R>; 1] {
    [Kernel {
        name: "channels",
        about: "row after row of the state, a share kept of each channel",
        canonical: true,
        is_available: |rule, _| rule.belongs(),
        forward,
        backward,
        read,
        column: None,
    }]
}

/// Padded sizes.
#[derive(Clone, Copy)]
struct Size {
    d: Dims,
    width: usize,
    rows: usize,
}

impl Size {
    fn of(d: Dims) -> Self {
        Self { d, width: d.dk.next_multiple_of(LANES), rows: d.dv.next_multiple_of(ROWS) }
    }
    fn state(self) -> usize {
        self.rows * self.width
    }
    /// Copies a state into padded rows.
    fn enter(self, state: &[f32], to: &mut [f32]) {
        pad(state, self.d.dk, to, self.width);
    }
    /// Copies padded rows back.
    fn leave(self, from: &[f32], state: &mut [f32]) {
        unpad(from, self.width, state, self.d.dk);
    }
    /// Lengths of the six lists of so many tokens: four made ones, queries, values.
    fn lists(self, tokens: usize, erases: bool) -> [usize; 6] {
        let (wide, asked) = (tokens * self.width, if erases { tokens * self.width } else { 0 });
        [wide, asked, asked, wide, wide, tokens * self.rows]
    }
}

/// `(first, count)` of the pieces between two kept states.
fn pieces(tokens: usize) -> impl DoubleEndedIterator<Item = (usize, usize)> + ExactSizeIterator {
    (0..tokens.div_ceil(CHECKPOINT_TOKENS))
        .map(move |i| (i * CHECKPOINT_TOKENS, CHECKPOINT_TOKENS.min(tokens - i * CHECKPOINT_TOKENS)))
}

/// Fills the lists of the tokens from `first` on.
fn lists<'a, R: Channels>(
    rule: &R,
    size: Size,
    seq: Sequence<'_, f32>,
    (first, tokens): (usize, usize),
    buffers: &'a mut [&mut [f32]; 6],
) -> Lists<'a> {
    let Size { d, width, rows } = size;
    let mut lens = size.lists(tokens, rule.erases()).into_iter();
    let [keep, ask, erase, key, query, value] =
        buffers.each_mut().map(|list| &mut list[..lens.next().expect("there are six")]);
    let [v, q] = rule.value_and_query();
    pad(&seq.inputs[v][first * d.dv..(first + tokens) * d.dv], d.dv, value, rows);
    pad(&seq.inputs[q][first * d.dk..(first + tokens) * d.dk], d.dk, query, width);
    [&mut *keep, &mut *ask, &mut *erase, &mut *key].into_iter().for_each(|list| list.fill(0.0));
    for t in 0..tokens {
        let at = t * width..t * width + d.dk;
        let asked = if rule.erases() { at.clone() } else { 0..0 };
        let made = Made {
            keep: &mut keep[at.clone()],
            ask: &mut ask[asked.clone()],
            erase: &mut erase[asked],
            key: &mut key[at],
        };
        rule.make(&seq.rows(first + t, 1), made);
    }
    Lists { tokens, width, rows, keep, ask, erase, key, query, value }
}

/// See [`Kernel::forward`].
fn forward<R: Channels>(
    rule: &R,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (size, isa, most) = (Size::of(d), scratch.isa(), seq.tokens.min(CHECKPOINT_TOKENS));
    let [a, b, c, e, f, g] = size.lists(most, rule.erases());
    let [strip, out, a, b, c, e, f, g] = scratch.take([size.state(), most * size.rows, a, b, c, e, f, g]);
    let mut buffers = [a, b, c, e, f, g];
    size.enter(state, strip);
    for (i, (first, tokens)) in pieces(seq.tokens).enumerate() {
        if let Some(saved) = &mut saved {
            size.leave(strip, &mut saved[i * state.len()..(i + 1) * state.len()]);
        }
        let x = lists(rule, size, seq, (first, tokens), &mut buffers);
        let out = &mut out[..tokens * size.rows];
        isa.run(Forward { x, state: strip, y: out, kept: &mut [], asked: &mut [] });
        unpad(out, size.rows, &mut y[first * d.dv..(first + tokens) * d.dv], d.dv);
    }
    size.leave(strip, state);
}

/// See [`Kernel::read`].
fn read<R: Channels>(rule: &R, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let (size, isa, n) = (Size::of(d), scratch.isa(), seq.tokens);
    let [strip, query, out] = scratch.take([size.state(), n * size.width, n * size.rows]);
    size.enter(state, strip);
    pad(seq.inputs[rule.value_and_query()[1]], d.dk, query, size.width);
    isa.run(Read { width: size.width, query, state: strip, y: out });
    unpad(out, size.rows, y, d.dv);
}

/// See [`Kernel::backward`]. States are recomputed piece by piece from those at the pieces' starts.
fn backward<R: Channels>(rule: &R, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let (size, isa, most) = (Size::of(d), scratch.isa(), seq.tokens.min(CHECKPOINT_TOKENS));
    let (len, count) = (size.state(), pieces(seq.tokens).len());
    let [a, b, c, e, f, g] = size.lists(most, rule.erases());
    let (mut space, mut grads) = (scratch::borrow(), scratch::borrow());
    let [da, db, dc, de, df, dg] = grads.take([a, b, c, e, f, g]);
    let mut made = [da, db, dc, de, df, dg];
    let asked = if rule.erases() { most * size.rows } else { 0 };
    let [starts, kept, asked, reads, dstate, dasked] =
        space.take([count * len, (most + 1) * len, asked, most * size.rows, len, size.rows]);
    let [a, b, c, e, f, g] = scratch.take([a, b, c, e, f, g]);
    let mut buffers = [a, b, c, e, f, g];
    size.enter(ct.start, &mut starts[..len.min(count * len)]);
    for (i, piece) in pieces(seq.tokens).enumerate().take(count.saturating_sub(1)) {
        starts.copy_within(i * len..(i + 1) * len, (i + 1) * len);
        let x = lists(rule, size, seq, piece, &mut buffers);
        let (state, y) = (&mut starts[(i + 1) * len..(i + 2) * len], &mut reads[..piece.1 * size.rows]);
        isa.run(Forward { x, state, y, kept: &mut [], asked: &mut [] });
    }
    size.enter(ct.dstate, dstate);
    for (i, (first, tokens)) in pieces(seq.tokens).enumerate().rev() {
        let x = lists(rule, size, seq, (first, tokens), &mut buffers);
        let start = &mut starts[i * len..(i + 1) * len];
        let y = &mut reads[..tokens * size.rows];
        kept[..len].copy_from_slice(start);
        isa.run(Forward { x, state: start, y, kept: &mut kept[len..], asked: &mut *asked });
        // The reads are not needed any more: their place takes their gradients.
        pad(&ct.dy[first * d.dv..(first + tokens) * d.dv], d.dv, y, size.rows);
        let [keep, ask, erase, key, query, value] = made.each_mut().map(|list| &mut **list);
        let dx = Gradients { keep, ask, erase, key, query, value };
        isa.run(Backward { x, kept, asked, dy: y, dstate, dx, dasked });
        add_gradients(rule, size, seq, (first, tokens), &made, ct.dinputs);
    }
    size.leave(dstate, ct.dstate);
}

/// From the gradients of the lists to those of the rule's inputs.
fn add_gradients<R: Channels>(
    rule: &R,
    size: Size,
    seq: Sequence<'_, f32>,
    (first, tokens): (usize, usize),
    [keep, ask, erase, key, query, value]: &[&mut [f32]; 6],
    dinputs: &mut [&mut [f32]],
) {
    let Size { d, width, rows } = size;
    let [v, q] = rule.value_and_query();
    let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    for t in 0..tokens {
        let at = t * width..t * width + d.dk;
        let asked = if rule.erases() { at.clone() } else { 0..0 };
        let mut dx: PerInput<&mut [f32]> = dinputs
            .iter_mut()
            .map(|x| {
                let width = x.len() / seq.tokens;
                &mut x[(first + t) * width..(first + t + 1) * width]
            })
            .collect();
        add(dx[v], &value[t * rows..t * rows + d.dv]);
        add(dx[q], &query[at.clone()]);
        let made = Made { keep: &keep[at.clone()], ask: &ask[asked.clone()], erase: &erase[asked], key: &key[at] };
        rule.make_backward(&seq.rows(first + t, 1), made, &mut dx);
    }
}
