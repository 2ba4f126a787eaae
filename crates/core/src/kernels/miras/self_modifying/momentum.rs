//! One tensor with momentum over a block of n tokens.
//!
//! What a step erases goes into the weights at once, what it learns into the momentum, which is added to them at every
//! token. With the names of [`super::erase`]:
//!
//! ```text
//! W_t = retain_t W_{t-1} + e_t z_t^T + S_t,   S_t = momentum_t S_{t-1} + g_t z_t^T
//! e_t = -rate_t p_t,   g_t = -rate_t l_t b_t,   p_t = W_{t-1} z_t
//! N_ts = prod_{s < m <= t} momentum_m,   R_ts = retain_t R_{t-1,s} + N_ts   from R_00 = 0, and R_ss = 1 for s > 0
//! p_t = A_{t-1,0} W_0 z_t + R_{t-1,0} S_0 z_t + sum_{s<t} (A_{t-1,s} e_s + R_{t-1,s} g_s) z_t . z_s
//! W_n = A_n0 W_0 + R_n0 S_0 + sum_t (A_nt e_t + R_nt g_t) z_t^T
//! S_n = N_n0 S_0 + sum_t N_nt g_t z_t^T
//! ```
//!
//! A layer that erases nothing has `e = 0` and `z = h`. The way back is the transpose of these lines in reverse order.

use super::super::pointwise as rows;
use super::super::rows::{add_mixed, add_mixed_back, add_outer, among, apply, apply_back};
use super::erase::{DSteps, Erase, Steps, Tensor};
use super::point;
use crate::kernels::gemm::Start;

/// `R_ts` of the module text, `[n + 1, n + 1]`, from `N_ts`.
pub(super) fn carries(retain: &[f32], n: &[f32], r: &mut [f32]) {
    let side = retain.len() + 1;
    r[0] = 0.0;
    for (t, retain) in retain.iter().enumerate() {
        let (before, row) = r[t * side..(t + 2) * side].split_at_mut(side);
        let n = &n[(t + 1) * side..];
        for ((r, before), n) in row[..=t].iter_mut().zip(before).zip(n) {
            *r = retain * *before + n;
        }
        row[t + 1] = n[t + 1];
    }
}

/// Transpose of [`carries`]; adds into `dn` and `dretain`, and `dr` is lost.
pub(super) fn carries_backward(retain: &[f32], r: &[f32], dr: &mut [f32], dn: &mut [f32], dretain: &mut [f32]) {
    let side = retain.len() + 1;
    for (t, (retain, dretain)) in retain.iter().zip(dretain).enumerate().rev() {
        let (before, row) = dr[t * side..(t + 2) * side].split_at_mut(side);
        let (dn, past) = (&mut dn[(t + 1) * side..], &r[t * side..]);
        for (((d, before), dn), past) in row[..=t].iter().zip(before).zip(dn).zip(past) {
            *dretain += d * past;
            *before += retain * d;
            *dn += d;
        }
    }
}

/// Where gradients of gates and of their products go: added into.
pub(super) struct DGates<'a> {
    pub rate: &'a mut [f32],
    pub a: &'a mut [f32],
    pub carried: &'a mut [f32],
    pub momenta: &'a mut [f32],
}

