//! Settings that write a matrix of rank one per token, at the state before or behind its decay: they are members of
//! the family of [`crate::kernels::memory`], under other names, and take its kernels.
//!
//! What differs is made up for on the way in and out: features of keys and queries; several inner steps, which are
//! tokens of their own of which the last is read and the others do not decay; and the implicit step of the squared
//! error, whose residual is that of the decayed state over `1 + rate |k|^2`, so that its rate is `rate / (1 + rate |k|^2)`.

use super::rows::row;
use super::shape::Shape;
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::memory::{self, Form, RankOne};
use crate::kernels::scratch;
use crate::rule::Dims;
use crate::rules::miras::algorithm::{Algorithm, Solve, with_algorithm};
use crate::rules::miras::bias::AnyBias;
use crate::rules::miras::features::{AnyFeatures, Features, with_features};
use crate::rules::miras::retention::{Pull, Retention, with_retention};
use crate::rules::miras::structure::{Structure, with_structure};
use crate::rules::miras::{Gates, GradientAt, ReadAt};
use crate::rules::{DecayDelta, Delta, GatedDelta, LinearAttention, Miras, Titans};
use crate::scan::PerInput;

/// The rule of the family that a setting is.
#[derive(Clone, Copy, Debug)]
enum Member {
    LinearAttention,
    Delta,
    DecayDelta,
    GatedDelta,
    Titans,
}

/// Runs `$body` with the kernels and the form of a member.
macro_rules! with_member {
    ($member:expr, |$kernels:ident, $rule:ident, $form:ident| $body:expr) => {
        with_member!(@ $member, $kernels, $rule, $form, $body, LinearAttention Delta DecayDelta GatedDelta Titans)
    };
    (@ $member:expr, $kernels:ident, $rule:ident, $form:ident, $body:expr, $($Rule:ident)*) => {
        match $member {
            $(Member::$Rule => {
                const KERNELS: [Kernel<$Rule>; 2] = memory::kernels();
                let ($kernels, $rule, $form): (_, _, Form) = (&KERNELS, $Rule::default(), <$Rule as RankOne>::FORM);
                $body
            })*
        }
    };
}

/// Which member a setting is, if it is one: a matrix without chunks and windows, squared error or similarity, decay or
/// none, plain or implicit steps or momentum, scalar gates, reads behind the write.
fn member(rule: &Miras) -> Option<Member> {
    let whole = rule.chunk <= 1 && rule.window == 0 && rule.gates == Gates::Scalar && rule.read == ReadAt::Post;
    let matrix = with_structure!(&rule.structure, s => s.network().is_some_and(|net| net.layers == 1) && !s.residual());
    let (pull, plain) = with_retention!(&rule.retention, r => {
        (r.pull(), !(r.is_dual() || r.settles() || r.projects() || r.multiplies() || r.scales_steps() || r.shrinks()))
    });
    let (solve, momentum, unit) = with_algorithm!(&rule.algorithm, a => (a.solve(), a.momentum(), a.unit_scale()));
    let decays = match pull {
        Pull::Keep => false,
        Pull::Zero => !with_algorithm!(&rule.algorithm, a => a.keeps_all()),
        Pull::Start | Pull::Constant(_) => return None,
    };
    if !(whole && matrix && plain && rule.clip.is_none() && solve != Solve::Newton && !unit) {
        return None;
    }
    let decayed = rule.gradient == GradientAt::Decayed || solve == Solve::Implicit;
    match (&rule.bias, momentum) {
        (AnyBias::Dot(_), false) => Some(Member::LinearAttention),
        (AnyBias::L2(_), true) if !(decayed && decays) && solve == Solve::Explicit => Some(Member::Titans),
        (AnyBias::L2(_), false) if !decays => Some(Member::Delta),
        (AnyBias::L2(_), false) if decayed => Some(Member::GatedDelta),
        (AnyBias::L2(_), false) => Some(Member::DecayDelta),
        _ => None,
    }
}

