//! The tester is tested: ops that are wrong in one place, which the checks of `conformance::ops` must reject.

use hecate_core::conformance::ops::{KERNEL_TOLERANCE, OpCase, check_exact, measure, small_cases};
use hecate_core::ops::{
    AttentionShape, ConvShape, GateKind, GateSpec, HeadShape, LinearShape, MlpKind, Ops, Reference,
};
use hecate_core::rules::miras::algorithm::Polynomial;
use hecate_core::scan::{ScanShape, Write};
use hecate_core::{AnyRule, Dual, Result, Scalar};

/// The reference with one planted error: the right function called in the wrong way.
struct Mutant<F> {
    wrong: Wrong,
    right: Reference<F>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    EmbeddingOverwrites,
    LinearForgetsAnEntry,
    TransposedIsOff,
    RmsNormForgetsTheMean,
    ConvForgetsTheTail,
    ConvForgetsTheLength,
    GatesForgetDamping,
    GatesForgetTheSum,
    GatesTakeSoftplusForSigmoid,
    RopeTurnsOn,
    AttentionForgetsOldKeys,
    AttentionSeesOneKeyMore,
    MergeAddsTwice,
    GatedNormForgetsTheGate,
    SigmoidGateSwaps,
    MlpAtAnotherPoint,
    LossForgetsTheTarget,
    ScanForgetsTheState,
}

const ALL: [Wrong; 18] = [
    Wrong::EmbeddingOverwrites,
    Wrong::LinearForgetsAnEntry,
    Wrong::TransposedIsOff,
    Wrong::RmsNormForgetsTheMean,
    Wrong::ConvForgetsTheTail,
    Wrong::ConvForgetsTheLength,
    Wrong::GatesForgetDamping,
    Wrong::GatesForgetTheSum,
    Wrong::GatesTakeSoftplusForSigmoid,
    Wrong::RopeTurnsOn,
    Wrong::AttentionForgetsOldKeys,
    Wrong::AttentionSeesOneKeyMore,
    Wrong::MergeAddsTwice,
    Wrong::GatedNormForgetsTheGate,
    Wrong::SigmoidGateSwaps,
    Wrong::MlpAtAnotherPoint,
    Wrong::LossForgetsTheTarget,
    Wrong::ScanForgetsTheState,
];

type In<'a, F> = &'a [F];
type Out<'a, F> = &'a mut [F];

/// Calls the reference.
macro_rules! right {
    ($($name:ident($($arg:ident: $Type:ty),*);)*) => {
        $(fn $name(&self, $($arg: $Type),*) { self.right.$name($($arg),*); })*
    };
}

fn zeros<F: Scalar>(like: &[F]) -> Vec<F> {
    vec![F::zero(); like.len()]
}

impl<F: Scalar> Ops for Mutant<F> {
    type F = F;

    right! {
        embedding_forward(width: usize, ids: &[u32], table: In<F>, y: Out<F>);
        linear_forward(s: LinearShape, x: In<F>, w: In<F>, y: Out<F>);
        linear_transposed_forward(s: LinearShape, x: In<F>, w: In<F>, y: Out<F>);
        rms_norm_forward(width: usize, x: In<F>, scale: In<F>, y: Out<F>);
        conv_forward(s: ConvShape, x: In<F>, w: In<F>, tail: In<F>, y: Out<F>);
        gates_forward(gates: &[GateSpec], tokens: usize, heads: usize, pre: In<F>, bias: In<F>, out: Out<F>);
        rope_forward(s: HeadShape, table: In<F>, x: In<F>, y: Out<F>);
        attention_forward(s: AttentionShape, q: In<F>, keys: In<F>, values: In<F>, y: Out<F>, lse: Out<F>);
        merge_forward(s: HeadShape, x: In<F>, y: Out<F>);
        gated_norm_forward(s: HeadShape, x: In<F>, scale: In<F>, g: In<F>, y: Out<F>);
        sigmoid_gate_forward(a: In<F>, b: In<F>, y: Out<F>);
        mlp_forward(kind: MlpKind, hidden: usize, x: In<F>, y: Out<F>);
        cross_entropy_forward(vocab: usize, logits: In<F>, targets: &[u32], loss: Out<F>);
    }

