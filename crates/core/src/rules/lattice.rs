//! Lattice: slots on the unit sphere, each moved only across itself, so that what it holds already stays.
//!
//! The state `S: [dv, dk]` has a slot per channel of the keys, its columns s_i; phi_i is s_i at unit length, Phi all
//! of them. Keys and queries are codes over slots, values are contents.
//!
//! ```text
//! decoding    loss 1/2 |Phi k - v|^2      h = v - Phi k     w = k
//! encoding    loss 1/2 |Phi^T v - k|^2    h = v             w = k - Phi^T v
//! similarity  loss -k^T Phi^T v           h = v             w = k
//!
//! s_i' = retain s_i + rate (w_i / |s_i|) (I - phi_i phi_i^T) h       [Lattice v1 eq.26]
//! s_i' = s_i' / |s_i'|                                                with `retract`
//! y    = Phi' q
//! ```
//!
//! That is the gradient of the loss through the normalisation, and with unit slots a step of Riemannian descent on a
//! product of spheres. A step stands at right angles to its slot, so retracting never divides by less than `retain`.
//! The step was derived from the objectives, since the paper's text was not at hand; the number of the equation is that
//! under which others cite its unified form.
//!
//! A slot's step is also `s_i' = g_i s_i + b_i h` with
//!
//! ```text
//! g_i = retain - rate w_i (phi_i . h) / |s_i|^2        b_i = rate w_i / |s_i|
//! ```
//!
//! With `chunk` above one, g, b and h are those of the slots at the start of the token's chunk, which the state
//! carries: every slot is a gated linear recurrence then. Slots are normalised at reads on a copy and, with `retract`, in the
//! state at the end of the chunk.

use super::matrix::{add_scaled, apply, apply_transposed, dot};
use super::miras::smooth::{norm, norm_backward};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::kernels::slots;
use crate::rule::{About, Activation, ChunkForm, Dims, Input, MemoryRule, Start, StateTensor, input};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// What the slots are learned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// The code of a token decodes to its content.
    #[default]
    Decoding,
    /// The content of a token encodes to its code.
    Encoding,
    /// Contents are like the slots of their codes.
    Similarity,
}

/// Slots of unit length; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lattice {
    #[serde(skip)]
    name: &'static str,
    /// What the slots are learned for.
    pub variant: Variant,
    /// Bring slots back to unit length: after every token, with chunks at their ends. Without it slots keep all they
    /// hold and grow, so that later tokens turn them less; there is no `retain` then, since a slot that decays towards
    /// zero has no direction left.
    pub retract: bool,
    /// Tokens whose steps are taken from the same slots; part of the model.
    pub chunk: usize,
}

impl Default for Lattice {
    fn default() -> Self {
        Self { name: Self::NAME, variant: Variant::Decoding, retract: true, chunk: 1 }
    }
}

/// Names of the presets, in the order of [`VARIANTS`].
const NAMES: [&str; 3] = ["lattice_decoding", "lattice_encoding", "lattice_similarity"];
const VARIANTS: [Variant; 3] = [Variant::Decoding, Variant::Encoding, Variant::Similarity];
/// Longest chunk: far beyond use, far below what an index can hold.
const MOST_TOKENS: usize = 1 << 20;

/// What a token does to the slots, from the slots `at` which it is taken.
struct Step<F> {
    /// Columns of the slots, and their lengths.
    slots: Vec<Vec<F>>,
    lengths: Vec<F>,
    /// Slots at unit length, `[dk][dv]`.
    phi: Vec<Vec<F>>,
    h: Vec<F>,
    w: Vec<F>,
    /// `phi_i . h`.
    along: Vec<F>,
    g: Vec<F>,
    b: Vec<F>,
}

/// What `rate` and `retain` are for one token.
#[derive(Clone, Copy)]
struct Gates<F> {
    rate: F,
    retain: F,
}

impl Lattice {
    fn gates<F: Scalar>(&self, x: &[&[F]]) -> Gates<F> {
        if self.retract { Gates { retain: x[3][0], rate: x[4][0] } } else { Gates { retain: F::one(), rate: x[3][0] } }
    }

    /// True at the first token of a chunk, for rules with chunks.
    pub(crate) fn begins(&self, pos: u64) -> bool {
        self.chunk > 1 && pos.is_multiple_of(self.chunk as u64)
    }

    /// True at the last token of a chunk, for rules that retract.
    pub(crate) fn retracts_at(&self, pos: u64) -> bool {
        self.retract && (pos + 1).is_multiple_of(self.chunk.max(1) as u64)
    }