/// Whether a setting is a member.
pub(crate) fn covers(rule: &Miras) -> bool {
    member(rule).is_some()
}

/// How tokens of the rule become tokens of the member.
struct Map<'a> {
    shape: &'a Shape,
    form: Form,
    /// Inner steps of a token.
    steps: usize,
    /// Size of the member's memory.
    d: Dims,
    implicit: bool,
    /// Whether keys, values, queries and rates are the rule's own.
    same: bool,
}

/// Inputs of the member, or their gradients.
struct Flat<'a> {
    k: &'a mut [f32],
    v: &'a mut [f32],
    q: &'a mut [f32],
    retain: &'a mut [f32],
    rate: &'a mut [f32],
    momentum: &'a mut [f32],
}

impl<'a> Map<'a> {
    fn new(shape: &'a Shape, form: Form) -> Self {
        let rule = &shape.rule;
        let steps = shape.slots.steps.len();
        let implicit =
            with_algorithm!(&rule.algorithm, a => a.solve() == Solve::Implicit) && matches!(rule.bias, AnyBias::L2(_));
        let width = with_features!(&rule.features, f => f.width(shape.d.dk));
        let same = steps == 1 && !implicit && matches!(rule.features, AnyFeatures::None(_));
        Self { shape, form, steps, d: Dims::new(width, shape.d.dv), implicit, same }
    }

    /// Whether the inputs of the rule are those of the member, in its order.
    fn is_identity(&self) -> bool {
        self.same && self.form.retain == self.shape.slots.retain.is_some()
    }

    fn lens(&self, tokens: usize) -> [usize; 6] {
        let n = tokens * self.steps;
        let list = if self.same { [0; 3] } else { [n * self.d.dk, n * self.d.dv, n * self.d.dk] };
        [list[0], list[1], list[2], n, n, n]
    }

