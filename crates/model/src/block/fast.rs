//! Weights that a sequence changes: `theta + delta`.
//!
//! `theta` is a parameter. `delta` is part of the state and starts at zero, so that a sequence follows what the optimizer
//! does to `theta`, and one that changes nothing has `theta` itself, bit for bit. Calls see the sums, in a buffer that lives
//! as long as they do.

use super::{Builder, Call};
use crate::buffer::place;
use crate::config::{Consolidation, Meta, Reads};
use crate::pool::Pool;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use std::ops::Range;

/// Rows of a matrix that change at once: with the columns of a wide one, a part of a second-level cache.
const ROWS: usize = 32;

/// One matrix `[rows, cols]`.
pub(super) struct Fast {
    theta: Range<usize>,
    cols: usize,
    /// In [`State::fast`](crate::State): what is added, and the gradients gathered since the last change.
    delta: Range<usize>,
    pub gathered: Range<usize>,
    /// Where a level starts anew from something that is learned: that, and all gradients since it last changed.
    anew: Option<[Range<usize>; 2]>,
    /// The slow copy of what is added.
    stable: Option<Stable>,
    /// Derivatives take gathered gradients for constants.
    constant: bool,
    /// In the buffer of sums.
    pub sum: Range<usize>,
}

/// A slow copy.
struct Stable {
    at: Range<usize>,
    config: Consolidation,
}

/// What a matrix has besides what is added and gathered.
#[derive(Clone, Copy)]
pub(super) struct Extras {
    /// A start of its own, that is learned.
    pub anew: bool,
    pub consolidation: Option<Consolidation>,
    pub meta: Meta,
}

/// One change of a level.
#[derive(Clone, Copy)]
pub(super) struct Change<F> {
    /// Size of the step along the gathered gradient.
    pub rate: F,
    /// Share of `delta` that it takes away.
    pub decay: f64,
}

/// A part of a matrix: some rows, and some columns of them.
#[derive(Clone)]
pub(super) struct Patch {
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

impl Fast {
    /// For the parameter at `theta`, called `name`.
    pub fn new(b: &mut Builder<'_>, name: &str, theta: &Range<usize>, cols: usize, extras: Extras) -> Self {
        let shape = vec![theta.len() / cols, cols];
        let mut add = |what: &str| b.state.add_fast(format!("{}.{name}.{what}", b.prefix), shape.clone());
        let (delta, gathered) = (add("delta"), add("gathered"));
        let anew = extras.anew.then(|| [add("start"), add("start_gathered")]);
        let stable = extras.consolidation.map(|config| Stable { at: add("stable"), config });
        let sum = place(b.sums, theta.len());
        b.sums = sum.end;
        let constant = extras.meta == Meta::FirstOrder;
        Self { theta: theta.clone(), cols, delta, gathered, anew, stable, constant, sum }
    }

    /// Computes the sum.
    pub fn add_up<F: Scalar>(&self, params: &[F], fast: &[F], sums: &mut [F]) {
        let parts = params[self.theta.clone()].iter().zip(&fast[self.delta.clone()]);
        let sums = &mut sums[self.sum.clone()];
        sums.iter_mut().zip(parts).for_each(|(sum, (&theta, &delta))| *sum = theta + delta);
        if let Some(Stable { at, config: Consolidation { reads: Reads::Both, .. } }) = &self.stable {
            sums.iter_mut().zip(&fast[at.clone()]).for_each(|(sum, &stable)| *sum += stable);
        }
    }

    /// Whether a slow copy follows it.
    pub fn consolidates(&self) -> bool {
        self.stable.is_some()
    }

    /// The parameter, and what the sequence has added to it.
    pub fn parts<'a, F>(&self, params: &'a [F], fast: &'a [F]) -> [&'a [F]; 2] {
        [&params[self.theta.clone()], &fast[self.delta.clone()]]
    }

    /// `delta = (1 - decay) delta - rate gathered`, which is then empty, in a patch.
    pub fn change<F: Scalar>(&self, patch: &Patch, by: Change<F>, params: &[F], fast: &mut [F], sums: &mut [F]) {
        for run in self.runs(patch) {
            let at = self.gathered.start + run.start..self.gathered.start + run.end;
            // Behind `delta`, and before what is gathered for a start.
            let (before, behind) = fast.split_at_mut(at.start);
            let (gathered, behind) = behind.split_at_mut(at.len());
            if let Some([_, all]) = &self.anew {
                let all = &mut behind[all.start + run.start - at.end..][..run.len()];
                all.iter_mut().zip(&*gathered).for_each(|(all, &g)| *all += g);
            }
            self.step(&run, by, gathered, params, before, sums);
            gathered.fill(F::zero());
            self.consolidate(&run, fast, sums);
        }
    }

