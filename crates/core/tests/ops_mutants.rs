//! The tester is tested: ops that are wrong in one place, which the checks of `conformance::ops` must reject.

use hecate_core::conformance::ops::{KERNEL_TOLERANCE, OpCase, check_exact, measure, small_cases};
use hecate_core::ops::{
    AttentionShape, ConvShape, GateKind, GateSpec, HeadShape, LinearShape, MlpKind, Ops, Prefix, Reference,
};
use hecate_core::rules::miras::algorithm::Polynomial;
use hecate_core::scan::{ScanShape, Write};
use hecate_core::{AnyRule, Dual, Number, Result, Scalar};

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
    ConvForgetsSilu,
    ConvTakesSiluForGranted,
    GatesForgetDamping,
    GatesForgetTheSum,
    GatesForgetTheFloor,
    GatesTakeSoftplusForSigmoid,
    RopeTurnsOn,
    AttentionForgetsOldKeys,
    AttentionSeesOneKeyMore,
    AttentionForgetsThePrefix,
    PrefixLeavesTheWindow,
    MergeAddsTwice,
    GatedNormForgetsTheGate,
    SigmoidGateSwaps,
    MlpAtAnotherPoint,
    LossForgetsTheTarget,
    ScanForgetsTheState,
    AttentionColumnTakesAllQueries,
    AttentionColumnForgetsOtherKeys,
    ConvColumnTakesAllTaps,
    ConvColumnTakesTheOldestTap,
    ScanColumnCarriesTheState,
}