    fn coefficients<'x>(&self, seq: Sequence<'x, f32>) -> &'x [f32] {
        self.shape.slots.coefficients.map_or(&[], |i| seq.inputs[i])
    }

    /// Fills the member's inputs.
    fn enter(&self, seq: Sequence<'_, f32>, to: &mut Flat<'_>) {
        let (s, m, n) = (self.shape, self.steps, seq.tokens);
        to.retain.fill(1.0);
        if let Some(i) = s.slots.retain {
            (0..n).for_each(|t| to.retain[t * m] = seq.inputs[i][t]);
        }
        if let Some(i) = s.slots.momentum {
            to.momentum.iter_mut().enumerate().for_each(|(j, x)| *x = seq.inputs[i][j / m]);
        }
        let coefficients = self.coefficients(seq);
        let per = coefficients.len() / n.max(1);
        for (j, &(k, v, rate)) in s.slots.steps.iter().enumerate() {
            for t in 0..n {
                let at = t * m + j;
                let rate = rate.map_or(1.0, |i| seq.inputs[i][t]);
                to.rate[at] = rate;
                if self.same {
                    continue;
                }
                let phi = &mut to.k[row(at, self.d.dk)];
                s.features(&seq.inputs[k][row(t, s.d.dk)], &coefficients[row(t, per)], phi);
                if self.implicit {
                    to.rate[at] = rate / (1.0 + rate * squares(phi));
                }
                to.v[row(at, self.d.dv)].copy_from_slice(&seq.inputs[v][row(t, self.d.dv)]);
                let q = &mut to.q[row(at, self.d.dk)];
                if j + 1 == m {
                    s.features(&seq.inputs[2][row(t, s.d.dk)], &coefficients[row(t, per)], q);
                } else {
                    q.fill(0.0);
                }
            }
        }
    }

    /// The member's inputs, in its order.
    fn inputs<'x>(&self, seq: Sequence<'x, f32>, flat: &'x Flat<'_>) -> PerInput<&'x [f32]> {
        let list: [&[f32]; 3] =
            if self.same { [seq.inputs[0], seq.inputs[1], seq.inputs[2]] } else { [&*flat.k, &*flat.v, &*flat.q] };
        let mut all: PerInput<&[f32]> = list.into_iter().collect();
        all.extend(self.form.retain.then_some(&*flat.retain));
        all.push(&*flat.rate);
        all.extend(self.form.momentum.then_some(&*flat.momentum));
        all
    }

    /// Where the member's gradients go, and how many there are.
    fn gradients<'x>(&self, dx: &'x mut [&mut [f32]], flat: &'x mut Flat<'_>) -> ([&'x mut [f32]; 6], usize) {
        let mut list: [&mut [f32]; 6] = Default::default();
        if self.same {
            list.iter_mut().zip(dx.iter_mut().take(3)).for_each(|(to, d)| *to = &mut **d);
        } else {
            (list[0], list[1], list[2]) = (&mut *flat.k, &mut *flat.v, &mut *flat.q);
        }
        let gates = [
            self.form.retain.then_some(&mut *flat.retain),
            Some(&mut *flat.rate),
            self.form.momentum.then_some(&mut *flat.momentum),
        ];
        let mut count = 3;
        for gate in gates.into_iter().flatten() {
            list[count] = gate;
            count += 1;
        }
        (list, count)
    }

    /// Transpose of [`Map::enter`]: from the gradients `d` of what it filled to those of the rule's inputs.
    fn enter_backward(&self, seq: Sequence<'_, f32>, flat: &Flat<'_>, d: &mut Flat<'_>, dx: &mut [&mut [f32]]) {
        let (s, m, n) = (self.shape, self.steps, seq.tokens);
        if let Some(i) = s.slots.retain {
            (0..n).for_each(|t| dx[i][t] += d.retain[t * m]);
        }
        if let Some(i) = s.slots.momentum {
            d.momentum.iter().enumerate().for_each(|(j, d)| dx[i][j / m] += d);
        }
        let coefficients = self.coefficients(seq);
        let per = coefficients.len() / n.max(1);
        for (j, &(k, v, rate)) in s.slots.steps.iter().enumerate() {
            for t in 0..n {
                let at = t * m + j;
                let mut drate = d.rate[at];
                if !self.same {
                    if self.implicit {
                        // rate / (1 + rate |k|^2)
                        let own = rate.map_or(1.0, |i| seq.inputs[i][t]);
                        let (phi, dphi) = (&flat.k[row(at, self.d.dk)], &mut d.k[row(at, self.d.dk)]);
                        let by = 1.0 / (1.0 + own * squares(phi));
                        let dsquares = -drate * own * own * by * by;
                        dphi.iter_mut().zip(phi).for_each(|(d, x)| *d += 2.0 * dsquares * x);
                        drate *= by * by;
                    }
                    let (c, key) = (row(t, per), row(t, s.d.dk));
                    let mut back = |i: usize, dphi: &[f32]| {
                        let mut none: [f32; 0] = [];
                        match s.slots.coefficients {
                            None => {
                                let x = &seq.inputs[i][key.clone()];
                                s.features_backward(x, &[], dphi, &mut dx[i][key.clone()], &mut none);
                            }
                            Some(slot) => {
                                let own = std::mem::take(&mut dx[slot]);
                                let (x, with) = (&seq.inputs[i][key.clone()], &coefficients[c.clone()]);
                                s.features_backward(x, with, dphi, &mut dx[i][key.clone()], &mut own[c.clone()]);
                                dx[slot] = own;
                            }
                        }
                    };
                    back(k, &d.k[row(at, self.d.dk)]);
                    if j + 1 == m {
                        back(2, &d.q[row(at, self.d.dk)]);
                    }
                    let dv = &mut dx[v][row(t, self.d.dv)];
                    dv.iter_mut().zip(&d.v[row(at, self.d.dv)]).for_each(|(to, d)| *to += d);
                }
                if let Some(i) = rate {
                    dx[i][t] += drate;
                }
            }
        }
    }
}

fn squares(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum()
}

fn flat<'a>([k, v, q, retain, rate, momentum]: [&'a mut [f32]; 6]) -> Flat<'a> {
    Flat { k, v, q, retain, rate, momentum }
}

