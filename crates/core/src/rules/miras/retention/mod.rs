//! Knob 3, retention: how the memory stays near what it was [Miras v1 sec.5.2].
//!
//! Every retention is a dual state `Z`, a map to weights `W = psi(Z)`, and a settling of the state after a step:
//!
//! ```text
//! Zd = retain Z + (1 - retain) target      the pull
//! Z' = settle(Zd + step)                   the step of the inner optimizer
//! W  = psi(Z')
//! ```
//!
//! Inside a chunk the state moves without settling; reads settle a copy, and the end of the chunk settles the state.

use super::knob::knob;
use super::structure::Tensor;
use crate::error::{Error, Result};
use crate::rule::Start;
use crate::scalar::Scalar;

/// What `retain` pulls the state towards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pull {
    /// Nothing: the state is kept as it is, and the rule has no input `retain`.
    Keep,
    /// Zero.
    Zero,
    /// Where the memory started.
    Start,
    /// This value, the same everywhere.
    Constant(f64),
}

/// A retention. Functions take one tensor of the state at a time.
pub trait Retention {
    /// Refuses settings that do not exist, with the reason.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`].
    fn check(&self) -> Result<()> {
        Ok(())
    }
    /// What `retain` pulls towards.
    fn pull(&self) -> Pull;
    /// What the state starts with, where a plain memory's tensor would start as it says itself.
    fn start(&self, tensor: &Tensor) -> Start {
        tensor.start
    }
    /// True if the state holds something else than the weights.
    fn is_dual(&self) -> bool {
        false
    }
    /// True if settled weights are bounded whatever is written.
    fn is_bounded(&self) -> bool {
        false
    }
    /// `W = psi(Z)`, overwritten. `frozen` is the state whose scalar norms are used: the anchor under chunks.
    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        w.copy_from_slice(z);
    }
    /// Transpose of [`Retention::weights`]; adds into `dz` and `dfrozen`.
    fn weights_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        _z: &[F],
        _frozen: &[F],
        dw: &[F],
        dz: &mut [F],
        _dfrozen: &mut [F],
    ) {
        for (dz, &dw) in dz.iter_mut().zip(dw) {
            *dz += dw;
        }
    }
    /// True if an inner gradient is projected, as [`Retention::project`] does.
    fn projects(&self) -> bool {
        false
    }
    /// Projects the inner gradient `g` at weights `w`, in place.
    fn project<F: Scalar>(&self, _t: &Tensor, _w: &[F], _g: &mut [F]) {}
    /// Transpose of [`Retention::project`]: `g` as it went in, `dg` in place, adds into `dw`.
    fn project_backward<F: Scalar>(&self, _t: &Tensor, _w: &[F], _g: &[F], _dg: &mut [F], _dw: &mut [F]) {}
    /// True if steps are scaled by `retain` too.
    fn scales_steps(&self) -> bool {
        false
    }
    /// True if the state is settled after a step.
    fn settles(&self) -> bool {
        false
    }
    /// True if settling shrinks by an amount that grows with the rate times `retain`.
    fn shrinks(&self) -> bool {
        false
    }
    /// True if steps multiply: then they are gathered apart from the state until it settles.
    fn multiplies(&self) -> bool {
        false
    }
    /// Settles the state in place. `step` is what was gathered (empty unless the retention [multiplies]), `shrink` the
    /// sum of `rate * retain` since it last settled.
    ///
    /// [multiplies]: Retention::multiplies
    fn settle<F: Scalar>(&self, _t: &Tensor, _z: &mut [F], _step: &[F], _shrink: F) {}
    /// Transpose of [`Retention::settle`]: `z` as it went in, `dz` in place, adds into `dstep`, gives the gradient of
    /// `shrink`.
    fn settle_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        _z: &[F],
        _step: &[F],
        _shrink: F,
        _dz: &mut [F],
        _dstep: &mut [F],
    ) -> F {
        F::zero()
    }
}

/// Refuses a setting that is not a number above zero.
fn positive(retention: &str, setting: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    let reason = format!("{setting} = {value}: a number above zero");
    Err(Error::Invalid { place: format!("retention `{retention}`"), reason })
}

