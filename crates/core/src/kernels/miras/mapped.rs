//! Settings whose tokens each read weights of their own, because a map lies between state and weights: one token after the
//! other, under gradients that a block shares, and back.
//!
//! With `D` and `E` the gradients of the state and of its momentum behind token `t`, which reads `W = psi(Z_t)`:
//!
//! ```text
//! read   o = M(W, q), dW = a g^T per tensor                    D += dpsi^T (a g^T)
//! step   S_t = momentum S_{t-1} + sum_j w_j B_j h_j^T           E += D;  dw_j = B_j . E h_j
//!        Z_t = retain Z_{t-1} + S_t                             dB_j += w_j E h_j, dh_j += w_j E^T B_j
//!                                                               dmomentum = E . S_{t-1}, E <- momentum E
//!                                                               dretain = D . Z_{t-1}, D <- retain D
//! ```
//!
//! The state behind every token of a block is made once more and kept.

use super::blocks::Pass;
use super::dual::Space;
use super::frame::{Engine, Frame, Tokens};
use super::rows::row;
use super::token::{Gates, Moving};
use super::transpose::{DInputs, Work};
use crate::kernels::vector::{get, kernel, put};

impl Engine<'_> {
    /// A block's gradients, and whether a chunk begins with it.
    fn enter_mapped(&self, x: &Tokens<'_>, state: &[f32], f: &mut Frame<'_>, space: &mut Space<'_>) {
        self.enter(x, state, f);
        self.gradients(x, self.anchor_weights(x.pos, state, space), f);
    }

    /// The state from before a block to behind it.
    pub fn advance_mapped(&self, x: &Tokens<'_>, state: &mut [f32], f: &mut Frame<'_>, space: &mut Space<'_>) {
        let at = &self.shape.plan.at;
        self.enter_mapped(x, state, f, space);
        if self.shape.anchored() && self.shape.begins(x.pos) {
            state.copy_within(at.z.clone(), at.anchor.start);
        }
        for t in 0..x.count {
            self.step_all(x, t, &mut self.shape.moving(state), f);
        }
        self.settle_at(x.pos + x.count as u64 - 1, &mut state[at.z.clone()]);
        self.keep_window(state, f);
    }

    /// Transpose of the step of token `t`, from `prev` on: `behind` goes from behind it to before. Gives the gradients of
    /// `retain` and `momentum`.
    fn step_back(
        &self,
        t: usize,
        gates: Gates,
        f: &Frame<'_>,
        d: &mut Work<'_>,
        prev: [&[f32]; 2],
        behind: &mut Moving<'_>,
    ) -> [f32; 2] {
        let (s, own, mut dgates) = (self.shape, self.shape.gradients_of(t), [0.0; 2]);
        let weights = &f.c.b[f.c.row(t)][own.clone()];
        let dweights = &mut d.c.s[f.c.row(t)][own.clone()];
        for (i, l) in s.layers.iter().enumerate() {
            let (result, input) = (s.result(i, f.all), s.made(l.level, f.count));
            let (rows, columns) = (own.start * l.rows..own.end * l.rows, own.start * l.columns..own.end * l.columns);
            let momentum = if s.kind.momentum { l.at.clone() } else { 0..0 };
            step_rows_back(
                self.isa,
                l.columns,
                gates,
                weights,
                [&f.back[result.clone()][rows.clone()], &f.h[input.clone()][columns.clone()]],
                [&prev[0][l.at.clone()], &prev[1][momentum.clone()]],
                [&mut behind.z[l.at.clone()], &mut behind.s[momentum]],
                [&mut d.back[result][rows], &mut d.h[input][columns], &mut *dweights],
                &mut dgates,
            );
        }
        dgates
    }
}

impl Pass<'_, '_> {
    /// Back through a block; `state` lies before it, and `dstate` goes from behind to before.
    pub fn back_mapped(&mut self, x: &Tokens<'_>, state: &[f32], dy: &[f32], dx: &mut DInputs<'_>, dstate: &mut [f32]) {
        let (engine, s, at) = (self.engine, self.engine.shape, &self.engine.shape.plan.at);
        let (n, z, moves) = (x.count, at.z.len(), at.z.start..at.s.end);
        let anchor = s.anchor_at(x.pos);
        let mut f = Frame::new(s, n, &mut *self.frame);
        let mut d = Work::new(s, n, self.coefficients, &mut *self.work);
        d.enter(s, dstate);
        engine.enter_mapped(x, state, &mut f, &mut self.space);
        for t in 0..n {
            let (past, behind) = self.moved.split_at_mut(t * moves.len());
            let behind = &mut behind[..moves.len()];
            behind.copy_from_slice(if t == 0 { &state[moves.clone()] } else { &past[(t - 1) * moves.len()..] });
            let (z, s) = behind.split_at_mut(z);
            engine.step_all(x, t, &mut Moving { z, s, start: &[] }, &f);
        }
        for t in (0..n).rev() {
            let (past, behind) = self.moved[..(t + 1) * moves.len()].split_at(t * moves.len());
            let ends = s.begins(x.pos + t as u64 + 1);
            let seen = &mut self.after[..z];
            seen.copy_from_slice(&behind[..z]);
            engine.settle_at(x.pos + t as u64, seen);
            let (token, dy) = (x.part(t, 1), &dy[row(t, s.d.dv)]);
            let mut own = rows_of(dx, t, n);
            let [one, work] = &mut self.one;
            let own_work = (Frame::new(s, 1, one), Work::new(s, 1, self.coefficients, work));
            let dz = &mut dstate[at.z.clone()];
            engine.read_back(&token, seen, &state[anchor.clone()], own_work, &mut self.space, dy, &mut own, dz);
            if ends {
                engine.settle_backward(&behind[..z], dz);
            }
            let prev = if t == 0 { &state[moves.clone()] } else { &past[(t - 1) * moves.len()..] };
            let (prev, gates) = (prev.split_at(z), engine.gates(x, t));
            let to_gates = engine.step_back(t, gates, &f, &mut d, [prev.0, prev.1], &mut s.moving(dstate));
            for (slot, to_gate) in [s.slots.retain, s.slots.momentum].into_iter().zip(to_gates) {
                slot.into_iter().for_each(|i| own[i][0] += to_gate);
            }
        }
        let to = engine.anchor_behind(x.pos, dstate);
        self.space.danchor.fill(0.0);
        engine.gradients_backward(x, self.space.anchor, &mut f, &mut d, &mut *self.space.danchor);
        engine.anchor_backward(&state[anchor], &mut self.space, &mut dstate[to]);
        engine.rates_backward(x, &f, &d, dx);
        engine.keys_backward(n, &mut d, dx, dstate);
        if let Some(i) = s.slots.coefficients {
            dx[i].iter_mut().zip(&*d.coefficients).for_each(|(d, own)| *d += own);
        }
    }
}

