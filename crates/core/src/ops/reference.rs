//! The slow, generic, single-threaded implementation of every op: law for all others.

use super::attention::{attention_backward, attention_column_backward, attention_forward};
use super::conv::{conv_backward, conv_column_backward, conv_forward};
use super::embedding::{embedding_backward, embedding_forward};
use super::gates::{gates_backward, gates_forward};
use super::heads::{merge_backward, merge_forward, sigmoid_gate_backward, sigmoid_gate_forward};
use super::linear::{add_gram, linear_backward, linear_forward, linear_transposed_backward, linear_transposed_forward};
use super::loss::{cross_entropy_backward, cross_entropy_forward};
use super::mlp::{mlp_backward, mlp_forward};
use super::norm::{gated_norm_backward, gated_norm_forward, rms_norm_backward, rms_norm_forward};
use super::rope::{rope_backward, rope_forward};
use super::{AttentionShape, ConvShape, GateSpec, HeadShape, LinearShape, MlpKind, Ops, Prefix};
use crate::erased::Number;
use crate::error::{Result, expect_len};
use crate::rules::AnyRule;
use crate::rules::miras::algorithm::Polynomial;
use crate::scan::{self, ScanShape, Write, reference_backward, reference_column_backward, reference_forward};
use std::marker::PhantomData;

/// Every op by its reference function, over any [`Number`]: `f32`, `f64`, or [`crate::Dual`] for exact derivatives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference<F>(PhantomData<F>);

impl<F> Reference<F> {
    /// It holds nothing.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F: Number> Ops for Reference<F> {
    type F = F;

