//! Gradients along the columns of tokens, checked at the same shapes as the ops that they belong to.
//!
//! What the inputs of token `t` give to the output of token `t` is the derivative of that output while they alone move:
//! one run of the forward pass per token, of which only that token's output counts.

use super::case::{Argument, Kind, OpCase, Output, Role, rings, slices, slices_mut};
use crate::conformance::random::Random;
use crate::ops::{Ops, Prefix};

impl OpCase {
    /// The same op with gradients along columns.
    ///
    /// # Panics
    /// If the op does not mix tokens, or is that already.
    pub fn along_columns(self) -> Self {
        assert!(matches!(self, Self::Attention(_) | Self::Conv(_) | Self::Scan { .. }), "{self} has no columns");
        Self::Column(Box::new(self))
    }

    /// Tokens of a case whose gradients go along columns.
    pub(super) fn columns(&self) -> Option<usize> {
        let Self::Column(op) = self else { return None };
        Some(match &**op {
            Self::Attention(s) => s.tokens,
            Self::Conv(s) => s.heads.tokens,
            Self::Scan { shape, .. } => shape.tokens,
            _ => unreachable!("{op} has no columns"),
        })
    }

    /// Values that one row of an argument with a gradient, or of the result, holds: rows of tokens follow each other.
    fn row_width(&self, argument: Option<usize>) -> usize {
        match (self, argument) {
            (Self::Attention(s), _) => s.width,
            (Self::Conv(s), Some(_)) => s.heads.heads * s.heads.width,
            (Self::Conv(s), None) => s.heads.width,
            (Self::Scan { rule, shape }, Some(i)) => rule.inputs()[i].width.of(shape.dims),
            (Self::Scan { shape, .. }, None) => shape.dims.dv,
            _ => unreachable!("{self} has no columns"),
        }
    }

    /// The token that value `i` of an argument, or of the result, belongs to.
    pub(super) fn token_of(&self, argument: Option<usize>, i: usize) -> usize {
        match (self, self.columns()) {
            (Self::Column(op), Some(tokens)) => i / op.row_width(argument) % tokens,
            _ => unreachable!("{self} has no columns"),
        }
    }
}

/// Arguments of `op`, of which those that do not come token by token are constants.
pub(super) fn arguments(op: &OpCase, random: &mut Random) -> Vec<Argument> {
    let mut arguments = op.arguments(random);
    let moving = match op {
        OpCase::Attention(_) => 3,
        OpCase::Conv(_) => 1,
        _ => arguments.len() - 1,
    };
    arguments[moving..].iter_mut().for_each(|a| a.role = Role::Constant);
    arguments
}

/// Runs `op`; its first output alone is a result.
pub(super) fn forward<O: Ops>(op: &OpCase, ops: &O, args: &[Vec<O::F>]) -> Vec<Output<O::F>> {
    let mut out = op.forward(ops, args);
    let others = out[1..].iter_mut().filter(|o| o.kind == Kind::Result);
    others.for_each(|o| o.kind = Kind::Private);
    out
}

/// Runs the transpose along columns.
pub(super) fn backward<O: Ops>(
    op: &OpCase,
    ops: &O,
    args: &[Vec<O::F>],
    out: &[Output<O::F>],
    dy: &[O::F],
    grads: &mut [Vec<O::F>],
) {
    match (op, args, grads) {
        (&OpCase::Attention(s), [q, k, v, prefix_k, prefix_v, old_k, old_v], [dq, dk, dv, ..]) => {
            let (keys, values) = rings(s, k, v, old_k, old_v);
            let prefix = Prefix { keys: &prefix_k[..], values: &prefix_v[..] };
            let (y, lse) = (&out[0].values, &out[1].values);
            ops.attention_column_backward(s, q, &keys, &values, prefix, y, lse, dy, dq, dk, dv);
        }
        (&OpCase::Conv(s), [x, w, tail], [dx, ..]) => ops.conv_column_backward(s, x, w, tail, dy, dx),
        (OpCase::Scan { rule, shape }, [inputs @ .., _], [dinputs @ .., _]) => {
            let (inputs, mut dinputs) = (slices(inputs), slices_mut(dinputs));
            let done = ops.scan_column_backward(rule, *shape, &inputs, &out[2].values, dy, &mut dinputs);
            done.expect("the rule can run");
        }
        _ => panic!("{op}: {} arguments", args.len()),
    }
}