impl Engine<'_> {
    /// Transpose of one token's read of a state `z`: adds into `dz`.
    fn read_back(
        &self,
        x: &Tokens<'_>,
        z: &[f32],
        anchor: &[f32],
        (mut f, mut d): (Frame<'_>, Work<'_>),
        space: &mut Space<'_>,
        dy: &[f32],
        dx: &mut DInputs<'_>,
        dz: &mut [f32],
    ) {
        let s = self.shape;
        let alone = Engine { alone: true, ..*self };
        self.map_state(z, anchor, space);
        alone.read(x, &[], space.weights, &mut f, d.space(s.d.dv));
        alone.read_backward(x, space.weights, &(0..z.len()), &mut f, &mut d, dy, dx, &mut []);
        let parts = |i: usize| (&d.zq[s.result(i, 1)], &f.g[s.input(s.layers[i].level, 1)]);
        self.map_state_backward(z, anchor, space, parts, dz);
        if let Some(i) = s.slots.coefficients {
            dx[i].iter_mut().zip(&*d.coefficients).for_each(|(d, own)| *d += own);
        }
    }
}

/// Row `t` of `n` of every gradient.
fn rows_of<'a>(dx: &'a mut DInputs<'_>, t: usize, n: usize) -> DInputs<'a> {
    dx.iter_mut()
        .map(|d| {
            let width = d.len() / n;
            &mut d[row(t, width)]
        })
        .collect()
}

kernel! {
    /// Transpose of a tensor's step. In: what flows back into results and the inputs of the gradients that the step is made
    /// of, the state and momentum before it. In place: the gradients of the latter. Added into: the gradients of the former
    /// and of their weights, and of the gates `retain` and `momentum`.
    fn step_rows_back(
        s: S,
        columns: usize,
        gates: Gates,
        weights: &'a [f32],
        made: [&'a [f32]; 2],
        prev: [&'a [f32]; 2],
        dmoving: [&'a mut [f32]; 2],
        dmade: [&'a mut [f32]; 3],
        dgates: &'a mut [f32; 2],
    ) {
        let ([back, h], [z, momentum], [dz, ds], [dback, dh, dweights]) = (made, prev, dmoving, dmade);
        let (rows, moves) = (dz.len() / columns, !momentum.is_empty());
        let (retain, kept) = (s.splat(gates.retain), s.splat(gates.momentum.unwrap_or(0.0)));
        let mut sums = [s.splat(0.0); 2];
        for r in 0..rows {
            let own = r * columns..(r + 1) * columns;
            let (z, dz) = (&z[own.clone()], &mut dz[own.clone()]);
            if moves {
                let (momentum, ds) = (&momentum[own.clone()], &mut ds[own.clone()]);
                for c in (0..columns).step_by(S::LANES) {
                    let e = s.add(get(s, ds, c), get(s, dz, c));
                    put(s, ds, c, e);
                    sums[1] = s.fma(e, get(s, momentum, c), sums[1]);
                }
            }
            for (j, &w) in weights.iter().enumerate() {
                let e = if moves { &ds[own.clone()] } else { &*dz };
                let (h, dh) = (&h[j * columns..(j + 1) * columns], &mut dh[j * columns..(j + 1) * columns]);
                let (by, mut sum) = (s.splat(w * back[j * rows + r]), s.splat(0.0));
                for c in (0..columns).step_by(S::LANES) {
                    let e = get(s, e, c);
                    sum = s.fma(e, get(s, h, c), sum);
                    put(s, dh, c, s.fma(by, e, get(s, dh, c)));
                }
                let sum = s.sum(sum);
                dback[j * rows + r] += w * sum;
                dweights[j] += back[j * rows + r] * sum;
            }
            for c in (0..columns).step_by(S::LANES) {
                let d = get(s, dz, c);
                sums[0] = s.fma(d, get(s, z, c), sums[0]);
                put(s, dz, c, s.mul(retain, d));
            }
            if moves {
                let ds = &mut ds[own];
                for c in (0..columns).step_by(S::LANES) {
                    put(s, ds, c, s.mul(kept, get(s, ds, c)));
                }
            }
        }
        dgates[0] += s.sum(sums[0]);
        dgates[1] += s.sum(sums[1]);
    }
}
