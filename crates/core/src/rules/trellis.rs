//! Trellis: two memories of non-linear codes that share a latent target; the first's read is the second's key.
//!
//! ```text
//! pass over a memory M: [slots, width] with the write vector w (k for Mk, v for Mv):
//!   z  = M w
//!   u  = J_phi(z)^T (phi(z) - target)      inner loss 1/2 |phi(M w) - target|^2
//!   M' = retain M - rate u w^T             [Trellis v1 eq.13], [Trellis v1 eq.14]
//!
//! r  = f(Mk' q),   y = out(Mv'^T r)
//! ```
//!
//! phi, f and out are codes: the settings `write`, `read`, `out`. The paper does not say what phi is; its ablations
//! name LN of SiLU. With the identity a pass is decay and the delta rule towards the target. The rule was put together
//! from others' audits of the paper, whose text was not at hand.
//!
//! With `chunk` above one the codes z are those of the memory at the start of the token's chunk, which the state
//! carries. z_t depends on the writes before it in its chunk alone, so `chunk - 1` sweeps that replace all codes of a
//! chunk at once give exactly the memory without chunks, which is what the reference computes for that setting.
//!
//! LayerNorm is blind to scale and offset, so towards a uniform target such a code has no gradient: the memory learns
//! from how targets differ. The error of a normalised code is bounded, so the step of a token is bounded by |w|
//! whatever the memory holds; an identity is a delta rule, which needs |w| <= 1, and gets values of unit length.
//! Unlike the paper, whose rate is a softplus, the rate is below 1.

use super::matrix::{add_outer, add_scaled, apply, apply_transposed, decay, decay_backward, dot};
use super::miras::smooth::{layer_norm, layer_norm_backward};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::kernels::slots;
use crate::rule::{
    About, Activation, ChunkForm, Dims, Input, MemoryRule, Start, StateTensor, Width, input, named, named_mut,
};
use crate::scalar::{Dual, Scalar};
use serde::{Deserialize, Serialize};

/// A map from codes to codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// LayerNorm of SiLU, without scale and offset.
    LnSilu,
    /// SiLU, brought to unit length as in docs/notation.md [Trellis v1 eq.7].
    L2Silu,
    /// The code itself.
    Identity,
}

impl Code {
    fn apply<F: Scalar>(self, z: &[F]) -> Vec<F> {
        let silu: Vec<F> = z.iter().map(|z| z.silu()).collect();
        match self {
            Code::LnSilu => {
                let mut out = silu.clone();
                layer_norm(&silu, &mut out);
                out
            }
            Code::L2Silu => {
                let length = length(&silu);
                silu.iter().map(|&s| s / length).collect()
            }
            Code::Identity => z.to_vec(),
        }
    }

    /// Transpose of [`Code::apply`]: the gradient of `z`.
    fn backward<F: Scalar>(self, z: &[F], dout: &[F]) -> Vec<F> {
        let silu: Vec<F> = z.iter().map(|z| z.silu()).collect();
        let mut dsilu = vec![F::zero(); z.len()];
        match self {
            Code::LnSilu => layer_norm_backward(&silu, dout, &mut dsilu),
            Code::L2Silu => {
                let length = length(&silu);
                add_scaled(&mut dsilu, F::one() / length, dout);
                add_scaled(&mut dsilu, -dot(dout, &silu) / (length * length * length), &silu);
            }
            Code::Identity => return dout.to_vec(),
        }
        dsilu.iter().zip(z).map(|(&d, z)| d * z.silu_slope()).collect()
    }
}

/// Length with the floor of docs/notation.md, which bounds the slope of unit codes.
fn length<F: Scalar>(x: &[F]) -> F {
    (dot(x, x) + F::from_f64(1e-6)).sqrt()
}

/// Two memories that share a target; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trellis {
    /// Latent slots. Absent: as many as a key is wide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// The code that is learned towards the target.
    pub write: Code,
    /// The code that the second memory is read with.
    pub read: Code,
    /// What the read passes through.
    pub out: Code,
    /// Tokens whose codes are those of the same memory; part of the model unless all `sweeps` are made.
    pub chunk: usize,
    /// Sweeps over the codes of a chunk: 0, or `chunk - 1`, which is exact.
    pub sweeps: usize,
}

