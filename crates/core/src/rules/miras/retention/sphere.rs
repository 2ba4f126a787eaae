//! Columns of unit length: steps go along the sphere and are brought back onto it, the retention of Lattice's slots
//! [Lattice v1 sec.3].
//!
//! ```text
//! G <- (I - w w^T / |w|^2) G,   Z' = unit(Z + step)      per column w
//! ```
//!
//! Columns are longer than one between the inner steps of a token and inside a chunk, hence the division.
//! A step along the sphere makes a column longer, so nothing is ever divided by less than one. Length cannot fade, so
//! there is no input `retain`; a column forgets by turning.

use super::{Pull, Retention, Start, Tensor};
use crate::rules::matrix::{add_scaled, dot};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sphere {}

impl Sphere {
    /// Name in configs and tables.
    pub const NAME: &'static str = "sphere";
}

/// Column `j` of a tensor.
fn column<F: Scalar>(t: &Tensor, x: &[F], j: usize) -> Vec<F> {
    (0..t.rows).map(|i| x[i * t.columns + j]).collect()
}

/// `|w|^2`, above zero.
fn square<F: Scalar>(w: &[F]) -> F {
    dot(w, w) + F::from_f64(smooth::NORM * smooth::NORM)
}

fn set_column<F: Scalar>(t: &Tensor, x: &mut [F], j: usize, column: &[F]) {
    (0..t.rows).for_each(|i| x[i * t.columns + j] = column[i]);
}

impl Retention for Sphere {
    fn pull(&self) -> Pull {
        Pull::Keep
    }
    fn start(&self, _tensor: &Tensor) -> Start {
        Start::UnitColumns
    }
    fn settles(&self) -> bool {
        true
    }
    fn is_bounded(&self) -> bool {
        true
    }
    fn projects(&self) -> bool {
        true
    }

    fn project<F: Scalar>(&self, t: &Tensor, w: &[F], g: &mut [F]) {
        for j in 0..t.columns {
            let (w, mut column) = (column(t, w, j), column(t, g, j));
            let along = dot(&w, &column) / square(&w);
            add_scaled(&mut column, -along, &w);
            set_column(t, g, j, &column);
        }
    }

    fn project_backward<F: Scalar>(&self, t: &Tensor, w: &[F], g: &[F], dg: &mut [F], dw: &mut [F]) {
        for j in 0..t.columns {
            let (w, g, mut d) = (column(t, w, j), column(t, g, j), column(t, dg, j));
            let square = square(&w);
            let (dalong, along) = (-(dot(&d, &w) / square), dot(&w, &g) / square);
            let dsquare = -(dalong * along);
            for i in 0..t.rows {
                dw[i * t.columns + j] += dalong * g[i] - along * d[i] + dsquare * (w[i] + w[i]);
            }
            add_scaled(&mut d, dalong, &w);
            set_column(t, dg, j, &d);
        }
    }

    fn settle<F: Scalar>(&self, t: &Tensor, z: &mut [F], _step: &[F], _shrink: F) {
        for j in 0..t.columns {
            let mut column = column(t, z, j);
            let by = F::one() / smooth::norm(&column);
            column.iter_mut().for_each(|x| *x *= by);
            set_column(t, z, j, &column);
        }
    }

    fn settle_backward<F: Scalar>(&self, t: &Tensor, z: &[F], _s: &[F], _h: F, dz: &mut [F], _ds: &mut [F]) -> F {
        for j in 0..t.columns {
            let (z, mut d) = (column(t, z, j), column(t, dz, j));
            let by = F::one() / smooth::norm(&z);
            let dnorm = -dot(&d, &z) * by * by;
            d.iter_mut().for_each(|d| *d *= by);
            smooth::norm_backward(&z, dnorm, &mut d);
            set_column(t, dz, j, &d);
        }
        F::zero()
    }
}
