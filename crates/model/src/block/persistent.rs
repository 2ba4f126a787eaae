//! Persistent tokens: learned rows that come before a sequence [Titans v1 eq.19].
//!
//! They enter a mixer once, in the call that brings the first token. What stands behind them counts them: a memory
//! has written them, and positions are those of the longer sequence.

use super::{Builder, Call};
use crate::error::Result;
use crate::params::{Init, Kind};
use crate::pool::{Pool, fit};
use hecate_core::ops::Ops;
use std::ops::Range;

pub(crate) struct Persistent {
    count: usize,
    /// `[count, width]`.
    pub rows: Range<usize>,
}

/// The longer sequence of a call, and what was made of it.
#[derive(Debug, Default)]
pub(crate) struct PersistentTape<F> {
    x: Vec<F>,   // [N + T, width]
    out: Vec<F>, // [N + T, ..]
}

impl<F> PersistentTape<F> {
    pub fn len(&self) -> usize {
        self.x.len() + self.out.len()
    }
}

/// Gradients of what runs over the longer sequence: the call, what it took, the gradient of what it gave; those of what
/// it took and of all parameters, added into.
type Back<'f, O, F> = dyn FnMut(&Call<'_, O>, &[F], &[F], &mut [F], &mut [F], &mut Pool<F>) -> Result<()> + 'f;

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
    fn call<'a, O: Ops>(&self, call: &Call<'a, O>) -> Call<'a, O> {
        match call.pos {
            0 if call.tokens == 0 => call.with(0, 0),
            0 => call.with(self.count + call.tokens, 0),
            pos => call.with(call.tokens, pos + self.count as u64),
        }
    }

    /// Runs `f` over the longer sequence, from `[N + T, width]` to as many rows, and keeps in `out` what it gives for the
    /// call's own tokens.
    pub fn around<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &mut PersistentTape<O::F>,
        out: &mut [O::F],
        f: impl FnOnce(&Call<'_, O>, &[O::F], &mut [O::F]) -> Result<()>,
    ) -> Result<()> {
        let long = self.call(call);
        if long.tokens == call.tokens {
            return f(&long, x, out);
        }
        let (rows, rest) = fit(&mut tape.x, self.rows.len() + x.len()).split_at_mut(self.rows.len());
        rows.copy_from_slice(&call.params[self.rows.clone()]);
        rest.copy_from_slice(x);
        let wide = fit(&mut tape.out, out.len() / call.tokens * long.tokens);
        f(&long, &tape.x, wide)?;
        out.copy_from_slice(&wide[wide.len() - out.len()..]);
        Ok(())
    }

    /// Transpose of [`Persistent::around`].
    pub fn around_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &PersistentTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
        f: &mut Back<'_, O, O::F>,
    ) -> Result<()> {
        let long = self.call(call);
        if long.tokens == call.tokens {
            return f(&long, x, dout, dx, grads, pool);
        }
        let (mut wide, mut dlong) = (pool.zeros(tape.out.len()), pool.zeros(tape.x.len()));
        let first = wide.len() - dout.len();
        wide[first..].copy_from_slice(dout);
        f(&long, &tape.x, &wide, &mut dlong, grads, pool)?;
        let (drows, rest) = dlong.split_at(self.rows.len());
        if !call.column {
            super::add(&mut grads[self.rows.clone()], drows);
        }
        super::add(dx, rest);
        pool.give(wide);
        pool.give(dlong);
        Ok(())
    }
}
