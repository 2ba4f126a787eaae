//! Rules that are wrong on purpose. The suite must reject each of them, and by the check that one would expect.
//!
//! Every mutant is the matrix memory with momentum and one `Mistake`; the rule without any must pass, so that a
//! rejection is the mistake's doing.

use super::stream::{self, Stream, state_len};
use super::{Check, Report, check};
use crate::kernel::{Backward, Cotangents, Forward, Kernel, Scratch, Sequence};
use crate::rule::{About, Dims, Input, MemoryRule, StateTensor, Width, input};
use crate::rules::Titans;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the suite said of a mutant.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The mutant.
    pub name: &'static str,
    /// The check that must reject it; none for the rule without a mistake.
    pub expected: Option<Check>,
    /// What was found.
    pub report: Report,
}

impl Verdict {
    /// True if the suite judged as it should.
    pub fn is_right(&self) -> bool {
        match self.expected {
            Some(check) => self.report.fails(check),
            None => self.report.passed(),
        }
    }
}

/// One way of being wrong: whatever is not overridden is right.
trait Mistake: Clone + Debug + Default + PartialEq + Send + Sync + 'static {
    const NAME: &'static str;
    const EXPECTED: Option<Check>;
    const KERNELS: &'static [Kernel<Wrong<Self>>] = &[];

    fn inputs() -> Vec<Input> {
        Titans::default().inputs()
    }
    fn state(d: Dims) -> Vec<StateTensor> {
        Titans::default().state(d)
    }
    fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        Titans::default().write(d, pos, x, state);
    }
    fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
        Titans::default().write_backward(d, 0, x, prev, dx, dstate);
    }
    fn read<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        Titans::default().read(d, pos, x, state, y);
    }
    fn read_backward<F: Scalar>(d: Dims, x: &[&[F]], state: &[F], dy: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
        Titans::default().read_backward(d, 0, x, state, dy, dx, dstate);
    }
    fn step<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]) {
        Self::write(d, pos, x, state);
        Self::read(d, pos, x, state, y);
    }
    fn step_backward<F: Scalar>(
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let mut post = prev.to_vec();
        Self::write(d, pos, x, &mut post);
        Self::read_backward(d, x, &post, dy, dx, dstate);
        Self::write_backward(d, x, prev, dx, dstate);
    }
}

/// The rule with mistake `M`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
struct Wrong<M: Mistake>(PhantomData<M>);

impl<M: Mistake> MemoryRule for Wrong<M> {
    const NAME: &'static str = M::NAME;
    const KERNELS: &'static [Kernel<Self>] = M::KERNELS;

    fn about(&self) -> About {
        Titans::default().about()
    }
    fn inputs(&self) -> Vec<Input> {
        M::inputs()
    }
    fn state(&self, d: Dims) -> Vec<StateTensor> {
        M::state(d)
    }
    fn flops(&self, d: Dims) -> f64 {
        Titans::default().flops(d)
    }
    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        M::write(d, pos, x, state);
    }
    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        M::write_backward(d, x, prev, dx, dstate);
    }
    fn read<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        M::read(d, pos, x, state, y);
    }
    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        M::read_backward(d, x, state, dy, dx, dstate);
    }
    fn step<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]) {
        M::step(d, pos, x, state, y);
    }
    fn step_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        M::step_backward(d, pos, x, prev, dy, dx, dstate);
    }
}

// Positions of the inputs.
const K: usize = 0;
const V: usize = 1;
const Q: usize = 2;
const RETAIN: usize = 3;
const RATE: usize = 4;
const MOMENTUM: usize = 5;