    fn embedding_forward(&self, width: usize, ids: &[u32], table: &[F], y: &mut [F]) {
        embedding_forward(width, ids, table, y);
    }
    fn embedding_backward(&self, width: usize, ids: &[u32], dy: &[F], dtable: &mut [F]) {
        embedding_backward(width, ids, dy, dtable);
    }
    fn linear_forward(&self, s: LinearShape, x: &[F], w: &[F], y: &mut [F]) {
        linear_forward(s, x, w, y);
    }
    fn linear_backward(&self, s: LinearShape, x: &[F], w: &[F], dy: &[F], dx: Option<&mut [F]>, dw: Option<&mut [F]>) {
        linear_backward(s, x, w, dy, dx, dw);
    }
    fn linear_transposed_forward(&self, s: LinearShape, x: &[F], w: &[F], y: &mut [F]) {
        linear_transposed_forward(s, x, w, y);
    }
    fn linear_transposed_backward(
        &self,
        s: LinearShape,
        x: &[F],
        w: &[F],
        dy: &[F],
        dx: Option<&mut [F]>,
        dw: Option<&mut [F]>,
    ) {
        linear_transposed_backward(s, x, w, dy, dx, dw);
    }
    fn rms_norm_forward(&self, width: usize, x: &[F], scale: &[F], y: &mut [F]) {
        rms_norm_forward(width, x, scale, y);
    }
    fn rms_norm_backward(&self, width: usize, x: &[F], scale: &[F], dy: &[F], dx: &mut [F], dscale: &mut [F]) {
        rms_norm_backward(width, x, scale, dy, dx, dscale);
    }
    fn conv_forward(&self, s: ConvShape, x: &[F], w: &[F], tail: &[F], y: &mut [F]) {
        conv_forward(s, x, w, tail, y);
    }
    fn conv_backward(&self, s: ConvShape, x: &[F], w: &[F], tail: &[F], dy: &[F], dx: &mut [F], dw: &mut [F]) {
        conv_backward(s, x, w, tail, dy, dx, dw);
    }
    fn conv_column_backward(&self, s: ConvShape, x: &[F], w: &[F], tail: &[F], dy: &[F], dx: &mut [F]) {
        conv_column_backward(s, x, w, tail, dy, dx);
    }
    fn gates_forward(&self, gates: &[GateSpec], tokens: usize, heads: usize, pre: &[F], bias: &[F], out: &mut [F]) {
        gates_forward(gates, tokens, heads, pre, bias, out);
    }
    fn gates_backward(
        &self,
        gates: &[GateSpec],
        tokens: usize,
        heads: usize,
        pre: &[F],
        bias: &[F],
        dout: &[F],
        dpre: &mut [F],
        dbias: &mut [F],
    ) {
        gates_backward(gates, tokens, heads, pre, bias, dout, dpre, dbias);
    }
    fn rope_forward(&self, s: HeadShape, table: &[F], x: &[F], y: &mut [F]) {
        rope_forward(s, table, x, y);
    }
    fn rope_backward(&self, s: HeadShape, table: &[F], dy: &[F], dx: &mut [F]) {
        rope_backward(s, table, dy, dx);
    }
    fn attention_forward(
        &self,
        s: AttentionShape,
        q: &[F],
        keys: &[F],
        values: &[F],
        prefix: Prefix<&[F]>,
        y: &mut [F],
        lse: &mut [F],
    ) {
        attention_forward(s, q, keys, values, prefix, y, lse);
    }
    fn attention_backward(
        &self,
        s: AttentionShape,
        q: &[F],
        keys: &[F],
        values: &[F],
        prefix: Prefix<&[F]>,
        y: &[F],
        lse: &[F],
        dy: &[F],
        dq: &mut [F],
        dk: &mut [F],
        dv: &mut [F],
        dprefix: Prefix<&mut [F]>,
    ) {
        attention_backward(s, q, keys, values, prefix, y, lse, dy, dq, dk, dv, dprefix);
    }
    fn attention_column_backward(
        &self,
        s: AttentionShape,
        q: &[F],
        keys: &[F],
        values: &[F],
        prefix: Prefix<&[F]>,
        y: &[F],
        lse: &[F],
        dy: &[F],
        dq: &mut [F],
        dk: &mut [F],
        dv: &mut [F],
    ) {
        attention_column_backward(s, q, keys, values, prefix, y, lse, dy, dq, dk, dv);
    }
    fn merge_forward(&self, s: HeadShape, x: &[F], y: &mut [F]) {
        merge_forward(s, x, y);
    }
    fn merge_backward(&self, s: HeadShape, dy: &[F], dx: &mut [F]) {
        merge_backward(s, dy, dx);
    }
    fn gated_norm_forward(&self, s: HeadShape, x: &[F], scale: &[F], g: &[F], y: &mut [F]) {
        gated_norm_forward(s, x, scale, g, y);
    }
    fn gated_norm_backward(
        &self,
        s: HeadShape,
        x: &[F],
        scale: &[F],
        g: &[F],
        dy: &[F],
        dx: &mut [F],
        dscale: &mut [F],
        dg: &mut [F],
    ) {
        gated_norm_backward(s, x, scale, g, dy, dx, dscale, dg);
    }
    fn sigmoid_gate_forward(&self, a: &[F], b: &[F], y: &mut [F]) {
        sigmoid_gate_forward(a, b, y);
    }
    fn sigmoid_gate_backward(&self, a: &[F], b: &[F], dy: &[F], da: &mut [F], db: &mut [F]) {
        sigmoid_gate_backward(a, b, dy, da, db);
    }
    fn mlp_forward(&self, kind: MlpKind, hidden: usize, x: &[F], y: &mut [F]) {
        mlp_forward(kind, hidden, x, y);
    }
    fn mlp_backward(&self, kind: MlpKind, hidden: usize, x: &[F], dy: &[F], dx: &mut [F]) {
        mlp_backward(kind, hidden, x, dy, dx);
    }
    fn cross_entropy_forward(&self, vocab: usize, logits: &[F], targets: &[u32], loss: &mut [F]) {
        cross_entropy_forward(vocab, logits, targets, loss);
    }
    fn cross_entropy_backward(&self, vocab: usize, logits: &[F], targets: &[u32], dloss: &[F], dlogits: &mut [F]) {
        cross_entropy_backward(vocab, logits, targets, dloss, dlogits);
    }
    fn add_gram(&self, width: usize, x: &[F], out: &mut [F]) {
        add_gram(width, x, out);
    }
    fn orthogonal(&self, polynomial: Polynomial, iterations: usize, columns: usize, x: &[F], out: &mut [F]) {
        polynomial.iterate(iterations, columns, x, out);
    }

    fn scan_forward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[F]],
        state: &mut [F],
        y: &mut [F],
        saved: Option<&mut [F]>,
        write: Write,
    ) -> Result<()> {
        scan::check(rule, s, inputs, state, y)?;
        reference_forward(rule, s, inputs, state, y, saved, write);
        Ok(())
    }
    fn scan_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[F]],
        saved: &[F],
        dy: &[F],
        dinputs: &mut [&mut [F]],
        dstate: &mut [F],
    ) -> Result<()> {
        scan::check(rule, s, inputs, dstate, dy)?;
        reference_backward(rule, s, inputs, saved, dy, dinputs, dstate);
        Ok(())
    }
    fn scan_column_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[F]],
        saved: &[F],
        dy: &[F],
        dinputs: &mut [&mut [F]],
    ) -> Result<()> {
        scan::check_tokens(rule, s, inputs, dy)?;
        expect_len("scan", "saved", s.heads * s.checkpoints() * rule.state_len(s.dims), saved.len())?;
        reference_column_backward(rule, s, inputs, saved, dy, dinputs);
        Ok(())
    }
}