const ALL: [Wrong; 28] = [
    Wrong::EmbeddingOverwrites,
    Wrong::LinearForgetsAnEntry,
    Wrong::TransposedIsOff,
    Wrong::RmsNormForgetsTheMean,
    Wrong::ConvForgetsTheTail,
    Wrong::ConvForgetsTheLength,
    Wrong::ConvForgetsSilu,
    Wrong::ConvTakesSiluForGranted,
    Wrong::GatesForgetDamping,
    Wrong::GatesForgetTheSum,
    Wrong::GatesForgetTheFloor,
    Wrong::GatesTakeSoftplusForSigmoid,
    Wrong::RopeTurnsOn,
    Wrong::AttentionForgetsOldKeys,
    Wrong::AttentionSeesOneKeyMore,
    Wrong::AttentionForgetsThePrefix,
    Wrong::PrefixLeavesTheWindow,
    Wrong::MergeAddsTwice,
    Wrong::GatedNormForgetsTheGate,
    Wrong::SigmoidGateSwaps,
    Wrong::MlpAtAnotherPoint,
    Wrong::LossForgetsTheTarget,
    Wrong::ScanForgetsTheState,
    Wrong::AttentionColumnTakesAllQueries,
    Wrong::AttentionColumnForgetsOtherKeys,
    Wrong::ConvColumnTakesAllTaps,
    Wrong::ConvColumnTakesTheOldestTap,
    Wrong::ScanColumnCarriesTheState,
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

impl<F: Number> Ops for Mutant<F> {
    type F = F;

    right! {
        embedding_forward(width: usize, ids: &[u32], table: In<F>, y: Out<F>);
        linear_forward(s: LinearShape, x: In<F>, w: In<F>, y: Out<F>);
        linear_transposed_forward(s: LinearShape, x: In<F>, w: In<F>, y: Out<F>);
        rms_norm_forward(width: usize, x: In<F>, scale: In<F>, y: Out<F>);
        conv_forward(s: ConvShape, x: In<F>, w: In<F>, tail: In<F>, y: Out<F>);
        gates_forward(gates: &[GateSpec], tokens: usize, heads: usize, pre: In<F>, bias: In<F>, out: Out<F>);
        rope_forward(s: HeadShape, table: In<F>, x: In<F>, y: Out<F>);
        attention_forward(
            s: AttentionShape, q: In<F>, keys: In<F>, values: In<F>, prefix: Prefix<In<F>>, y: Out<F>, lse: Out<F>
        );
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
        let silu = match self.wrong {
            Wrong::ConvForgetsSilu => false,
            Wrong::ConvTakesSiluForGranted => true,
            _ => s.silu,
        };
        let s = ConvShape { silu, unit: s.unit && self.wrong != Wrong::ConvForgetsTheLength, ..s };
        self.right.conv_backward(s, x, w, &tail, dy, dx, dw);
    }
    fn conv_column_backward(&self, s: ConvShape, x: In<F>, w: In<F>, tail: In<F>, dy: In<F>, dx: Out<F>) {
        match self.wrong {
            Wrong::ConvColumnTakesAllTaps => self.right.conv_backward(s, x, w, tail, dy, dx, &mut zeros(w)),
            Wrong::ConvColumnTakesTheOldestTap => {
                let (mut dz, channels) = (zeros(x), s.heads.heads * s.heads.width);
                self.right.conv_column_backward(s, x, w, tail, dy, &mut dz);
                for (i, dz) in dz.into_iter().enumerate() {
                    let newest = s.taps.saturating_sub(1) * channels + i % channels;
                    dx[i] += if s.taps > 0 { dz / w[newest] * w[i % channels] } else { dz };
                }
            }
            _ => self.right.conv_column_backward(s, x, w, tail, dy, dx),
        }
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
                GateKind::Sigmoid { floor, max, .. } => GateKind::Sigmoid { floor, max, damped_by: None },
                kind => kind,
            };
            gates.iter_mut().for_each(|gate| gate.kind = forget(gate.kind));
        }
        let plain = GateKind::Sigmoid { floor: 0.0, max: 1.0, damped_by: None };
        for gate in &mut gates {
            gate.kind = match (self.wrong, gate.kind) {
                (Wrong::GatesForgetTheSum, GateKind::Softmax) => plain,
                (Wrong::GatesForgetTheFloor, GateKind::Sigmoid { max, damped_by, .. }) => {
                    GateKind::Sigmoid { floor: 0.0, max, damped_by }
                }
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
        prefix: Prefix<In<F>>,
        y: In<F>,
        lse: In<F>,
        dy: In<F>,
        dq: Out<F>,
        dk: Out<F>,
        dv: Out<F>,
        dprefix: Prefix<Out<F>>,
    ) {
        let window = match self.wrong {
            Wrong::AttentionForgetsOldKeys => s.window.min(2),
            Wrong::AttentionSeesOneKeyMore => s.window + 1,
            _ => s.window,
        };
        let s = AttentionShape { window, ..s };
        let [mut prefix_k, mut prefix_v] = [zeros(prefix.keys), zeros(prefix.values)];
        let unused = Prefix { keys: &mut prefix_k[..], values: &mut prefix_v[..] };
        match self.wrong {
            Wrong::AttentionForgetsThePrefix => {
                let (s, none) = (AttentionShape { prefix: 0, ..s }, Prefix::default());
                self.right.attention_backward(s, q, keys, values, none, y, lse, dy, dq, dk, dv, Prefix::default());
            }
            Wrong::PrefixLeavesTheWindow => {
                self.right.attention_backward(s, q, keys, values, prefix, y, lse, dy, dq, dk, dv, unused);
                // As if it stood right before the stream: queries beyond the window give it nothing.
                let far = |row: usize| s.pos + (row % s.tokens) as u64 >= s.window as u64;
                let near = dy.iter().enumerate().map(|(i, &dy)| if far(i / s.width) { F::zero() } else { dy });
                let near: Vec<F> = near.collect();
                let [dq, dk, dv] = &mut [zeros(q), zeros(dk), zeros(dv)];
                self.right.attention_backward(s, q, keys, values, prefix, y, lse, &near, dq, dk, dv, dprefix);
            }
            _ => self.right.attention_backward(s, q, keys, values, prefix, y, lse, dy, dq, dk, dv, dprefix),
        }
    }
    fn attention_column_backward(
        &self,
        s: AttentionShape,
        q: In<F>,
        keys: In<F>,
        values: In<F>,
        prefix: Prefix<In<F>>,
        y: In<F>,
        lse: In<F>,
        dy: In<F>,
        dq: Out<F>,
        dk: Out<F>,
        dv: Out<F>,
    ) {
        let [mut prefix_k, mut prefix_v] = [zeros(prefix.keys), zeros(prefix.values)];
        let unused = Prefix { keys: &mut prefix_k[..], values: &mut prefix_v[..] };
        let window = if self.wrong == Wrong::AttentionColumnForgetsOtherKeys { 1 } else { s.window };
        if self.wrong == Wrong::AttentionColumnTakesAllQueries {
            return self.right.attention_backward(s, q, keys, values, prefix, y, lse, dy, dq, dk, dv, unused);
        }
        let s = AttentionShape { window, ..s };
        self.right.attention_column_backward(s, q, keys, values, prefix, y, lse, dy, dq, dk, dv);
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
    fn scan_column_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[In<F>],
        saved: In<F>,
        dy: In<F>,
        dinputs: &mut [Out<F>],
    ) -> Result<()> {
        if self.wrong == Wrong::ScanColumnCarriesTheState {
            let mut dstate = vec![F::zero(); s.heads * rule.state_len(s.dims)];
            return self.right.scan_backward(rule, s, inputs, saved, dy, dinputs, &mut dstate);
        }
        self.right.scan_column_backward(rule, s, inputs, saved, dy, dinputs)
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
