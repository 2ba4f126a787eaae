//! The projection of queries in `f32`: [`Projection`] with its products over vectors.

use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::rules::miras::smooth::NORM;
use crate::rules::tnt::Projection;
use crate::rules::tnt::projection::{FLOOR, RIDGE};
use crate::simd::Isa;

kernel! {
    /// `out = G x`.
    fn apply(s: S, g: &'a [f32], x: &'a [f32], out: &'a mut [f32]) {
        for (row, out) in g.chunks_exact(x.len()).zip(out) {
            *out = dot(s, row, x);
        }
    }

    /// `out += by G^T x`.
    fn add_transposed(s: S, g: &'a [f32], by: f32, x: &'a [f32], out: &'a mut [f32]) {
        for (row, &x) in g.chunks_exact(x.len()).zip(x) {
            let x = s.splat(by * x);
            for at in (0..row.len()).step_by(S::LANES) {
                put(s, out, at, s.fma(x, get(s, row, at), get(s, out, at)));
            }
        }
    }

    /// `G += by a b^T`.
    fn add_outer(s: S, g: &'a mut [f32], by: f32, a: &'a [f32], b: &'a [f32]) {
        for (row, &a) in g.chunks_exact_mut(b.len()).zip(a) {
            let a = s.splat(by * a);
            for at in (0..b.len()).step_by(S::LANES) {
                add_to(s, row, at, s.mul(a, get(s, b, at)));
            }
        }
    }
}

/// Widest key: the buffers of a projection lie on the stack.
const WIDEST: usize = 512;

/// A projection at one size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Project {
    pub kind: Projection,
    pub dk: usize,
}

impl Project {
    /// Whether keys of that width can be projected.
    pub(super) fn covers(self) -> bool {
        self.dk <= WIDEST
    }

    /// See [`Projection::see`].
    pub(super) fn see(self, isa: Isa, g: &mut [f32], k: &[f32]) {
        let mut unit = [0.0; WIDEST];
        let unit = &mut unit[..self.dk];
        direction(k, unit);
        if self.kind == Projection::Orth {
            let mut e = [0.0; WIDEST];
            let e = &mut e[..self.dk];
            let c = outside(isa, g, unit, e);
            add_outer(isa, g, 1.0 / c, e, e);
        } else {
            add_outer(isa, g, 1.0, unit, unit);
        }
    }

    /// Transpose of [`Project::see`]; `g` is the matrix before. In: `dg` = dL/dG'. Out: dL/dG. Adds into `dk`.
    pub(super) fn see_backward(self, isa: Isa, g: &[f32], k: &[f32], dg: &mut [f32], dk: &mut [f32]) {
        let n = self.dk;
        let [mut unit, mut e, mut de, mut dunit] = [[0.0; WIDEST]; 4];
        let [unit, e, de, dunit] = [&mut unit[..n], &mut e[..n], &mut de[..n], &mut dunit[..n]];
        let length = direction(k, unit);
        if self.kind == Projection::Orth {
            // G' = G + e e^T / c,  c = u . e + ridge,  e = u - G u
            let c = outside(isa, g, unit, e);
            apply(isa, dg, e, de);
            let dc = -sum(de, e) / (c * c);
            add_transposed(isa, dg, 1.0, e, de);
            for (de, u) in de.iter_mut().zip(&*unit) {
                *de = *de / c + dc * u;
            }
            dunit.iter_mut().zip(&*de).zip(&*e).for_each(|((d, de), e)| *d = de + dc * e);
            add_transposed(isa, g, -1.0, de, dunit);
            add_outer(isa, dg, -1.0, de, unit);
        } else {
            apply(isa, dg, unit, dunit);
            add_transposed(isa, dg, 1.0, unit, dunit);
        }
        let along = sum(dunit, unit);
        dk.iter_mut().zip(&*dunit).zip(&*unit).for_each(|((dk, d), u)| *dk += (d - along * u) / length);
    }

    /// See [`Projection::project`].
    pub(super) fn project(self, isa: Isa, g: &[f32], q: &[f32], out: &mut [f32]) {
        apply(isa, g, q, out);
        if self.kind == Projection::Shard {
            let by = norm(q) / length(out);
            out.iter_mut().for_each(|u| *u *= by);
        }
    }

    /// Transpose of [`Project::project`]; adds into `dg` and `dq`.
    pub(super) fn project_backward(self, isa: Isa, g: &[f32], q: &[f32], dout: &[f32], dg: &mut [f32], dq: &mut [f32]) {
        let [mut u, mut du] = [[0.0; WIDEST]; 2];
        let [u, du] = [&mut u[..self.dk], &mut du[..self.dk]];
        du.copy_from_slice(dout);
        if self.kind == Projection::Shard {
            apply(isa, g, q, u);
            let (s, n, along) = (norm(q), length(u), sum(dout, u));
            dq.iter_mut().zip(q).for_each(|(dq, q)| *dq += along / (n * s) * q);
            du.iter_mut().zip(&*u).for_each(|(d, u)| *d = *d * s / n - along * s / (n * n * n) * u);
        }
        add_outer(isa, dg, 1.0, du, q);
        add_transposed(isa, g, 1.0, du, dq);
    }
}

fn sum(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(x: &[f32]) -> f32 {
    (sum(x, x) + (NORM * NORM) as f32).sqrt()
}

/// Length, with a floor.
fn length(x: &[f32]) -> f32 {
    (sum(x, x) + (FLOOR * FLOOR) as f32).sqrt()
}

/// `k` at unit length, and its length.
fn direction(k: &[f32], unit: &mut [f32]) -> f32 {
    let n = norm(k);
    unit.iter_mut().zip(k).for_each(|(u, k)| *u = k / n);
    n
}

/// The part `e` of a unit key outside the projector, and what a step towards it is divided by.
fn outside(isa: Isa, g: &[f32], unit: &[f32], e: &mut [f32]) -> f32 {
    apply(isa, g, unit, e);
    e.iter_mut().zip(unit).for_each(|(e, u)| *e = u - *e);
    sum(unit, e) + RIDGE as f32
}
