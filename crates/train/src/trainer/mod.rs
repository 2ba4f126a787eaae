//! The training loop's state and its one step: lanes in, one optimizer step out, bit for bit the same for any
//! number of threads.
//!
//! Lanes are dealt to a fixed number of gradient buffers by their index; each buffer is filled by one task in a
//! fixed order, and buffers are summed as a fixed tree. Threads decide only when a task runs.

mod estimate;
mod save;
mod trained;

use estimate::check_memory;
pub use estimate::{Estimate, Held};
pub use save::lineage;

use crate::error::{Error, Result};
use crate::loaded;
use crate::run_config::RunConfig;
use crate::stream::{Boundary, Lanes, Segment, Stream};
use hecate_core::ops::Cpu;
use hecate_model::optim::{Gradient, Stepper, clip};
use hecate_model::{Kind, MixerConfig, Model, ParamLayout, ParamSpec, Params, State, Tape};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Most gradient buffers: with more lanes than this, some share one.
const MAX_BUFFERS: usize = 8;

/// Steps between two looks at the gates and memories of the first lane.
const TRACE_EVERY: u64 = 10;

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Step, from 1.
    pub step: u64,
    /// Mean loss of the step's tokens in nats.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub rate: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Gates and memory norms of the first lane, see [`Model::traces`]; empty on most steps.
    pub traces: BTreeMap<String, f64>,
}

/// Everything that a run carries from step to step.
pub struct Trainer {
    config: RunConfig,
    model: Model,
    params: Params<f32>,
    optimizer: Stepper<f32>,
    lanes: Lanes,
    states: Vec<State<f32>>,
    step: u64,
    ops: Cpu,
    buffers: Vec<Vec<f32>>,
    tapes: Mutex<Vec<Tape<f32>>>,
    traces: Mutex<BTreeMap<String, f64>>,
    /// Tensors of levels that are due once in so many steps, by the name of the tensor.
    slow: BTreeMap<String, u64>,
}

impl Trainer {
    /// A run before its first step.
    ///
    /// # Errors
    /// A config that cannot run, a text that is too short for it, or weights to start from that do not fit it.
    pub fn new(config: &RunConfig, stream: Stream) -> Result<Self> {
        config.check()?;
        let model = Model::new(&config.model)?;
        check_memory(config, &model)?;
        let lanes = Lanes::new(stream, config.train.lanes, config.model.context)?;
        let params = match &config.train.from {
            Some(folder) => loaded::weights_for(&model, folder)?,
            None => model.params().init(config.seed),
        };
        let optimizer = optimizer(config, &model)?;
        Ok(Self::assemble(config.clone(), model, params, optimizer, lanes))
    }

    fn assemble(config: RunConfig, model: Model, params: Params<f32>, optimizer: Stepper<f32>, lanes: Lanes) -> Self {
        let states = (0..config.train.lanes).map(|_| model.new_state()).collect();
        let count = config.train.lanes.min(MAX_BUFFERS);
        let gathers = optimizer.optimizer().needs_inputs();
        let buffers = vec![vec![0.0; if gathers { model.inputs().len } else { model.params().len }]; count];
        let (tapes, traces) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
        let (ops, slow) = (Cpu::training(), slow_tensors(&config, &model));
        Self { config, model, params, optimizer, lanes, states, step: 0, ops, buffers, tapes, traces, slow }
    }

