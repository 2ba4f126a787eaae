//! A classifier of vectors, on the blocks that models of tokens have.
//!
//! ```text
//! x_p = part_p w + b + e_task        the parts of a sample, in order: tokens
//! z   = norm(blocks(x))              of the last token
//! logits = z head + bias             one head per task, or one for all
//! ```
//!
//! A sample is a sequence of its own: mixers and memories begin anew at every one, so that a prediction depends on the
//! sample and the parameters alone. What learns over samples is the parameters, every level of a continuum memory at its
//! own pace.

mod bytes;
mod config;
mod learner;
mod preset;
mod replay;
mod samples;
mod scaling;

pub use bytes::FORMAT;
pub use config::{ClassifierConfig, DecayTowards, Heads, Learning, Projection};
pub use learner::{Learned, Learner};
pub use preset::{Preset, passes_for, periods_for, replay_for, width_for};
pub use samples::SamplesTape;

use crate::config::{BlockConfig, ChannelConfig, MixerConfig};
use crate::error::{Error, Result};
use crate::params::{Init, Kind, ParamLayout, ParamSpec, Params};
use crate::pool::fit;
use crate::state::StateLayout;
use crate::trunk::Trunk;
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};
use std::collections::BTreeMap;
use std::ops::Range;

/// A classifier without numbers: what its [`Params`] mean.
pub struct Classifier {
    config: ClassifierConfig,
    params: ParamLayout,
    trunk: Trunk,
    /// Where each block's part of a sample's state lies.
    states: Vec<Range<usize>>,
    input: Range<usize>,
    bias: Range<usize>,
    /// Of every task, where there are any.
    embeddings: Vec<Range<usize>>,
    heads: Vec<Head>,
}

struct Head {
    weight: Range<usize>,
    bias: Range<usize>,
    classes: usize,
}

/// Samples with the tasks that they belong to.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a, F> {
    /// `[N, features]`.
    pub values: &'a [F],
    /// `[N]`.
    pub tasks: &'a [usize],
}

