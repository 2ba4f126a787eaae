//! [`Cpu`]: every op on `f32` kernels.

use super::embedding::embedding_forward;
use super::{AttentionShape, ConvShape, GateSpec, HeadShape, LinearShape, MlpKind, Ops, Prefix};
use crate::error::Result;
use crate::kernel::KernelChoice;
use crate::kernels::gemm::{MatMut, MatRef, Start, product};
use crate::kernels::miras::orthogonal;
use crate::kernels::{attention, conv, embedding, gates, loss, norm, pointwise, turn};
use crate::rules::AnyRule;
use crate::rules::miras::algorithm::Polynomial;
use crate::scan::{self, ScanShape, Write};
use crate::simd::Isa;

/// Which kernel the memory scans run: [`KernelChoice`] that owns its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ScanKernel {
    /// The fastest measured one for the shape.
    #[default]
    Auto,
    /// The one whose bits do not depend on cuts: inference.
    Canonical,
    /// The slow reference.
    Reference,
    /// One by name.
    Named(String),
}

impl ScanKernel {
    /// The choice in the form in which rules take it.
    pub fn choice(&self) -> KernelChoice<'_> {
        match self {
            ScanKernel::Auto => KernelChoice::Auto,
            ScanKernel::Canonical => KernelChoice::Canonical,
            ScanKernel::Reference => KernelChoice::Reference,
            ScanKernel::Named(name) => KernelChoice::Named(name),
        }
    }
}

/// The op set on `f32` kernels.
///
/// Results have the same bits with any number of threads, and every row of every forward op has the same bits
/// alone and among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    isa: Isa,
    parallel: bool,
    scan: ScanKernel,
}

impl Cpu {
    /// For training: the fastest scan kernels, and large ops on all threads of the current pool.
    pub fn training() -> Self {
        Self { isa: Isa::best(), parallel: true, scan: ScanKernel::Auto }
    }
    /// For inference: as in training, but with scan kernels whose bits do not depend on how a stream is cut.
    pub fn inference() -> Self {
        Self { scan: ScanKernel::Canonical, ..Self::training() }
    }
    /// The same with another instruction set, which the machine must have.
    ///
    /// # Panics
    /// If it does not.
    pub fn with_isa(self, isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine does not have {}", isa.name());
        Self { isa, ..self }
    }
    /// The same with or without threads inside an op.
    pub fn with_parallel(self, parallel: bool) -> Self {
        Self { parallel, ..self }
    }
    /// The same with another choice of scan kernels.
    pub fn with_scan(self, scan: ScanKernel) -> Self {
        Self { scan, ..self }
    }
    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// Whether large ops run on several threads.
    pub fn parallel(&self) -> bool {
        self.parallel
    }
    fn scan_run(&self) -> scan::Run<'_> {
        scan::Run { kernel: self.scan.choice(), parallel: self.parallel, isa: self.isa }
    }
    /// The choice of scan kernels.
    pub fn scan(&self) -> &ScanKernel {
        &self.scan
    }
}

impl Ops for Cpu {
    type F = f32;

    fn embedding_forward(&self, width: usize, ids: &[u32], table: &[f32], y: &mut [f32]) {
        embedding_forward(width, ids, table, y);
    }
    fn embedding_backward(&self, width: usize, ids: &[u32], dy: &[f32], dtable: &mut [f32]) {
        embedding::backward(self.isa, width, ids, dy, dtable);
    }

