//! One tensor over a block of n tokens whose steps erase: no state is formed per token.
//!
//! With the inputs `h_t` of its layer and what flows back into its results, `b_t`, both at the anchor, and the erased
//! directions `z_t`, of which `h_t` is `l_t` times (`z = h` and `l = 1` for keys), a step is of rank one:
//!
//! ```text
//! W_t = retain_t W_{t-1} + c_t z_t^T,   c_t = -rate_t (p_t + l_t b_t),   p_t = W_{t-1} z_t
//! A_ts = prod_{s < m <= t} retain_m
//! p_t = A_{t-1,0} W_0 z_t + sum_{s<t} m_ts c_s,   m_ts = A_{t-1,s} z_t . z_s       a triangular solve
//! W_n = A_n0 W_0 + sum_t A_nt c_t z_t^T
//! ```
//!
//! A layer that erases nothing has `c_t = -rate_t b_t` and `z = h`. On the way back, with `D` the gradient of `W_n`:
//!
//! ```text
//! dc_t = A_nt D z_t + sum_{i>t} m_it dp_i,   dp_t = -rate_t dc_t                   the transposed solve
//! db_t = -rate_t l_t dc_t,   dl_t = -rate_t b_t . dc_t,   drate_t = -dc_t . (p_t + l_t b_t)
//! dm = dp c^T below the diagonal;   dz_t = A_nt D^T c_t + A_{t-1,0} W_0^T dp_t + (products with the gradient of m)
//! dW_0 = A_n0 D + sum_t A_{t-1,0} dp_t z_t^T
//! ```

use super::super::frame::{cut, room};
use super::super::pointwise as rows;
use super::super::rows::{Rows, add_outer, among, apply, apply_back};
use super::super::shape::Layer;
use super::momentum::DGates;
use super::point;
use crate::kernels::gemm::Start;
use crate::simd::Isa;

/// What a layer erases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Erase {
    /// Nothing.
    Nothing,
    /// In the direction of its input.
    Input,
    /// In that direction, at unit length.
    Unit,
}

/// Products of decays, `[n + 1, n + 1]`: `A_ts` for `s <= t`.
pub(super) fn decays(retain: &[f32], a: &mut [f32]) {
    let side = retain.len() + 1;
    a[0] = 1.0;
    for (t, retain) in retain.iter().enumerate() {
        let (before, row) = a[t * side..(t + 2) * side].split_at_mut(side);
        row.iter_mut().zip(&before[..=t]).for_each(|(a, before)| *a = retain * before);
        row[t + 1] = 1.0;
    }
}

/// Transpose of [`decays`]; adds into `dretain`, and `da` is lost.
pub(super) fn decays_backward(retain: &[f32], a: &[f32], da: &mut [f32], dretain: &mut [f32]) {
    let side = retain.len() + 1;
    for (t, (retain, dretain)) in retain.iter().zip(dretain).enumerate().rev() {
        let (before, row) = da[t * side..(t + 2) * side].split_at_mut(side);
        for ((d, before), a) in row[..=t].iter().zip(before).zip(&a[t * side..]) {
            *dretain += d * a;
            *before += retain * d;
        }
    }
}

/// One tensor and the gates of its memory over a block.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub isa: Isa,
    pub rows: Rows,
    pub layer: &'a Layer,
    pub erase: Erase,
    pub rate: &'a [f32],
    /// See [`decays`].
    pub a: &'a [f32],
    /// N and R of [`super::momentum`]; empty without one.
    pub momenta: &'a [f32],
    pub carried: &'a [f32],
}

/// What the steps of a block are made of.
pub(super) struct Steps<'a> {
    pub z: &'a mut [f32],
    pub length: &'a mut [f32],
    inverse: &'a mut [f32],
    /// `W_0 z`.
    pub q: &'a mut [f32],
    pub p: &'a mut [f32],
    /// With momentum, e.
    pub c: &'a mut [f32],
    pub gram: &'a mut [f32],
    pub m: &'a mut [f32],
    /// Weights of rows, and rows of the widest kind.
    pub by: &'a mut [f32],
    pub space: &'a mut [f32],
    /// With momentum: g, `S_0 z`, what g is worth in p, more rows.
    pub fresh: &'a mut [f32],
    pub q_carried: &'a mut [f32],
    pub m_carried: &'a mut [f32],
    pub extra: &'a mut [f32],
}

/// Gradients of [`Steps`].
pub(super) struct DSteps<'a> {
    pub z: &'a mut [f32],
    pub p: &'a mut [f32],
    pub c: &'a mut [f32],
    pub m: &'a mut [f32],
    pub by: &'a mut [f32],
    pub length: &'a mut [f32],
    pub fresh: &'a mut [f32],
    pub m_carried: &'a mut [f32],
}

