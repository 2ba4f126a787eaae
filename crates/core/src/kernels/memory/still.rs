//! A memory of the family that stands still while some tokens meet it: what they read, what they lack, and the transposes.
//!
//! ```text
//! p = W k,  e = v - erase p,  u = rate e
//! with D the gradient of sum u k^T:
//! du = D k,  dk = D^T u,  drate = du . e,  dv = rate du,  dp = -rate erase du,  derase = -rate du . p
//! dW = sum dp k^T,  dk += W^T dp
//! ```
//!
//! Sums over keys are those of [`gemm`](crate::kernels::gemm), so that a token alone has the bits that it has among others.

use super::{Erase, Form, Tokens};
use crate::kernels::gemm::{MatMut, MatRef, Start, product};
use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::rule::Dims;
use crate::simd::Isa;

/// See the module text.
#[derive(Clone, Copy)]
pub(super) struct Still {
    pub form: Form,
    pub d: Dims,
    pub isa: Isa,
}

/// Gradients of the inputs of some tokens, by rows; gates that the rule does not have are empty.
pub(super) struct Gradients<'a> {
    pub k: &'a mut [f32],
    pub v: &'a mut [f32],
    pub q: &'a mut [f32],
    pub retain: &'a mut [f32],
    pub rate: &'a mut [f32],
    pub momentum: &'a mut [f32],
}

impl<'a> Gradients<'a> {
    /// Those of `count` tokens from `first` on.
    pub fn of(still: Still, first: usize, count: usize, dinputs: &'a mut [&mut [f32]]) -> Self {
        let (d, last) = (still.d, first + count);
        let (keys, values) = (first * d.dk..last * d.dk, first * d.dv..last * d.dv);
        let [k, v, q, gates @ ..] = dinputs else { unreachable!("the family has keys, values and queries") };
        let mut gates = gates.iter_mut().map(|gate| &mut gate[first..last]);
        let mut next = |has: bool| if has { gates.next().unwrap_or_default() } else { Default::default() };
        let [retain, rate, momentum] = [next(still.form.retain), next(true), next(still.form.momentum)];
        Self { k: &mut k[keys.clone()], v: &mut v[values], q: &mut q[keys], retain, rate, momentum }
    }
}

/// Rows of tokens, `[tokens, dv]`, and more of them than there are tokens: what is predicted, what it lacks, what is written,
/// and the gradient of that.
pub(super) struct Rows<'a> {
    pub p: &'a mut [f32],
    pub e: &'a mut [f32],
    pub u: &'a mut [f32],
    pub du: &'a mut [f32],
}

impl Still {
    /// Values of one matrix.
    pub fn matrix(self) -> usize {
        self.d.dk * self.d.dv
    }

    /// `W` of a memory.
    fn w(self, memory: &[f32]) -> MatRef<'_> {
        MatRef::new(memory, self.d.dv, self.d.dk)
    }

    /// `out [rows, dv] = x W^T`.
    pub fn through(self, x: &[f32], memory: &[f32], out: &mut [f32]) {
        let rows = x.len() / self.d.dk;
        let (x, out) = (MatRef::new(x, rows, self.d.dk), MatMut::new(out, rows, self.d.dv));
        product(self.isa, false, x, self.w(memory).transposed(), out, Start::Zero);
    }

    /// Transpose of [`Still::through`] for queries; all gradients are added to.
    pub fn read_backward(self, dy: &[f32], q: &[f32], memory: &[f32], dq: &mut [f32], dmemory: &mut [f32]) {
        let rows = q.len() / self.d.dk;
        let dy = MatRef::new(dy, rows, self.d.dv);
        product(self.isa, false, dy, self.w(memory), MatMut::new(dq, rows, self.d.dk), Start::Current);
        self.outer(dy, q, dmemory);
    }

    /// `dW += a^T b` for rows of values and rows of keys.
    fn outer(self, a: MatRef<'_>, b: &[f32], dmemory: &mut [f32]) {
        let b = MatRef::new(b, a.rows(), self.d.dk);
        product(self.isa, false, a.transposed(), b, MatMut::new(dmemory, self.d.dv, self.d.dk), Start::Current);
    }

    /// `p`, which stays as it is where nothing is erased, and `e`.
    pub fn lacks(self, x: Tokens<'_>, memory: &[f32], p: &mut [f32], e: &mut [f32]) {
        match self.form.erase {
            Erase::Nothing => e.copy_from_slice(x.v),
            _ => {
                self.through(x.k, memory, p);
                unerased(self.isa, self.form, x, p, e);
            }
        }
    }

    /// Transpose of `sum u k^T`, of which `toward` is the gradient; gradients are added to.
    pub fn write_backward(
        self,
        x: Tokens<'_>,
        memory: &[f32],
        toward: &[f32],
        grads: &mut Gradients<'_>,
        dmemory: &mut [f32],
        rows: &mut Rows<'_>,
    ) {
        let (Self { form, d, isa }, n) = (self, x.count);
        let Rows { p, e, u, du } = rows;
        let [p, e, u, du] = [p, e, u, du].map(|rows| &mut rows[..n * d.dv]);
        let (toward, keys) = (MatRef::new(toward, d.dv, d.dk), MatRef::new(x.k, n, d.dk));
        self.lacks(x, memory, p, e);
        product(isa, false, keys, toward.transposed(), MatMut::new(du, n, d.dv), Start::Zero);
        errors_backward(isa, form, x, [p, e], [u, du, grads.v], [grads.rate, grads.retain]);
        product(isa, false, MatRef::new(u, n, d.dv), toward, MatMut::new(grads.k, n, d.dk), Start::Current);
        if form.erase != Erase::Nothing {
            let dp = MatRef::new(du, n, d.dv);
            product(isa, false, dp, self.w(memory), MatMut::new(grads.k, n, d.dk), Start::Current);
            self.outer(dp, x.k, dmemory);
        }
    }
}

