//! Where everything lies: the tensors of the memory, the parts of the flat state, and the inputs of a token.

use super::algorithm::with_algorithm;
use super::bias::{Bias, with_bias};
use super::features::{Features, with_features};
use super::retention::{Pull, Retention, with_retention};
use super::structure::{Axis, Structure, Tensor, with_structure};
use super::{Algorithm, Decay, Gates, Miras, Solve};
use crate::rule::{Activation, Dims, Input, Start, StateTensor, Width, input};
use std::ops::Range;

/// Names of the tensors of a memory with several, from the output.
const NAMES: [[&str; 8]; 5] = [
    ["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8"],
    ["S_W1", "S_W2", "S_W3", "S_W4", "S_W5", "S_W6", "S_W7", "S_W8"],
    ["anchor_W1", "anchor_W2", "anchor_W3", "anchor_W4", "anchor_W5", "anchor_W6", "anchor_W7", "anchor_W8"],
    ["step_W1", "step_W2", "step_W3", "step_W4", "step_W5", "step_W6", "step_W7", "step_W8"],
    ["start_W1", "start_W2", "start_W3", "start_W4", "start_W5", "start_W6", "start_W7", "start_W8"],
];
/// Names where there is one.
const ALONE: [&str; 5] = ["W", "S_W", "anchor_W", "step_W", "start_W"];
/// Names of what the second to fourth inner step of a token brings.
const STEP_KEYS: [&str; 3] = ["k2", "k3", "k4"];
const STEP_VALUES: [&str; 3] = ["v2", "v3", "v4"];
const STEP_RATES: [&str; 3] = ["rate2", "rate3", "rate4"];
/// The most inner steps of a token.
pub(crate) const MOST_STEPS: usize = 1 + STEP_KEYS.len();

/// Parts of the flat state; empty where the rule does not have them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The memory.
    pub z: Range<usize>,
    /// Momentum.
    pub s: Range<usize>,
    /// The memory at the chunk start.
    pub anchor: Range<usize>,
    /// Steps gathered since the memory last settled.
    pub step: Range<usize>,
    /// The sum of `rate * retain` since it last settled.
    pub shrink: Range<usize>,
    /// The sum of `ns_rate` since the last step, where one is taken per chunk.
    pub reach: Range<usize>,
    /// Where the memory started.
    pub start: Range<usize>,
    /// Keys, values and thresholds of the tokens before, oldest first: `[window - 1, ..]`.
    pub keys: Range<usize>,
    pub values: Range<usize>,
    pub thresholds: Range<usize>,
    /// The inverse covariance of recursive least squares.
    pub p: Range<usize>,
}

/// The shape of one rule at one size.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Size of a head as the mixer sees it.
    pub d: Dims,
    /// Size as the memory sees it: keys are as wide as their features.
    pub inner: Dims,
    /// The memory's tensors and where each lies in the flat weights.
    pub tensors: Vec<(Tensor, Range<usize>)>,
    /// Parts of the state.
    pub at: Places,
    /// Number of values in the state.
    pub len: usize,
    gates: Gates,
}

impl Plan {
    pub fn new(rule: &Miras, d: Dims) -> Self {
        let inner = Dims::new(with_features!(&rule.features, f => f.width(d.dk)), d.dv);
        let mut tensors = Vec::new();
        let mut weights = 0;
        for t in with_structure!(&rule.structure, s => s.tensors(inner)) {
            tensors.push((t, weights..weights + t.len()));
            weights += t.len();
        }
        let mut plan = Self { d, inner, tensors, at: Places::default(), len: 0, gates: rule.gates };
        let (pull, multiplies, shrinks) =
            with_retention!(&rule.retention, r => (r.pull(), r.multiplies(), r.shrinks()));
        let (momentum, solve, once) =
            with_algorithm!(&rule.algorithm, a => (a.momentum(), a.solve(), a.once_per_chunk()));
        let threshold = with_bias!(&rule.bias, b => b.threshold()).is_some();
        let (chunked, past) = (rule.chunk > 1, rule.window.saturating_sub(1));
        let mut place = |n: usize| {
            plan.len += n;
            plan.len - n..plan.len
        };
        let when = |has: bool, n: usize| if has { n } else { 0 };
        plan.at = Places {
            z: place(weights),
            s: place(when(momentum, weights)),
            anchor: place(when(chunked, weights)),
            // Steps that are taken at the end of a chunk only wait for nothing.
            step: place(when(chunked && multiplies && !once, weights)),
            shrink: place(when(chunked && shrinks, 1)),
            reach: place(when(chunked && once, 1)),
            start: place(when(pull == Pull::Start, weights)),
            keys: place(past * d.dk),
            values: place(past * d.dv),
            thresholds: place(when(threshold, past)),
            p: place(when(solve == Solve::Newton, inner.dk * inner.dk)),
        };
        plan
    }

    /// Number of values in the memory.
    pub fn weights(&self) -> usize {
        self.at.z.len()
    }

