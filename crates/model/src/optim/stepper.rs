//! An optimizer at work: its state, and how often it has stepped every tensor.

use super::methods::{AdamW, AnyOptimizer};
use super::step::{Optimizer, Shape, StateSpec, Step, is_matrix};
use super::{InputLayout, Rest};
use crate::params::{ParamLayout, ParamSpec, Params};
use crate::rng::Rng;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use std::ops::Range;

/// What a step goes by.
#[derive(Clone, Copy, Debug)]
pub struct Gradient<'a, F> {
    /// The gradient, laid out like the parameters.
    pub values: &'a [F],
    /// The buffer of [`InputLayout`] with sums of `x x^T`, and the number of their tokens; for optimizers that ask.
    pub inputs: Option<(&'a [F], usize)>,
}

/// By which optimizer a tensor is stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// By the optimizer itself.
    Own,
    /// By AdamW, under the optimizer's settings for the rest.
    Rest,
}

impl AnyOptimizer {
    /// How it treats a tensor.
    pub fn treatment(&self, spec: &ParamSpec) -> Treatment {
        if self.rest().is_some() && !is_matrix(spec) { Treatment::Rest } else { Treatment::Own }
    }

    /// The name of what steps a tensor.
    pub fn treats_by(&self, spec: &ParamSpec) -> &'static str {
        match self.treatment(spec) {
            Treatment::Own => self.name(),
            Treatment::Rest => "adamw",
        }
    }

    /// The state of a tensor.
    fn state_of(&self, spec: &ParamSpec) -> Vec<StateSpec> {
        match (self.treatment(spec), self.rest()) {
            (Treatment::Rest, Some(rest)) => rest.adamw().state(Shape::of(&spec.shape)),
            _ => self.state(Shape::of(&spec.shape)),
        }
    }

    /// Values of its state for the tensors that `trained` picks.
    pub fn state_len(&self, params: &ParamLayout, trained: impl Fn(&ParamSpec) -> bool) -> usize {
        let tensors = params.specs.iter().filter(|spec| trained(spec));
        tensors.flat_map(|spec| self.state_of(spec)).map(|s| s.len()).sum()
    }
}

/// One tensor of the state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    /// What it is, a dot, and the parameter's name: `m.norm.scale`.
    pub name: String,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Place in the state.
    range: Range<usize>,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
struct Tensor {
    /// Place among the parameters.
    place: Range<usize>,
    shape: Shape,
    treatment: Treatment,
    /// Lengths of its state tensors, which lie one after the other.
    state: Vec<usize>,
    /// Place of the sum of its inputs, where the optimizer asks.
    inputs: Option<Range<usize>>,
    steps: u64,
    /// Steps from one that is due to the next, and the place in the state where gradients wait in between.
    every: u64,
    waiting: Range<usize>,
}

/// An optimizer with its state, for the tensors that it trains.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepper<F> {
    optimizer: AnyOptimizer,
    /// The tensors that it trains, in buffers of their own.
    layout: ParamLayout,
    tensors: Vec<Tensor>,
    names: Vec<StateTensor>,
    state: Vec<F>,
}

impl<F: Scalar> Stepper<F> {
    /// Before its first step, for the tensors of `params` that `trained` picks; it never touches the others. What starts
    /// at random is drawn under `seed`, every tensor from a stream of its own.
    pub fn new(optimizer: AnyOptimizer, params: &ParamLayout, seed: u64, trained: impl Fn(&ParamSpec) -> bool) -> Self {
        let inputs = if optimizer.needs_inputs() { InputLayout::new(params) } else { InputLayout::default() };
        let (mut layout, mut tensors) = (ParamLayout::default(), Vec::new());
        let (mut names, mut state) = (Vec::new(), Vec::new());
        for spec in params.specs.iter().filter(|spec| trained(spec)) {
            layout.add(spec.name.clone(), &spec.shape, spec.kind, spec.init.clone());
            let (treatment, own) = (optimizer.treatment(spec), optimizer.state_of(spec));
            for StateSpec { name, shape, like, deviation } in &own {
                let (name, start) = (format!("{name}.{}", spec.name), state.len());
                let mut rng = Rng::new(seed, &format!("optimizer.{name}"));
                let draw = || if *deviation > 0.0 { deviation * rng.normal() } else { 0.0 };
                state.extend(std::iter::repeat_with(draw).take(shape.iter().product()).map(F::from_f64));
                let shape = if *like { spec.shape.clone() } else { shape.clone() };
                names.push(StateTensor { name, shape, range: start..state.len() });
            }
            tensors.push(Tensor {
                place: spec.range.clone(),
                shape: Shape::of(&spec.shape),
                treatment,
                state: own.iter().map(StateSpec::len).collect(),
                inputs: inputs.find(&spec.range),
                steps: 0,
                every: 1,
                waiting: 0..0,
            });
        }
        Self { optimizer, layout, tensors, names, state }
    }