impl Classifier {
    /// Lays out the classifier that `config` describes. What belongs to a task lies behind everything else, so that one more
    /// task moves nothing.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn new(config: &ClassifierConfig) -> Result<Self> {
        config.check()?;
        let blocks = bounded(config);
        let (mut params, mut state, width) = (ParamLayout::default(), StateLayout::default(), config.width);
        let part = config.features / config.patches;
        let init = Init::Normal((part as f64).powf(-0.5));
        let input = params.add("input.weight".into(), &[part, width], Kind::Embedding, init);
        let bias = params.add("input.bias".into(), &[width], Kind::Bias, Init::Constant(0.0));
        let trunk = Trunk::new(&mut params, &mut state, width, config.patches as u64, &blocks);
        let mut classifier = Self {
            config: config.clone(),
            states: (0..blocks.len()).map(|b| state_of(&state, b)).collect(),
            params,
            trunk,
            input,
            bias,
            embeddings: Vec::new(),
            heads: Vec::new(),
        };
        if let Heads::Shared { classes, .. } = config.heads {
            classifier.add_head("head", classes);
        }
        for task in 0..config.heads.tasks() {
            if config.task_embedding {
                let name = format!("tasks.{task}.embedding");
                let place = classifier.params.add(name, &[width], Kind::Bias, Init::Normal(0.5));
                classifier.embeddings.push(place);
            }
            if let Heads::PerTask { classes } = &config.heads {
                classifier.add_head(&format!("tasks.{task}.head"), classes[task]);
            }
        }
        classifier.check_frozen()?;
        Ok(classifier)
    }

    fn add_head(&mut self, name: &str, classes: usize) {
        let width = self.config.width;
        // Small, so that the first predictions are even.
        let init = Init::Normal(0.2 * (width as f64).powf(-0.5));
        let weight = self.params.add(format!("{name}.weight"), &[width, classes], Kind::Embedding, init);
        let bias = self.params.add(format!("{name}.bias"), &[classes], Kind::Bias, Init::Constant(0.0));
        self.heads.push(Head { weight, bias, classes });
    }

    fn check_frozen(&self) -> Result<()> {
        for projection in &self.config.learning.freeze {
            if !self.params.specs.iter().any(|spec| is_projection(*projection, spec)) {
                let reason = format!("no mixer has a projection {projection:?} to freeze; leave it out").to_lowercase();
                return Err(Error::config("learning.freeze", reason));
            }
        }
        Ok(())
    }

    /// The configuration.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }
    /// Names and places of the parameters.
    pub fn params(&self) -> &ParamLayout {
        &self.params
    }
    /// Logits of a sample, those of the widest head.
    pub fn outputs(&self) -> usize {
        self.heads.iter().map(|head| head.classes).max().unwrap_or(0)
    }

    /// Whether a parameter is trained: all are but frozen projections.
    pub fn trains(&self, spec: &ParamSpec) -> bool {
        !self.config.learning.freeze.iter().any(|projection| is_projection(*projection, spec))
    }

    /// The task that a parameter belongs to, if it is not everybody's.
    pub fn task_of(&self, spec: &ParamSpec) -> Option<usize> {
        spec.name.strip_prefix("tasks.")?.split_once('.')?.0.parse().ok()
    }

    /// The tensors of levels that are due less often than at every step, by their names: the samples from one change to
    /// the next.
    pub fn periods(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        for (b, block) in self.config.expanded().iter().enumerate() {
            let ChannelConfig::Cms(cms) = &block.channel else { continue };
            for (l, (level, period)) in cms.levels.iter().zip(cms.periods()).enumerate() {
                let prefix = format!("blocks.{b}.channel.levels.{l}.");
                let matrix = |spec: &&ParamSpec| spec.kind == Kind::Matrix && spec.name.starts_with(&prefix);
                let own = self.params.specs.iter().filter(matrix).filter(|_| level.rate > 0.0);
                found.extend(own.map(|spec| (spec.name.clone(), period)));
            }
        }
        found
    }

    /// Floating-point operations of one sample, forward, a multiply-add counted as two.
    pub fn flops(&self) -> f64 {
        let ClassifierConfig { features, width, patches, .. } = self.config;
        let ends = 2.0 * (features * width + width * self.outputs()) as f64;
        ends + patches as f64 * self.trunk.flops(patches, 0)
    }

    fn check_samples<F>(&self, samples: &Samples<'_, F>) -> Result<()> {
        let (n, tasks) = (samples.tasks.len(), self.config.heads.tasks());
        if samples.values.len() != n * self.config.features {
            let got = samples.values.len();
            let reason = format!("{n} samples have {} numbers, not {got}", n * self.config.features);
            return Err(Error::config("features", reason));
        }
        match samples.tasks.iter().find(|&&task| task >= tasks) {
            Some(task) => Err(Error::config("heads.tasks", format!("there is no task {task}, there are {tasks}"))),
            None => Ok(()),
        }
    }

    /// Refuses labels that the heads of their tasks do not have.
    fn check_labels<F>(&self, samples: &Samples<'_, F>, labels: &[usize]) -> Result<()> {
        self.check_samples(samples)?;
        if labels.len() != samples.tasks.len() {
            let reason = format!("{} labels for {} samples", labels.len(), samples.tasks.len());
            return Err(Error::config("heads.classes", reason));
        }
        for (&label, &task) in labels.iter().zip(samples.tasks) {
            let classes = self.heads[self.config.heads.of(task)].classes;
            if label >= classes {
                let reason = format!("there is no class {label}, the head of task {task} has {classes}");
                return Err(Error::config("heads.classes", reason));
            }
        }
        Ok(())
    }

    /// Logits `[N, outputs]` of samples; those behind the classes of a narrower head are zero.
    ///
    /// Each depends on its own sample alone: it has the same bits whatever stands around it, if `ops` is canonical.
    ///
    /// # Errors
    /// [`Error::Config`] for samples of another size or task.
    pub fn forward<'t, O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        samples: Samples<'_, O::F>,
        tape: &'t mut SamplesTape<O::F>,
    ) -> Result<&'t [O::F]> {
        self.check_samples(&samples)?;
        self.run(ops, params, samples, false, tape)?;
        Ok(&tape.logits)
    }

    /// Losses `[N]` of samples in nats, and the gradients of their sum times `weight`, which are **added into** `grads`.
    ///
    /// # Errors
    /// As [`Classifier::forward`]; [`Error::Config`] for a label that its head does not have, [`Error::NonFinite`] for a
    /// loss.
    pub fn train<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        samples: Samples<'_, O::F>,
        labels: &[usize],
        weight: O::F,
        losses: &mut [O::F],
        grads: &mut [O::F],
        tape: &mut SamplesTape<O::F>,
    ) -> Result<()> {
        self.check_labels(&samples, labels)?;
        self.run(ops, params, samples, true, tape)?;
        let mut dlast = tape.pool.zeros(tape.last.len());
        self.heads_backward(ops, params, samples, labels, weight, losses, &mut dlast, grads, tape);
        if !losses.iter().all(|loss| loss.is_finite()) {
            return Err(Error::NonFinite { what: "loss".into(), place: "the classifier".into() });
        }
        self.run_backward(ops, params, samples, dlast, grads, tape)
    }

    /// The rows of `samples` that each head takes: the head, and the places of its samples.
    fn by_head<F>(&self, samples: &Samples<'_, F>) -> Vec<(&Head, Vec<usize>)> {
        let of = |h: usize| {
            let own = |i: &usize| self.config.heads.of(samples.tasks[*i]) == h;
            (0..samples.tasks.len()).filter(own).collect::<Vec<_>>()
        };
        let all = self.heads.iter().enumerate().map(|(h, head)| (head, of(h)));
        all.filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// Logits from the normed rows.
    fn heads_forward<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        samples: &Samples<'_, O::F>,
        tape: &mut SamplesTape<O::F>,
    ) {
        let (width, outputs) = (self.config.width, self.outputs());
        let logits = fit(&mut tape.logits, samples.tasks.len() * outputs);
        logits.fill(O::F::zero());
        for (head, rows) in self.by_head(samples) {
            let x = gather(&rows, width, &tape.normed);
            let mut y = vec![O::F::zero(); rows.len() * head.classes];
            ops.linear_forward(head.shape(width, rows.len()), &x, &params.data[head.weight.clone()], &mut y);
            for (&i, y) in rows.iter().zip(y.chunks_exact(head.classes)) {
                let biased = y.iter().zip(&params.data[head.bias.clone()]).map(|(&y, &b)| y + b);
                logits[i * outputs..].iter_mut().zip(biased).for_each(|(l, y)| *l = y);
            }
        }
    }

    /// Losses, and their gradient down to the last token of every sample.
    fn heads_backward<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        samples: Samples<'_, O::F>,
        labels: &[usize],
        weight: O::F,
        losses: &mut [O::F],
        dlast: &mut [O::F],
        grads: &mut [O::F],
        tape: &mut SamplesTape<O::F>,
    ) {
        let (width, outputs) = (self.config.width, self.outputs());
        let mut dnormed = tape.pool.zeros(tape.normed.len());
        for (head, rows) in self.by_head(&samples) {
            let (n, classes) = (rows.len(), head.classes);
            let x = gather(&rows, width, &tape.normed);
            let logits: Vec<O::F> =
                rows.iter().flat_map(|&i| &tape.logits[i * outputs..][..classes]).copied().collect();
            let targets: Vec<u32> = rows.iter().map(|&i| labels[i] as u32).collect();
            let (mut loss, mut dlogits) = (vec![O::F::zero(); n], vec![O::F::zero(); n * classes]);
            ops.cross_entropy_forward(classes, &logits, &targets, &mut loss);
            ops.cross_entropy_backward(classes, &logits, &targets, &vec![weight; n], &mut dlogits);
            rows.iter().zip(&loss).for_each(|(&i, &loss)| losses[i] = loss);
            add_rows(&dlogits, &mut grads[head.bias.clone()]);
            let (w, mut dx) = (head.weight.clone(), vec![O::F::zero(); x.len()]);
            let (value, dw) = (&params.data[w.clone()], &mut grads[w]);
            ops.linear_backward(head.shape(width, n), &x, value, &dlogits, Some(&mut dx), Some(dw));
            for (&i, dx) in rows.iter().zip(dx.chunks_exact(width)) {
                dnormed[i * width..][..width].copy_from_slice(dx);
            }
        }
        let norm = &self.trunk.norm;
        ops.rms_norm_backward(width, &tape.last, &params.data[norm.clone()], &dnormed, dlast, &mut grads[norm.clone()]);
        tape.pool.give(dnormed);
    }
}

