//! Windows under coefficients of the current token: token `t` sees key `i` of its window through a feature map of its own,
//! so every pair of them is a gradient. What differs between two tokens is one number per part of the features:
//!
//! ```text
//! h_{t,i} = R_t m_i                  R_t: root[t,p] in part p, m_i: the features of key i without coefficients
//! W h_{t,i} = sum_p root[t,p] W_p m_{i,p}                          a product per key, sums per pair
//! x . h_{t,i} = sum_p root[t,p] x_p . m_{i,p}
//! sum B_{t,i} h_{t,i}^T = in part p, sum_i (sum_t root[t,p] B_{t,i}) m_{i,p}^T
//! ```
//!
//! so that products with the layer behind the features are as many as keys, not as pairs. Pairs are ordered by token, then
//! by place in its window; key `t + place` counts from the oldest that the block's first token sees.

use super::shape::{Layer, Shape};
use crate::kernels::gemm::{MatMut, MatRef, Start, product};
use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::rules::miras::features::{Features, with_features};
use crate::simd::Isa;
use std::ops::Range;

/// The pairs of a block; all is empty for rules without them.
pub(super) struct Pairs<'a> {
    pub keys: &'a mut [f32],
    pub roots: &'a mut [f32],
    /// The inputs of one token's gradients, `[window, width]`.
    pub expanded: &'a mut [f32],
    /// Rows per key, or per read and key.
    pub space: [&'a mut [f32]; 2],
}

/// How pairs of one block lie.
#[derive(Clone, Copy)]
pub(super) struct Grid<'a> {
    pub isa: Isa,
    pub window: usize,
    /// Tokens and keys.
    pub count: usize,
    pub held: usize,
    pub parts: &'a [Range<usize>],
    /// Width of the features.
    pub width: usize,
}

impl Shape {
    /// The pairs of a block of `count` tokens.
    pub fn grid(&self, isa: Isa, count: usize) -> Grid<'_> {
        let (window, held) = (self.rule.window, self.held(count));
        Grid { isa, window, count, held, parts: &self.parts, width: self.plan.inner.dk }
    }

    /// Lengths of what [`Pairs`] holds.
    pub fn pairs_lens(&self, count: usize) -> [usize; 5] {
        if !self.pairs {
            return [0; 5];
        }
        let (held, width) = (self.held(count), self.plan.inner.dk);
        let rows = self.at_level(self.net.layers - 1).map(|i| self.layers[i].rows).max().unwrap_or(0);
        let space = held * rows.max(count);
        [held * self.d.dk, count * self.parts.len(), self.rule.window * width, space, space]
    }

    /// Features of keys without coefficients, and the numbers of each token that they are multiplied with.
    pub fn basis(&self, keys: &[f32], coefficients: &[f32], basis: &mut [f32], roots: &mut [f32]) {
        let parts = self.parts.len();
        with_features!(&self.rule.features, f => {
            for (key, to) in keys.chunks_exact(self.d.dk).zip(basis.chunks_exact_mut(self.plan.inner.dk)) {
                f.basis(key, to);
            }
            for (own, to) in coefficients.chunks_exact(parts).zip(roots.chunks_exact_mut(parts)) {
                f.roots(own, to);
            }
        });
    }

    /// Transpose of [`Shape::basis`]; adds.
    pub fn basis_backward(
        &self,
        keys: &[f32],
        coefficients: &[f32],
        [dbasis, droots]: [&[f32]; 2],
        dkeys: &mut [f32],
        dcoefficients: &mut [f32],
    ) {
        let (parts, dk, width) = (self.parts.len(), self.d.dk, self.plan.inner.dk);
        with_features!(&self.rule.features, f => {
            let keys = keys.chunks_exact(dk).zip(dkeys.chunks_exact_mut(dk));
            for ((key, dkey), d) in keys.zip(dbasis.chunks_exact(width)) {
                f.basis_backward(key, d, dkey);
            }
            let own = coefficients.chunks_exact(parts).zip(dcoefficients.chunks_exact_mut(parts));
            for ((own, to), d) in own.zip(droots.chunks_exact(parts)) {
                f.roots_backward(own, d, to);
            }
        });
    }
}