    /// The run's config.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }
    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }
    /// Its parameters.
    pub fn params(&self) -> &Params<f32> {
        &self.params
    }
    /// The optimizer with its state.
    pub fn optimizer(&self) -> &Stepper<f32> {
        &self.optimizer
    }
    /// The tensors that are trained.
    pub fn trained(&self) -> &ParamLayout {
        self.optimizer.layout()
    }
    /// Parameters that are learned only where a sequence starts, what memories start from and rows that stand before
    /// the first token, if hardly any sequence of this run does: nothing is set to start anew, and the text is read as one document.
    pub fn rarely_learned(&self) -> usize {
        let train = &self.config.train;
        let documents = self.config.data.boundary == Boundary::Reset && self.lanes.stream().documents() > 1;
        if train.reset_each_step || train.reset_every > 0 || documents {
            return 0;
        }
        let blocks = self.model.config().blocks.iter().enumerate();
        // Its rows stand before every segment.
        let macs: Vec<String> = blocks
            .filter(|(_, block)| matches!(block.mixer, MixerConfig::Mac(_)))
            .map(|(b, _)| format!("blocks.{b}."))
            .collect();
        let rare = |spec: &&ParamSpec| match spec.kind {
            Kind::Start => true,
            Kind::Persistent => !macs.iter().any(|block| spec.name.starts_with(block)),
            _ => false,
        };
        self.trained().specs.iter().filter(rare).map(|spec| spec.range.len()).sum()
    }
    /// Steps done.
    pub fn step_count(&self) -> u64 {
        self.step
    }
    /// Where it reads.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }
    /// The state of each lane.
    pub fn states(&self) -> &[State<f32>] {
        &self.states
    }
    /// The gradient of the last step after clipping, laid out like the parameters.
    pub fn gradient(&self) -> &[f32] {
        &self.buffers[0][..self.model.params().len]
    }
    /// Sets the instruction set and the scan kernels of the steps to come. Whether an op uses several threads is
    /// decided in each step, by the pool that it runs in.
    pub fn set_ops(&mut self, ops: Cpu) {
        self.ops = ops;
    }
    /// Values that temporary buffers hold, over all threads.
    pub fn tape_len(&self) -> usize {
        self.tapes.lock().expect("no task panicked").iter().map(Tape::len).sum()
    }

    /// One optimizer step over all lanes.
    ///
    /// # Errors
    /// A non-finite loss, state or gradient, with its place; the parameters are then those before the step.
    pub fn step(&mut self) -> Result<StepReport> {
        let tokens = self.config.train.lanes * self.config.model.context * self.config.train.accumulate;
        self.buffers.iter_mut().for_each(|b| b.fill(0.0));
        let mut loss = 0.0;
        for read in 0..self.config.train.accumulate {
            loss += self.read_lanes(1.0 / tokens as f32, read)?;
        }
        sum_tree(&mut self.buffers);
        self.forget_untrained();
        let gradient = self.model.params().len;
        let grad_norm = clip(&mut self.buffers[0][..gradient], self.config.train.clip);
        if !grad_norm.is_finite() {
            return Err(self.blame_gradient());
        }
        let rate = self.config.schedule.rate(self.step, self.config.train.steps);
        let buffer = self.buffers[0].as_slice();
        let inputs = self.optimizer.optimizer().needs_inputs().then_some((buffer, tokens));
        let gradient = Gradient { values: &buffer[..gradient], inputs };
        self.step += 1;
        let (step, slow) = (self.step, &self.slow);
        let due = |spec: &ParamSpec| step.is_multiple_of(every(slow, spec));
        self.optimizer.step(&self.ops, &mut self.params, gradient, rate, due);
        let traces = std::mem::take(&mut *self.traces.lock().expect("no task panicked"));
        Ok(StepReport { step: self.step, loss: loss / tokens as f64, grad_norm, rate, tokens: tokens as u64, traces })
    }

    /// Clears the gradients of tensors that are not trained, so that the global norm is that of the others.
    fn forget_untrained(&mut self) {
        let trained = &self.optimizer.layout().specs;
        for spec in &self.model.params().specs {
            if !trained.iter().any(|t| t.name == spec.name) {
                self.buffers[0][spec.range.clone()].fill(0.0);
            }
        }
    }

    /// Forward and backward over one stretch of every lane, the step's `read`-th; the sum of the losses.
    fn read_lanes(&mut self, weight: f32, read: usize) -> Result<f64> {
        let count = self.buffers.len();
        let mut tasks: Vec<Task<'_>> = (0..count).map(|_| Vec::new()).collect();
        for (lane, (segments, state)) in self.lanes.next_step().into_iter().zip(&mut self.states).enumerate() {
            tasks[lane % count].push((segments, state, self.config.train.starts_anew(self.step, lane, read)));
        }
        // One task per buffer keeps the threads busy; only with more threads than that do they share an op.
        let ops = self.ops.clone().with_parallel(rayon::current_num_threads() > count);
        let lane = Lane { model: &self.model, ops: &ops, params: &self.params, weight, step: self.step + 1 };
        let (tapes, traces) = (&self.tapes, &self.traces);
        let gathers = self.optimizer.optimizer().needs_inputs();
        let run = |(buffer, (lanes, grads)): (usize, (Task<'_>, &mut Vec<f32>))| -> Result<Vec<f64>> {
            let tape = tapes.lock().expect("no task panicked").pop();
            let mut tape = tape.unwrap_or_else(|| Tape::gathering(gathers));
            let mut sums = Vec::with_capacity(lanes.len());
            for (i, (segments, state, anew)) in lanes.into_iter().enumerate() {
                if anew {
                    state.reset();
                }
                sums.push(lane.read(&segments, state, grads, &mut tape)?);
                if (buffer, i) == (0, 0) && (lane.step == 1 || lane.step.is_multiple_of(TRACE_EVERY)) {
                    let found = lane.model.traces(&tape, state).into_iter().collect();
                    *traces.lock().expect("no task panicked") = found;
                }
            }
            tapes.lock().expect("no task panicked").push(tape);
            Ok(sums)
        };
        let done: Vec<Result<Vec<f64>>> = tasks.into_par_iter().zip(&mut self.buffers).enumerate().map(run).collect();
        let mut sum = 0.0;
        for part in done {
            sum += part?.iter().sum::<f64>();
        }
        Ok(sum)
    }

    fn blame_gradient(&self) -> Error {
        let grads = &self.buffers[0];
        let is_bad = |r: std::ops::Range<usize>| !grads[r].iter().all(|g| g.is_finite());
        // What breaks in the backward pass breaks everything below it: the place nearest to the loss is where it began.
        let spec = self.model.params().specs.iter().rfind(|s| is_bad(s.range.clone()));
        let place = spec.map_or("the global norm".to_string(), |s| format!("`{}`", s.name));
        let source = hecate_model::Error::NonFinite { what: "gradient".into(), place };
        Error::Step { step: self.step + 1, source }
    }
}

