//! A continuum memory system: perceptrons whose weights the sequence changes, each at its own pace
//! [NestedLearning v1 eq.70].
//!
//! ```text
//! x = x + MLP_l(norm(x))                           level by level, fastest first; or side by side
//! delta_l = delta_l - rate_l sum of the gradients of the last C_l tokens,   at every multiple of C_l
//! ```
//!
//! Every level is read at every token. Between two changes its weights are constant, so that tokens of one period run side
//! by side and give the same as one by one. `learn.rs` is how a level changes, `again.rs` how gradients come back.

mod again;
mod gate;
mod learn;
mod period;
mod rate;
mod replay;
mod unroll;

pub(crate) use gate::Predictions;
pub(crate) use unroll::Asked;

use super::fast::{Extras, Fast, Patch};
use super::mlp::{Mlp, MlpTape, Weights};
use super::{Builder, Call, SideTape, part, part_backward};
use crate::config::{Arrangement, CmsConfig, CmsLevel, Meta, NormConfig, Objective, Reduction, Surprise, SurpriseGate};
use crate::error::Result;
use crate::params::{Init, Kind};
use crate::pool::{Pool, fit};
use hecate_core::Scalar;
use hecate_core::ops::{MlpKind, Ops};
use period::FrequencyGate;
use replay::Ring;
use std::ops::Range;

/// At whose pace levels change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Levels whose period is no shorter than the context are the optimizer's.
    Training { context: u64 },
    /// Every level changes.
    Serving,
}

pub(crate) struct Cms {
    objective: Objective,
    meta: Meta,
    gate: Option<SurpriseGate>,
    nested: bool,
    levels: Vec<Level>,
    units: Vec<Unit>,
    stages: Vec<Stage>,
}

/// One perceptron.
struct Unit {
    mlp: Mlp,
    /// Its levels.
    levels: Range<usize>,
    /// Its matrices as the sequence changes them, if it ever does.
    fast: Option<[Fast; 2]>,
    /// Where the state says whether gradients wait for a change.
    waiting: usize,
    /// The share of tokens that it has learned from of late, in the state, behind a gate.
    written: Option<usize>,
    /// Pairs to learn again.
    ring: Option<Ring>,
    /// What says when it changes, where that is learned.
    frequency: Option<FrequencyGate>,
}

/// Perceptrons side by side behind one norm.
struct Stage {
    norm: Range<usize>,
    units: Range<usize>,
    /// `[units]`, where they are added up with learned weights.
    mix: Option<Range<usize>>,
}

struct Level {
    config: CmsLevel,
    period: u64,
    /// By what a gathered gradient is divided.
    over: f64,
    /// The parameter that its rate is the softplus of.
    learned: Option<usize>,
    /// Its part of either matrix of its unit.
    patches: [Vec<Patch>; 2],
    /// How often it has changed, in the state.
    count: usize,
}

impl Level {
    /// Whether it changes.
    fn moves(&self, pace: Pace) -> bool {
        self.set_rate(pace) > 0.0
    }

    /// Size of a step as the configuration has it; 0 where it does not change.
    fn set_rate(&self, pace: Pace) -> f64 {
        match pace {
            Pace::Training { context } if self.period >= context => 0.0,
            Pace::Training { .. } => self.config.rate,
            Pace::Serving => self.config.serve_rate(),
        }
    }

    /// Size of a step along the gathered gradient.
    fn rate<F: Scalar>(&self, params: &[F], pace: Pace) -> F {
        match self.learned {
            Some(at) if self.moves(pace) => params[at].softplus() * F::from_f64(1.0 / self.over),
            _ => F::from_f64(self.set_rate(pace) / self.over),
        }
    }
}

/// What a call keeps of a continuum memory.
#[derive(Debug, Default)]
pub(crate) struct CmsTape<F> {
    sides: Vec<SideTape<F>>,
    units: Vec<UnitTape<F>>,
    /// The outputs are there already: the call's tokens have run through, piece by piece, while weights changed.
    pub played: bool,
}

#[derive(Debug, Default)]
struct UnitTape<F> {
    mlp: MlpTape<F>,
    out: Vec<F>, // [T, width]
    x: Vec<F>,   // [T, width], of tokens that have run through
    /// Of those, how many have been taken in.
    taken: usize,
    /// What the weights are changed by: gradients of `up` and of `out` along columns.
    dup: Vec<F>,
    dout: Vec<F>,
}

impl<F> CmsTape<F> {
    pub fn len(&self) -> usize {
        let unit = |u: &UnitTape<F>| u.mlp.len() + u.out.len() + u.x.len() + u.dup.len() + u.dout.len();
        self.units.iter().map(unit).sum::<usize>() + self.sides.iter().map(SideTape::len).sum::<usize>()
    }
    pub fn sides(&self) -> &[SideTape<F>] {
        &self.sides
    }
}

