//! Models trained on made-up sequences: the model, the kernels and the optimizers of a run, without its files.
//!
//! A run is on one thread, and runs stand side by side on all of them, so that the number of threads moves no bit.

use super::outcome::mean;
use crate::error::{Error, Result};
use hecate_core::ops::{Cpu, Ops};
use hecate_model::config::BlockConfig;
use hecate_model::optim::methods::Muon;
use hecate_model::optim::{AdamW, AnyOptimizer, Gradient, Schedule, Stepper, clip};
use hecate_model::rng::Rng;
use hecate_model::{Access, IGNORED, Logits, Model, ModelConfig, ParamSpec, Params, State, Tape, Workspace};
use rayon::prelude::*;
use serde_json::{Value, json};

/// A sequence, and what is asked at each of its positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Example {
    pub tokens: Vec<u32>,
    /// [`IGNORED`] where nothing is asked.
    pub targets: Vec<u32>,
}

impl Example {
    /// Adds a token at which nothing is asked.
    pub fn push(&mut self, token: u32) {
        self.ask(token, IGNORED);
    }
    /// Adds a token and what must be answered there.
    pub fn ask(&mut self, token: u32, target: u32) {
        self.tokens.push(token);
        self.targets.push(target);
    }
}

/// A uniform draw from `0..n`.
pub(super) fn below(draw: &mut Rng, n: usize) -> usize {
    (draw.uniform() * n as f64) as usize
}

/// `count` different numbers from `0..n`, in random order.
pub(super) fn different(draw: &mut Rng, count: usize, n: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..count {
        let other = i + below(draw, n - i);
        all.swap(i, other);
    }
    all.truncate(count);
    all
}

/// A model of these blocks, written as in a config file.
pub(super) fn model(vocab: usize, width: usize, context: usize, blocks: Value) -> Result<ModelConfig> {
    let origin = "the blocks of an experiment".to_string();
    let blocks: Vec<BlockConfig> =
        serde_json::from_value(blocks).map_err(|e| Error::Config { origin, reason: e.to_string() })?;
    let config = ModelConfig { vocab, width, context, blocks, ..ModelConfig::default() };
    config.check()?;
    Ok(config)
}

/// Perceptrons and continuum memories of blocks.
fn channels(blocks: &mut Value) -> impl Iterator<Item = &mut Value> {
    blocks.as_array_mut().into_iter().flatten().filter_map(|block| block.get_mut("channel")?.get_mut("hidden"))
}

/// Widens the perceptrons of every model, and the levels of continuum memories, until it has as many parameters as the
/// largest of them, to within half of a hidden unit in each block. Fewest and most parameters afterwards.
///
/// # Errors
/// Those of [`model`] and [`Model::new`].
pub(super) fn equal_in_size<'a>(
    [vocab, width, context]: [usize; 3],
    models: impl Iterator<Item = &'a mut Value>,
) -> Result<[usize; 2]> {
    let size = |blocks: &Value| {
        Ok(Model::new(&model(vocab, width, context, blocks.clone())?)?.params().count()) as Result<usize>
    };
    let mut models = models.map(|blocks| Ok((size(blocks)?, blocks))).collect::<Result<Vec<_>>>()?;
    let largest = models.iter().map(|m| m.0).max().unwrap_or(0);
    for (count, blocks) in &mut models {
        let widen = |blocks: &mut Value, by: u64| {
            channels(blocks).for_each(|hidden| *hidden = json!(hidden.as_u64().unwrap_or(0) + by));
        };
        let mut wider = blocks.clone();
        widen(&mut wider, 1);
        let unit = size(&wider)? - *count;
        // Nothing where there is nothing to widen.
        let by = (largest - *count + unit / 2).checked_div(unit).unwrap_or(0);
        widen(blocks, by as u64);
        *count = size(blocks)?;
    }
    let counts = || models.iter().map(|m| m.0);
    Ok([counts().min().unwrap_or(0), counts().max().unwrap_or(0)])
}

/// A continuum memory of two levels that are the optimizer's, due at every step and at every fourth: a task with labels has
/// no next tokens, which is what levels learn from while a sequence runs.
pub(super) fn slow_levels(context: usize, hidden: usize) -> Value {
    let level = |period: usize| json!({"period": period, "serve_rate": 0.0});
    json!({"type": "cms", "hidden": hidden, "levels": [level(context), level(4 * context)]})
}

/// Steps after which it is asked whether a task is learned.
const ASKED_EVERY: u64 = 100;

/// How a model is trained.
#[derive(Clone, Debug)]
pub(super) struct Training {
    pub optimizer: AnyOptimizer,
    /// Highest rate; it rises over a tenth of the steps and falls to a twentieth.
    pub rate: f64,
    pub steps: u64,
    /// Sequences of a step.
    pub lanes: usize,
}

