//! Reading a token: `y = M(psi(Z), phi(q))`, and its transpose.

use super::plan::{Plan, QUERY, Slots};
use super::structure::{Structure, with_structure};
use super::{Miras, ReadAt};
use crate::rules::matrix::add_scaled;
use crate::scalar::Scalar;

impl Miras {
    /// See [`crate::MemoryRule::read`].
    pub(super) fn read_state<F: Scalar>(&self, plan: &Plan, slots: &Slots, x: &[&[F]], state: &[F], y: &mut [F]) {
        let q = x[QUERY];
        let (z, frozen) = self.read_from(plan, state);
        let w = self.weights(plan, &z, frozen.unwrap_or(&z));
        let coefficients = slots.coefficients.map_or(&[][..], |i| x[i]);
        let phi = self.features(plan, q, coefficients);
        y.copy_from_slice(&self.predict(plan, &w, &phi, q));
    }

    /// The state that reads see, and whose norms they use if not its own.
    fn read_from<'a, F: Scalar>(&self, plan: &Plan, state: &'a [F]) -> (Vec<F>, Option<&'a [F]>) {
        let anchor = (self.chunk > 1).then(|| &state[plan.at.anchor.clone()]);
        match anchor {
            Some(anchor) if self.read == ReadAt::Start => (anchor.to_vec(), Some(anchor)),
            anchor => (self.settled(plan, state), anchor),
        }
    }

    /// See [`crate::MemoryRule::read_backward`].
    pub(super) fn read_state_backward<F: Scalar>(
        &self,
        plan: &Plan,
        slots: &Slots,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let q = x[QUERY];
        let (z, frozen) = self.read_from(plan, state);
        let w = self.weights(plan, &z, frozen.unwrap_or(&z));
        let coefficients = slots.coefficients.map_or(&[][..], |i| x[i]);
        let phi = self.features(plan, q, coefficients);
        let (mut dw, mut dphi) = (vec![F::zero(); w.len()], vec![F::zero(); phi.len()]);
        with_structure!(&self.structure, s => {
            s.backward(plan.inner, &w, &phi, dy, &mut dw, &mut dphi);
            if s.residual() {
                add_scaled(dx[QUERY], F::one(), dy);
            }
        });
        self.features_backward(plan, slots, x, QUERY, &dphi, dx);
        let (mut dz, mut dfrozen) = (vec![F::zero(); w.len()], vec![F::zero(); w.len()]);
        self.weights_backward(plan, &z, frozen.unwrap_or(&z), &dw, &mut dz, &mut dfrozen);
        match frozen {
            Some(_) => add_scaled(&mut dstate[plan.at.anchor.clone()], F::one(), &dfrozen),
            None => add_scaled(&mut dz, F::one(), &dfrozen),
        }
        if frozen.is_some() && self.read == ReadAt::Start {
            add_scaled(&mut dstate[plan.at.anchor.clone()], F::one(), &dz);
        } else {
            self.settled_backward(plan, state, &dz, dstate);
        }
    }
}