impl<'a> Steps<'a> {
    fn lens(n: usize, widest: usize) -> [usize; 14] {
        let (row, square) = (n * widest, n * n);
        [row, n, n, row, row, row, square, square, n, row, row, row, square, row]
    }
    /// Values of its buffer.
    pub fn len(n: usize, widest: usize) -> usize {
        room(Self::lens(n, widest))
    }
    pub fn new(n: usize, widest: usize, buffer: &'a mut [f32]) -> Self {
        let [z, length, inverse, q, p, c, gram, m, by, space, fresh, q_carried, m_carried, extra] =
            cut(buffer, Self::lens(n, widest));
        Self { z, length, inverse, q, p, c, gram, m, by, space, fresh, q_carried, m_carried, extra }
    }
}

impl<'a> DSteps<'a> {
    fn lens(n: usize, widest: usize) -> [usize; 8] {
        let row = n * widest;
        [row, row, row, n * n, n, n, row, n * n]
    }
    /// Values of its buffer.
    pub fn len(n: usize, widest: usize) -> usize {
        room(Self::lens(n, widest))
    }
    pub fn new(n: usize, widest: usize, buffer: &'a mut [f32]) -> Self {
        let [z, p, c, m, by, length, fresh, m_carried] = cut(buffer, Self::lens(n, widest));
        Self { z, p, c, m, by, length, fresh, m_carried }
    }
}