    /// With tensors that are due once in so many steps; 1 where always. Their gradients wait in the state, as
    /// `waiting.NAME`, and a step that is due goes by the mean.
    #[must_use]
    pub fn slowly(mut self, every: impl Fn(&ParamSpec) -> u64) -> Self {
        for (tensor, spec) in self.tensors.iter_mut().zip(&self.layout.specs) {
            tensor.every = every(spec).max(1);
            if tensor.every > 1 {
                tensor.waiting = self.state.len()..self.state.len() + tensor.place.len();
                self.state.resize(tensor.waiting.end, F::zero());
                let (name, shape) = (format!("waiting.{}", spec.name), spec.shape.clone());
                self.names.push(StateTensor { name, shape, range: tensor.waiting.clone() });
            }
        }
        self
    }

    /// What it does.
    pub fn optimizer(&self) -> &AnyOptimizer {
        &self.optimizer
    }
    /// The tensors that it trains, as if they were all.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }
    /// The tensors of its state.
    pub fn state_tensors(&self) -> &[StateTensor] {
        &self.names
    }
    /// Values of its state.
    pub fn state_len(&self) -> usize {
        self.state.len()
    }
    /// The most that a step holds besides its state, in values.
    pub fn scratch_len(&self) -> usize {
        let of = |t: &Tensor| match t.treatment {
            Treatment::Own => self.optimizer.scratch(t.shape),
            Treatment::Rest => 0,
        };
        self.tensors.iter().map(of).max().unwrap_or(0)
    }
    /// The numbers of a tensor of its state.
    pub fn values(&self, tensor: &StateTensor) -> &[F] {
        &self.state[tensor.range.clone()]
    }
    /// The numbers of the state tensor called `name`, to be overwritten.
    pub fn values_mut(&mut self, name: &str) -> Option<&mut [F]> {
        let tensor = self.names.iter().find(|t| t.name == name)?;
        Some(&mut self.state[tensor.range.clone()])
    }
    /// Steps taken by each tensor of [`Stepper::layout`].
    pub fn steps(&self) -> Vec<u64> {
        self.tensors.iter().map(|t| t.steps).collect()
    }
    /// Says how many steps each tensor of [`Stepper::layout`] has taken.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn set_steps(&mut self, steps: &[u64]) {
        assert_eq!(steps.len(), self.tensors.len(), "one count for every tensor");
        self.tensors.iter_mut().zip(steps).for_each(|(t, &steps)| t.steps = steps);
    }

    /// One step at rate `rate` of the tensors that `due` picks. The others, their state and their counts stay as they are,
    /// except that the gradients of [slow](Stepper::slowly) ones gather: bias corrections and periods go by a tensor's own
    /// steps. The number of threads does not matter.
    ///
    /// # Panics
    /// If the optimizer asks for inputs and there are none.
    pub fn step<O: Ops<F = F>>(
        &mut self,
        ops: &O,
        params: &mut Params<F>,
        gradient: Gradient<'_, F>,
        rate: f64,
        due: impl Fn(&ParamSpec) -> bool,
    ) {
        let own = self.tensors.iter().flat_map(|tensor| &tensor.state).sum();
        let (mut rest, waiting) = self.state.split_at_mut(own);
        for (tensor, spec) in self.tensors.iter_mut().zip(&self.layout.specs) {
            let mut state: Vec<&mut [F]> = Vec::with_capacity(tensor.state.len());
            for &len in &tensor.state {
                let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
                rest = tail;
                state.push(part);
            }
            let g = &gradient.values[tensor.place.clone()];
            let waiting = &mut waiting[tensor.waiting.start.max(own) - own..][..tensor.waiting.len()];
            waiting.iter_mut().zip(g).for_each(|(w, &g)| *w += g);
            if !due(spec) {
                continue;
            }
            let by = F::from_f64(1.0 / tensor.every as f64);
            waiting.iter_mut().for_each(|w| *w = by * *w);
            let g = if tensor.every > 1 { &*waiting } else { g };
            tensor.steps += 1;
            let inputs = tensor.inputs.clone().map(|at| mean_inputs(gradient.inputs, at));
            let step = Step {
                ops,
                shape: tensor.shape,
                rate,
                count: tensor.steps,
                decays: spec.kind.decays(),
                inputs: inputs.as_deref(),
            };
            let p = &mut params.data[tensor.place.clone()];
            match (tensor.treatment, self.optimizer.rest().map(|r| (r, r.adamw()))) {
                (Treatment::Rest, Some((Rest { rate, .. }, adamw))) => {
                    AdamW::step(&adamw, &step.faster(*rate), p, g, &mut state);
                }
                _ => self.optimizer.step(&step, p, g, &mut state),
            }
            waiting.fill(F::zero());
        }
    }
}