/// The weights as they were at the start of a call, to go through its changes again.
#[derive(Debug, Default)]
pub(crate) struct Again<F> {
    /// As [`State::fast`](crate::State).
    pub fast: Vec<F>,
    /// The sums.
    pub sums: Vec<F>,
    /// The weights that the call's tokens have met, where they are kept: no change is then made once more.
    pub known: Vec<Known<F>>,
}

/// Weights that some tokens have met, and their gradient.
#[derive(Clone, Debug)]
pub(crate) struct Known<F> {
    pub rows: Range<usize>,
    /// As [`Again::sums`].
    pub sums: Vec<F>,
    /// Laid out like them; added into.
    pub grads: Vec<F>,
}

impl Cms {
    pub fn new(b: &mut Builder<'_>, config: &CmsConfig) -> Self {
        let headwise = config.arrangement == Arrangement::Headwise;
        let mut cms = Self {
            objective: config.objective,
            meta: config.meta,
            gate: config.gate,
            nested: config.arrangement == Arrangement::Nested,
            levels: Vec::new(),
            units: Vec::new(),
            stages: Vec::new(),
        };
        let chained = matches!(config.arrangement, Arrangement::Sequential | Arrangement::Nested);
        let count = if headwise { 1 } else { config.levels.len() };
        for u in 0..count {
            let part = if headwise { "channel".to_string() } else { format!("channel.levels.{u}") };
            if chained || u == 0 {
                let name = if chained { format!("{part}.norm") } else { "channel_norm".into() };
                cms.stages.push(Stage { norm: b.norm(&name, b.width), units: u..u + 1, mix: None });
            }
            cms.stages.last_mut().expect("the first unit makes one").units.end = u + 1;
            let levels = if headwise { 0..config.levels.len() } else { u..u + 1 };
            cms.add_unit(b, config, &part, levels);
        }
        if config.arrangement == Arrangement::Independent {
            let (name, init) = (format!("{}.channel.level_weights", b.prefix), Init::Constant(1.0 / count as f64));
            cms.stages[0].mix = Some(b.params.add(name, &[count], Kind::Gate, init));
        }
        cms
    }

    fn add_unit(&mut self, b: &mut Builder<'_>, config: &CmsConfig, part: &str, levels: Range<usize>) {
        let mlp = Mlp::new(b, &config.mlp(), part);
        let (share, periods) = (mlp.hidden / levels.len(), config.periods());
        let moves = config.levels[levels.clone()].iter().any(CmsLevel::moves);
        // The slowest level has nobody to start it anew.
        let anew = config.online && levels.end < config.levels.len();
        let extras = Extras { anew, consolidation: config.consolidation, meta: config.meta };
        let fast = moves.then(|| {
            let up = Fast::new(b, &format!("{part}.up"), &mlp.up, mlp.up_width(), extras);
            [up, Fast::new(b, &format!("{part}.down"), &mlp.down, b.width, extras)]
        });
        for l in levels.clone() {
            let units = (l - levels.start) * share..(l - levels.start + 1) * share;
            let pair = (MlpKind::from(config.kind) == MlpKind::Gated)
                .then(|| units.start + mlp.hidden..units.end + mlp.hidden);
            let all = 0..b.width;
            let columns = [Some(units.clone()), pair].into_iter().flatten();
            let up = columns.map(|cols| Patch { rows: all.clone(), cols }).collect();
            let patches = [up, vec![Patch { rows: units, cols: all.clone() }]];
            let over = if config.reduction == Reduction::Mean { periods[l] as f64 } else { 1.0 };
            let name = format!("{}.channel.levels.{l}.changes", b.prefix);
            let count = if moves { b.state.add_count(name, u64::MAX) } else { 0 };
            let level = config.levels[l].clone();
            let learned = (config.learn_rates && level.rate > 0.0 && periods[l] < b.context).then(|| {
                let init = Init::Constant(level.rate.exp_m1().ln());
                b.params.add(format!("{}.channel.levels.{l}.rate", b.prefix), &[1], Kind::Gate, init).start
            });
            self.levels.push(Level { config: level, period: periods[l], over, learned, patches, count });
        }
        let gated = moves && config.gate.is_some();
        let written = gated.then(|| b.state.add_fast(format!("{}.{part}.written", b.prefix), vec![2]).start);
        let name = format!("{}.{part}.waiting", b.prefix);
        let waiting = if moves { b.state.add_count(name, 1) } else { 0 };
        let ring = config.replay.filter(|_| moves).map(|replay| Ring::new(b, part, replay));
        let first = levels.start;
        let gated = config.learn_periods && first > 0 && self.levels[first].config.rate > 0.0;
        let frequency = (gated && periods[first] < b.context)
            .then(|| FrequencyGate::new(b, &format!("channel.levels.{first}"), [periods[0], periods[first]]));
        self.units.push(Unit { mlp, levels, fast, waiting, written, ring, frequency });
    }

