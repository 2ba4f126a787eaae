//! Settling a state after its steps, how much it shrinks then, and the map from state to weights.

use super::Miras;
use super::plan::{Plan, Slots};
use super::retention::{Retention, with_retention};
use super::write::{Fixed, Moving};
use crate::rules::matrix::add_scaled;
use crate::scalar::Scalar;

impl Miras {
    pub(super) fn settle<F: Scalar>(&self, plan: &Plan, m: &mut Moving<F>) {
        with_retention!(&self.retention, r => for (t, at) in &plan.tensors {
            let step = if m.step.is_empty() { &[][..] } else { &m.step[at.clone()] };
            r.settle(t, &mut m.z[at.clone()], step, m.shrink);
        });
        m.step.fill(F::zero());
        m.shrink = F::zero();
    }

    /// Transpose of [`Miras::settle`] at `m` before it.
    pub(super) fn settle_backward<F: Scalar>(&self, plan: &Plan, m: &Moving<F>, d: &mut Moving<F>) {
        d.step.fill(F::zero());
        d.shrink = F::zero();
        with_retention!(&self.retention, r => for (t, at) in &plan.tensors {
            let at = at.clone();
            let step = if m.step.is_empty() { &[][..] } else { &m.step[at.clone()] };
            let dstep = if m.step.is_empty() { &mut [][..] } else { &mut d.step[at.clone()] };
            d.shrink += r.settle_backward(t, &m.z[at.clone()], step, m.shrink, &mut d.z[at], dstep);
        });
    }

    /// The state as a read sees it: settled, where the end of the chunk has not done so.
    pub(super) fn settled<F: Scalar>(&self, plan: &Plan, state: &[F]) -> Vec<F> {
        let mut moving = self.moving(plan, state);
        if self.settles_for_reads() {
            self.settle(plan, &mut moving);
        }
        moving.z
    }

    /// Transpose of [`Miras::settled`]: adds into `dstate`.
    pub(super) fn settled_backward<F: Scalar>(&self, plan: &Plan, state: &[F], dz: &[F], dstate: &mut [F]) {
        let moving = self.moving(plan, state);
        let step = vec![F::zero(); moving.step.len()];
        let mut d = Moving { z: dz.to_vec(), s: Vec::new(), step, shrink: F::zero(), reach: F::zero() };
        if self.settles_for_reads() {
            self.settle_backward(plan, &moving, &mut d);
        }
        let at = &plan.at;
        add_scaled(&mut dstate[at.z.clone()], F::one(), &d.z);
        add_scaled(&mut dstate[at.step.clone()], F::one(), &d.step);
        if !at.shrink.is_empty() {
            dstate[at.shrink.start] += d.shrink;
        }
    }

    pub(super) fn settles_for_reads(&self) -> bool {
        self.chunk > 1 && with_retention!(&self.retention, r => r.settles())
    }

    /// `psi` of every tensor.
    pub(super) fn weights<F: Scalar>(&self, plan: &Plan, z: &[F], frozen: &[F]) -> Vec<F> {
        let mut w = vec![F::zero(); z.len()];
        with_retention!(&self.retention, r => for (t, at) in &plan.tensors {
            r.weights(t, &z[at.clone()], &frozen[at.clone()], &mut w[at.clone()]);
        });
        w
    }

    /// Transpose of [`Miras::weights`]; adds into `dz` and `dfrozen`.
    pub(super) fn weights_backward<F: Scalar>(
        &self,
        plan: &Plan,
        z: &[F],
        frozen: &[F],
        dw: &[F],
        dz: &mut [F],
        dfrozen: &mut [F],
    ) {
        with_retention!(&self.retention, r => for (t, at) in &plan.tensors {
            let at = at.clone();
            let (z, frozen, dw) = (&z[at.clone()], &frozen[at.clone()], &dw[at.clone()]);
            r.weights_backward(t, z, frozen, dw, &mut dz[at.clone()], &mut dfrozen[at]);
        });
    }

    /// `rate * retain` of inner step `n`, for retentions that shrink; the means where gates have channels.
    pub(super) fn shrink<F: Scalar>(&self, fixed: &Fixed<'_, F>, n: usize) -> F {
        if !with_retention!(&self.retention, r => r.shrinks()) {
            return F::zero();
        }
        let mean = |slot: Option<usize>| slot.map_or(F::one(), |i| mean(fixed.x[i]));
        let rate = self.shrink_rate(fixed.slots, n).map_or(F::one(), |i| {
            let count = if Some(i) == fixed.slots.window { fixed.x[i].len() } else { 1 };
            mean(Some(i)) * F::from_f64(count as f64)
        });
        rate * if n == 0 { mean(fixed.slots.retain) } else { F::one() }
    }

    /// The input that says how large a step is: the sum of a window's gates is one.
    pub(super) fn shrink_rate(&self, slots: &Slots, n: usize) -> Option<usize> {
        slots.ns_rate.or(slots.steps[n].2).or(slots.window.filter(|_| n == 0))
    }

    pub(super) fn shrink_backward<F: Scalar>(&self, fixed: &Fixed<'_, F>, n: usize, dshrink: F, dx: &mut [&mut [F]]) {
        if !with_retention!(&self.retention, r => r.shrinks()) {
            return;
        }
        let whole = self.shrink(fixed, n);
        let mut spread = |slot: Option<usize>, other: F, sum: bool| {
            if let Some(i) = slot {
                let count = if sum { 1.0 } else { dx[i].len() as f64 };
                dx[i].iter_mut().for_each(|d| *d += dshrink * other / F::from_f64(count));
            }
        };
        let retain = if n == 0 { fixed.slots.retain } else { None };
        let kept = retain.map_or(F::one(), |i| mean(fixed.x[i]));
        let slot = self.shrink_rate(fixed.slots, n);
        let rate = if kept.value() == 0.0 { self.shrink_alone(fixed, n) } else { whole / kept };
        spread(slot, kept, slot == fixed.slots.window);
        spread(retain, rate, false);
    }

    /// The rate's part of [`Miras::shrink`], where nothing is retained.
    pub(super) fn shrink_alone<F: Scalar>(&self, fixed: &Fixed<'_, F>, n: usize) -> F {
        self.shrink_rate(fixed.slots, n).map_or(F::one(), |i| {
            let count = if Some(i) == fixed.slots.window { fixed.x[i].len() } else { 1 };
            mean(fixed.x[i]) * F::from_f64(count as f64)
        })
    }
}

fn mean<F: Scalar>(x: &[F]) -> F {
    x.iter().copied().sum::<F>() / F::from_f64(x.len() as f64)
}