/// The sum at `at`, over the number of its tokens.
fn mean_inputs<F: Scalar>(inputs: Option<(&[F], usize)>, at: Range<usize>) -> Vec<F> {
    let (sums, tokens) = inputs.expect("the optimizer asks for inputs");
    let by = F::from_f64(1.0 / tokens as f64);
    sums[at].iter().map(|&x| by * x).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Kind};
    use hecate_core::ops::Cpu;

    fn layout(names: &[&str]) -> ParamLayout {
        let mut layout = ParamLayout::default();
        for name in names {
            layout.add((*name).into(), &[4, 5], Kind::Matrix, Init::Constant(1.0));
        }
        layout
    }

    #[test]
    fn tensors_that_are_not_trained_stay_as_they_are_and_take_no_memory() {
        let layout = layout(&["a", "b", "c"]);
        let grads: Vec<f32> = (0..layout.len).map(|i| i as f32).collect();
        let gradient = Gradient { values: &grads, inputs: None };
        for optimizer in AnyOptimizer::all().into_iter().filter(|o| !o.needs_inputs()) {
            let mut params: Params<f32> = layout.init(0);
            let mut whole = params.clone();
            let mut one = Stepper::new(optimizer.clone(), &layout, 0, |spec| spec.name == "b");
            let mut all = Stepper::new(optimizer.clone(), &layout, 0, |_| true);
            one.step(&Cpu::training(), &mut params, gradient, 0.01, |_| true);
            all.step(&Cpu::training(), &mut whole, gradient, 0.01, |_| true);
            let ranges: Vec<_> = layout.specs.iter().map(|spec| spec.range.clone()).collect();
            assert_eq!(params.data[ranges[1].clone()], whole.data[ranges[1].clone()]);
            assert!([0, 2].iter().all(|&i| params.data[ranges[i].clone()].iter().all(|&x| x == 1.0)));
            assert_eq!((one.layout().count(), 3 * one.state_len()), (20, all.state_len()), "{}", optimizer.name());
            assert_eq!(all.state_len(), optimizer.state_len(&layout, |_| true));
        }
    }

    #[test]
    fn gradients_of_a_slow_tensor_wait_and_count_as_their_mean() {
        let layout = layout(&["fast", "slow"]);
        let every = |spec: &ParamSpec| if spec.name == "slow" { 3 } else { 1 };
        let new = || Stepper::<f32>::new(AnyOptimizer::default(), &layout, 0, |_| true);
        let (mut stepper, mut plain) = (new().slowly(every), new());
        let (mut params, mut expected): (Params<f32>, Params<f32>) = (layout.init(0), layout.init(0));
        let slow = layout.specs[1].range.clone();
        let mut mean = vec![0.0; layout.len];
        for step in 1..=6_u64 {
            let grads: Vec<f32> = (0..layout.len).map(|i| (i as f32).sin() + (step * step) as f32).collect();
            mean.iter_mut().zip(&grads).for_each(|(m, g)| *m += g / 3.0);
            let due = |spec: &ParamSpec| step.is_multiple_of(every(spec));
            let before = params.data[slow.clone()].to_vec();
            stepper.step(&Cpu::training(), &mut params, Gradient { values: &grads, inputs: None }, 0.1, due);
            if step % 3 > 0 {
                assert_eq!(params.data[slow.clone()], before);
                continue;
            }
            plain.step(&Cpu::training(), &mut expected, Gradient { values: &mean, inputs: None }, 0.1, |s| {
                s.name == "slow"
            });
            let pairs = params.data[slow.clone()].iter().zip(&expected.data[slow.clone()]);
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5), "step {step}");
            mean.fill(0.0);
        }
        assert_eq!(stepper.steps(), [6, 2]);
        assert!(stepper.state_tensors().last().is_some_and(|t| t.name == "waiting.slow" && t.shape == [4, 5]));
    }

    #[test]
    fn state_is_named_after_what_it_is_and_the_parameter() {
        let stepper = Stepper::<f32>::new(AnyOptimizer::default(), &layout(&["a", "b"]), 0, |_| true);
        let names: Vec<_> = stepper.state_tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["m.a", "v.a", "m.b", "v.b"]);
        assert!(stepper.state_tensors().iter().all(|t| t.shape == [4, 5]));
    }
}