macro_rules! mutants {
    ($($(#[$doc:meta])* $M:ident, $name:literal, $expected:expr, { $($body:tt)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq)]
            struct $M;
            impl Mistake for $M {
                const NAME: &'static str = $name;
                const EXPECTED: Option<Check> = $expected;
                $($body)*
            }
        )*

        /// Runs the suite, one entry per mutant; the first is the rule without a mistake. They may run side by side.
        pub const ALL: &[fn() -> Verdict] = &[$(verdict::<$M>),*];
    };
}

fn verdict<M: Mistake>() -> Verdict {
    Verdict { name: M::NAME, expected: M::EXPECTED, report: check(&Wrong::<M>::default()) }
}

mutants! {
    /// The control: no mistake, and a kernel that is the reference in f32.
    NoMistake, "no mistake", None, {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[kernel(true, plain_forward::<Self>, plain_backward::<Self>)];
    }

    /// The sign of one of the two terms of dk.
    FlippedSign, "flipped sign", Some(Check::Transpose), {
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let n = d.dk * d.dv;
            for row in 0..d.dv {
                // dL/de of this row, from the gradient of S' and, through W', of W.
                let ds = |c: usize| dstate[n + row * d.dk + c] + dstate[row * d.dk + c];
                let de = -x[RATE][0] * (0..d.dk).map(|c| ds(c) * x[K][c]).sum::<F>();
                for c in 0..d.dk {
                    dx[K][c] -= F::from_f64(2.0) * de * prev[row * d.dk + c];
                }
            }
            Titans::default().write_backward(d, 0, x, prev, dx, dstate);
        }
    }

    /// One per cent too much in one gradient.
    OnePercent, "one per cent", Some(Check::Transpose), {
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let before = dx[RATE][0];
            Titans::default().write_backward(d, 0, x, prev, dx, dstate);
            let added = dx[RATE][0] - before;
            dx[RATE][0] += F::from_f64(0.01) * added;
        }
    }

    /// No gradient for the momentum gate.
    ForgottenMomentum, "forgotten momentum gradient", Some(Check::Transpose), {
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let before = dx[MOMENTUM][0];
            Titans::default().write_backward(d, 0, x, prev, dx, dstate);
            dx[MOMENTUM][0] = before;
        }
    }

    /// Gradients of v are set, not added.
    OverwrittenGradient, "overwritten gradient", Some(Check::Transpose), {
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            dx[V].fill(F::zero());
            Titans::default().write_backward(d, 0, x, prev, dx, dstate);
        }
    }

    /// Takes `retain` for the fraction that is forgotten, as a paper prints it; consistently so.
    RetainForgets, "retain forgets", Some(Check::Recall), {
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            let retain = [F::one() - x[RETAIN][0]];
            Titans::default().write(d, pos, &with(x, RETAIN, &retain), state);
        }
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let retain = [F::one() - x[RETAIN][0]];
            dx[RETAIN][0] = -dx[RETAIN][0];
            Titans::default().write_backward(d, 0, &with(x, RETAIN, &retain), prev, dx, dstate);
            dx[RETAIN][0] = -dx[RETAIN][0];
        }
    }

    /// Keeps everything, whatever `retain` says; consistently so.
    NeverDecays, "never decays", Some(Check::Recall), {
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            Titans::default().write(d, pos, &with(x, RETAIN, &[F::one()]), state);
        }
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let before = dx[RETAIN][0];
            Titans::default().write_backward(d, 0, &with(x, RETAIN, &[F::one()]), prev, dx, dstate);
            dx[RETAIN][0] = before;
        }
    }

    /// Reads W the other way round; consistently so.
    TransposedRead, "transposed read", Some(Check::Recall), {
        fn read<F: Scalar>(d: Dims, _pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
            for (r, y) in y.iter_mut().enumerate() {
                *y = (0..d.dk).map(|c| state[c * d.dv + r] * x[Q][c]).sum();
            }
        }
        fn read_backward<F: Scalar>(
            d: Dims, x: &[&[F]], state: &[F], dy: &[F], dx: &mut [&mut [F]], dstate: &mut [F],
        ) {
            for (r, &dy) in dy.iter().enumerate() {
                for c in 0..d.dk {
                    dx[Q][c] += dy * state[c * d.dv + r];
                    dstate[c * d.dv + r] += dy * x[Q][c];
                }
            }
        }
    }

    /// A step that reads before it writes; consistently so.
    ReadsFirst, "reads before writing", Some(Check::Halves), {
        fn step<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]) {
            Self::read(d, pos, x, state, y);
            Self::write(d, pos, x, state);
        }
        fn step_backward<F: Scalar>(
            d: Dims, _pos: u64, x: &[&[F]], prev: &[F], dy: &[F], dx: &mut [&mut [F]], dstate: &mut [F],
        ) {
            Self::write_backward(d, x, prev, dx, dstate);
            Self::read_backward(d, x, prev, dy, dx, dstate);
        }
    }

    /// Reads are added to what the output held.
    AddsReads, "adds reads", Some(Check::Halves), {
        fn read<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
            let mut own = vec![F::zero(); d.dv];
            Titans::default().read(d, pos, x, state, &mut own);
            y.iter_mut().zip(own).for_each(|(y, own)| *y += own);
        }
    }

    /// A read that looks at the value too, which it does not say; exactly so, with nothing to be gained by it.
    LooksAtTheValue, "looks at the value when reading", Some(Check::Halves), {
        fn read<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
            Titans::default().read(d, pos, x, state, y);
            y.iter_mut().zip(x[V]).for_each(|(y, &v)| *y += F::zero() * v);
        }
    }

    /// Keeps the last value outside its state, so that the previous token of another stream shines through.
    RemembersOutside, "remembers outside its state", Some(Check::Isolation), {
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            static LAST: AtomicU64 = AtomicU64::new(0);
            let last = f64::from_bits(LAST.swap(x[V][0].value().to_bits(), Ordering::Relaxed));
            Titans::default().write(d, pos, x, state);
            state[0] += F::from_f64(1e-3 * last);
        }
    }

    /// Looks up, by position, what an earlier run of the stream wrote at the next token.
    SeesNext, "sees the next token", Some(Check::Causal), {
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            static SEEN: Mutex<[f64; 64]> = Mutex::new([0.0; 64]);
            let mut seen = SEEN.lock().expect("nothing panics while it is held");
            seen[pos as usize % 64] = x[V][0].value();
            Titans::default().write(d, pos, x, state);
            state[0] += F::from_f64(1e-3 * seen[(pos as usize + 1) % 64]);
        }
    }

    /// Lists a gate that nothing reads.
    DeadGate, "dead gate", Some(Check::Alive), {
        fn inputs() -> Vec<Input> {
            let dead = Input { name: "threshold", width: Width::One, ..input::RETAIN };
            [Titans::default().inputs(), vec![dead]].concat()
        }
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            Titans::default().write(d, pos, &x[..=MOMENTUM], state);
        }
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            Titans::default().write_backward(d, 0, &x[..=MOMENTUM], prev, &mut dx[..=MOMENTUM], dstate);
        }
    }

    /// Keeps a state tensor that no read depends on.
    IdleState, "idle state", Some(Check::Alive), {
        fn state(d: Dims) -> Vec<StateTensor> {
            [Titans::default().state(d), vec![StateTensor::matrix("idle", 1, d.dv)]].concat()
        }
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            let (own, idle) = state.split_at_mut(2 * d.dk * d.dv);
            Titans::default().write(d, pos, x, own);
            idle.copy_from_slice(x[V]);
        }
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let (own, idle) = dstate.split_at_mut(2 * d.dk * d.dv);
            dx[V].iter_mut().zip(&*idle).for_each(|(dv, &g)| *dv += g);
            idle.fill(F::zero());
            Titans::default().write_backward(d, 0, x, &prev[..own.len()], dx, own);
        }
        fn read<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
            Titans::default().read(d, pos, x, &state[..2 * d.dk * d.dv], y);
        }
        fn read_backward<F: Scalar>(
            d: Dims, x: &[&[F]], state: &[F], dy: &[F], dx: &mut [&mut [F]], dstate: &mut [F],
        ) {
            let n = 2 * d.dk * d.dv;
            Titans::default().read_backward(d, 0, x, &state[..n], dy, dx, &mut dstate[..n]);
        }
    }

    /// Changes at every fourth token only, and says nothing of positions.
    HiddenPeriod, "hidden period", Some(Check::Halves), {
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            if pos.is_multiple_of(4) {
                Titans::default().write(d, pos, x, state);
            }
        }
    }

    /// Steps three times as far as the gate says; consistently so.
    TripleRate, "triple rate", Some(Check::Endurance), {
        fn write<F: Scalar>(d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
            let rate = [F::from_f64(3.0) * x[RATE][0]];
            Titans::default().write(d, pos, &with(x, RATE, &rate), state);
        }
        fn write_backward<F: Scalar>(d: Dims, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
            let rate = [F::from_f64(3.0) * x[RATE][0]];
            let before = dx[RATE][0];
            dx[RATE][0] = F::zero();
            Titans::default().write_backward(d, 0, &with(x, RATE, &rate), prev, dx, dstate);
            dx[RATE][0] = before + F::from_f64(3.0) * dx[RATE][0];
        }
    }

    /// A kernel with one per cent too much in one gradient.
    KernelOff, "kernel with a wrong gradient", Some(Check::Kernels), {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[kernel(true, plain_forward::<Self>, |rule, d, seq, ct, _| {
            let (mut own, dstate) = plain_gradients(rule, d, seq, &ct);
            own[RATE].iter_mut().for_each(|x| *x *= 1.01);
            add(ct, &own, &dstate);
        })];
    }

    /// A kernel that is right, but for the states that it keeps for the way back.
    KernelKeepsOff, "kernel whose kept states are off", Some(Check::Kernels), {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[kernel(true, |rule, d, seq, state, y, mut saved, scratch| {
            plain_forward(rule, d, seq, state, y, saved.as_mut().map(|s| &mut s[..]), scratch);
            saved.into_iter().flatten().for_each(|x| *x *= 1.001);
        }, plain_backward::<Self>)];
    }

    /// A kernel that reads a little more when it does not write.
    KernelReadOff, "kernel whose reading alone is off", Some(Check::Kernels), {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[Kernel {
            read: |rule, d, seq, state, y, scratch| {
                plain_read(rule, d, seq, state, y, scratch);
                y.iter_mut().for_each(|y| *y *= 1.0001);
            },
            ..kernel(true, plain_forward::<Self>, plain_backward::<Self>)
        }];
    }

    /// A kernel that calls itself canonical, and rounds its state once more at the end of every call.
    KernelNotCanonical, "kernel that is not canonical", Some(Check::Cut), {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[kernel(true, |rule, d, seq, state, y, saved, scratch| {
            plain_forward(rule, d, seq, state, y, saved, scratch);
            state.iter_mut().for_each(|x| *x += 1e-7 * *x);
        }, plain_backward::<Self>)];
    }

    /// A kernel whose outputs know a little of the next token, less than any tolerance sees.
    KernelSeesNext, "kernel that sees the next token", Some(Check::Causal), {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[kernel(false, |rule, d, seq, state, y, saved, scratch| {
            plain_forward(rule, d, seq, state, y, saved, scratch);
            for t in 1..seq.tokens {
                y[(t - 1) * d.dv] += 1e-6 * seq.inputs[V][t * d.dv];
            }
        }, plain_backward::<Self>)];
    }

    /// A kernel that takes its scratch to be zero.
    KernelTrustsScratch, "kernel that trusts its scratch", Some(Check::Isolation), {
        const KERNELS: &'static [Kernel<Wrong<Self>>] = &[kernel(true, |rule, d, seq, state, y, saved, scratch| {
            let [left] = scratch.take([1]);
            let left = left[0];
            plain_forward(rule, d, seq, state, y, saved, scratch);
            y.iter_mut().for_each(|y| *y += left);
        }, plain_backward::<Self>)];
    }
}