    /// After how many tokens something changes at this pace, every time.
    pub fn periods(&self, pace: Pace) -> impl Iterator<Item = u64> + '_ {
        self.units.iter().flat_map(move |unit| self.unit_periods(unit, pace))
    }

    fn unit_periods(&self, unit: &Unit, pace: Pace) -> impl Iterator<Item = u64> + use<> {
        let moving = self.levels[unit.levels.clone()].iter().filter(|level| level.moves(pace));
        let own = |level: &Level| unit.frequency.as_ref().map_or(level.period, FrequencyGate::every);
        let mut periods: Vec<u64> = moving.map(own).collect();
        if let (false, Some(slower)) = (periods.is_empty(), self.slower(unit)) {
            periods.push(slower.period);
        }
        periods.into_iter()
    }

    /// The level at whose changes the unit starts anew.
    fn slower(&self, unit: &Unit) -> Option<&Level> {
        if self.nested { self.levels.get(unit.levels.end) } else { None }
    }

    /// Period of every level, fastest first.
    pub fn schedule(&self) -> impl Iterator<Item = u64> + '_ {
        self.levels.iter().map(|level| level.period)
    }

    /// Whether gradients go through changes.
    pub fn unrolls(&self) -> bool {
        self.meta == Meta::Unroll
    }

    /// Whether changes go by the task's loss.
    pub fn asks_for_columns(&self) -> bool {
        self.objective == Objective::Task
    }

    /// Whether a gate looks at predictions.
    pub fn asks_for_predictions(&self) -> bool {
        self.gate.is_some_and(|gate| gate.signal != Surprise::Norm)
    }

    /// The matrices of levels that move in serving and not at this pace, and their periods.
    pub fn slow(&self, pace: Pace) -> impl Iterator<Item = (Range<usize>, u64)> + '_ {
        let alone = self.units.iter().filter(|unit| unit.levels.len() == 1);
        alone.flat_map(move |unit| {
            let level = &self.levels[unit.levels.start];
            let slow = level.config.rate > 0.0 && !level.moves(pace);
            let both = [(unit.mlp.up.clone(), level.period), (unit.mlp.down.clone(), level.period)];
            both.into_iter().filter(move |_| slow)
        })
    }

    /// Every level that moves when it is served, the size of its matrices, and its period; of levels that share them, the part.
    pub fn level_sizes(&self) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
        self.units.iter().flat_map(move |unit| {
            let size = (unit.mlp.up.len() + unit.mlp.down.len()) / unit.levels.len();
            let moving = unit.levels.clone().filter(|&l| self.levels[l].config.serve_rate() > 0.0);
            moving.map(move |l| (l, size, self.levels[l].period))
        })
    }

    /// Computes all sums of parameters and what the sequence added to them.
    pub fn add_up<F: Scalar>(&self, params: &[F], fast: &[F], sums: &mut [F]) {
        self.units.iter().flat_map(|unit| unit.fast.iter().flatten()).for_each(|m| m.add_up(params, fast, sums));
    }

    /// Adds all levels to the stream `x: [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        norm: NormConfig,
        call: &Call<'_, O>,
        x: &mut [O::F],
        tape: &mut CmsTape<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        tape.sides.resize_with(self.stages.len(), SideTape::default);
        tape.units.resize_with(self.units.len(), UnitTape::default);
        let CmsTape { sides, units, played } = tape;
        for (stage, side) in self.stages.iter().zip(sides) {
            part(norm, call, &stage.norm, x, side, pool, &mut |normed, out, _| {
                for (i, u) in stage.units.clone().enumerate() {
                    self.units[u].forward(
                        call,
                        normed,
                        &mut units[u],
                        *played,
                        stage.mix.is_none().then_some(&mut *out),
                    );
                    let Some(mix) = &stage.mix else { continue };
                    let a = call.params[mix.start + i];
                    if i == 0 {
                        out.iter_mut().zip(&units[u].out).for_each(|(out, &y)| *out = a * y);
                    } else {
                        out.iter_mut().zip(&units[u].out).for_each(|(out, &y)| *out += a * y);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Transpose of [`Cms::forward`]. Along columns it leaves in the tape what weights are changed by; over tokens that
    /// have run through, `again` goes through their changes once more.
    pub fn backward<O: Ops>(
        &self,
        norm: NormConfig,
        call: &Call<'_, O>,
        tape: &mut CmsTape<O::F>,
        dx: &mut [O::F],
        grads: &mut [O::F],
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let CmsTape { sides, units, played } = tape;
        for (stage, side) in self.stages.iter().zip(sides).rev() {
            part_backward(norm, call, &stage.norm, side, dx, grads, pool, &mut |normed, dout, dx, grads, pool| {
                let mut weighted = pool.take(if stage.mix.is_some() { dout.len() } else { 0 });
                for (i, u) in stage.units.clone().enumerate() {
                    let own = &mut units[u];
                    let dout = match &stage.mix {
                        None => dout,
                        Some(mix) => {
                            let a = call.params[mix.start + i];
                            weighted.iter_mut().zip(dout).for_each(|(w, &d)| *w = a * d);
                            call.grad(grads, mix)[i] += own.out.iter().zip(dout).map(|(&y, &d)| y * d).sum::<O::F>();
                            &weighted
                        }
                    };
                    match (call.column, *played) {
                        (true, _) => self.units[u].column_backward(call, own, dout, dx, self.asks_for_columns(), pool),
                        (_, true) if !again.known.is_empty() => {
                            let unit = &self.units[u];
                            unit.known_backward(call, normed, own, dout, dx, grads, &mut again.known, pool);
                        }
                        (_, true) => {
                            self.replay_backward(&self.units[u], call, normed, own, dout, dx, grads, again, pool)
                        }
                        (_, false) => {
                            let unit = &self.units[u];
                            unit.mlp.backward(call, unit.weights(call), normed, &own.mlp, dout, dx, grads, pool);
                        }
                    }
                }
                pool.give(weighted);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Values of the matrices of the perceptrons that move, and after how many tokens they do; headwise, the fastest level's.
    pub fn moving(&self, pace: Pace) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.units.iter().filter_map(move |unit| {
            let period = self.unit_periods(unit, pace).min()?;
            Some((unit.mlp.up.len() + unit.mlp.down.len(), period))
        })
    }

    /// All levels, forward.
    pub fn flops(&self) -> f64 {
        self.units.iter().map(|unit| unit.mlp.flops()).sum()
    }
}

/// What weights are changed by: inputs of either matrix, and the gradients of its outputs; and what they gave.
#[derive(Clone, Copy)]
struct Gradients<'a, F> {
    x: &'a [F],
    hidden: &'a [F],
    out: &'a [F],
    dup: &'a [F],
    dout: &'a [F],
}

impl<'a, F> Gradients<'a, F> {
    /// The rows from `from` to `to` of `all` rows.
    fn rows(self, from: usize, to: usize, all: usize) -> Self {
        let part = |x: &'a [F]| &x[from * (x.len() / all)..to * (x.len() / all)];
        let [x, hidden, out, dup, dout] = [self.x, self.hidden, self.out, self.dup, self.dout].map(part);
        Self { x, hidden, out, dup, dout }
    }
}

impl Unit {
    fn weights<'a, O: Ops>(&self, call: &Call<'a, O>) -> Weights<'a, O::F> {
        match &self.fast {
            Some([up, down]) => [&call.fast[up.sum.clone()], &call.fast[down.sum.clone()]],
            None => self.mlp.weights(call),
        }
    }

    /// Into `out`, or into the tape alone.
    fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        normed: &[O::F],
        own: &mut UnitTape<O::F>,
        played: bool,
        out: Option<&mut [O::F]>,
    ) {
        let result = if played { &mut own.out[..] } else { fit(&mut own.out, normed.len()) };
        if !played {
            self.mlp.forward(call, self.weights(call), normed, &mut own.mlp, result);
        }
        if let Some(out) = out {
            out.copy_from_slice(result);
        }
    }

    /// Along columns; `keep` leaves in the tape what the weights are changed by.
    fn column_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        own: &mut UnitTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        keep: bool,
        pool: &mut Pool<O::F>,
    ) {
        let mut dup = pool.zeros(own.mlp.up.len());
        self.mlp.input_backward(call, self.weights(call), &own.mlp.up, dout, &mut dup, Some(dx), pool);
        if keep {
            fit(&mut own.dup, dup.len()).copy_from_slice(&dup);
            fit(&mut own.dout, dout.len()).copy_from_slice(dout);
        }
        pool.give(dup);
    }
}

/// The first position behind `at` that is a multiple of a period.
pub(crate) fn next_change(periods: &[u64], at: u64) -> u64 {
    let next = |period: &u64| (at / period).saturating_add(1).saturating_mul(*period);
    periods.iter().map(next).min().unwrap_or(u64::MAX)
}