impl Training {
    /// With AdamW as it is by default, without weight decay: small models on endless data need none.
    pub fn adam(rate: f64, steps: u64, lanes: usize) -> Self {
        let optimizer = AnyOptimizer::AdamW(AdamW { weight_decay: 0.0, ..AdamW::default() });
        Self { optimizer, rate, steps, lanes }
    }
    /// With Muon as it is by default, which needs a third of the steps of AdamW on these tasks.
    pub fn muon(rate: f64, steps: u64, lanes: usize) -> Self {
        Self { optimizer: AnyOptimizer::Muon(Muon::default()), ..Self::adam(rate, steps, lanes) }
    }
}

/// A model with its parameters, and what a pass over a sequence needs.
pub(super) struct Trained {
    pub model: Model,
    pub params: Params<f32>,
    ops: Cpu,
    state: State<f32>,
    workspace: Workspace<f32>,
}

/// How well sequences were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    /// The share of sequences with every answer right.
    pub whole: f64,
    /// The share of answers that are right.
    pub answers: f64,
    /// Mean loss of an answer in nats.
    pub loss: f64,
}

impl Trained {
    /// At its start.
    pub fn new(config: &ModelConfig, seed: usize) -> Result<Self> {
        let model = Model::new(config)?;
        let (params, state) = (model.params().init(seed as u64), model.new_state());
        Ok(Self { model, params, ops: Cpu::training().with_parallel(false), state, workspace: Workspace::default() })
    }

    /// Trains on what `draw` gives, every sequence from a fresh state. The gradient norm is clipped to 1.
    ///
    /// # Errors
    /// [`Error::Step`] where something is no longer finite.
    pub fn train(&mut self, how: &Training, seed: usize, draw: &mut dyn FnMut() -> Example) -> Result<()> {
        self.train_until(how, seed, draw, &[])
    }