/// The inputs with one of them replaced.
fn with<'a, F>(x: &[&'a [F]], at: usize, value: &'a [F]) -> Vec<&'a [F]> {
    let mut x = x.to_vec();
    x[at] = value;
    x
}

const fn kernel<M: Mistake>(
    canonical: bool,
    forward: Forward<Wrong<M>>,
    backward: Backward<Wrong<M>>,
) -> Kernel<Wrong<M>> {
    let is_available = |_: &Wrong<M>, _| true;
    let read = plain_read::<M>;
    Kernel {
        name: "plain",
        about: "the reference in f32",
        canonical,
        is_available,
        forward,
        backward,
        read,
        column: None,
    }
}

fn plain_read<M: Mistake>(
    rule: &Wrong<M>,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &[f32],
    y: &mut [f32],
    _scratch: &mut Scratch,
) {
    let stream = gather(rule, d, seq, state);
    for (t, y) in y.chunks_exact_mut(d.dv).enumerate() {
        rule.read(d, seq.pos + t as u64, &stream.token(t), state, y);
    }
}

fn gather<M: Mistake>(rule: &Wrong<M>, d: Dims, seq: Sequence<'_, f32>, start: &[f32]) -> Stream<f32> {
    debug_assert_eq!(start.len(), state_len(rule, d));
    let widths = rule.inputs().iter().map(|i| i.width.of(d)).collect();
    let inputs = seq.inputs.iter().map(|x| x.to_vec()).collect();
    Stream { d, tokens: seq.tokens, pos: seq.pos, inputs, widths, start: start.to_vec() }
}