    fn plan<F: Scalar>(&self, x: &[&[F]], at: &[F]) -> Step<F> {
        let (k, v, Gates { rate, retain }) = (x[0], x[1], self.gates(x));
        let slots = columns(at, k.len());
        let lengths: Vec<F> = slots.iter().map(|s| norm(s)).collect();
        let phi: Vec<Vec<F>> = slots.iter().zip(&lengths).map(|(s, &n)| s.iter().map(|&s| s / n).collect()).collect();
        let (mut h, mut w) = (v.to_vec(), k.to_vec());
        match self.variant {
            Variant::Decoding => phi.iter().zip(k).for_each(|(phi, &k)| add_scaled(&mut h, -k, phi)),
            Variant::Encoding => phi.iter().zip(&mut w).for_each(|(phi, w)| *w += -dot(phi, v)),
            Variant::Similarity => {}
        }
        let along: Vec<F> = phi.iter().map(|phi| dot(phi, &h)).collect();
        let gate = |i: usize| retain - rate * w[i] * along[i] / (lengths[i] * lengths[i]);
        let g = (0..k.len()).map(gate).collect();
        let b = (0..k.len()).map(|i| rate * w[i] / lengths[i]).collect();
        Step { slots, lengths, phi, h, w, along, g, b }
    }

    /// The slots after a token, before they are retracted.
    fn moved<F: Scalar>(step: &Step<F>, s: &[F], dk: usize) -> Vec<F> {
        let mut out = s.to_vec();
        for (row, &h) in out.chunks_exact_mut(dk).zip(&step.h) {
            for (i, s) in row.iter_mut().enumerate() {
                *s = step.g[i] * *s + step.b[i] * h;
            }
        }
        out
    }

    /// Transpose of [`Lattice::plan`]: adds into `dx` and `dat`.
    fn plan_backward<F: Scalar>(
        &self,
        x: &[&[F]],
        step: &Step<F>,
        (dg, db, mut dh): (Vec<F>, Vec<F>, Vec<F>),
        dx: &mut [&mut [F]],
        dat: &mut [F],
    ) {
        let (k, v, Gates { rate, .. }) = (x[0], x[1], self.gates(x));
        let Step { slots, lengths, phi, h, w, along, .. } = step;
        let m = k.len();
        let (mut drate, mut dretain) = (F::zero(), F::zero());
        let mut dw = vec![F::zero(); m];
        let mut dlengths = dw.clone();
        let mut dphi = vec![vec![F::zero(); h.len()]; m];
        for i in 0..m {
            let n = lengths[i];
            // b = rate w / n, g = retain - rate w along / n^2
            let per_step = along[i] / (n * n);
            dretain += dg[i];
            drate += db[i] * w[i] / n - dg[i] * w[i] * per_step;
            dw[i] = db[i] * rate / n - dg[i] * rate * per_step;
            dlengths[i] = -db[i] * rate * w[i] / (n * n) + F::from_f64(2.0) * dg[i] * rate * w[i] * per_step / n;
            let dalong = -dg[i] * rate * w[i] / (n * n);
            add_scaled(&mut dphi[i], dalong, h);
            add_scaled(&mut dh, dalong, &phi[i]);
        }
        let (dk, rest) = dx.split_at_mut(1);
        let (dk, dv) = (&mut *dk[0], &mut *rest[0]);
        add_scaled(dv, F::one(), &dh);
        add_scaled(dk, F::one(), &dw);
        for i in 0..m {
            match self.variant {
                Variant::Decoding => {
                    dk[i] += -dot(&phi[i], &dh);
                    add_scaled(&mut dphi[i], -k[i], &dh);
                }
                Variant::Encoding => {
                    add_scaled(dv, -dw[i], &phi[i]);
                    add_scaled(&mut dphi[i], -dw[i], v);
                }
                Variant::Similarity => {}
            }
            let dslot = unit_backward(&slots[i], lengths[i], &phi[i], &dphi[i], dlengths[i]);
            (0..h.len()).for_each(|r| dat[r * m + i] += dslot[r]);
        }
        let gates = if self.retract { &mut [dretain, drate][..] } else { &mut [drate][..] };
        gates.iter().zip(&mut dx[3..]).for_each(|(&d, dx)| dx[0] += d);
    }
}

impl MemoryRule for Lattice {
    const NAME: &'static str = "lattice";
    const KERNELS: &'static [Kernel<Self>] = slots::lattice::KERNELS;