impl Tensor<'_> {
    pub fn n(&self) -> usize {
        self.rate.len()
    }
    /// `A_ts`.
    fn kept(&self, t: usize, s: usize) -> f32 {
        self.a[t * (self.n() + 1) + s]
    }
    /// The steps of a block from `w` before it, and from the momentum `s`, if there is one: `h [n, columns]`, `b [n, rows]`.
    pub fn steps(&self, w: &[f32], s: &[f32], h: &[f32], b: &[f32], f: &mut Steps<'_>) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let (inputs, results) = (n * l.columns, n * l.rows);
        let z = &mut f.z[..inputs];
        if self.erase == Erase::Unit {
            point::unit(isa, l.columns, h, z, f.inverse);
            f.length.iter_mut().zip(&*f.inverse).for_each(|(l, i)| *l = 1.0 / i);
        } else {
            z.copy_from_slice(h);
            f.length.fill(1.0);
        }
        if self.carries() {
            return self.carried_steps(w, s, b, f);
        }
        if self.erase == Erase::Nothing {
            f.by.iter_mut().zip(self.rate).for_each(|(by, rate)| *by = -rate);
            return rows::scale_rows(isa, l.rows, f.by, b, &mut f.c[..results]);
        }
        apply(isa, self.rows, l, w, z, &mut f.q[..results], Start::Zero);
        self.before(self.a, f.by);
        rows::scale_rows(isa, l.rows, f.by, &f.q[..results], &mut f.p[..results]);
        if n > 1 {
            among(isa, l.columns, z, z, f.gram, Start::Zero);
        }
        self.weigh(self.a, f.gram, f.m);
        point::solve(isa, l.rows, f.m, self.rate, f.length, b, &mut f.p[..results], &mut f.c[..results]);
    }

    /// `w` from before a block to behind its steps.
    pub fn advance(&self, w: &mut [f32], f: &mut Steps<'_>) {
        let (l, n) = (self.layer, self.n());
        let space = &mut f.space[..n * l.rows];
        rows::scale_rows(self.isa, l.rows, self.behind(self.a), &f.c[..n * l.rows], space);
        rows::scale(self.isa, self.kept(n, 0), w);
        add_outer(self.isa, l, space, &f.z[..n * l.columns], w);
    }

    /// Transpose of [`Tensor::steps`] from `w` before the block and of [`Tensor::advance`]; `dw` in place. Adds into `dh`,
    /// `db` and `gates`.
    pub fn advance_backward(
        &self,
        h: &[f32],
        b: &[f32],
        w: &[f32],
        f: &mut Steps<'_>,
        d: &mut DSteps<'_>,
        dw: &mut [f32],
        (dh, db): (&mut [f32], &mut [f32]),
        gates: &mut DGates<'_>,
    ) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let (inputs, results, side) = (n * l.columns, n * l.rows, n + 1);
        let (z, c, space) = (&f.z[..inputs], &f.c[..results], &mut f.space[..n * l.rows]);
        let (dz, dc) = (&mut d.z[..inputs], &mut d.c[..results]);

        // The end of the block.
        apply(isa, self.rows, l, dw, z, space, Start::Zero);
        d.by.fill(0.0);
        point::dots(isa, l.rows, space, c, d.by);
        (0..n).for_each(|t| gates.a[n * side + t + 1] += d.by[t]);
        rows::scale_rows(isa, l.rows, self.behind(self.a), space, dc);
        rows::scale_rows(isa, l.rows, self.behind(self.a), c, space);
        apply_back(isa, l, dw, space, dz, Start::Zero);
        let mut dot = 0.0;
        rows::inner(isa, dw, w, &mut dot);
        gates.a[n * side] += dot;
        rows::scale(isa, self.kept(n, 0), dw);

        if self.erase == Erase::Nothing {
            d.by.fill(0.0);
            point::dots(isa, l.rows, dc, b, d.by);
            gates.rate.iter_mut().zip(&*d.by).for_each(|(d, by)| *d -= by);
            f.by.iter_mut().zip(self.rate).for_each(|(by, rate)| *by = -rate);
            rows::scale_rows(isa, l.rows, f.by, dc, space);
            rows::add_scaled(isa, 1.0, space, db);
            return rows::add_scaled(isa, 1.0, dz, dh);
        }
        self.solve_backward(f, d, gates.rate);
        self.learned_backward(b, f, d, db, gates.rate);
        self.start_backward([w, &[]], f, d, [dw, &mut []], gates);
        self.input_backward(h, f, d, dh);
    }

    /// From the steps to what flows back, to rates and lengths: adds into `db` and `drate`.
    fn learned_backward(&self, b: &[f32], f: &mut Steps<'_>, d: &mut DSteps<'_>, db: &mut [f32], drate: &mut [f32]) {
        let (l, isa) = (self.layer, self.isa);
        let results = self.n() * l.rows;
        let (dc, dp) = (&d.c[..results], &d.p[..results]);
        d.by.fill(0.0);
        point::dots(isa, l.rows, dc, b, d.by);
        let parts = drate.iter_mut().zip(&mut *d.length).zip(&*d.by);
        for (((drate, dlength), by), (length, rate)) in parts.zip(f.length.iter().zip(self.rate)) {
            *drate -= length * by;
            *dlength = -rate * by;
        }
        let space = &mut f.space[..results];
        rows::scale_rows(isa, l.rows, f.length, dp, space);
        rows::add_scaled(isa, 1.0, space, db);
    }

    /// Products of directions below the diagonal, times what a token is worth before another; zero elsewhere.
    pub fn weigh(&self, worth: &[f32], gram: &[f32], m: &mut [f32]) {
        let n = self.n();
        for (t, (m, gram)) in m.chunks_exact_mut(n).zip(gram.chunks_exact(n)).enumerate() {
            let worth = &worth[t * (n + 1) + 1..];
            m[..t].iter_mut().zip(worth).zip(gram).for_each(|((m, worth), gram)| *m = worth * gram);
            m[t..].fill(0.0);
        }
    }

    /// Transpose of [`Tensor::weigh`]: `dm` becomes the gradient of the products, and that of their worth is added.
    pub fn weigh_backward(&self, worth: &[f32], gram: &[f32], dm: &mut [f32], dworth: &mut [f32]) {
        let n = self.n();
        for (t, (dm, gram)) in dm.chunks_exact_mut(n).zip(gram.chunks_exact(n)).enumerate() {
            let (worth, dworth) = (&worth[t * (n + 1) + 1..], &mut dworth[t * (n + 1) + 1..]);
            for (((dm, gram), worth), dworth) in dm[..t].iter_mut().zip(gram).zip(worth).zip(dworth) {
                *dworth += *dm * gram;
                *dm *= worth;
            }
            dm[t..].fill(0.0);
        }
    }

    /// From directions and lengths to the inputs of the layer.
    pub fn input_backward(&self, h: &[f32], f: &mut Steps<'_>, d: &mut DSteps<'_>, dh: &mut [f32]) {
        let (l, isa) = (self.layer, self.isa);
        let dz = &d.z[..self.n() * l.columns];
        if self.erase != Erase::Unit {
            return rows::add_scaled(isa, 1.0, dz, dh);
        }
        point::unit_backward(isa, l.columns, h, f.inverse, dz, dh);
        // The length's own derivative is the direction.
        for (t, (row, z)) in dh.chunks_exact_mut(l.columns).zip(f.z.chunks_exact(l.columns)).enumerate() {
            rows::add_scaled(isa, d.length[t], z, row);
        }
    }
}