/// `a . b`.
pub(super) fn inner(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = 0.0;
    sum_of_products(isa, a, b, &mut sum);
    sum
}

/// The share of its prediction that a token erases.
#[inline(always)]
fn erase(form: Form, x: Tokens<'_>, t: usize) -> f32 {
    match form.erase {
        Erase::Nothing => 0.0,
        Erase::Previous => 1.0,
        Erase::Decayed => x.retain[t],
    }
}

kernel! {
    /// `e = v - erase p`.
    fn unerased(s: S, form: Form, x: Tokens<'a>, p: &'a [f32], e: &'a mut [f32]) {
        let dv = p.len() / x.count;
        for (t, ((e, p), v)) in e.chunks_exact_mut(dv).zip(p.chunks_exact(dv)).zip(x.v.chunks_exact(dv)).enumerate() {
            let share = s.splat(-erase(form, x, t));
            for c in (0..dv).step_by(S::LANES) {
                put(s, e, c, s.fma(share, get(s, p, c), get(s, v, c)));
            }
        }
    }

    /// Every row of `u` times its rate.
    pub(super) fn scale_rows(s: S, rate: &'a [f32], u: &'a mut [f32]) {
        let dv = u.len() / rate.len();
        for (u, &rate) in u.chunks_exact_mut(dv).zip(rate) {
            for c in (0..dv).step_by(S::LANES) {
                put(s, u, c, s.mul(s.splat(rate), get(s, u, c)));
            }
        }
    }

    /// Transpose of `u = rate e`, `e = v - erase p`. In `du`: the gradient of `u`, then that of `p`; `u` becomes what it was.
    fn errors_backward(
        s: S,
        form: Form,
        x: Tokens<'a>,
        made: [&'a [f32]; 2],
        rows: [&'a mut [f32]; 3],
        gates: [&'a mut [f32]; 2],
    ) {
        let ([p, e], [u, du, dv], [drate, dretain]) = (made, rows, gates);
        let width = du.len() / x.count;
        for t in 0..x.count {
            let row = t * width..(t + 1) * width;
            let (p, e, dv) = (&p[row.clone()], &e[row.clone()], &mut dv[row.clone()]);
            let (u, du) = (&mut u[row.clone()], &mut du[row]);
            drate[t] += dot(s, du, e);
            if form.erase == Erase::Decayed {
                dretain[t] -= x.rate[t] * dot(s, du, p);
            }
            let (rate, back) = (s.splat(x.rate[t]), s.splat(-x.rate[t] * erase(form, x, t)));
            for c in (0..width).step_by(S::LANES) {
                let own = get(s, du, c);
                put(s, u, c, s.mul(rate, get(s, e, c)));
                add_to(s, dv, c, s.mul(rate, own));
                put(s, du, c, s.mul(back, own));
            }
        }
    }

    /// `y += a x`.
    pub(super) fn add_scaled(s: S, a: f32, x: &'a [f32], y: &'a mut [f32]) {
        for c in (0..y.len()).step_by(S::LANES) {
            put(s, y, c, s.fma(s.splat(a), get(s, x, c), get(s, y, c)));
        }
    }

    /// `y = a x`.
    pub(super) fn scaled(s: S, a: f32, x: &'a [f32], y: &'a mut [f32]) {
        for c in (0..y.len()).step_by(S::LANES) {
            put(s, y, c, s.mul(s.splat(a), get(s, x, c)));
        }
    }

    fn sum_of_products(s: S, a: &'a [f32], b: &'a [f32], out: &'a mut f32) {
        *out = dot(s, a, b);
    }
}