    fn name(&self) -> &'static str {
        self.name
    }
    fn presets() -> Vec<Self> {
        NAMES.into_iter().zip(VARIANTS).map(|(name, variant)| Self { name, variant, ..Self::default() }).collect()
    }
    fn named_like(self, other: &Self) -> Self {
        Self { name: other.name, ..self }
    }

    fn positional(&self) -> bool {
        self.chunk > 1
    }

    fn about(&self) -> About {
        About {
            equation: match self.variant {
                Variant::Decoding => "sᵢ' = unit(retain sᵢ + rate kᵢ (I - sᵢ sᵢᵀ)(v - S k)); y = S' q",
                Variant::Encoding => "sᵢ' = unit(retain sᵢ + rate (kᵢ - sᵢᵀ v)(I - sᵢ sᵢᵀ) v); y = S' q",
                Variant::Similarity => "sᵢ' = unit(retain sᵢ + rate kᵢ (I - sᵢ sᵢᵀ) v); y = S' q",
            },
            source: "[Lattice v1 eq.26]",
            structure: "unit columns",
            features: "none",
            bias: match self.variant {
                Variant::Decoding => "l2",
                Variant::Encoding => "l2 of codes",
                Variant::Similarity => "dot",
            },
            retention: if self.retract { "sphere" } else { "none" },
            algorithm: "gd",
            chunk: ChunkForm::Frozen,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        // The steps of a whole chunk are taken from the same slots and add up.
        let activation = Activation::Sigmoid { floor: 0.0, max: 1.0 / self.chunk.max(1) as f64, bias: 0.0, damped_by: None };
        let retain = self.retract.then_some(input::RETAIN);
        [input::K, input::V, input::Q].into_iter().chain(retain).chain([Input { activation, ..input::RATE }]).collect()
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        let mut list = vec![StateTensor::matrix("S", d.dv, d.dk).starting(Start::UnitColumns)];
        if self.chunk > 1 {
            list.push(StateTensor::matrix("anchor_S", d.dv, d.dk).starting(Start::Same(0)).of_the_past());
        }
        list
    }

    /// Per entry of S: lengths and unit slots 3, decode or encode 2, along h 2, gate and write 3, lengths and unit
    /// slots once more for the retraction and the read 4, read 2.
    fn flops(&self, d: Dims) -> f64 {
        16.0 * (d.dk * d.dv) as f64
    }

    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: format!("rule `{}`", self.name), reason });
        if d.dv < 2 {
            return refuse("slots of a single value have no direction to turn to: values of width 2 at least".into());
        }
        if !(1..=MOST_TOKENS).contains(&self.chunk) {
            return refuse(format!("chunk = {}: from 1 to {MOST_TOKENS}", self.chunk));
        }
        Ok(())
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        let (s, anchor) = state.split_at_mut(d.dk * d.dv);
        if self.begins(pos) {
            anchor.copy_from_slice(s);
        }
        let step = self.plan(x, if self.chunk > 1 { anchor } else { s });
        let moved = Self::moved(&step, s, d.dk);
        s.copy_from_slice(&if self.retracts_at(pos) { unit_columns(&moved, d.dk) } else { moved });
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
        let (s, anchor) = prev.split_at(d.dk * d.dv);
        let (ds, danchor) = dstate.split_at_mut(d.dk * d.dv);
        let own = self.chunk <= 1 || self.begins(pos);
        let step = self.plan(x, if own { s } else { anchor });
        if self.retracts_at(pos) {
            let moved = Self::moved(&step, s, d.dk);
            let dunit = ds.to_vec();
            ds.fill(F::zero());
            unit_columns_backward(&moved, d.dk, &dunit, ds);
        }
        // s' = g s + b h
        let (mut dg, mut db) = (vec![F::zero(); d.dk], vec![F::zero(); d.dk]);
        let mut dh = vec![F::zero(); d.dv];
        for (r, (ds, s)) in ds.chunks_exact_mut(d.dk).zip(s.chunks_exact(d.dk)).enumerate() {
            dh[r] += dot(ds, &step.b);
            for i in 0..d.dk {
                dg[i] += ds[i] * s[i];
                db[i] += ds[i] * step.h[r];
                ds[i] *= step.g[i];
            }
        }
        self.plan_backward(x, &step, (dg, db, dh), dx, if own { &mut *ds } else { &mut *danchor });
        if self.begins(pos) {
            add_scaled(ds, F::one(), danchor);
            danchor.fill(F::zero());
        }
    }

    fn read<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        y.copy_from_slice(&apply(&unit_columns(&state[..d.dk * d.dv], d.dk), x[2]));
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
        let s = &state[..d.dk * d.dv];
        add_scaled(dx[2], F::one(), &apply_transposed(&unit_columns(s, d.dk), dy));
        let dunit: Vec<F> = dy.iter().flat_map(|&dy| x[2].iter().map(move |&q| dy * q)).collect();
        unit_columns_backward(s, d.dk, &dunit, &mut dstate[..d.dk * d.dv]);
    }
}