    /// [`Trained::train`], and no more once every answer to all of these lists is right, asked every [`ASKED_EVERY`] steps; a
    /// list is asked where those before it are right.
    ///
    /// # Errors
    /// As [`Trained::train`].
    pub fn train_until(
        &mut self,
        how: &Training,
        seed: usize,
        draw: &mut dyn FnMut() -> Example,
        known: &[Vec<Example>],
    ) -> Result<()> {
        let context = self.model.config().context as u64;
        let slow: Vec<(usize, u64)> = self.model.slow_parameters().map(|(at, p)| (at, p.div_ceil(context))).collect();
        let every = |spec: &ParamSpec| slow.iter().find(|s| s.0 == spec.range.start).map_or(1, |s| s.1);
        let mut stepper = Stepper::new(how.optimizer.clone(), self.model.params(), seed as u64, |_| true).slowly(every);
        let schedule = Schedule { peak: how.rate, warmup_steps: how.steps / 10, ..Schedule::default() };
        let (mut grads, mut tape) = (vec![0.0; self.model.params().len], Tape::default());
        for step in 0..how.steps {
            grads.fill(0.0);
            let batch: Vec<Example> = (0..how.lanes).map(|_| draw()).collect();
            let asked = batch.iter().flat_map(|e| &e.targets).filter(|&&t| t != IGNORED).count();
            for example in &batch {
                self.learn(example, 1.0 / asked.max(1) as f32, &mut grads, &mut tape)
                    .map_err(|source| Error::Step { step: step + 1, source })?;
            }
            let norm = clip(&mut grads, 1.0);
            if !norm.is_finite() {
                let (what, place) = ("gradient".into(), "the global norm".into());
                return Err(Error::Step { step: step + 1, source: hecate_model::Error::NonFinite { what, place } });
            }
            let gradient = Gradient { values: &grads, inputs: None };
            let due = |spec: &ParamSpec| (step + 1).is_multiple_of(every(spec));
            stepper.step(&self.ops, &mut self.params, gradient, schedule.rate(step, how.steps), due);
            if (step + 1).is_multiple_of(ASKED_EVERY) && self.knows(known)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there are lists, and every answer to them is right.
    fn knows(&mut self, lists: &[Vec<Example>]) -> Result<bool> {
        for list in lists {
            if self.score(list, &Access::Learn)?.whole < 1.0 {
                return Ok(false);
            }
        }
        Ok(!lists.is_empty())
    }

    fn learn(
        &mut self,
        example: &Example,
        weight: f32,
        grads: &mut [f32],
        tape: &mut Tape<f32>,
    ) -> hecate_model::Result<()> {
        let Example { tokens, targets } = example;
        self.state.reset();
        let mut losses = vec![0.0; tokens.len()];
        let (ops, params, state) = (&self.ops, &self.params, &mut self.state);
        self.model.train(ops, params, state, tokens, targets, weight, &mut losses, grads, tape)
    }

    /// The loss at every position that is asked for, in nats, and whether the likeliest token is the right one.
    ///
    /// # Errors
    /// Where something is no longer finite.
    pub fn answers(&mut self, example: &Example, access: &Access) -> Result<Vec<(f64, bool)>> {
        let vocab = self.model.config().vocab;
        self.state.reset();
        let (state, ws) = (&mut self.state, &mut self.workspace);
        let logits = self.model.forward(&self.ops, &self.params, state, &example.tokens, access, Logits::All, ws)?;
        let asked = logits.chunks_exact(vocab).zip(&example.targets).filter(|(_, target)| **target != IGNORED);
        let answer = |(logits, &target): (&[f32], &u32)| {
            let mut loss = [0.0];
            self.ops.cross_entropy_forward(vocab, logits, &[target], &mut loss);
            let right = logits[target as usize];
            let others = logits.iter().enumerate().filter(|(i, _)| *i != target as usize);
            (f64::from(loss[0]), others.into_iter().all(|(_, &other)| other < right))
        };
        Ok(asked.map(answer).collect())
    }

    /// How well sequences are answered.
    ///
    /// # Errors
    /// Where something is no longer finite.
    pub fn score(&mut self, examples: &[Example], access: &Access) -> Result<Score> {
        let (mut whole, mut all) = (Vec::new(), Vec::new());
        for example in examples {
            let answers = self.answers(example, access)?;
            whole.push(f64::from(u8::from(answers.iter().all(|a| a.1))));
            all.extend(answers);
        }
        let share = |of: &dyn Fn(&(f64, bool)) -> f64| mean(&all.iter().map(of).collect::<Vec<f64>>());
        let answers = share(&|a| f64::from(u8::from(a.1)));
        Ok(Score { whole: mean(&whole), answers, loss: share(&|a| a.0) })
    }
}

/// What `run` gives for every arm and every seed, side by side.
///
/// # Errors
/// The first of the runs'.
pub(super) fn side_by_side<A: Sync, T: Send>(
    arms: &[A],
    seeds: usize,
    run: impl Fn(&A, usize) -> Result<T> + Sync,
) -> Result<Vec<Vec<T>>> {
    let one = |arm: &A| (0..seeds).into_par_iter().map(|seed| run(arm, seed)).collect::<Result<Vec<T>>>();
    arms.par_iter().map(one).collect()
}

/// An arm at the rate that is best for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tuned<T> {
    pub rate: f64,
    /// By seed.
    pub runs: Vec<T>,
}

/// What `run` gives for every arm and every seed at the rate that is best for the arm under seed 0: the one whose outcome
/// is `worth` most, the first of equal ones.
///
/// # Errors
/// The first of the runs'.
pub(super) fn tuned<A: Sync, T: Send + Sync + Clone>(
    arms: &[A],
    rates: &[f64],
    seeds: usize,
    run: impl Fn(&A, f64, usize) -> Result<T> + Sync,
    worth: impl Fn(&T) -> f64,
) -> Result<Vec<Tuned<T>>> {
    let tries: Vec<(&A, f64)> = arms.iter().flat_map(|arm| rates.iter().map(move |&rate| (arm, rate))).collect();
    let first = side_by_side(&tries, 1, |&(arm, rate), seed| run(arm, rate, seed))?;
    let mut chosen = Vec::new();
    for (tries, runs) in tries.chunks(rates.len()).zip(first.chunks(rates.len())) {
        // What overflowed is worth nothing.
        let worths: Vec<f64> =
            runs.iter().map(|r| worth(&r[0])).map(|w| if w.is_nan() { f64::MIN } else { w }).collect();
        let best = (0..rates.len()).fold(0, |best, i| if worths[i] > worths[best] { i } else { best });
        chosen.push((tries[best], runs[best][0].clone()));
    }
    let others = side_by_side(&chosen, seeds - 1, |&((arm, rate), _), seed| run(arm, rate, seed + 1))?;
    let tuned =
        |(((_, rate), first), others)| Tuned { rate, runs: [first].into_iter().chain::<Vec<T>>(others).collect() };
    Ok(chosen.into_iter().zip(others).map(tuned).collect())
}

/// What a run gave, or `otherwise` where something was no longer finite: a rate that is too high is an outcome.
pub(super) fn unless_it_breaks<T>(run: Result<T>, otherwise: T) -> Result<T> {
    use hecate_model::Error::NonFinite;
    match run {
        Err(Error::Step { source: NonFinite { .. }, .. } | Error::Model(NonFinite { .. })) => Ok(otherwise),
        run => run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_widened_until_they_are_as_large_as_the_largest() {
        let mixer = |heads: usize| json!({"type": "attention", "heads": heads});
        let mlp = |hidden: usize| json!({"type": "mlp", "hidden": hidden});
        let mut models = [
            json!([{"mixer": mixer(1), "channel": mlp(8)}]),
            json!([{"repeat": 2, "mixer": mixer(2), "channel": mlp(40)}]),
            json!([{"mixer": mixer(1), "channel": slow_levels(6, 8)}]),
            json!([{"mixer": mixer(1)}]),
        ];
        let before = models.clone();
        let [fewest, most] = equal_in_size([5, 16, 6], models.iter_mut().take(3)).unwrap();
        assert!(models[1] == before[1] && models[0] != before[0] && models[2] != before[2]);
        let size = |blocks: &Value| Model::new(&model(5, 16, 6, blocks.clone()).unwrap()).unwrap().params().count();
        let sizes = [0, 1, 2].map(|i| size(&models[i]));
        assert_eq!([fewest, most], [*sizes.iter().min().unwrap(), *sizes.iter().max().unwrap()]);
        assert!(most - fewest < 100 && size(&before[1]) > 2 * size(&before[0]), "{sizes:?}");
        // What has nothing to widen stays as it is, and is told.
        let [fewest, _] = equal_in_size([5, 16, 6], models.iter_mut()).unwrap();
        assert!(models[3] == before[3] && fewest == size(&before[3]));
    }

    fn copying() -> Trained {
        let blocks = json!([{"mixer": {"type": "attention", "heads": 2}, "channel": slow_levels(6, 8)}]);
        Trained::new(&model(5, 8, 6, blocks).unwrap(), 3).unwrap()
    }

    /// The first token is asked for at the last.
    fn example(draw: &mut Rng) -> Example {
        let mut example = Example::default();
        let first = below(draw, 4) as u32;
        example.push(first);
        (0..4).for_each(|_| example.push(below(draw, 4) as u32));
        example.ask(4, first);
        example
    }

    #[test]
    fn training_lowers_the_loss_and_is_the_same_bits_again() {
        let run = |seed| {
            let mut trained = copying();
            let (mut draw, mut test) = (Rng::new(seed, "train"), Rng::new(1, "test"));
            let tests: Vec<Example> = (0..64).map(|_| example(&mut test)).collect();
            let before = trained.score(&tests, &Access::Learn).unwrap();
            trained.train(&Training::adam(1e-2, 300, 8), 1, &mut || example(&mut draw)).unwrap();
            (before, trained.score(&tests, &Access::Learn).unwrap(), trained.params.data.to_vec())
        };
        let (before, after, params) = run(1);
        assert!(before.loss > 1.2 && before.answers < 0.6, "{before:?}");
        assert!(after.loss < 0.1 && after.whole > 0.95 && after.whole == after.answers, "{after:?}");
        assert_eq!(params, run(1).2);
        assert_ne!(params, run(2).2);
    }

    #[test]
    fn a_level_that_is_slow_moves_at_every_fourth_step() {
        let moved = |steps| {
            let mut trained = copying();
            let before = trained.params.data.to_vec();
            let mut draw = Rng::new(1, "train");
            trained.train(&Training::adam(1e-2, steps, 2), 1, &mut || example(&mut draw)).unwrap();
            let slow = trained.model.slow_parameters().max_by_key(|s| s.1).unwrap().0;
            before[slow] != trained.params.data[slow]
        };
        assert!(!moved(3) && moved(4));
    }

    #[test]
    fn numbers_that_are_drawn_are_different_and_in_range() {
        let mut draw = Rng::new(0, "different");
        for n in 1..9 {
            let mut all = different(&mut draw, n, 8.max(n));
            all.sort_unstable();
            all.dedup();
            assert!(all.len() == n && all.iter().all(|&x| x < 8.max(n)));
        }
    }

    #[test]
    fn every_arm_gets_the_rate_that_is_best_for_it_and_one_that_breaks_is_not() {
        let run = |&arm: &f64, rate: f64, seed: usize| Ok([arm, rate, seed as f64]);
        let worth = |x: &[f64; 3]| if x[1] > 0.5 { f64::NAN } else { -(x[0] - x[1]).abs() };
        let found = tuned(&[0.1, 0.4], &[0.9, 0.4, 0.2], 3, run, worth).unwrap();
        assert_eq!(found.iter().map(|t| t.rate).collect::<Vec<_>>(), [0.2, 0.4]);
        assert_eq!(found[0].runs, [0.0, 1.0, 2.0].map(|seed| [0.1, 0.2, seed]));
        let mut trained = copying();
        let broken = trained.train(&Training::muon(1e30, 20, 2), 1, &mut || example(&mut Rng::new(1, "train")));
        assert_eq!(unless_it_breaks(broken.map(|()| 1), 2).unwrap(), 2);
        let unknown = Err(Error::Token { id: 1, vocab: 1 });
        assert!(unless_it_breaks(unknown, 2).is_err());
    }
}