    fn embedding_backward(&self, width: usize, ids: &[u32], dy: In<F>, dtable: Out<F>) {
        if self.wrong == Wrong::EmbeddingOverwrites {
            dtable.fill(F::zero());
        }
        self.right.embedding_backward(width, ids, dy, dtable);
    }
    fn linear_backward(&self, s: LinearShape, x: In<F>, w: In<F>, dy: In<F>, dx: Option<Out<F>>, dw: Option<Out<F>>) {
        let mut dy = dy.to_vec();
        if let (Wrong::LinearForgetsAnEntry, Some(last)) = (self.wrong, dy.last_mut()) {
            *last = F::zero();
        }
        self.right.linear_backward(s, x, w, &dy, dx, dw);
    }
    fn linear_transposed_backward(
        &self,
        s: LinearShape,
        x: In<F>,
        w: In<F>,
        dy: In<F>,
        dx: Option<Out<F>>,
        dw: Option<Out<F>>,
    ) {
        // Too small to be seen by anything but an exact check, or one that is scaled.
        let off = F::from_f64(if self.wrong == Wrong::TransposedIsOff { 1.0001 } else { 1.0 });
        let dy: Vec<F> = dy.iter().map(|&dy| dy * off).collect();
        self.right.linear_transposed_backward(s, x, w, &dy, dx, dw);
    }
    fn rms_norm_backward(&self, width: usize, x: In<F>, scale: In<F>, dy: In<F>, dx: Out<F>, dscale: Out<F>) {
        if self.wrong != Wrong::RmsNormForgetsTheMean {
            return self.right.rms_norm_backward(width, x, scale, dy, dx, dscale);
        }
        let (mut y, ones) = (zeros(x), vec![F::one(); width]);
        self.right.rms_norm_forward(width, x, &ones, &mut y);
        for i in 0..x.len() {
            dx[i] += dy[i] * scale[i % width] * y[i] / x[i];
            dscale[i % width] += dy[i] * y[i];
        }
    }
    fn conv_backward(&self, s: ConvShape, x: In<F>, w: In<F>, tail: In<F>, dy: In<F>, dx: Out<F>, dw: Out<F>) {
        let tail = if self.wrong == Wrong::ConvForgetsTheTail { zeros(tail) } else { tail.to_vec() };
        let s = ConvShape { unit: s.unit && self.wrong != Wrong::ConvForgetsTheLength, ..s };
        self.right.conv_backward(s, x, w, &tail, dy, dx, dw);
    }
    fn gates_backward(
        &self,
        gates: &[GateSpec],
        tokens: usize,
        heads: usize,
        pre: In<F>,
        bias: In<F>,
        dout: In<F>,
        dpre: Out<F>,
        dbias: Out<F>,
    ) {
        let mut gates = gates.to_vec();
        if self.wrong == Wrong::GatesForgetDamping {
            let forget = |kind| match kind {
                GateKind::Sigmoid { max, .. } => GateKind::Sigmoid { max, damped_by: None },
                kind => kind,
            };
            gates.iter_mut().for_each(|gate| gate.kind = forget(gate.kind));
        }
        let plain = GateKind::Sigmoid { max: 1.0, damped_by: None };
        for gate in &mut gates {
            gate.kind = match (self.wrong, gate.kind) {
                (Wrong::GatesForgetTheSum, GateKind::Softmax) => plain,
                (Wrong::GatesTakeSoftplusForSigmoid, GateKind::Softplus { .. }) => plain,
                (_, kind) => kind,
            };
        }
        self.right.gates_backward(&gates, tokens, heads, pre, bias, dout, dpre, dbias);
    }
    fn rope_backward(&self, s: HeadShape, table: In<F>, dy: In<F>, dx: Out<F>) {
        let mut table = table.to_vec();
        if self.wrong == Wrong::RopeTurnsOn {
            let sines = table.chunks_exact_mut(s.width).flat_map(|row| &mut row[s.width / 2..]);
            sines.for_each(|sine| *sine = -*sine);
        }
        self.right.rope_backward(s, &table, dy, dx);
    }
    fn attention_backward(
        &self,
        s: AttentionShape,
        q: In<F>,
        keys: In<F>,
        values: In<F>,
        y: In<F>,
        lse: In<F>,
        dy: In<F>,
        dq: Out<F>,
        dk: Out<F>,
        dv: Out<F>,
    ) {
        let window = match self.wrong {
            Wrong::AttentionForgetsOldKeys => s.window.min(2),
            Wrong::AttentionSeesOneKeyMore => s.window + 1,
            _ => s.window,
        };
        self.right.attention_backward(AttentionShape { window, ..s }, q, keys, values, y, lse, dy, dq, dk, dv);
    }
    fn merge_backward(&self, s: HeadShape, dy: In<F>, dx: Out<F>) {
        if self.wrong == Wrong::MergeAddsTwice {
            self.right.merge_backward(s, dy, dx);
        }
        self.right.merge_backward(s, dy, dx);
    }
    fn gated_norm_backward(
        &self,
        s: HeadShape,
        x: In<F>,
        scale: In<F>,
        g: In<F>,
        dy: In<F>,
        dx: Out<F>,
        dscale: Out<F>,
        dg: Out<F>,
    ) {
        let mut kept = dg.to_vec();
        let dg = if self.wrong == Wrong::GatedNormForgetsTheGate { &mut kept } else { dg };
        self.right.gated_norm_backward(s, x, scale, g, dy, dx, dscale, dg);
    }
    fn sigmoid_gate_backward(&self, a: In<F>, b: In<F>, dy: In<F>, da: Out<F>, db: Out<F>) {
        let (da, db) = if self.wrong == Wrong::SigmoidGateSwaps { (db, da) } else { (da, db) };
        self.right.sigmoid_gate_backward(a, b, dy, da, db);
    }
    fn mlp_backward(&self, kind: MlpKind, hidden: usize, x: In<F>, dy: In<F>, dx: Out<F>) {
        let moved = F::from_f64(if self.wrong == Wrong::MlpAtAnotherPoint { 1e-3 } else { 0.0 });
        let x: Vec<F> = x.iter().map(|&x| x + moved).collect();
        self.right.mlp_backward(kind, hidden, &x, dy, dx);
    }
    fn cross_entropy_backward(&self, vocab: usize, logits: In<F>, targets: &[u32], dloss: In<F>, dlogits: Out<F>) {
        let off = u32::from(self.wrong == Wrong::LossForgetsTheTarget);
        let targets: Vec<u32> = targets.iter().map(|target| (target + off) % vocab as u32).collect();
        self.right.cross_entropy_backward(vocab, logits, &targets, dloss, dlogits);
    }
    fn add_gram(&self, width: usize, x: In<F>, out: &mut [F]) {
        self.right.add_gram(width, x, out);
    }
    fn orthogonal(&self, polynomial: Polynomial, iterations: usize, columns: usize, x: In<F>, out: &mut [F]) {
        self.right.orthogonal(polynomial, iterations, columns, x, out);
    }
    fn scan_forward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[In<F>],
        state: Out<F>,
        y: Out<F>,
        saved: Option<Out<F>>,
        write: Write,
    ) -> Result<()> {
        self.right.scan_forward(rule, s, inputs, state, y, saved, write)
    }
    fn scan_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[In<F>],
        saved: In<F>,
        dy: In<F>,
        dinputs: &mut [Out<F>],
        dstate: Out<F>,
    ) -> Result<()> {
        if self.wrong == Wrong::ScanForgetsTheState {
            dstate.fill(F::zero());
        }
        self.right.scan_backward(rule, s, inputs, saved, dy, dinputs, dstate)
    }
}