impl Tensor<'_> {
    /// Whether there is a momentum.
    pub fn carries(&self) -> bool {
        !self.carried.is_empty()
    }

    /// The first column of a matrix of products of gates: what the start of the block is worth before every token.
    pub fn before(&self, of: &[f32], by: &mut [f32]) {
        let side = self.n() + 1;
        by.iter_mut().enumerate().for_each(|(t, by)| *by = of[t * side]);
    }

    /// Its last row: what every token is worth behind the block.
    pub fn behind<'m>(&self, of: &'m [f32]) -> &'m [f32] {
        let side = self.n() + 1;
        &of[(side - 1) * side + 1..]
    }

    /// `out = by_t x_t + out`, row by row; `space` is as long as they.
    fn add_rows(&self, by: &[f32], x: &[f32], space: &mut [f32], out: &mut [f32]) {
        rows::scale_rows(self.isa, self.layer.rows, by, x, space);
        rows::add_scaled(self.isa, 1.0, space, out);
    }

    /// [`Tensor::steps`] behind the directions, with `s` the momentum before the block.
    pub(super) fn carried_steps(&self, w: &[f32], s: &[f32], b: &[f32], f: &mut Steps<'_>) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let (inputs, results) = (n * l.columns, n * l.rows);
        let (z, fresh) = (&f.z[..inputs], &mut f.fresh[..results]);
        f.by.iter_mut().zip(self.rate).zip(&*f.length).for_each(|((by, rate), length)| *by = -rate * length);
        rows::scale_rows(isa, l.rows, f.by, b, fresh);
        if self.erase == Erase::Nothing {
            return f.c[..results].fill(0.0);
        }
        let (p, space) = (&mut f.p[..results], &mut f.space[..results]);
        apply(isa, self.rows, l, w, z, &mut f.q[..results], Start::Zero);
        self.before(self.a, f.by);
        rows::scale_rows(isa, l.rows, f.by, &f.q[..results], p);
        apply(isa, self.rows, l, s, z, &mut f.q_carried[..results], Start::Zero);
        self.before(self.carried, f.by);
        self.add_rows(f.by, &f.q_carried[..results], space, p);
        if n > 1 {
            among(isa, l.columns, z, z, f.gram, Start::Zero);
            self.weigh(self.a, f.gram, f.m);
            self.weigh(self.carried, f.gram, f.m_carried);
            add_mixed(isa, l.rows, f.m_carried, fresh, p);
        }
        // Nothing is learned here: that is in `fresh`.
        f.by.fill(0.0);
        point::solve(isa, l.rows, f.m, self.rate, f.by, b, p, &mut f.c[..results]);
    }

    /// What a block adds to the weights, in `space`: `A_nt e_t + R_nt g_t`.
    fn carried_change(&self, f: &mut Steps<'_>) {
        let results = self.n() * self.layer.rows;
        let (space, extra) = (&mut f.space[..results], &mut f.extra[..results]);
        rows::scale_rows(self.isa, self.layer.rows, self.behind(self.carried), &f.fresh[..results], space);
        if self.erase != Erase::Nothing {
            self.add_rows(self.behind(self.a), &f.c[..results], extra, space);
        }
    }

    /// [`Tensor::advance`], of the momentum `s` too.
    pub fn carried_advance(&self, w: &mut [f32], s: &mut [f32], f: &mut Steps<'_>) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let (inputs, results, last) = (n * l.columns, n * l.rows, n * (n + 1));
        self.carried_change(f);
        rows::scale(isa, self.a[last], w);
        rows::add_scaled(isa, self.carried[last], s, w);
        add_outer(isa, l, &f.space[..results], &f.z[..inputs], w);
        rows::scale_rows(isa, l.rows, self.behind(self.momenta), &f.fresh[..results], &mut f.space[..results]);
        rows::scale(isa, self.momenta[last], s);
        add_outer(isa, l, &f.space[..results], &f.z[..inputs], s);
    }

    /// Transpose of [`Tensor::steps`] from the weights `w` and the momentum `s` before the block and of
    /// [`Tensor::carried_advance`]; `dw` and `ds` in place. Adds into `dh`, `db` and `gates`.
    pub fn carried_backward(
        &self,
        [h, b, w, s]: [&[f32]; 4],
        f: &mut Steps<'_>,
        d: &mut DSteps<'_>,
        [dw, ds]: [&mut [f32]; 2],
        (dh, db): (&mut [f32], &mut [f32]),
        gates: &mut DGates<'_>,
    ) {
        self.carried_end_backward([w, s], f, d, [&mut *dw, &mut *ds], gates);
        if self.erase != Erase::Nothing {
            self.solve_backward(f, d, gates.rate);
            self.start_backward([w, s], f, d, [dw, ds], gates);
        }
        self.fresh_backward(b, f, d, db, gates.rate);
        self.input_backward(h, f, d, dh);
    }

    /// The end of the block: the gradients of e, g and z so far.
    fn carried_end_backward(
        &self,
        [w, s]: [&[f32]; 2],
        f: &mut Steps<'_>,
        d: &mut DSteps<'_>,
        [dw, ds]: [&mut [f32]; 2],
        gates: &mut DGates<'_>,
    ) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let (inputs, results, last) = (n * l.columns, n * l.rows, n * (n + 1));
        let (dz, dfresh) = (&mut d.z[..inputs], &mut d.fresh[..results]);
        let (z, fresh) = (&f.z[..inputs], &f.fresh[..results]);
        let space = &mut f.space[..results];
        apply(isa, self.rows, l, dw, z, space, Start::Zero);
        point::dots(isa, l.rows, space, fresh, &mut gates.carried[last + 1..]);
        rows::scale_rows(isa, l.rows, self.behind(self.carried), space, dfresh);
        if self.erase != Erase::Nothing {
            point::dots(isa, l.rows, space, &f.c[..results], &mut gates.a[last + 1..]);
            rows::scale_rows(isa, l.rows, self.behind(self.a), space, &mut d.c[..results]);
        }
        apply(isa, self.rows, l, ds, z, space, Start::Zero);
        point::dots(isa, l.rows, space, fresh, &mut gates.momenta[last + 1..]);
        self.add_rows(self.behind(self.momenta), space, &mut f.extra[..results], dfresh);
        rows::scale_rows(isa, l.rows, self.behind(self.momenta), fresh, space);
        apply_back(isa, l, ds, space, dz, Start::Zero);
        self.carried_change(f);
        apply_back(isa, l, dw, &f.space[..results], dz, Start::Current);

        let mut dot = 0.0;
        for (x, dx, to) in [(w, &*dw, &mut *gates.a), (s, &*dw, &mut *gates.carried), (s, &*ds, &mut *gates.momenta)] {
            rows::inner(isa, dx, x, &mut dot);
            to[last] += dot;
        }
        rows::scale(isa, self.momenta[last], ds);
        rows::add_scaled(isa, self.carried[last], dw, ds);
        rows::scale(isa, self.a[last], dw);
    }

    /// Transpose of the solve, with momentum or without: to p, and from there to the g before.
    pub fn solve_backward(&self, f: &Steps<'_>, d: &mut DSteps<'_>, drate: &mut [f32]) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let results = n * l.rows;
        let (dc, dp) = (&mut d.c[..results], &mut d.p[..results]);
        point::solve_backward(isa, l.rows, f.m, self.rate, dc, dp);
        d.by.fill(0.0);
        point::dots(isa, l.rows, dc, &f.p[..results], d.by);
        drate.iter_mut().zip(&*d.by).for_each(|(d, by)| *d -= by);
        if n > 1 && self.carries() {
            add_mixed_back(isa, l.rows, f.m_carried, dp, &mut d.fresh[..results]);
        }
    }

    /// From p to the weights before the block and the momentum, if there is one, to products of gates and to directions.
    pub fn start_backward(
        &self,
        [w, s]: [&[f32]; 2],
        f: &mut Steps<'_>,
        d: &mut DSteps<'_>,
        [dw, ds]: [&mut [f32]; 2],
        gates: &mut DGates<'_>,
    ) {
        let (l, isa, n) = (self.layer, self.isa, self.n());
        let (inputs, results, side) = (n * l.columns, n * l.rows, n + 1);
        let (z, dp, dz) = (&f.z[..inputs], &d.p[..results], &mut d.z[..inputs]);
        let held = (w, dw, self.a, &mut *gates.a, &*f.q);
        let carried = self.carries().then_some((s, ds, self.carried, &mut *gates.carried, &*f.q_carried));
        for (w, dw, products, dproducts, q) in [Some(held), carried].into_iter().flatten() {
            d.by.fill(0.0);
            point::dots(isa, l.rows, dp, &q[..results], d.by);
            (0..n).for_each(|t| dproducts[t * side] += d.by[t]);
            self.before(products, f.by);
            let space = &mut f.space[..results];
            rows::scale_rows(isa, l.rows, f.by, dp, space);
            add_outer(isa, l, space, z, dw);
            apply_back(isa, l, w, space, dz, Start::Current);
        }
        if n == 1 {
            return;
        }
        among(isa, l.rows, dp, &f.c[..results], d.m, Start::Zero);
        self.weigh_backward(self.a, f.gram, d.m, gates.a);
        if self.carries() {
            among(isa, l.rows, dp, &f.fresh[..results], d.m_carried, Start::Zero);
            self.weigh_backward(self.carried, f.gram, d.m_carried, gates.carried);
            rows::add_scaled(isa, 1.0, d.m_carried, d.m);
        }
        add_mixed(isa, l.columns, d.m, z, dz);
        add_mixed_back(isa, l.columns, d.m, z, dz);
    }

    /// From g to gradients, rates and lengths.
    fn fresh_backward(&self, b: &[f32], f: &mut Steps<'_>, d: &mut DSteps<'_>, db: &mut [f32], drate: &mut [f32]) {
        let (l, isa) = (self.layer, self.isa);
        let results = self.n() * l.rows;
        let dfresh = &d.fresh[..results];
        d.by.fill(0.0);
        point::dots(isa, l.rows, dfresh, b, d.by);
        let parts = drate.iter_mut().zip(&mut *d.length).zip(&*d.by).zip(&mut *f.by);
        for ((((drate, dlength), dot), by), (length, rate)) in parts.zip(f.length.iter().zip(self.rate)) {
            *drate -= length * dot;
            *dlength = -rate * dot;
            *by = -rate * length;
        }
        self.add_rows(f.by, dfresh, &mut f.space[..results], db);
    }
}
