//! How far an `f32` kernel may be from the reference in `f64`: one answer for kernels and for cuts.
//!
//! 1e-5 of the largest value, wherever `f32` can give it. It cannot always: a norm inside of a memory brings a memory
//! that has nearly faded back to full size, with what rounding did to it, and a power of an error multiplies its
//! relative rounding. There the sequential reference, run in `f32`, is off by more than that itself, and a kernel, which
//! only sums in another order, is held to a few times what that reference loses: on the same stream, or, since one
//! stream may be lucky, on some of its neighbours, whose numbers differ in their last bits.
//! Everything that needed this is counted in the report; plain matrix rules need none.

use super::random::Random;
use super::stream::{self, Gradients, Run, Stream, distance, scale};
use crate::erased::{ErasedRule, Over};
use crate::scalar::Scalar;
use std::cell::LazyCell;

/// At the mixer's gate range, of the largest value of the reference.
pub const TOLERANCE: f64 = 1e-5;
/// At the mixer's gate range, a kernel may lose this many times what the sequential reference loses in `f32`.
const INSIDE: f64 = 4.0;
/// Outside of it. The reference is taken to lose at least one rounding, since by luck it may lose nothing.
const OUTSIDE: f64 = 10.0;
/// Where the sequential reference loses this share of the largest value, rounding decides what comes next, and two
/// right answers have nothing in common.
const CHAOS: f64 = 0.01;
/// Neighbours of a stream that are tried.
const NEIGHBOURS: usize = 3;

/// What the reference or a kernel gives, forward and backward.
pub(super) struct Passes<F> {
    pub run: Run<F>,
    pub gradients: Gradients<F>,
    /// The states of [`stream::checkpoints`], one after the other.
    pub kept: Vec<F>,
}

impl<F> Passes<F> {
    /// All of it: reads, end state, kept states, gradients of the inputs in order, gradient of the start.
    pub(super) fn parts(&self) -> Vec<&[F]> {
        let gradients = self.gradients.inputs.iter().chain([&self.gradients.start]).map(|x| &x[..]);
        [&self.run.y, &self.run.end, &self.kept].into_iter().map(|x| &x[..]).chain(gradients).collect()
    }
}

/// Both passes of the reference.
fn reference<F: Scalar>(rule: &(impl Over<F> + ?Sized), s: &Stream<F>, dy: &[F], dend: &[F]) -> Passes<F> {
    let (run, gradients, kept) = stream::both(rule, s, dy, dend);
    Passes { run, gradients, kept }
}

/// How far `got` is from `want`, of the largest value of `want`; NaN if there is one.
pub fn loss<F: Scalar, G: Scalar>(got: &[F], want: &[G]) -> f64 {
    let off = distance(got, want);
    if off == 0.0 { 0.0 } else { off / scale(want) }
}

/// Cotangents of a stream, rounded to `f32`.
pub(super) struct Bars {
    pub dy: Vec<f32>,
    pub dend: Vec<f32>,
}

impl Bars {
    /// Drawn for `s`.
    pub(super) fn draw(s: &Stream<f32>, draw: &mut Random) -> Self {
        let (dy, dend) = stream::cotangents(&s.double(), draw);
        let single = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        Self { dy: single(dy), dend: single(dend) }
    }
    /// Both passes of the reference in `f64`: the law.
    pub(super) fn law(&self, rule: &dyn ErasedRule, s: &Stream<f32>) -> Passes<f64> {
        let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        reference(rule, &s.double(), &double(&self.dy), &double(&self.dend))
    }
}

/// What became of a difference.
pub(super) enum Verdict {
    /// It is within the tolerance.
    Fits,
    /// It is within what `f32` can give here.
    Eased,
    /// Rounding decides: nothing can be said.
    Chaotic,
    /// It is more than this.
    Off { allowed: f64 },
}

type Losses<'a> = LazyCell<Vec<f64>, Box<dyn FnOnce() -> Vec<f64> + 'a>>;

/// What the sequential reference loses in `f32` on one stream, found where it is needed: it is slow.
pub(super) struct Rounding<'a> {
    plain: Losses<'a>,
    near: Losses<'a>,
    outside: bool,
    /// How many of the compared sides may lose something.
    sides: f64,
}