/// The optimizer of a run before its first step.
fn optimizer(config: &RunConfig, model: &Model) -> Result<Stepper<f32>> {
    let only = &config.train.only;
    trained::check(model.params(), only)?;
    let trained = |spec: &ParamSpec| trained::picks(only, &spec.name);
    let slow = slow_tensors(config, model);
    if let (true, Some((name, _))) = (config.optimizer.needs_inputs(), slow.first_key_value()) {
        let optimizer = config.optimizer.name();
        let reason = format!(
            "optimizer {optimizer} goes by the inputs of a step, and `{name}` is stepped once in several: set its level's rate \
             to 0 or choose another optimizer"
        );
        return Err(Error::Config { origin: "the run's config".into(), reason });
    }
    let stepper = Stepper::new(config.optimizer.clone(), model.params(), config.seed, trained);
    Ok(stepper.slowly(|spec| every(&slow, spec)))
}

/// The tensors of levels whose period is longer than a step of a lane, and after how many steps each is due.
fn slow_tensors(config: &RunConfig, model: &Model) -> BTreeMap<String, u64> {
    let tokens = (config.model.context * config.train.accumulate) as u64;
    let slow: BTreeMap<usize, u64> =
        model.slow_parameters().map(|(at, period)| (at, period.div_ceil(tokens))).collect();
    let steps = |spec: &ParamSpec| slow.get(&spec.range.start).filter(|&&n| n > 1).map(|&n| (spec.name.clone(), n));
    model.params().specs.iter().filter_map(steps).collect()
}

/// After how many steps a tensor is due.
fn every(slow: &BTreeMap<String, u64>, spec: &ParamSpec) -> u64 {
    slow.get(&spec.name).copied().unwrap_or(1)
}

/// The lanes of one gradient buffer: what each reads, its state, and whether that starts anew.
type Task<'a> = Vec<(Vec<Segment>, &'a mut State<f32>, bool)>;

/// What every lane of a step shares.
struct Lane<'a> {
    model: &'a Model,
    ops: &'a Cpu,
    params: &'a Params<f32>,
    weight: f32,
    step: u64,
}

impl Lane<'_> {
    /// Forward and backward over one lane's segments; the sum of the losses.
    fn read(
        &self,
        segments: &[Segment],
        state: &mut State<f32>,
        grads: &mut [f32],
        tape: &mut Tape<f32>,
    ) -> Result<f64> {
        let mut sum = 0.0;
        for segment in segments {
            if segment.fresh {
                state.reset();
            }
            let mut losses = vec![0.0; segment.predictions()];
            let (x, y) = (segment.inputs(), segment.targets());
            self.model
                .train(self.ops, self.params, state, x, y, self.weight, &mut losses, grads, tape)
                .map_err(|source| Error::Step { step: self.step, source })?;
            sum += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
        }
        Ok(sum)
    }
}

/// Adds all buffers into the first, as a tree whose shape depends on their number alone.
fn sum_tree(buffers: &mut [Vec<f32>]) {
    let mut stride = 1;
    while stride < buffers.len() {
        buffers.par_chunks_mut(2 * stride).for_each(|pair| {
            let (left, right) = pair.split_at_mut(stride.min(pair.len()));
            let (Some(a), Some(b)) = (left.first_mut(), right.first()) else { return };
            a.par_chunks_mut(1 << 14).zip(b.par_chunks(1 << 14)).for_each(|(a, b)| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            });
        });
        stride *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_adds_every_buffer_once() {
        for n in 1..=9 {
            let mut buffers: Vec<Vec<f32>> = (0..n).map(|i| vec![1.0 * (1 << i) as f32; 5]).collect();
            sum_tree(&mut buffers);
            assert_eq!(buffers[0], vec![((1 << n) - 1) as f32; 5]);
        }
    }
}