    fn linear_forward(&self, s: LinearShape, x: &[f32], w: &[f32], y: &mut [f32]) {
        let (x, w) = (MatRef::new(x, s.rows, s.inner), MatRef::new(w, s.inner, s.outer));
        self.multiply(x, w, MatMut::new(y, s.rows, s.outer), Start::Zero);
    }
    fn linear_backward(
        &self,
        s: LinearShape,
        x: &[f32],
        w: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        dw: Option<&mut [f32]>,
    ) {
        let dy = MatRef::new(dy, s.rows, s.outer);
        if let Some(dx) = dx {
            let w = MatRef::new(w, s.inner, s.outer);
            self.multiply(dy, w.transposed(), MatMut::new(dx, s.rows, s.inner), Start::Current);
        }
        if let Some(dw) = dw {
            let x = MatRef::new(x, s.rows, s.inner);
            self.multiply(x.transposed(), dy, MatMut::new(dw, s.inner, s.outer), Start::Current);
        }
    }
    fn linear_transposed_forward(&self, s: LinearShape, x: &[f32], w: &[f32], y: &mut [f32]) {
        let (x, w) = (MatRef::new(x, s.rows, s.inner), MatRef::new(w, s.outer, s.inner));
        self.multiply(x, w.transposed(), MatMut::new(y, s.rows, s.outer), Start::Zero);
    }
    fn linear_transposed_backward(
        &self,
        s: LinearShape,
        x: &[f32],
        w: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        dw: Option<&mut [f32]>,
    ) {
        let (x, w) = (MatRef::new(x, s.rows, s.inner), MatRef::new(w, s.outer, s.inner));
        let dy = MatRef::new(dy, s.rows, s.outer);
        if let Some(dx) = dx {
            self.multiply(dy, w, MatMut::new(dx, s.rows, s.inner), Start::Current);
        }
        if let Some(dw) = dw {
            self.multiply(dy.transposed(), x, MatMut::new(dw, s.outer, s.inner), Start::Current);
        }
    }

    fn rms_norm_forward(&self, width: usize, x: &[f32], scale: &[f32], y: &mut [f32]) {
        norm::rms_norm_forward(self.isa, self.parallel, width, x, scale, y);
    }
    fn rms_norm_backward(
        &self,
        width: usize,
        x: &[f32],
        scale: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        dscale: &mut [f32],
    ) {
        norm::rms_norm_backward(self.isa, self.parallel, width, [x, scale, dy], dx, dscale);
    }

    fn conv_forward(&self, s: ConvShape, x: &[f32], w: &[f32], tail: &[f32], y: &mut [f32]) {
        conv::forward(self.isa, self.parallel, s, conv::Inputs { x, w, tail }, y);
    }
    fn conv_backward(
        &self,
        s: ConvShape,
        x: &[f32],
        w: &[f32],
        tail: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        dw: &mut [f32],
    ) {
        conv::backward(self.isa, self.parallel, s, conv::Inputs { x, w, tail }, dy, dx, dw);
    }

    fn conv_column_backward(&self, s: ConvShape, x: &[f32], w: &[f32], tail: &[f32], dy: &[f32], dx: &mut [f32]) {
        conv::column_backward(self.isa, self.parallel, s, conv::Inputs { x, w, tail }, dy, dx);
    }

    fn gates_forward(
        &self,
        gates: &[GateSpec],
        tokens: usize,
        heads: usize,
        pre: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) {
        gates::forward(self.isa, gates, tokens, heads, pre, bias, out);
    }
    fn gates_backward(
        &self,
        gates: &[GateSpec],
        tokens: usize,
        heads: usize,
        pre: &[f32],
        bias: &[f32],
        dout: &[f32],
        dpre: &mut [f32],
        dbias: &mut [f32],
    ) {
        gates::backward(self.isa, gates, tokens, heads, [pre, bias, dout], dpre, dbias);
    }

    fn rope_forward(&self, s: HeadShape, table: &[f32], x: &[f32], y: &mut [f32]) {
        turn::rope_forward(self.isa, self.parallel, s, table, x, y);
    }
    fn rope_backward(&self, s: HeadShape, table: &[f32], dy: &[f32], dx: &mut [f32]) {
        turn::rope_backward(self.isa, self.parallel, s, table, dy, dx);
    }

    fn attention_forward(
        &self,
        s: AttentionShape,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        prefix: Prefix<&[f32]>,
        y: &mut [f32],
        lse: &mut [f32],
    ) {
        attention::forward(self.isa, self.parallel, s, q, attention::Store { keys, values, prefix }, y, lse);
    }
    fn attention_backward(
        &self,
        s: AttentionShape,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        prefix: Prefix<&[f32]>,
        y: &[f32],
        lse: &[f32],
        dy: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        dprefix: Prefix<&mut [f32]>,
    ) {
        let store = attention::Store { keys, values, prefix };
        let d = attention::Gradients { dq, dk, dv, dprefix: Some(dprefix) };
        attention::backward(self.isa, self.parallel, s, store, [q, y, lse, dy], d);
    }
    fn attention_column_backward(
        &self,
        s: AttentionShape,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        prefix: Prefix<&[f32]>,
        y: &[f32],
        lse: &[f32],
        dy: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let store = attention::Store { keys, values, prefix };
        let d = attention::Gradients { dq, dk, dv, dprefix: None };
        attention::backward(self.isa, self.parallel, s, store, [q, y, lse, dy], d);
    }