impl Grid<'_> {
    /// Part `p` of the features of keys.
    fn keys<'m>(&self, part: &Range<usize>, m: &'m [f32]) -> MatRef<'m> {
        MatRef::strided(&m[part.start..], self.held, part.len(), self.width, 1)
    }
    fn reads<'m>(&self, part: &Range<usize>, g: &'m [f32]) -> MatRef<'m> {
        MatRef::strided(&g[part.start..], self.count, part.len(), self.width, 1)
    }
    fn weights<'m>(&self, part: &Range<usize>, l: &Layer, w: &'m [f32]) -> MatRef<'m> {
        MatRef::strided(&w[part.start..], l.rows, part.len(), self.width, 1)
    }
    /// The parts, each with its number and where roots of it lie.
    fn each(&self) -> impl Iterator<Item = (Roots, &Range<usize>)> {
        let of = self.parts.len();
        self.parts.iter().enumerate().map(move |(at, part)| (Roots { at, of }, part))
    }

    /// `out = W h` or `out += W h` for every pair.
    pub fn apply(&self, f: &mut Pairs<'_>, l: &Layer, w: &[f32], m: &[f32], out: &mut [f32], start: Start) {
        if start == Start::Zero {
            out.fill(0.0);
        }
        for (at, part) in self.each() {
            let u = &mut f.space[0][..self.held * l.rows];
            let w = self.weights(part, l, w).transposed();
            product(self.isa, false, self.keys(part, m), w, MatMut::new(u, self.held, l.rows), Start::Zero);
            spread(self.isa, l.rows, self.window, at, f.roots, u, out);
        }
    }

    /// `dw += sum dout h^T` over all pairs.
    pub fn add_outer(&self, f: &mut Pairs<'_>, l: &Layer, dout: &[f32], m: &[f32], dw: &mut [f32]) {
        for (at, part) in self.each() {
            let y = &mut f.space[0][..self.held * l.rows];
            gather(self.isa, l.rows, self.window, at, f.roots, dout, y);
            let to = MatMut::strided(&mut dw[part.start..], l.rows, part.len(), self.width);
            let y = MatRef::new(y, self.held, l.rows).transposed();
            product(self.isa, false, y, self.keys(part, m), to, Start::Current);
        }
    }

    /// Transpose of [`Grid::apply`] in the features: adds into `dm` and `droots`.
    pub fn apply_back(
        &self,
        f: &mut Pairs<'_>,
        l: &Layer,
        w: &[f32],
        m: &[f32],
        dout: &[f32],
        dm: &mut [f32],
        droots: &mut [f32],
    ) {
        for (at, part) in self.each() {
            let [u, y] = &mut f.space;
            let (u, y) = (&mut u[..self.held * l.rows], &mut y[..self.held * l.rows]);
            let w = self.weights(part, l, w);
            product(
                self.isa,
                false,
                self.keys(part, m),
                w.transposed(),
                MatMut::new(u, self.held, l.rows),
                Start::Zero,
            );
            meet(self.isa, l.rows, self.window, at, dout, u, droots);
            gather(self.isa, l.rows, self.window, at, f.roots, dout, y);
            let to = MatMut::strided(&mut dm[part.start..], self.held, part.len(), self.width);
            product(self.isa, false, MatRef::new(y, self.held, l.rows), w, to, Start::Current);
        }
    }

    /// `out [count, pairs]`: the products of reads `g` with all pairs.
    pub fn among(&self, f: &mut Pairs<'_>, g: &[f32], m: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (at, part) in self.each() {
            let x = &mut f.space[0][..self.count * self.held];
            let keys = self.keys(part, m).transposed();
            product(self.isa, false, self.reads(part, g), keys, MatMut::new(x, self.count, self.held), Start::Zero);
            for (x, out) in x.chunks_exact(self.held).zip(out.chunks_exact_mut(self.count * self.window)) {
                spread(self.isa, 1, self.window, at, f.roots, x, out);
            }
        }
    }

    /// Transpose of [`Grid::among`]: adds into `dg`, `dm` and `droots`.
    pub fn among_backward(
        &self,
        f: &mut Pairs<'_>,
        [dout, g, m]: [&[f32]; 3],
        dg: &mut [f32],
        dm: &mut [f32],
        droots: &mut [f32],
    ) {
        let (n, held, isa) = (self.count, self.held, self.isa);
        for (at, part) in self.each() {
            let [x, v] = &mut f.space;
            let (x, v) = (&mut x[..n * held], &mut v[..n * held]);
            let (keys, reads) = (self.keys(part, m), self.reads(part, g));
            product(isa, false, reads, keys.transposed(), MatMut::new(x, n, held), Start::Zero);
            let rows = dout.chunks_exact(n * self.window).zip(x.chunks_exact(held));
            for ((dout, x), v) in rows.zip(v.chunks_exact_mut(held)) {
                meet(isa, 1, self.window, at, dout, x, droots);
                gather(isa, 1, self.window, at, f.roots, dout, v);
            }
            let v = MatRef::new(v, n, held);
            let to = MatMut::strided(&mut dg[part.start..], n, part.len(), self.width);
            product(isa, false, v, keys, to, Start::Current);
            let to = MatMut::strided(&mut dm[part.start..], held, part.len(), self.width);
            product(isa, false, v.transposed(), reads, to, Start::Current);
        }
    }

    /// The inputs of the gradients of token `t`.
    pub fn expand(&self, f: &mut Pairs<'_>, t: usize, m: &[f32]) {
        for (at, part) in self.each() {
            let root = f.roots[t * at.of + at.at];
            for (place, to) in f.expanded.chunks_exact_mut(self.width).enumerate() {
                let from = &m[(t + place) * self.width..(t + place + 1) * self.width];
                to[part.clone()].iter_mut().zip(&from[part.clone()]).for_each(|(to, m)| *to = root * m);
            }
        }
    }

    /// Adds what all pairs give to each key.
    pub fn fold(&self, pairs: &[f32], keys: &mut [f32]) {
        let width = keys.len() / self.held;
        for (pair, from) in pairs.chunks_exact(width).enumerate() {
            let key = pair / self.window + pair % self.window;
            keys[key * width..(key + 1) * width].iter_mut().zip(from).for_each(|(to, d)| *to += d);
        }
    }
}