    /// What gathering `x^T d` and then [`Fast::change`] does where nothing is gathered yet, some rows at a time, so that the
    /// gradient never leaves the cache.
    pub fn change_at_once<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        d: &[O::F],
        by: Change<O::F>,
        fast: &mut [O::F],
        sums: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let rows = self.theta.len() / self.cols;
        let (mut gradient, mut part) = (pool.take(ROWS * self.cols), pool.take(call.tokens * ROWS));
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let (gradient, part) = (&mut gradient[..count * self.cols], &mut part[..call.tokens * count]);
            for (to, from) in part.chunks_exact_mut(count).zip(x.chunks_exact(rows)) {
                to.copy_from_slice(&from[first..first + count]);
            }
            gradient.fill(O::F::zero());
            call.add_outer(part, d, gradient);
            let run = first * self.cols..(first + count) * self.cols;
            if let Some([_, all]) = &self.anew {
                let all = &mut fast[all.start + run.start..all.start + run.end];
                all.iter_mut().zip(&*gradient).for_each(|(all, &g)| *all += g);
            }
            self.step(&run, by, gradient, call.params, fast, sums);
            self.consolidate(&run, fast, sums);
        }
        pool.give(gradient);
        pool.give(part);
    }

    /// One step along a gradient in a run of the matrix.
    fn step<F: Scalar>(
        &self,
        run: &Range<usize>,
        by: Change<F>,
        gradient: &[F],
        params: &[F],
        fast: &mut [F],
        sums: &mut [F],
    ) {
        let (kept, rate) = (F::from_f64(1.0 - by.decay), by.rate);
        let at = |range: &Range<usize>| range.start + run.start..range.start + run.end;
        let (delta, sums) = (&mut fast[at(&self.delta)], &mut sums[at(&self.sum)]);
        for (((delta, sum), &theta), &g) in delta.iter_mut().zip(sums).zip(&params[at(&self.theta)]).zip(gradient) {
            let g = if self.constant { g.detach() } else { g };
            *delta = kept * *delta - rate * g;
            *sum = theta + *delta;
        }
    }

    /// Lets the slow copy follow in a run that has just changed.
    fn consolidate<F: Scalar>(&self, run: &Range<usize>, fast: &mut [F], sums: &mut [F]) {
        let Some(Stable { at, config }) = &self.stable else { return };
        let (keep, take) = (F::from_f64(config.keep), F::from_f64(1.0 - config.keep));
        for i in run.clone() {
            let stable = keep * fast[at.start + i] + take * fast[self.delta.start + i];
            fast[at.start + i] = stable;
            if config.reads == Reads::Both {
                sums[self.sum.start + i] += stable;
            }
        }
    }

    /// Back to what it starts from, which first takes a step itself where it is learned; what was gathered is dropped.
    pub fn restart<F: Scalar>(&self, rate: F, params: &[F], fast: &mut [F], sums: &mut [F]) {
        for i in 0..self.theta.len() {
            let start = match (&self.anew, &self.stable) {
                (Some([start, all]), _) => {
                    let g = std::mem::replace(&mut fast[all.start + i], F::zero()) + fast[self.gathered.start + i];
                    fast[start.start + i] -= rate * if self.constant { g.detach() } else { g };
                    fast[start.start + i]
                }
                (None, Some(Stable { at, config: Consolidation { reads: Reads::Fast, .. } })) => fast[at.start + i],
                (None, _) => F::zero(),
            };
            fast[self.delta.start + i] = start;
            fast[self.gathered.start + i] = F::zero();
        }
        self.add_up(params, fast, sums);
    }

    /// Transpose of [`Fast::change`] of the whole matrix: `dfast` goes from behind the change to before it.
    pub fn change_backward(&self, by: Change<f64>, dfast: &mut [f64]) {
        for i in 0..self.theta.len() {
            let delta = dfast[self.delta.start + i];
            let all = self.anew.as_ref().map_or(0.0, |[_, all]| dfast[all.start + i]);
            dfast[self.gathered.start + i] = all - by.rate * delta;
            dfast[self.delta.start + i] = (1.0 - by.decay) * delta;
        }
    }

    /// Transpose of [`Fast::restart`].
    pub fn restart_backward(&self, rate: f64, dfast: &mut [f64]) {
        for i in 0..self.theta.len() {
            let mut gathered = 0.0;
            if let Some([start, all]) = &self.anew {
                let from = dfast[start.start + i] + dfast[self.delta.start + i];
                gathered = -rate * from;
                (dfast[start.start + i], dfast[all.start + i]) = (from, gathered);
            }
            dfast[self.gathered.start + i] = gathered;
            dfast[self.delta.start + i] = 0.0;
        }
    }

    /// Where the state has what is added.
    pub fn delta(&self) -> Range<usize> {
        self.delta.clone()
    }

    /// The runs of a patch, from the matrix's first value.
    fn runs(&self, patch: &Patch) -> impl Iterator<Item = Range<usize>> + use<> {
        let (cols, at) = (self.cols, patch.cols.clone());
        let whole = at.len() == cols;
        let rows = patch.rows.clone();
        let one = whole.then(|| rows.start * cols..rows.end * cols);
        let rest = if whole { 0..0 } else { rows };
        one.into_iter().chain(rest.map(move |r| r * cols + at.start..r * cols + at.end))
    }
}