/// See [`crate::Kernel::forward`]; `which` of the member's kernels.
pub(super) fn forward<const WHICH: usize>(
    rule: &Miras,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let shape = Shape::of(rule, d);
    with_member!(member(rule).expect("the kernel is available"), |kernels, own, form| {
        let (map, run) = (Map::new(&shape, form), kernels[WHICH].forward);
        if map.is_identity() {
            return run(&own, d, seq, state, y, None, scratch);
        }
        let (m, dv) = (map.steps, d.dv);
        let mut space = scratch::borrow();
        let [k, v, q, retain, rate, momentum] = map.lens(seq.tokens);
        let reads = if m == 1 { 0 } else { seq.tokens * m * dv };
        let [k, v, q, retain, rate, momentum, wide] = space.take([k, v, q, retain, rate, momentum, reads]);
        let mut to = flat([k, v, q, retain, rate, momentum]);
        map.enter(seq, &mut to);
        let part = Sequence { tokens: seq.tokens * m, pos: seq.pos, inputs: &map.inputs(seq, &to) };
        if m == 1 {
            return run(&own, map.d, part, state, y, None, scratch);
        }
        run(&own, map.d, part, state, wide, None, scratch);
        y.chunks_exact_mut(dv).enumerate().for_each(|(t, y)| y.copy_from_slice(&wide[row(t * m + m - 1, dv)]));
    })
}

/// See [`crate::Kernel::backward`].
pub(super) fn backward(rule: &Miras, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let shape = Shape::of(rule, d);
    with_member!(member(rule).expect("the kernel is available"), |kernels, own, form| {
        let (map, run) = (Map::new(&shape, form), kernels[0].backward);
        if map.is_identity() {
            return run(&own, d, seq, ct, scratch);
        }
        let Cotangents { start, dy, dinputs, dstate } = ct;
        let (m, dv, n) = (map.steps, d.dv, seq.tokens);
        let mut space = scratch::borrow();
        let [a, b, c, e, f, g] = map.lens(n);
        let [k, v, q, retain, rate, momentum, dk, dvalues, dq, dretain, drate, dmomentum, wide] =
            space.take([a, b, c, e, f, g, a, b, c, e, f, g, n * m * dv]);
        let mut to = flat([k, v, q, retain, rate, momentum]);
        map.enter(seq, &mut to);
        let mut grads = flat([dk, dvalues, dq, dretain, drate, dmomentum]);
        for d in [&mut *grads.k, grads.v, grads.q, grads.retain, grads.rate, grads.momentum] {
            d.fill(0.0);
        }
        wide.fill(0.0);
        dy.chunks_exact(dv).enumerate().for_each(|(t, dy)| wide[row(t * m + m - 1, dv)].copy_from_slice(dy));
        let inputs = map.inputs(seq, &to);
        let part = Sequence { tokens: n * m, pos: seq.pos, inputs: &inputs };
        let (mut list, count) = map.gradients(dinputs, &mut grads);
        run(&own, map.d, part, Cotangents { start, dy: wide, dinputs: &mut list[..count], dstate }, scratch);
        map.enter_backward(seq, &to, &mut grads, dinputs);
    })
}

/// See [`crate::Kernel::read`].
pub(super) fn read(rule: &Miras, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let shape = Shape::of(rule, d);
    with_member!(member(rule).expect("the kernel is available"), |kernels, own, form| {
        let map = Map::new(&shape, form);
        let mut space = scratch::borrow();
        let [phi] = space.take([if map.same { 0 } else { seq.tokens * map.d.dk }]);
        if !map.same {
            shape.features(seq.inputs[2], map.coefficients(seq), phi);
        }
        let mut inputs: PerInput<&[f32]> = seq.inputs.iter().copied().collect();
        if !map.same {
            inputs[2] = phi;
        }
        (kernels[0].read)(&own, map.d, Sequence { inputs: &inputs, ..seq }, state, y, scratch)
    })
}