impl Head {
    fn shape(&self, width: usize, rows: usize) -> LinearShape {
        LinearShape { rows, inner: width, outer: self.classes }
    }
}

/// Whether a parameter is the weight of such a projection of a mixer.
fn is_projection(projection: Projection, spec: &ParamSpec) -> bool {
    spec.name.contains(".mixer.") && spec.name.ends_with(projection.suffix())
}

fn gather<F: Scalar>(rows: &[usize], width: usize, from: &[F]) -> Vec<F> {
    rows.iter().flat_map(|&i| &from[i * width..][..width]).copied().collect()
}

/// Adds every row to `sum`.
fn add_rows<F: Scalar>(rows: &[F], sum: &mut [F]) {
    for row in rows.chunks_exact(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
    }
}

/// The blocks for one sample: attention has room for it and no more, which changes nothing, and a sample changes no level.
fn bounded(config: &ClassifierConfig) -> Vec<BlockConfig> {
    let mut blocks = config.expanded();
    for block in &mut blocks {
        if let ChannelConfig::Cms(cms) = &mut block.channel {
            cms.levels.iter_mut().for_each(|level| level.rate = 0.0);
        }
        let (attention, before) = match &mut block.mixer {
            MixerConfig::Attention(a) => (a, 0),
            MixerConfig::Mag(g) => (&mut g.attention, 0),
            MixerConfig::Mal(l) => (&mut l.attention, l.persistent),
            MixerConfig::Mac(_) | MixerConfig::Memory(_) | MixerConfig::None => continue,
        };
        let room = config.patches + before;
        attention.max_positions = attention.max_positions.min(room);
        attention.window = attention.window.map(|window| window.min(room));
    }
    blocks
}

/// Where the state of a block lies.
fn state_of(state: &StateLayout, block: usize) -> Range<usize> {
    let prefix = format!("blocks.{block}.");
    let own = || state.specs.iter().filter(|spec| spec.name.starts_with(&prefix)).map(|spec| &spec.range);
    let (start, end) = (own().map(|range| range.start).min(), own().map(|range| range.end).max());
    start.unwrap_or(0)..end.unwrap_or(0)
}
