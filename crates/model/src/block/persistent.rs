//! Persistent tokens: learned rows that come before a sequence [Titans v1 eq.19].
//!
//! They enter a mixer once, in the call that brings the first token. What stands behind them counts them: a memory
//! has written them, and positions are those of the longer sequence.

use super::{Builder, Call};
use crate::params::{Init, Kind};
use crate::pool::fit;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use std::ops::Range;

pub(crate) struct Persistent {
    count: usize,
    /// `[count, width]`.
    pub rows: Range<usize>,
}

/// The longer sequence of a recorded call.
#[derive(Debug, Default)]
pub(crate) struct PersistentTape<F> {
    x: Vec<F>, // [N + T, width]
}

impl<F> PersistentTape<F> {
    pub fn len(&self) -> usize {
        self.x.len()
    }
    pub fn x(&self) -> &[F] {
        &self.x
    }
}

impl Persistent {
    pub fn new(b: &mut Builder<'_>, part: &str, count: usize) -> Self {
        if count == 0 {
            return Self { count, rows: 0..0 };
        }
        // Of the size that the normed stream has.
        let name = format!("{}.{part}.persistent", b.prefix);
        Self { count, rows: b.params.add(name, &[count, b.width], Kind::Persistent, Init::Normal(1.0)) }
    }

    /// Rows that stand before the sequence.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The call as what stands behind the rows sees it.
    pub fn call<'a, O: Ops>(&self, call: &Call<'a, O>) -> Call<'a, O> {
        match call.pos {
            0 if call.tokens == 0 => call.with(0, 0),
            0 => call.with(self.count + call.tokens, 0),
            pos => call.with(call.tokens, pos + self.count as u64),
        }
    }

    /// `x`, behind the rows where the call brings the first token.
    pub fn prepend<'x, O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &'x [O::F],
        tape: &'x mut PersistentTape<O::F>,
    ) -> &'x [O::F] {
        if self.count == 0 || call.pos > 0 || call.tokens == 0 {
            return x;
        }
        let long = fit(&mut tape.x, self.rows.len() + x.len());
        let (rows, rest) = long.split_at_mut(self.rows.len());
        rows.copy_from_slice(&call.params[self.rows.clone()]);
        rest.copy_from_slice(x);
        &tape.x
    }

    /// Transpose of [`Persistent::prepend`] where it did prepend.
    pub fn prepend_backward<F: Scalar>(&self, dlong: &[F], dx: &mut [F], grads: &mut [F]) {
        let (drows, rest) = dlong.split_at(self.rows.len());
        super::add(&mut grads[self.rows.clone()], drows);
        super::add(dx, rest);
    }
}