fn plain_forward<M: Mistake>(
    rule: &Wrong<M>,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    _scratch: &mut Scratch,
) {
    let stream = gather(rule, d, seq, state);
    let rule: &dyn crate::erased::Over<f32> = rule;
    if let Some(saved) = saved {
        saved.copy_from_slice(&stream::checkpoints(rule, &stream).concat());
    }
    let run = stream::forward(rule, &stream);
    state.copy_from_slice(&run.end);
    y.copy_from_slice(&run.y);
}

/// Gradients of the inputs, and of the start state.
fn plain_gradients<M: Mistake>(
    rule: &Wrong<M>,
    d: Dims,
    seq: Sequence<'_, f32>,
    ct: &Cotangents<'_>,
) -> (Vec<Vec<f32>>, Vec<f32>) {
    let stream = gather(rule, d, seq, ct.start);
    let rule: &dyn crate::erased::Over<f32> = rule;
    let g = stream::backward(rule, &stream, ct.dy, ct.dstate);
    (g.inputs, g.start)
}

fn plain_backward<M: Mistake>(
    rule: &Wrong<M>,
    d: Dims,
    seq: Sequence<'_, f32>,
    ct: Cotangents<'_>,
    _scratch: &mut Scratch,
) {
    let (own, dstate) = plain_gradients(rule, d, seq, &ct);
    add(ct, &own, &dstate);
}

fn add(ct: Cotangents<'_>, own: &[Vec<f32>], dstate: &[f32]) {
    for (all, own) in ct.dinputs.iter_mut().zip(own) {
        all.iter_mut().zip(own).for_each(|(all, own)| *all += own);
    }
    ct.dstate.copy_from_slice(dstate);
}