/// Every value, not beyond `most` on either side.
fn clamp<F: Scalar>(most: f64, x: &mut [F]) {
    for x in x {
        if x.value().abs() > most {
            *x = F::from_f64(if x.value() > 0.0 { most } else { -most });
        }
    }
}

/// Transpose of [`clamp`] at `x` before it; `dx` in place.
fn clamp_backward<F: Scalar>(most: f64, x: &[F], dx: &mut [F]) {
    for (dx, x) in dx.iter_mut().zip(x) {
        if x.value().abs() > most {
            *dx = F::zero();
        }
    }
}

knob! { $
    /// A retention; see [`Retention`].
    AnyRetention in retention, with_retention, "retention", {
        none::None,
        l2::L2,
        l2_anchor::L2Anchor,
        kl::Kl,
        chi2::Chi2,
        reverse_kl::ReverseKl,
        hellinger::Hellinger,
        elastic::Elastic,
        elastic_ftrl::ElasticFtrl,
        lq_exact::LqExact,
        lq_literal::LqLiteral,
        sigmoid::Sigmoid,
        tanh::Tanh,
        sphere::Sphere,
        ball::Ball,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Dual;

    fn tensor(rows: usize, columns: usize) -> Tensor {
        Tensor { number: 0, rows, columns, values: None, keys: None, start: Start::Zero }
    }

    /// Numbers in (-1.5, 1.5) that look like nothing in particular.
    fn wave(n: usize, phase: usize) -> Vec<f64> {
        (0..n).map(|i| (((i + 31 * phase) * 7919 % 1009) as f64 + 0.5) / 1009.0 * 3.0 - 1.5).collect()
    }

    /// A state as it occurs: positive rows that sum to their length where steps multiply, unit columns on the sphere.
    fn state(retention: &AnyRetention, t: &Tensor) -> Vec<f64> {
        let mut z = wave(t.len(), 1);
        if with_retention!(retention, r => r.multiplies()) {
            for row in z.chunks_exact_mut(t.columns) {
                row.iter_mut().for_each(|z| *z = z.exp());
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|z| *z *= t.columns as f64 / sum);
            }
        }
        if with_retention!(retention, r => r.projects()) {
            settle(retention, t, &mut z, &[], 0.0);
        }
        z
    }

    fn settle<F: Scalar>(retention: &AnyRetention, t: &Tensor, z: &mut [F], step: &[F], shrink: F) {
        with_retention!(retention, r => r.settle(t, z, step, shrink));
    }

    fn weights<F: Scalar>(retention: &AnyRetention, t: &Tensor, z: &[F], frozen: &[F]) -> Vec<F> {
        let mut w = vec![F::zero(); z.len()];
        with_retention!(retention, r => r.weights(t, z, frozen, &mut w));
        w
    }

    /// Every value of the knob, with the settings that change its form.
    fn all() -> Vec<AnyRetention> {
        let mut all = AnyRetention::all();
        all.extend([2.0, 3.0].map(|q| LqExact { q }.into()));
        all.extend([2.0, 4.0].map(|q| LqLiteral { q, floor: 1e-3 }.into()));
        all.extend([0.5, 100.0].map(|radius| Ball { radius }.into()));
        all.push(Elastic { sparsity: 1.0 }.into());
        all.push(ElasticFtrl { sparsity: 0.5 }.into());
        all.push(Tanh { bound: 0.7 }.into());
        all
    }

    /// `parts` of a function, each with a direction, run on dual numbers, against the gradients that a backward gave.
    fn compare(what: &str, parts: &[&[f64]], dparts: &[&[f64]], dy: &[f64], f: impl Fn(&[Vec<Dual<f64>>]) -> Vec<Dual<f64>>) {
        for (which, part) in parts.iter().enumerate() {
            assert_eq!(part.len(), dparts[which].len());
            for (i, &vjp) in dparts[which].iter().enumerate() {
                let dual = |(p, x): (usize, &&[f64])| {
                    let eps = |j| f64::from(u8::from(p == which && i == j));
                    x.iter().enumerate().map(|(j, &x)| Dual::new(x, eps(j))).collect::<Vec<_>>()
                };
                let y = f(&parts.iter().enumerate().map(dual).collect::<Vec<_>>());
                let jvp: f64 = y.iter().zip(dy).map(|(y, d)| y.eps * d).sum();
                let scale: f64 = 1.0 + y.iter().zip(dy).map(|(y, d)| (y.eps * d).abs()).sum::<f64>();
                assert!((jvp - vjp).abs() <= 1e-12 * scale, "{what}: part {which}, {i}: {jvp} {vjp}");
            }
        }
    }

    #[test]
    fn every_backward_is_the_transpose_of_its_forward() {
        for retention in all() {
            for t in [tensor(2, 3), tensor(3, 2), tensor(1, 4)] {
                let (n, z) = (t.len(), state(&retention, &t));
                let (frozen, dy, step, shrink) = (wave(n, 3), wave(n, 5), wave(n, 6), 0.3);
                let (mut dz, mut dfrozen) = (vec![0.0; n], vec![0.0; n]);
                with_retention!(&retention, r => r.weights_backward(&t, &z, &frozen, &dy, &mut dz, &mut dfrozen));
                let what = format!("{retention:?} {}x{}", t.rows, t.columns);
                compare(&format!("{what}, weights"), &[&z, &frozen], &[&dz, &dfrozen], &dy, |x| {
                    weights(&retention, &t, &x[0], &x[1])
                });

                // Some entries lie beyond every bound that a retention has.
                let far: Vec<f64> = z.iter().enumerate().map(|(i, z)| if i % 2 == 0 { 40.0 * z } else { *z }).collect();
                for z in [&z, &far] {
                    let (mut dz, mut dstep) = (dy.clone(), vec![0.0; n]);
                    let dshrink = with_retention!(&retention, r => {
                        r.settle_backward(&t, z, &step, shrink, &mut dz, &mut dstep)
                    });
                    let (parts, dparts) = ([&z[..], &step, &[shrink]], [&dz[..], &dstep, &[dshrink]]);
                    compare(&format!("{what}, settle"), &parts, &dparts, &dy, |x| {
                        let mut z = x[0].clone();
                        settle(&retention, &t, &mut z, &x[1], x[2][0]);
                        z
                    });
                }

                let (mut dg, mut dw) = (dy.clone(), vec![0.0; n]);
                with_retention!(&retention, r => r.project_backward(&t, &z, &step, &mut dg, &mut dw));
                compare(&format!("{what}, project"), &[&step, &z], &[&dg, &dw], &dy, |x| {
                    let mut g = x[0].clone();
                    with_retention!(&retention, r => r.project(&t, &x[1], &mut g));
                    g
                });
            }
        }
    }

    /// A token that writes nothing: what the documentation says is left of the weights.
    #[test]
    fn weights_fade_as_the_documentation_says() {
        let (t, keep) = (tensor(2, 3), 0.6);
        for retention in all() {
            let z = state(&retention, &t);
            let (pull, start) = (with_retention!(&retention, r => r.pull()), 0.25);
            let target = match pull {
                Pull::Keep | Pull::Zero => 0.0,
                Pull::Start => start,
                Pull::Constant(c) => c,
            };
            let keep = if pull == Pull::Keep { 1.0 } else { keep };
            let mut faded: Vec<f64> = z.iter().map(|z| keep * z + (1.0 - keep) * target).collect();
            settle(&retention, &t, &mut faded, &[0.0; 6], 0.0);
            let (before, after) = (weights(&retention, &t, &z, &z), weights(&retention, &t, &faded, &faded));
            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let powers: Vec<f64> = before.iter().map(|w| w.abs().powf(keep)).collect();
            for (i, (&w, &got)) in before.iter().zip(&after).enumerate() {
                let row: f64 = powers[i / 3 * 3..][..3].iter().sum();
                let want = match &retention {
                    AnyRetention::None(_) | AnyRetention::ElasticFtrl(_) | AnyRetention::Sphere(_) => w,
                    AnyRetention::L2(_) | AnyRetention::Elastic(_) | AnyRetention::LqExact(_) => keep * w,
                    AnyRetention::L2Anchor(_) => keep * w + (1.0 - keep) * start,
                    AnyRetention::Kl(_) => 3.0 * powers[i] / row,
                    AnyRetention::Chi2(_) | AnyRetention::ReverseKl(_) | AnyRetention::Hellinger(_) => {
                        keep * w + (1.0 - keep)
                    }
                    // A state above the floor has weights that go with its power 3 - q.
                    AnyRetention::LqLiteral(r) if r.floor < 1.0 => w * keep.powf(3.0 - r.q),
                    AnyRetention::LqLiteral(r) => {
                        let norm = |x: &[f64]| crate::rules::miras::smooth::norm_q(x, r.q).max(r.floor);
                        keep * w * (norm(&z) / norm(&faded)).powf(r.q - 2.0)
                    }
                    AnyRetention::Sigmoid(_) => (keep * (w / (1.0 - w)).ln()).sigmoid(),
                    AnyRetention::Tanh(r) => r.bound * (keep * (w / r.bound).atanh()).tanh(),
                    AnyRetention::Ball(r) => keep * w * (r.radius / (keep * length(&z))).min(1.0),
                };
                assert!((got - want).abs() < 1e-12, "{retention:?}: {i}: {got} {want}");
            }
        }
    }

    const ETA: f64 = 0.3;

    /// The mirror steps: `argmin <W, G> + D_F(W, W') / eta + F(W) / a` is `F'(W) = retain F'(W') - eta' G`, with
    /// `retain = (1/eta) / (1/eta + 1/a)` and `eta' = 1 / (1/eta + 1/a)`.
    #[test]
    fn kl_and_sigmoid_solve_their_objectives() {
        let (t, a) = (tensor(2, 3), 2.0);
        let (keep, rate) = ((1.0 / ETA) / (1.0 / ETA + 1.0 / a), 1.0 / (1.0 / ETA + 1.0 / a));
        for retention in [AnyRetention::from(Kl::default()), Sigmoid::default().into()] {
            let (mut z, g) = (wave(6, 1), wave(6, 4));
            settle(&retention, &t, &mut z, &[], 0.0);
            let mut next: Vec<f64> = z.iter().zip(&g).map(|(z, g)| keep * z - rate * g).collect();
            settle(&retention, &t, &mut next, &[], 0.0);
            let (old, new) = (weights(&retention, &t, &z, &z), weights(&retention, &t, &next, &next));
            // F' of each: a logarithm on the simplex, a logit between 0 and 1.
            let simplex = matches!(retention, AnyRetention::Kl(_));
            let slope = |w: f64| if simplex { w.ln() } else { (w / (1.0 - w)).ln() };
            let residual: Vec<f64> =
                (0..6).map(|i| g[i] + (slope(new[i]) - slope(old[i])) / ETA + slope(new[i]) / a).collect();
            for row in residual.chunks_exact(3) {
                // On the simplex, up to the multiplier of the row's sum.
                let free = if simplex { row[0] } else { 0.0 };
                assert!(row.iter().all(|r| (r - free).abs() < 1e-12), "{retention:?}: {row:?}");
            }
            let mass: f64 = new[..3].iter().sum();
            assert!(!simplex || (mass - 3.0).abs() < 1e-12);
        }
    }

    #[test]
    fn f_divergences_solve_their_objectives_on_the_simplex() {
        let t = tensor(2, 3);
        for (retention, slope) in [
            (AnyRetention::from(Chi2::default()), (|r: f64| r - 1.0) as fn(f64) -> f64),
            (ReverseKl::default().into(), |r: f64| -1.0 / r),
            (Hellinger::default().into(), |r: f64| -r.powf(-0.5)),
        ] {
            for size in [0.1, 1.0, 5.0] {
                let old = state(&retention, &t);
                let step: Vec<f64> = wave(6, 4).iter().map(|g| -size * g).collect();
                let mut new = old.clone();
                settle(&retention, &t, &mut new, &step, 0.0);
                for row in 0..2 {
                    let at = row * 3..row * 3 + 3;
                    let mass: f64 = new[at.clone()].iter().sum();
                    assert!((mass - 3.0).abs() < 1e-12, "{retention:?}: mass {mass}");
                    // step - f'(W / W') is the multiplier wherever a weight is left, and no more than it elsewhere.
                    let zetas: Vec<f64> = at.clone().map(|i| step[i] - slope(new[i] / old[i])).collect();
                    let zeta = at.clone().zip(&zetas).filter(|(i, _)| new[*i] > 0.0).map(|(_, z)| *z).fold(f64::NAN, f64::max);
                    for (i, z) in at.zip(zetas) {
                        let holds = if new[i] > 0.0 { (z - zeta).abs() < 1e-11 * zeta.abs().max(1.0) } else { z <= zeta };
                        assert!(holds, "{retention:?}, size {size}: {z} {zeta}");
                    }
                }
            }
        }
    }

    #[test]
    fn elastic_and_elastic_ftrl_solve_their_objectives() {
        let (t, beta, sparsity) = (tensor(2, 3), 2.0, 0.8);
        let (old, g) = (wave(6, 1), wave(6, 4));
        let keep = beta / (beta + ETA);
        let mut new: Vec<f64> = old.iter().zip(&g).map(|(w, g)| keep * w - keep * ETA * g).collect();
        settle(&Elastic { sparsity }.into(), &t, &mut new, &[], ETA * keep);
        let smooth = |i: usize| g[i] + (new[i] - old[i]) / ETA + new[i] / beta;
        let state = wave(6, 2);
        let ftrl = weights(&ElasticFtrl { sparsity }.into(), &t, &state, &state);
        let mut zeros = 0;
        for i in 0..6 {
            for (w, slope) in [(new[i], smooth(i)), (ftrl[i], ftrl[i] - state[i])] {
                // The size of a weight has the slope of its sign, and any from -1 to 1 at zero.
                let holds =
                    if w == 0.0 { slope.abs() <= sparsity + 1e-12 } else { (slope + sparsity * w.signum()).abs() < 1e-12 };
                zeros += usize::from(w == 0.0);
                assert!(holds, "{i}: {w} {slope}");
            }
        }
        assert!((1..12).contains(&zeros), "both cases occur: {zeros} zeros");
    }

    /// `argmin |W|^2 / 2 - <W, Z>` in the norm of exponent q* = q / (q - 1) has the condition
    /// `Z = sign(W) |W|^(q* - 1) |W|^(2 - q*)`. The printed map does not meet it.
    #[test]
    fn lq_exact_solves_its_objective_and_the_printed_map_does_not() {
        let t = tensor(2, 3);
        for q in [2.0, 3.0, 4.0] {
            let (z, dual) = (wave(6, 1), q / (q - 1.0));
            let off = |w: &[f64]| {
                let norm = w.iter().map(|w| w.abs().powf(dual)).sum::<f64>().powf(1.0 / dual);
                let slope = |w: &f64| w.signum() * w.abs().powf(dual - 1.0) * norm.powf(2.0 - dual);
                w.iter().zip(&z).map(|(w, z)| (slope(w) - z).abs()).fold(0.0, f64::max)
            };
            assert!(off(&weights(&LqExact { q }.into(), &t, &z, &z)) < 1e-12);
            if q > 2.0 {
                assert!(off(&weights(&LqLiteral { q, floor: 1e-9 }.into(), &t, &z, &z)) > 0.1);
            }
        }
    }

    /// What the text of `lq_literal` says of the map without a floor that matters, and with it.
    #[test]
    fn pure_decay_makes_the_printed_map_grow_until_its_floor() {
        let (t, z) = (tensor(2, 3), wave(6, 1));
        let halved: Vec<f64> = z.iter().map(|z| z / 2.0).collect();
        let ratio = |floor: f64| {
            let of = |z: &[f64]| weights(&LqLiteral { q: 4.0, floor }.into(), &t, z, z)[0];
            of(&halved) / of(&z)
        };
        assert!((ratio(1e-3) - 2.0).abs() < 1e-12);
        assert!((ratio(10.0) - 0.5).abs() < 1e-12);
    }
}