/// Which of how many roots of a token.
#[derive(Clone, Copy)]
struct Roots {
    at: usize,
    of: usize,
}

kernel! {
    /// `out[t, place] += root[t] x[t + place]`, rows of `width` values.
    fn spread(s: S, width: usize, window: usize, at: Roots, roots: &'a [f32], x: &'a [f32], out: &'a mut [f32]) {
        for (t, out) in out.chunks_exact_mut(window * width).enumerate() {
            let (root, x) = (s.splat(roots[t * at.of + at.at]), &x[t * width..(t + window) * width]);
            for c in (0..out.len()).step_by(S::LANES) {
                put(s, out, c, s.fma(root, get(s, x, c), get(s, out, c)));
            }
        }
    }

    /// Transpose of `spread` in `x`: `dx[key] = sum root[t] dout[t, place]` over `t + place = key`.
    fn gather(s: S, width: usize, window: usize, at: Roots, roots: &'a [f32], dout: &'a [f32], dx: &'a mut [f32]) {
        dx.fill(0.0);
        for (t, dout) in dout.chunks_exact(window * width).enumerate() {
            let (root, dx) = (s.splat(roots[t * at.of + at.at]), &mut dx[t * width..(t + window) * width]);
            for c in (0..dout.len()).step_by(S::LANES) {
                let d = s.mul(root, get(s, dout, c));
                add_to(s, dx, c, d);
            }
        }
    }

    /// Transpose of `spread` in the roots; adds.
    fn meet(s: S, width: usize, window: usize, at: Roots, dout: &'a [f32], x: &'a [f32], droots: &'a mut [f32]) {
        for (t, dout) in dout.chunks_exact(window * width).enumerate() {
            droots[t * at.of + at.at] += dot(s, dout, &x[t * width..(t + window) * width]);
        }
    }
}