impl<'a> Rounding<'a> {
    /// For `s`, at gates `outside` of the mixer's range or in it; `law` is what the reference gives in `f64`.
    pub(super) fn new(
        rule: &'a dyn ErasedRule,
        s: &'a Stream<f32>,
        bars: &'a Bars,
        law: impl Fn() -> &'a Passes<f64> + Copy + 'a,
        outside: bool,
    ) -> Self {
        let run = move |s: &Stream<f32>| -> Vec<Vec<f32>> {
            reference(rule, s, &bars.dy, &bars.dend).parts().into_iter().map(<[f32]>::to_vec).collect()
        };
        let near = move || {
            let data = [&s.inputs[..], std::slice::from_ref(&s.start)].concat();
            let at = |data: &[Vec<f32>]| {
                let (start, inputs) = data.split_last().expect("a stream has a start");
                run(&Stream { inputs: inputs.to_vec(), start: start.clone(), ..s.clone() })
            };
            nearby(&data, &law().parts(), at)
        };
        Self {
            plain: LazyCell::new(Box::new(move || each(&run(s), &law().parts()))),
            near: LazyCell::new(Box::new(near)),
            outside,
            sides: 1.0,
        }
    }

    /// For differences between two runs of a kernel, each of which may lose as much as one may against the law.
    pub(super) fn between_runs(self) -> Self {
        Self { sides: 2.0, ..self }
    }

    /// Judges a difference of `off`, of the largest value, in one of the [parts](Passes::parts).
    pub(super) fn judge(&self, part: usize, off: f64) -> Verdict {
        if !self.outside && off <= TOLERANCE {
            return Verdict::Fits;
        }
        let mut most = 0.0;
        for (losses, verdict) in [(&self.plain, !self.outside), (&self.near, true)] {
            let loss = losses[part];
            if !self.outside && (loss.is_nan() || loss > CHAOS) {
                return Verdict::Chaotic;
            }
            let bound = if self.outside { OUTSIDE * loss.max(f64::from(f32::EPSILON)) } else { INSIDE * loss };
            let bound = self.sides * bound;
            most = worse(most, bound.max(if self.outside { 0.0 } else { TOLERANCE }));
            if off <= most {
                return if verdict { Verdict::Eased } else { Verdict::Fits };
            }
        }
        Verdict::Off { allowed: most }
    }
}

/// How far from the law a kernel may be, of the largest value, where the reference loses `loss` in `f32`, at the mixer's
/// gate range.
pub fn allowed(loss: f64) -> f64 {
    // `max` passes over a NaN.
    TOLERANCE.max(INSIDE * loss)
}

/// The larger one; NaN if one is.
fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// The [losses](loss) of several parts.
fn each(got: &[Vec<f32>], law: &[&[f64]]) -> Vec<f64> {
    got.iter().zip(law).map(|(got, law)| loss(got, law)).collect()
}

/// The worst of two lists of [losses](loss), part by part.
fn worst(a: Vec<f64>, b: Vec<f64>) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, b)| worse(a, b)).collect()
}

/// What `f32` loses of each part on neighbours of `data`: every number nearer to zero by up to a rounding, so that no
/// gate leaves its range.
fn nearby(data: &[Vec<f32>], law: &[&[f64]], run: impl Fn(&[Vec<f32>]) -> Vec<Vec<f32>>) -> Vec<f64> {
    let mut draw = Random::new(10);
    let mut most = vec![0.0; law.len()];
    for _ in 0..NEIGHBOURS {
        let mut near = data.to_vec();
        for x in near.iter_mut().flatten() {
            *x *= 1.0 - f32::EPSILON * draw.uniform(0.0, 1.0) as f32;
        }
        most = worst(most, each(&run(&near), law));
    }
    most
}

/// What `f32` loses, of the largest value of each part, on `data` or on one of its neighbours, whose numbers differ in
/// their last bits. `run` gives, in `f32`, the parts of what comes of data like it; `law` is what they are in `f64`.
pub fn losses(data: &[Vec<f32>], law: &[&[f64]], run: impl Fn(&[Vec<f32>]) -> Vec<Vec<f32>>) -> Vec<f64> {
    worst(each(&run(data), law), nearby(data, law, &run))
}