impl Default for Trellis {
    fn default() -> Self {
        // The best ablation of the paper: LN of SiLU for both codes, a linear read.
        Self { slots: None, write: Code::LnSilu, read: Code::LnSilu, out: Code::Identity, chunk: 1, sweeps: 0 }
    }
}

/// Longest chunk: far beyond use, far below what an index can hold.
const MOST_TOKENS: usize = 1 << 20;
/// The most slots: the inner dimension of a memory that fits a cache.
const MOST_SLOTS: usize = 1 << 16;

impl Trellis {
    /// Number of slots.
    pub(crate) fn slots(&self, d: Dims) -> usize {
        self.slots.unwrap_or(d.dk)
    }

    /// True if codes are taken from the chunk start.
    pub(crate) fn frozen(&self) -> bool {
        self.chunk > 1 && self.sweeps == 0
    }

    /// True at the first token of a chunk, for frozen codes.
    pub(crate) fn begins(&self, pos: u64) -> bool {
        self.frozen() && pos.is_multiple_of(self.chunk as u64)
    }

    /// Number of values in both memories.
    fn len(&self, d: Dims) -> usize {
        self.slots(d) * (d.dk + d.dv)
    }

    /// The code of a write vector, and the gradient of the loss with respect to it.
    fn error<F: Scalar>(&self, m: &[F], w: &[F], target: &[F]) -> (Vec<F>, Vec<F>) {
        let z = apply(m, w);
        let mut e = self.write.apply(&z);
        add_scaled(&mut e, -F::one(), target);
        let u = self.write.backward(&z, &e);
        (z, u)
    }

    /// Transpose of one pass. In: `dm` = dL/dM'. Out: dL/dM. Adds into `dat`, the gradient of the memory whose code was
    /// taken, and the inputs'; gives the gradient of the rate and of `retain`.
    fn pass_backward<F: Scalar>(
        &self,
        (m, at, w): (&[F], &[F], &[F]),
        (retain, rate, target): (F, F, &[F]),
        (dm, dat): (&mut [F], &mut [F]),
        (dw, dtarget): (&mut [F], &mut [F]),
    ) -> (F, F) {
        let (z, u) = self.error(at, w, target);
        // M' = retain M - rate u w^T
        let back = apply(dm, w);
        let drate = -dot(&back, &u);
        let du: Vec<F> = back.iter().map(|&b| -rate * b).collect();
        add_scaled(dw, -rate, &apply_transposed(dm, &u));
        let mut dretain = F::zero();
        decay_backward(m, retain, &mut dretain, dm);
        // u = J^T (phi(z) - target): what moves along du, then the transpose on dual numbers for the second order.
        let along: Vec<Dual<F>> = z.iter().zip(&du).map(|(&z, &d)| Dual::new(z, d)).collect();
        let moved = self.write.apply(&along);
        let error: Vec<Dual<F>> = moved.iter().zip(target).map(|(p, &t)| Dual::new(p.re - t, p.eps)).collect();
        let dz: Vec<F> = self.write.backward(&along, &error).iter().map(|x| x.eps).collect();
        dtarget.iter_mut().zip(&moved).for_each(|(d, p)| *d += -p.eps);
        // z = M w
        add_scaled(dw, F::one(), &apply_transposed(at, &dz));
        add_outer(dat, F::one(), &dz, w);
        (drate, dretain)
    }
}

impl MemoryRule for Trellis {
    const NAME: &'static str = "trellis";
    const KERNELS: &'static [Kernel<Self>] = slots::trellis::KERNELS;

    fn positional(&self) -> bool {
        self.frozen()
    }