    /// The state's tensors, in order.
    pub fn state(&self, rule: &Miras) -> Vec<StateTensor> {
        let mut out: Vec<StateTensor> = Vec::new();
        let alone = self.tensors.len() == 1;
        let vector = with_structure!(&rule.structure, s => s.is_vector());
        let parts = [&self.at.z, &self.at.s, &self.at.anchor, &self.at.step];
        let group = |out: &mut Vec<StateTensor>, part: usize, present: bool| {
            for (i, (t, _)) in self.tensors.iter().enumerate().filter(|_| present) {
                let name = if alone { ALONE[part] } else { NAMES[part][t.number] };
                let start = match part {
                    0 => with_retention!(&rule.retention, r => r.start(t)),
                    2 | 4 => Start::Same(i),
                    _ => Start::Zero,
                };
                let shape = if vector { vec![t.len()] } else { vec![t.rows, t.columns] };
                let tensor = StateTensor::zeros(name, shape).starting(start);
                out.push(if matches!(part, 2 | 4) { tensor.of_the_past() } else { tensor });
            }
        };
        for (part, place) in parts.into_iter().enumerate() {
            group(&mut out, part, !place.is_empty());
        }
        if !self.at.shrink.is_empty() {
            out.push(StateTensor::zeros("shrink", vec![1]).of_the_past());
        }
        if !self.at.reach.is_empty() {
            out.push(StateTensor::zeros("ns_rate", vec![1]).of_the_past());
        }
        group(&mut out, 4, !self.at.start.is_empty());
        let past = rule.window.saturating_sub(1);
        if past > 0 {
            out.push(StateTensor::matrix("window_k", past, self.d.dk).of_the_past());
            out.push(StateTensor::matrix("window_v", past, self.d.dv).of_the_past());
        }
        if !self.at.thresholds.is_empty() {
            out.push(StateTensor::zeros("window_threshold", vec![past]).of_the_past());
        }
        if let Some(scale) = with_algorithm!(&rule.algorithm, a => a.covariance()) {
            let n = self.inner.dk;
            out.push(StateTensor::matrix("P", n, n).starting(Start::Identity(scale)).of_the_past());
        }
        out
    }

    /// The gate value that acts on element `i` of a tensor: an index into the gate.
    pub fn channel(&self, t: &Tensor, i: usize) -> usize {
        let axis = match self.gates {
            Gates::Scalar => return 0,
            Gates::Value => t.values,
            Gates::Key => t.keys,
        };
        match axis.expect("the configuration was checked") {
            Axis::Rows => i / t.columns,
            Axis::Columns => i % t.columns,
        }
    }
}

/// Indices of a token's inputs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    /// Key, value and, if there are any, rate of every inner step.
    pub steps: Vec<(usize, usize, Option<usize>)>,
    pub retain: Option<usize>,
    pub momentum: Option<usize>,
    pub ns_rate: Option<usize>,
    pub threshold: Option<usize>,
    pub window: Option<usize>,
    pub coefficients: Option<usize>,
}

/// Index of the query among the inputs.
pub(crate) const QUERY: usize = 2;

/// The inputs of a rule, and their indices.
pub(crate) fn inputs(rule: &Miras) -> (Vec<Input>, Slots) {
    let (momentum, unit_scale, solve) =
        with_algorithm!(&rule.algorithm, a => (a.momentum(), a.unit_scale(), a.solve()));
    let pulls = with_retention!(&rule.retention, r => r.pull() != Pull::Keep);
    let threshold = with_bias!(&rule.bias, b => b.threshold());
    let coefficients = with_features!(&rule.features, f => f.coefficients());
    let width = match rule.gates {
        Gates::Scalar => Width::One,
        Gates::Value => Width::Value,
        Gates::Key => Width::Key,
    };
    let mut list = vec![input::K, input::V, input::Q];
    let mut slots = Slots::default();
    let mut add = |input: Option<Input>| {
        list.extend(input);
        input.map(|_| list.len() - 1)
    };
    let constant = rule.decay != Decay::Gate;
    let retain = Input {
        width: if constant { Width::One } else { width },
        activation: rule.decay.activation(rule.least_kept()),
        ..input::RETAIN
    };
    slots.retain = add((pulls && !with_algorithm!(&rule.algorithm, a => a.keeps_all())).then_some(retain));
    let rated = solve != Solve::Newton;
    // Keys decide where a rate acts, so gates per key channel leave the rate a scalar.
    let rate_width = if rule.gates == Gates::Key { Width::One } else { width };
    let rate = Input { width: rate_width, activation: rule.rate_activation(momentum), ..input::RATE };
    slots.steps.push((0, 1, add((rated && rule.window == 0).then_some(rate))));
    // The gates of a window have no channels, and are damped by the momentum.
    let momentum_width = if rule.window > 0 { Width::One } else { rate_width };
    slots.momentum = add(momentum.then_some(Input { width: momentum_width, ..input::MOMENTUM }));
    slots.ns_rate = add(unit_scale.then_some(NS_RATE));
    slots.threshold = add(threshold.map(|of| of.input()));
    slots.window = add((rule.window > 0).then(|| rule.window_input(momentum)));
    slots.coefficients = add(coefficients);
    for n in 0..rule.steps.clamp(1, MOST_STEPS) - 1 {
        let k = add(Some(Input { name: STEP_KEYS[n], about: "key of a further inner step", ..input::K }));
        let v = add(Some(Input { name: STEP_VALUES[n], about: "value of a further inner step", ..input::V }));
        let r = add(rated.then_some(Input { name: STEP_RATES[n], about: "rate of a further inner step", ..rate }));
        slots.steps.push((k.unwrap_or(0), v.unwrap_or(1), r));
    }
    (list, slots)
}

/// The step behind a direction of unit scale.
const NS_RATE: Input = Input {
    name: "ns_rate",
    width: Width::One,
    // Small: whatever the surprise, the direction has full size [Atlas v1 eq.32].
    activation: Activation::Sigmoid { floor: 0.0, max: 0.1, bias: 0.0, damped_by: None },
    about: "step size behind Newton-Schulz",
};


