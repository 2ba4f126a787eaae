//! A classifier at work: parameters, optimizer, and what it keeps of the samples that came.

use super::replay::Replay;
use super::scaling::Scaling;
use super::{Classifier, ClassifierConfig, DecayTowards, Heads, Samples, SamplesTape};
use crate::error::{Error, Result};
use crate::optim::{Gradient, Stepper, clip};
use crate::params::{ParamSpec, Params};
use crate::rng::Rng;
use hecate_core::ops::Cpu;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Samples that are predicted at once.
const SERVE_SAMPLES: usize = 128;

/// A classifier that learns, call by call. The same calls give the same bits, with any number of threads, and with a save
/// and a load between any two of them.
pub struct Learner {
    pub(super) classifier: Classifier,
    pub(super) params: Params<f32>,
    pub(super) optimizer: Stepper<f32>,
    pub(super) scaling: Option<Scaling>,
    pub(super) replay: Replay,
    /// Where decay pulls to, if not to zero.
    pub(super) anchor: Vec<f32>,
    pub(super) counts: Counts,
    slow: BTreeMap<String, u64>,
    grads: Vec<f32>,
    tape: SamplesTape<f32>,
}

/// What it counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub seed: u64,
    /// Steps taken.
    pub steps: u64,
    /// Numbers drawn for orders.
    pub shuffled: u64,
    /// The task of the last call.
    pub task: Option<usize>,
    /// Of the replay ring.
    pub seen: u64,
    pub drawn: u64,
}

/// What a call learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learned {
    /// Mean loss in nats over the samples of the last pass, replayed ones included.
    pub loss: f64,
    /// Steps taken.
    pub steps: u64,
    /// Samples that it learned from, each counted once.
    pub samples: usize,
}

/// Samples of a step, with labels.
#[derive(Default)]
struct Batch {
    values: Vec<f32>,
    labels: Vec<usize>,
    tasks: Vec<usize>,
}

impl Batch {
    fn push(&mut self, values: &[f32], label: usize, task: usize) {
        self.values.extend_from_slice(values);
        self.labels.push(label);
        self.tasks.push(task);
    }
}