/// The columns of `[rows, count]`.
fn columns<F: Scalar>(s: &[F], count: usize) -> Vec<Vec<F>> {
    (0..count).map(|i| s.iter().skip(i).step_by(count).copied().collect()).collect()
}

/// `s` with every column at unit length.
fn unit_columns<F: Scalar>(s: &[F], count: usize) -> Vec<F> {
    let lengths: Vec<F> = columns(s, count).iter().map(|s| norm(s)).collect();
    s.iter().enumerate().map(|(at, &s)| s / lengths[at % count]).collect()
}

/// Transpose of [`unit_columns`]; adds into `ds`.
fn unit_columns_backward<F: Scalar>(s: &[F], count: usize, dunit: &[F], ds: &mut [F]) {
    for (i, (s, dunit)) in columns(s, count).iter().zip(columns(dunit, count)).enumerate() {
        let n = norm(s);
        let phi: Vec<F> = s.iter().map(|&s| s / n).collect();
        let d = unit_backward(s, n, &phi, &dunit, F::zero());
        (0..s.len()).for_each(|r| ds[r * count + i] += d[r]);
    }
}

/// From the gradients of `phi = s / n` and of `n = |s|` to that of `s`.
fn unit_backward<F: Scalar>(s: &[F], n: F, phi: &[F], dphi: &[F], dn: F) -> Vec<F> {
    let mut ds: Vec<F> = dphi.iter().map(|&d| d / n).collect();
    norm_backward(s, dn - dot(dphi, phi) / n, &mut ds);
    ds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::start_state;

    fn rule(variant: Variant) -> Lattice {
        Lattice { variant, ..Lattice::default() }
    }

    fn start(d: Dims) -> Vec<f64> {
        let mut seed = 1.0_f64;
        start_state(&Lattice::default().state(d), &mut || {
            seed = (seed * 12.9898 + 0.1).sin() * 3.0;
            seed
        })
    }

    #[test]
    fn slots_stay_at_unit_length_whatever_the_step() {
        let d = Dims::new(3, 4);
        for variant in VARIANTS {
            let mut s = start(d);
            for t in 0..20 {
                let v: Vec<f64> = (0..4).map(|i| ((7 * t + 3 * i) as f64).sin()).collect();
                rule(variant).write(d, t, &[&[0.6, 0.0, -0.8], &v, &[0.0; 3], &[1.0], &[50.0]], &mut s);
                for slot in columns(&s, 3) {
                    assert!((norm(&slot) - 1.0).abs() < 1e-12, "{variant:?}, token {t}: {slot:?}");
                }
            }
        }
    }

    /// Without retraction a step is `-rate` times the gradient of the loss through the normalisation.
    #[test]
    fn a_step_descends_its_loss_through_the_normalisation() {
        let d = Dims::new(3, 4);
        let (k, v) = ([0.6, 0.2, -0.7], [0.3, -1.1, 0.4, 0.9]);
        let loss = |variant: Variant, s: &[f64]| {
            let phi = unit_columns(s, 3);
            match variant {
                Variant::Decoding => 0.5 * apply(&phi, &k).iter().zip(v).map(|(p, v)| (p - v) * (p - v)).sum::<f64>(),
                Variant::Encoding => {
                    0.5 * apply_transposed(&phi, &v).iter().zip(k).map(|(p, k)| (p - k) * (p - k)).sum::<f64>()
                }
                Variant::Similarity => -dot(&apply(&phi, &k), &v),
            }
        };
        for variant in VARIANTS {
            let mut s = start(d);
            s.iter_mut().enumerate().for_each(|(i, s)| *s *= 1.0 + (i % 3) as f64);
            let mut moved = s.clone();
            let rule = Lattice { retract: false, ..rule(variant) };
            rule.write(d, 0, &[&k, &v, &k, &[0.25]], &mut moved);
            for i in 0..s.len() {
                let at = |by: f64| {
                    let mut near = s.clone();
                    near[i] += by;
                    loss(variant, &near)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((moved[i] - s[i] + 0.25 * slope).abs() < 1e-9, "{variant:?}, entry {i}");
            }
        }
    }
}