/// Cases that the exact check rejects.
fn rejected(wrong: Wrong) -> Vec<OpCase> {
    let (dual, real) = (Reference::<Dual<f64>>::new(), Mutant { wrong, right: Reference::<f64>::new() });
    small_cases().into_iter().filter(|case| check_exact(&dual, &real, case, 11).is_err()).collect()
}

/// Cases in which an `f32` implementation with this error is over the tolerance of kernels.
fn out_of_tolerance(wrong: Wrong) -> Vec<OpCase> {
    let ops = Mutant { wrong, right: Reference::<f32>::new() };
    let off = |case: &OpCase| measure(&ops, case, 11).iter().any(|m| m.error > KERNEL_TOLERANCE);
    small_cases().into_iter().filter(off).collect()
}

#[test]
fn without_an_error_nothing_is_rejected() {
    assert_eq!((rejected(Wrong::Nothing), out_of_tolerance(Wrong::Nothing)), (vec![], vec![]));
}

#[test]
fn every_wrong_backward_pass_fails_the_exact_check() {
    for wrong in ALL {
        assert!(!rejected(wrong).is_empty(), "{wrong:?} passed");
    }
}

#[test]
fn every_wrong_backward_pass_is_outside_the_tolerance_of_kernels() {
    for wrong in ALL {
        assert!(!out_of_tolerance(wrong).is_empty(), "{wrong:?} passed");
    }
}

#[test]
fn the_report_names_the_op_and_the_argument() {
    let case = OpCase::Linear(LinearShape { rows: 2, inner: 3, outer: 4 });
    let (dual, real) = (Reference::new(), Mutant { wrong: Wrong::LinearForgetsAnEntry, right: Reference::new() });
    let report = check_exact(&dual, &real, &case, 1).unwrap_err().to_string();
    assert!(report.contains("Linear") && report.contains("gradient of `x` is wrong"), "{report}");
}

#[test]
fn an_error_in_one_place_does_not_fail_other_ops() {
    for case in rejected(Wrong::ConvForgetsTheTail) {
        assert!(matches!(case, OpCase::Conv(s) if s.taps > 1), "{case}");
    }
    for wrong in [Wrong::GatesForgetDamping, Wrong::GatesForgetTheSum, Wrong::GatesTakeSoftplusForSigmoid] {
        for case in rejected(wrong) {
            assert!(matches!(case, OpCase::Gates { .. }), "{case}");
        }
    }
}