    fn merge_forward(&self, s: HeadShape, x: &[f32], y: &mut [f32]) {
        turn::merge_forward(self.parallel, s, x, y);
    }
    fn merge_backward(&self, s: HeadShape, dy: &[f32], dx: &mut [f32]) {
        turn::merge_backward(self.isa, self.parallel, s, dy, dx);
    }

    fn gated_norm_forward(&self, s: HeadShape, x: &[f32], scale: &[f32], g: &[f32], y: &mut [f32]) {
        norm::gated_norm_forward(self.isa, self.parallel, s, [x, scale, g], y);
    }
    fn gated_norm_backward(
        &self,
        s: HeadShape,
        x: &[f32],
        scale: &[f32],
        g: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        dscale: &mut [f32],
        dg: &mut [f32],
    ) {
        norm::gated_norm_backward(self.isa, self.parallel, s, [x, scale, g, dy], dx, dscale, dg);
    }

    fn sigmoid_gate_forward(&self, a: &[f32], b: &[f32], y: &mut [f32]) {
        pointwise::sigmoid_gate_forward(self.isa, self.parallel, a, b, y);
    }
    fn sigmoid_gate_backward(&self, a: &[f32], b: &[f32], dy: &[f32], da: &mut [f32], db: &mut [f32]) {
        pointwise::sigmoid_gate_backward(self.isa, self.parallel, [a, b, dy], da, db);
    }

    fn mlp_forward(&self, kind: MlpKind, hidden: usize, x: &[f32], y: &mut [f32]) {
        pointwise::mlp_forward(self.isa, self.parallel, kind, hidden, x, y);
    }
    fn mlp_backward(&self, kind: MlpKind, hidden: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        pointwise::mlp_backward(self.isa, self.parallel, kind, hidden, x, dy, dx);
    }

    fn cross_entropy_forward(&self, vocab: usize, logits: &[f32], targets: &[u32], loss: &mut [f32]) {
        loss::forward(self.isa, self.parallel, vocab, logits, targets, loss);
    }
    fn cross_entropy_backward(
        &self,
        vocab: usize,
        logits: &[f32],
        targets: &[u32],
        dloss: &[f32],
        dlogits: &mut [f32],
    ) {
        loss::backward(self.isa, self.parallel, vocab, logits, targets, dloss, dlogits);
    }

    fn add_gram(&self, width: usize, x: &[f32], out: &mut [f32]) {
        let x = MatRef::new(x, x.len() / width.max(1), width);
        product(self.isa, self.parallel, x.transposed(), x, MatMut::new(out, width, width), Start::Current);
    }
    fn orthogonal(&self, polynomial: Polynomial, iterations: usize, columns: usize, x: &[f32], out: &mut [f32]) {
        let shape = [x.len() / columns.max(1), columns];
        orthogonal::direction(self.isa, self.parallel, polynomial.coefficients(), iterations, shape, x, out);
    }

    fn scan_forward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[f32]],
        state: &mut [f32],
        y: &mut [f32],
        saved: Option<&mut [f32]>,
        write: Write,
    ) -> Result<()> {
        scan::forward_f32(rule, s, self.scan_run(), inputs, state, y, saved, write)
    }
    fn scan_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[f32]],
        saved: &[f32],
        dy: &[f32],
        dinputs: &mut [&mut [f32]],
        dstate: &mut [f32],
    ) -> Result<()> {
        scan::backward_f32(rule, s, self.scan_run(), inputs, saved, dy, dinputs, dstate)
    }
    fn scan_column_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[f32]],
        saved: &[f32],
        dy: &[f32],
        dinputs: &mut [&mut [f32]],
    ) -> Result<()> {
        scan::column_backward_f32(rule, s, self.scan_run(), inputs, saved, dy, dinputs)
    }
}

impl Cpu {
    /// A product on one thread if it is a single row: decoding does not wait for other threads.
    fn multiply(&self, a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, start: Start) {
        product(self.isa, self.parallel && a.rows() > 1, a, b, c, start);
    }
}
