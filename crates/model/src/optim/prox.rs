//! Generalised gradient descent: a step is whatever minimises a loss and a retention [NestedLearning v1 eq.59].
//!
//! ```text
//! W' = argmin L(W; values) + Ret(W),   values made from W_t
//! Z = argmin <grad L(W), Z> + k/2 |Z - W|^2 + Ret(Z)    from W = W_t on, W = Z, `iterations` times; k the loss's curvature
//! ```
//!
//! [`solve`] takes the three parts as callbacks. The paper gives no algorithm; this one needs a gradient of the loss, a
//! bound on its curvature, and the retention's own minimiser. A loss without curvature is solved at once. Plain descent
//! is [`Dot`] and [`Near`], delta gradient descent [`SquaredError`] and [`Near`].

pub use super::matrix::Side;
use super::matrix::trace;
use super::step::Shape;
use hecate_core::Scalar;
use hecate_core::ops::Ops;

/// What is solved for one tensor.
pub struct Problem<'a, O: Ops> {
    /// What computes.
    pub ops: &'a O,
    /// The tensor's shape.
    pub shape: Shape,
    /// Learning rate: how far the retention lets it go.
    pub rate: f64,
    /// Where it starts, `W_t`.
    pub start: &'a [O::F],
    /// The gradient of the task.
    pub gradient: &'a [O::F],
    /// Mean of `x x^T` over the keys x, on one side of the tensor; what losses of errors need.
    pub keys: Option<(Side, &'a [O::F])>,
}

impl<O: Ops> Problem<'_, O> {
    /// The mean of `x (x^T W)`: what the keys make of `w`, overwritten; zero where there are none.
    pub fn through_keys(&self, w: &[O::F], out: &mut [O::F]) {
        match self.keys {
            Some((side, keys)) => side.apply(self.ops, self.shape, keys, w, out),
            None => out.fill(O::F::zero()),
        }
    }
    /// The mean of `|x|^2`: a bound on the curvature of squared errors.
    pub fn key_size(&self) -> f64 {
        self.keys.map_or(0.0, |(side, keys)| {
            let n = if side == Side::Left { self.shape.rows } else { self.shape.columns };
            trace(n, keys)
        })
    }
}

/// What a step minimises.
pub trait Loss<O: Ops> {
    /// An upper bound on its second derivatives; 0 where it is linear.
    fn curvature(&self, at: &Problem<'_, O>) -> f64;
    /// Its gradient at `w`, overwritten; `values` is the mean of `x u^T` over keys x and values u.
    fn gradient(&self, at: &Problem<'_, O>, values: &[O::F], w: &[O::F], out: &mut [O::F]);
}

/// What the keys are to map to, made by the weights themselves.
pub trait Values<O: Ops> {
    /// The mean of `x u^T`, overwritten.
    fn values(&self, at: &Problem<'_, O>, out: &mut [O::F]);
}

/// What a step stays near to.
pub trait Retention<O: Ops> {
    /// `w = argmin <gradient, Z> + curvature/2 |Z - w|^2 + Ret(Z)`; `curvature` may be 0.
    fn descend(&self, at: &Problem<'_, O>, curvature: f64, gradient: &[O::F], w: &mut [O::F]);
}

/// The minimiser, as far as `iterations` steps come; see the module text.
pub fn solve<O: Ops>(
    at: &Problem<'_, O>,
    loss: &dyn Loss<O>,
    values: &dyn Values<O>,
    retention: &dyn Retention<O>,
    iterations: usize,
) -> Vec<O::F> {
    let zeros = || vec![O::F::zero(); at.start.len()];
    let (mut w, mut cross, mut gradient) = (at.start.to_vec(), zeros(), zeros());
    values.values(at, &mut cross);
    let curvature = loss.curvature(at);
    for _ in 0..if curvature > 0.0 { iterations } else { 1 } {
        loss.gradient(at, &cross, &w, &mut gradient);
        retention.descend(at, curvature, &gradient, &mut w);
    }
    w
}

/// `-<W x, u>`.
#[derive(Clone, Copy, Debug)]
pub struct Dot;

impl<O: Ops> Loss<O> for Dot {
    fn curvature(&self, _at: &Problem<'_, O>) -> f64 {
        0.0
    }
    fn gradient(&self, _at: &Problem<'_, O>, values: &[O::F], _w: &[O::F], out: &mut [O::F]) {
        out.iter_mut().zip(values).for_each(|(o, &v)| *o = -v);
    }
}

/// `share/2 |W x|^2 - <W x, u>`: with share 1, `1/2 |W x - u|^2` up to a constant.
#[derive(Clone, Copy, Debug)]
pub struct SquaredError {
    /// Weight of what forgets.
    pub share: f64,
}

impl<O: Ops> Loss<O> for SquaredError {
    fn curvature(&self, at: &Problem<'_, O>) -> f64 {
        self.share * at.key_size()
    }
    fn gradient(&self, at: &Problem<'_, O>, values: &[O::F], w: &[O::F], out: &mut [O::F]) {
        at.through_keys(w, out);
        let share = O::F::from_f64(self.share);
        out.iter_mut().zip(values).for_each(|(o, &v)| *o = share * *o - v);
    }
}

/// `u = -dL/dy`: the layer's own error.
#[derive(Clone, Copy, Debug)]
pub struct Error;

impl<O: Ops> Values<O> for Error {
    fn values(&self, at: &Problem<'_, O>, out: &mut [O::F]) {
        out.iter_mut().zip(at.gradient).for_each(|(o, &g)| *o = -g);
    }
}

/// `u = share W_t x - dL/dy`: the layer's output, corrected; at rest where the error is zero.
#[derive(Clone, Copy, Debug)]
pub struct Corrected {
    /// That of the loss.
    pub share: f64,
}

impl<O: Ops> Values<O> for Corrected {
    fn values(&self, at: &Problem<'_, O>, out: &mut [O::F]) {
        at.through_keys(at.start, out);
        let share = O::F::from_f64(self.share);
        out.iter_mut().zip(at.gradient).for_each(|(o, &g)| *o = share * *o - g);
    }
}

/// `|W - centre|^2 / (2 rate) + sparsity |W|_1`.
#[derive(Clone, Copy, Debug)]
pub struct Near<'a, F> {
    /// What it is near to.
    pub centre: &'a [F],
    /// Weight of the absolute values.
    pub sparsity: f64,
}

impl<O: Ops> Retention<O> for Near<'_, O::F> {
    fn descend(&self, at: &Problem<'_, O>, curvature: f64, gradient: &[O::F], w: &mut [O::F]) {
        // All times the rate, so that a rate of zero keeps the centre.
        let stiff = O::F::from_f64(at.rate * curvature);
        let by = O::F::one() / (O::F::one() + stiff);
        let (rate, edge) = (O::F::from_f64(at.rate), O::F::from_f64(at.rate * self.sparsity) * by);
        for ((w, &g), &c) in w.iter_mut().zip(gradient).zip(self.centre) {
            let z = (c + stiff * *w - rate * g) * by;
            *w = if z > edge {
                z - edge
            } else if z < -edge {
                z + edge
            } else {
                O::F::zero()
            };
        }
    }
}