impl Learner {
    /// Before its first sample. Parameters, orders and draws follow from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn new(config: &ClassifierConfig, seed: u64) -> Result<Self> {
        let classifier = Classifier::new(config)?;
        let params = classifier.params().init(seed);
        let replay = Replay::new(config.learning.replay, config.features, seed);
        let counts = Counts { seed, steps: 0, shuffled: 0, task: None, seen: 0, drawn: 0 };
        Ok(Self::assemble(classifier, params, replay, counts))
    }

    pub(super) fn assemble(classifier: Classifier, params: Params<f32>, replay: Replay, counts: Counts) -> Self {
        let optimizer = classifier.config().learning.optimizer.clone();
        let optimizer = Stepper::new(optimizer, classifier.params(), counts.seed, |spec| classifier.trains(spec));
        let batch = classifier.config().learning.batch as u64;
        let steps = |(name, period): (String, u64)| (name, period.div_ceil(batch));
        let slow: BTreeMap<String, u64> = classifier.periods().into_iter().map(steps).collect();
        let optimizer = optimizer.slowly(|spec| slow.get(&spec.name).copied().unwrap_or(1));
        let (grads, tape) = (vec![0.0; classifier.params().len], SamplesTape::default());
        Self { classifier, params, optimizer, scaling: None, replay, anchor: Vec::new(), counts, slow, grads, tape }
    }

    /// What it is.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }
    /// Its parameters.
    pub fn params(&self) -> &Params<f32> {
        &self.params
    }
    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.counts.steps
    }
    /// Samples in the replay ring.
    pub fn replayed(&self) -> usize {
        self.replay.len()
    }

    /// One more task: with a head of so many classes of its own, or of the shared head's. Everything learned stays.
    ///
    /// # Errors
    /// [`Error::Config`] where a shared head has another number of classes.
    pub fn add_task(&mut self, classes: usize) -> Result<()> {
        let mut config = self.classifier.config().clone();
        match &mut config.heads {
            Heads::PerTask { classes: all } => all.push(classes),
            Heads::Shared { classes: all, tasks } if *all == classes => *tasks += 1,
            Heads::Shared { classes: all, .. } => {
                let reason = format!("the shared head has {all} classes, not {classes}: use heads of type per_task");
                return Err(Error::config("heads.classes", reason));
            }
        }
        let classifier = Classifier::new(&config)?;
        let mut params = classifier.params().init::<f32>(self.counts.seed);
        // What belongs to a task comes last: all else lies where it lay.
        let old = self.params.data.len();
        params.data[..old].copy_from_slice(&self.params.data);
        if !self.anchor.is_empty() {
            let new = params.data[self.anchor.len()..].to_vec();
            self.anchor.extend(new);
        }
        let grown = Self::assemble(classifier, params, self.replay.clone(), self.counts.clone());
        let before = std::mem::replace(self, grown);
        (self.scaling, self.anchor) = (before.scaling, before.anchor);
        for tensor in before.optimizer.state_tensors() {
            let values = self.optimizer.values_mut(&tensor.name).expect("it is there still");
            values.copy_from_slice(before.optimizer.values(tensor));
        }
        let mut steps = self.optimizer.steps();
        for (i, spec) in self.optimizer.layout().specs.iter().enumerate() {
            let at = before.optimizer.layout().specs.iter().position(|old| old.name == spec.name);
            steps[i] = at.map_or(0, |at| before.optimizer.steps()[at]);
        }
        self.optimizer.set_steps(&steps);
        Ok(())
    }

    /// Learns from labelled samples `[N, features]` of a task, `passes` times over them in orders of chance, and from samples
    /// of earlier calls among them. A label is a class of the task's head.
    ///
    /// # Errors
    /// [`Error::Config`] for samples that do not fit, before anything is learned; [`Error::NonFinite`] with the parameters
    /// as they were before the step.
    pub fn learn(&mut self, values: &[f32], labels: &[usize], task: usize, passes: usize) -> Result<Learned> {
        self.learn_while(values, labels, task, passes, &mut || true)
    }

    /// As [`Learner::learn`], as long as `go_on` says so before every step. A call that was stopped keeps no sample.
    ///
    /// # Errors
    /// As [`Learner::learn`].
    pub fn learn_while(
        &mut self,
        values: &[f32],
        labels: &[usize],
        task: usize,
        passes: usize,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Learned> {
        self.check(values, labels, task)?;
        if self.scaling.is_none() && self.classifier.config().learning.standardize {
            self.scaling = Some(Scaling::of(self.classifier.config().features, values));
        }
        self.begin(task);
        let features = self.classifier.config().features;
        let learning = self.classifier.config().learning.clone();
        let mut learned = Learned { loss: 0.0, steps: 0, samples: labels.len() };
        for pass in 0..passes {
            let done = pass as f64 / (passes - 1).max(1) as f64;
            let rate = learning.rate * (1.0 - (1.0 - learning.final_rate) * done);
            let (mut loss, mut count) = (0.0, 0);
            for rows in self.order(labels.len()).chunks(learning.batch) {
                if !go_on() {
                    return Ok(learned);
                }
                let mut batch = Batch::default();
                rows.iter().for_each(|&i| batch.push(&values[i * features..][..features], labels[i], task));
                let (sum, samples) = self.step(batch, rate)?;
                (loss, count, learned.steps) = (loss + sum, count + samples, learned.steps + 1);
            }
            learned.loss = loss / count.max(1) as f64;
        }
        for (sample, &label) in values.chunks_exact(features).zip(labels) {
            self.replay.add(sample, label, task);
        }
        Ok(learned)
    }

    /// Learns from its own predictions of samples without labels, a chunk at a time: all of a chunk are predicted, then one
    /// step is taken from those whose probability is at least `learning.confidence`, as if what is predicted were the label.
    /// They are not kept to be replayed. Without a task the likeliest one is taken.
    ///
    /// # Errors
    /// As [`Learner::learn`].
    pub fn learn_from_itself(&mut self, values: &[f32], task: Option<usize>) -> Result<Learned> {
        let (features, learning) = (self.classifier.config().features, self.classifier.config().learning.clone());
        self.begin(task.or(self.counts.task).unwrap_or(0));
        let mut learned = Learned { loss: 0.0, steps: 0, samples: 0 };
        let (mut loss, mut count) = (0.0, 0);
        for chunk in values.chunks(features * learning.chunk) {
            let predicted = self.joint(chunk, task)?;
            let mut batch = Batch::default();
            for (sample, row) in chunk.chunks_exact(features).zip(predicted.rows()) {
                let best = (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
                let (task, class) = predicted.columns[best];
                let sure =
                    row.iter().zip(&predicted.columns).filter(|(_, column)| predicted.same(**column, (task, class)));
                if sure.map(|(p, _)| p).sum::<f64>() >= learning.confidence {
                    batch.push(sample, class, task);
                }
            }
            if batch.labels.is_empty() {
                continue;
            }
            learned.samples += batch.labels.len();
            let (sum, samples) = self.step(batch, learning.rate)?;
            (loss, count, learned.steps) = (loss + sum, count + samples, learned.steps + 1);
        }
        learned.loss = loss / count.max(1) as f64;
        Ok(learned)
    }

    /// Probabilities `[N, C]` of the classes. With a task, C is the number of its head's classes. Without one, heads of all
    /// tasks compete: one softmax over the logits of all, C their classes one after the other; under a shared head, what all
    /// tasks say of a class is added up.
    ///
    /// # Errors
    /// [`Error::Config`] for samples that do not fit.
    pub fn probabilities(&mut self, values: &[f32], task: Option<usize>) -> Result<Vec<f64>> {
        let joint = self.joint(values, task)?;
        let Heads::Shared { classes, .. } = self.classifier.config().heads else { return Ok(joint.values) };
        let mut out = Vec::with_capacity(joint.values.len());
        for row in joint.rows() {
            out.extend((0..classes).map(|c| row.iter().skip(c).step_by(classes).sum::<f64>()));
        }
        Ok(out)
    }

    /// One softmax for each sample over all tasks that it may belong to and their classes.
    fn joint(&mut self, values: &[f32], task: Option<usize>) -> Result<Joint> {
        let (features, heads) = (self.classifier.config().features, self.classifier.config().heads.clone());
        let alike = matches!(heads, Heads::Shared { .. }) && !self.classifier.config().task_embedding;
        let tasks: Vec<usize> = match task {
            Some(task) => vec![task],
            None if alike => vec![0],
            None => (0..heads.tasks()).collect(),
        };
        let classes = heads.classes();
        let of = |&task: &usize| (0..classes.get(heads.of(task)).copied().unwrap_or(0)).map(move |c| (task, c));
        let columns: Vec<(usize, usize)> = tasks.iter().flat_map(of).collect();
        let by_task = matches!(heads, Heads::PerTask { .. });
        let (mut out, ops, outputs) = (Vec::new(), Cpu::inference(), self.classifier.outputs());
        for piece in values.chunks(features * SERVE_SAMPLES) {
            let scaled = self.scaled(piece);
            let n = piece.len() / features;
            let mut rows = vec![Vec::with_capacity(columns.len()); n];
            for &task in &tasks {
                let samples = Samples { values: &scaled, tasks: &vec![task; n] };
                let logits = self.classifier.forward(&ops, &self.params, samples, &mut self.tape)?;
                let classes = classes[heads.of(task)];
                for (row, logits) in rows.iter_mut().zip(logits.chunks_exact(outputs)) {
                    row.extend(logits[..classes].iter().map(|&l| f64::from(l)));
                }
            }
            rows.iter_mut().for_each(|row| softmax(row));
            out.extend(rows.into_iter().flatten());
        }
        if !out.iter().all(|p| p.is_finite()) {
            return Err(Error::NonFinite { what: "logit".into(), place: "the classifier".into() });
        }
        Ok(Joint { values: out, columns, by_task })
    }

    fn check(&self, values: &[f32], labels: &[usize], task: usize) -> Result<()> {
        let samples = Samples { values, tasks: &vec![task; labels.len()] };
        self.classifier.check_labels(&samples, labels)
    }

    /// Notes where a task starts.
    fn begin(&mut self, task: usize) {
        let learning = &self.classifier.config().learning;
        let anchored = learning.decay > 0.0 && learning.decay_towards == DecayTowards::TaskStart;
        if anchored && self.counts.task != Some(task) {
            self.anchor = self.params.data.to_vec();
        }
        self.counts.task = Some(task);
    }

    fn scaled(&self, values: &[f32]) -> Vec<f32> {
        self.scaling.as_ref().map_or_else(|| values.to_vec(), |scaling| scaling.apply(values))
    }

    /// Numbers from 0 to `n` in an order of chance.
    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut rng = Rng::new(self.counts.seed, "classifier.order");
        rng.counter = self.counts.shuffled;
        let mut order: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut order);
        self.counts.shuffled = rng.counter;
        order
    }

    /// One step from a batch and what is replayed with it: the sum of the losses, and the number of samples.
    fn step(&mut self, mut batch: Batch, rate: f64) -> Result<(f64, usize)> {
        let learning = self.classifier.config().learning.clone();
        let again = (learning.replay_share * batch.labels.len() as f64).round() as usize;
        for at in self.replay.draw(again) {
            let (label, task) = (self.replay.labels[at] as usize, self.replay.tasks[at] as usize);
            batch.push(self.replay.sample(at), label, task);
        }
        let (values, n, ops) = (self.scaled(&batch.values), batch.labels.len(), Cpu::training());
        let (mut losses, weight) = (vec![0.0; n], 1.0 / n as f32);
        self.grads.fill(0.0);
        let samples = Samples { values: &values, tasks: &batch.tasks };
        let (grads, tape) = (&mut self.grads, &mut self.tape);
        self.classifier.train(&ops, &self.params, samples, &batch.labels, weight, &mut losses, grads, tape)?;
        for spec in self.classifier.params().specs.iter().filter(|spec| !self.classifier.trains(spec)) {
            self.grads[spec.range.clone()].fill(0.0);
        }
        if !clip(&mut self.grads, learning.clip).is_finite() {
            return Err(Error::NonFinite { what: "gradient".into(), place: "the classifier".into() });
        }
        self.counts.steps += 1;
        let (step, classifier) = (self.counts.steps, &self.classifier);
        let due = |spec: &ParamSpec| {
            let shown = classifier.task_of(spec).is_none_or(|task| batch.tasks.contains(&task));
            shown && self.slow.get(&spec.name).is_none_or(|&every| step.is_multiple_of(every))
        };
        let gradient = Gradient { values: &self.grads, inputs: None };
        self.optimizer.step(&ops, &mut self.params, gradient, rate, due);
        let by = (rate * learning.decay) as f32;
        for spec in classifier.params().specs.iter().filter(|spec| by > 0.0 && spec.kind.decays()) {
            if classifier.trains(spec) && due(spec) {
                let own = &mut self.params.data[spec.range.clone()];
                match self.anchor.get(spec.range.clone()) {
                    Some(anchor) => own.iter_mut().zip(anchor).for_each(|(p, a)| *p -= by * (*p - a)),
                    None => own.iter_mut().for_each(|p| *p -= by * *p),
                }
            }
        }
        Ok((losses.iter().map(|&loss| f64::from(loss)).sum(), n))
    }
}

/// Probabilities of tasks and classes together.
struct Joint {
    values: Vec<f64>, // [N, columns]
    columns: Vec<(usize, usize)>,
    /// Whether the same class of two tasks is two classes.
    by_task: bool,
}

impl Joint {
    fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.columns.len().max(1))
    }

    /// Whether two columns stand for the same label.
    fn same(&self, a: (usize, usize), b: (usize, usize)) -> bool {
        a.1 == b.1 && (!self.by_task || a.0 == b.0)
    }
}

fn softmax(row: &mut [f64]) {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}