    fn about(&self) -> About {
        About {
            equation: "M' = retain M - rate ∇½|φ(M w) - target|² for w = k, v; y = Mv'ᵀ f(Mk' q)",
            source: "[Trellis v1 eq.13]",
            structure: "two matrices",
            features: "none",
            bias: "l2 of codes",
            retention: "l2",
            algorithm: "gd",
            chunk: ChunkForm::Frozen,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        // A delta rule towards the target is stable for write vectors of unit length.
        let value = if self.write == Code::Identity { Activation::Unit } else { Activation::Silu };
        // Steps taken from the same memory add up. 0.1 at the start: normalised codes have steep gradients.
        let tokens = if self.frozen() { self.chunk as f64 } else { 1.0 };
        let max = 1.0 / if self.write == Code::Identity { tokens } else { tokens.sqrt() };
        let rate = Activation::Sigmoid { floor: 0.0, max, bias: -2.2, damped_by: None };
        vec![
            input::K,
            Input { activation: value, ..input::V },
            input::Q,
            input::RETAIN,
            Input { activation: rate, ..input::RATE },
            Input {
                name: "target",
                width: self.slots.map_or(Width::Key, Width::Fixed),
                activation: Activation::Softmax,
                about: "latent code that key and value are learned towards",
            },
        ]
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        let m = self.slots(d);
        // With both at zero and a uniform target no code would ever move.
        let memory = |name, width: usize| {
            StateTensor::matrix(name, m, width).starting(Start::Learned { deviation: (width as f64).powf(-0.5) })
        };
        let mut list = vec![memory("Mk", d.dk), memory("Mv", d.dv)];
        if self.frozen() {
            list.push(StateTensor::matrix("anchor_Mk", m, d.dk).starting(Start::Same(0)).of_the_past());
            list.push(StateTensor::matrix("anchor_Mv", m, d.dv).starting(Start::Same(1)).of_the_past());
        }
        list
    }

    /// Code 2, decay 1, add the gradient 2, read 2, per entry of both memories.
    fn flops(&self, d: Dims) -> f64 {
        7.0 * self.len(d) as f64
    }

    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "rule `trellis`".into(), reason });
        let (m, chunk, sweeps) = (self.slots(d), self.chunk, self.sweeps);
        if !(1..=MOST_SLOTS).contains(&m) {
            return refuse(format!("slots = {m}: from 1 to {MOST_SLOTS}"));
        }
        if m < 3 && (self.write == Code::LnSilu || self.read == Code::LnSilu) {
            return refuse(format!(
                "ln_silu of {m} slots is a sign, without a gradient: three at least, or another code"
            ));
        }
        if m < 2 && (self.write == Code::L2Silu || self.read == Code::L2Silu) {
            return refuse(
                "l2_silu of one slot is a sign, without a gradient: two slots at least, or another code".into(),
            );
        }
        if (d.dv < 3 && self.out == Code::LnSilu) || (d.dv < 2 && self.out == Code::L2Silu) {
            return refuse(format!("a normalised read of {} values is a sign: wider values, or another out", d.dv));
        }
        if !(1..=MOST_TOKENS).contains(&chunk) {
            return refuse(format!("chunk = {chunk}: from 1 to {MOST_TOKENS}"));
        }
        if sweeps != 0 && sweeps != chunk - 1 {
            return refuse(format!(
                "sweeps = {sweeps}: n sweeps make the first n + 1 codes of a chunk exact and may leave the others \
                 further off than none do, so only 0 or chunk - 1 = {} are safe",
                chunk - 1
            ));
        }
        Ok(())
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        let [k, v, _q, retain, rate, target] = named(x);
        let (memories, anchors) = state.split_at_mut(self.len(d));
        if self.begins(pos) {
            anchors.copy_from_slice(memories);
        }
        let split = self.slots(d) * d.dk;
        for (range, w) in [(0..split, k), (split..self.len(d), v)] {
            let at = if self.frozen() { &anchors[range.clone()] } else { &memories[range.clone()] };
            let (_, u) = self.error(at, w, target);
            let m = &mut memories[range];
            decay(m, retain[0]);
            add_outer(m, -rate[0], &u, w);
        }
    }

    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let [k, v, _q, retain, rate, target] = named(x);
        let [dk, dv, _dq, dretain, drate, dtarget] = named_mut(dx);
        let (memories, anchors) = prev.split_at(self.len(d));
        let (dmemories, danchors) = dstate.split_at_mut(self.len(d));
        let own = !self.frozen() || self.begins(pos);
        let split = self.slots(d) * d.dk;
        let mut dat = vec![F::zero(); self.len(d)];
        for (range, w, dw) in [(0..split, k, dk), (split..self.len(d), v, dv)] {
            let at = if own { memories } else { anchors };
            let (by_rate, by_retain) = self.pass_backward(
                (&memories[range.clone()], &at[range.clone()], w),
                (retain[0], rate[0], target),
                (&mut dmemories[range.clone()], &mut dat[range]),
                (dw, dtarget),
            );
            drate[0] += by_rate;
            dretain[0] += by_retain;
        }
        if own {
            add_scaled(dmemories, F::one(), &dat);
        } else {
            add_scaled(danchors, F::one(), &dat);
        }
        if self.begins(pos) {
            add_scaled(dmemories, F::one(), danchors);
            danchors.fill(F::zero());
        }
    }

    fn read<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        let (mk, mv) = state[..self.len(d)].split_at(self.slots(d) * d.dk);
        let r = self.read.apply(&apply(mk, x[2]));
        y.copy_from_slice(&self.out.apply(&apply_transposed(mv, &r)));
    }

    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let q = x[2];
        let (mk, mv) = state[..self.len(d)].split_at(self.slots(d) * d.dk);
        let (dmk, dmv) = dstate[..self.len(d)].split_at_mut(self.slots(d) * d.dk);
        let z = apply(mk, q);
        let r = self.read.apply(&z);
        let o = apply_transposed(mv, &r);
        let d_o = self.out.backward(&o, dy);
        add_outer(dmv, F::one(), &r, &d_o);
        let dz = self.read.backward(&z, &apply(mv, &d_o));
        add_outer(dmk, F::one(), &dz, q);
        add_scaled(dx[2], F::one(), &apply_transposed(mk, &dz));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, phase: f64) -> Vec<f64> {
        (0..n).map(|i| (i as f64 * 1.7 + phase).sin()).collect()
    }

    #[test]
    fn sweeps_other_than_none_and_all_are_refused_with_the_reason() {
        let d = Dims::new(4, 4);
        for sweeps in 0..8 {
            let rule = Trellis { chunk: 8, sweeps, ..Trellis::default() };
            assert_eq!(rule.check(d).is_ok(), sweeps == 0 || sweeps == 7, "{sweeps}");
        }
        let error = Trellis { chunk: 8, sweeps: 3, ..Trellis::default() }.check(d).unwrap_err().to_string();
        assert!(error.contains("sweeps = 3") && error.contains("= 7"), "{error}");
    }

    /// The claim behind `sweeps`: replacing all codes of a chunk at once, chunk - 1 times, gives the memory without
    /// chunks; fewer sweeps give its first codes only.
    #[test]
    fn all_sweeps_over_a_chunk_give_the_memory_without_chunks() {
        let (c, m, width) = (5, 4, 3);
        let rule = Trellis::default();
        let start = numbers(m * width, 0.3);
        let target: Vec<Vec<f64>> = (0..c).map(|t| numbers(m, t as f64)).collect();
        let w: Vec<Vec<f64>> = (0..c).map(|t| numbers(width, 10.0 + t as f64)).collect();
        let (retain, rate) = (0.9, 0.4);
        let run = |error: &dyn Fn(usize, &[f64]) -> Vec<f64>| {
            let (mut memory, mut before) = (start.clone(), Vec::new());
            for (t, w) in w.iter().enumerate() {
                before.push(memory.clone());
                let u = error(t, &memory);
                decay(&mut memory, retain);
                add_outer(&mut memory, -rate, &u, w);
            }
            (before, memory)
        };
        let (exact, end) = run(&|t, memory| rule.error(memory, &w[t], &target[t]).1);
        let mut codes_at = vec![start.clone(); c];
        for sweep in 0..c {
            let at = codes_at.clone();
            let (before, swept) = run(&|t, _| rule.error(&at[t], &w[t], &target[t]).1);
            let off = |a: &[f64], b: &[f64]| a.iter().zip(b).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
            assert!(off(&before[sweep.min(c - 1)], &exact[sweep.min(c - 1)]) < 1e-12, "sweep {sweep}");
            assert_eq!(off(&swept, &end) < 1e-12, sweep == c - 1, "sweep {sweep}");
            codes_at = before;
        }
    }
}
