//! The memories of a mixer: one, or several levels that change at different periods and are read together.
//!
//! ```text
//! y = sum_l a_l y_l
//! ```
//!
//! with `a_l` 1, `1/sqrt(k)` beyond two levels, or learned. Every level has its own projections and gates and is read at
//! every token; one with a period changes when it is due, see [`Paced`](hecate_core::rules::Paced), and one behind a gate
//! skips tokens that do not surprise, see [`SurpriseGated`](hecate_core::rules::SurpriseGated).

use super::memory::{Flow, Memory, MemoryInfo, MemoryTape, Wanted};
use super::{Builder, Call};
use crate::config::{CombineConfig, MemoryConfig};
use crate::error::Result;
use crate::params::{Init, Kind};
use crate::pool::{Pool, fit};
use hecate_core::Scalar;
use hecate_core::ops::{HeadShape, Ops};
use std::ops::Range;

pub(crate) struct Levels {
    pub list: Vec<Memory>,
    /// The fixed weight of each level.
    scale: f64,
    /// The learned ones: `[levels]`.
    weights: Option<Range<usize>>,
}

#[derive(Debug, Default)]
pub(crate) struct LevelsTape<F> {
    levels: Vec<MemoryTape<F>>,
    sum: Vec<F>, // [H, T, dv], where there are several levels
}

impl<F> LevelsTape<F> {
    pub fn len(&self) -> usize {
        self.sum.len() + self.levels.iter().map(MemoryTape::len).sum::<usize>()
    }
    /// The reads `[H, T, dv]`.
    pub fn y(&self) -> &[F] {
        match &self.levels[..] {
            [one] => &one.y,
            _ => &self.sum,
        }
    }
}

impl Levels {
    /// `part` is the prefix of the parameters' names; states are called `memory`.
    pub fn new(b: &mut Builder<'_>, config: &MemoryConfig, part: &str) -> Self {
        Self::with_query_taps(b, config, part, config.conv)
    }

    /// With another convolution on queries: none where every read skips it.
    pub fn with_query_taps(b: &mut Builder<'_>, config: &MemoryConfig, part: &str, query_taps: usize) -> Self {
        let (heads, dims, taps) = (config.heads, config.dims(b.width), config.conv);
        let rules = config.wrapped_rules();
        let several = rules.len() > 1;
        let mut list = Vec::new();
        for (level, rule) in rules.iter().enumerate() {
            let [part, state] = [part, "memory"].map(|name| match several {
                true => format!("{name}.levels.{level}"),
                false => name.to_string(),
            });
            list.push(Memory::new(b, &Wanted { rule, heads, dims, taps, query_taps, level, part, state }));
        }
        let k = list.len();
        let learned = several && config.combine == CombineConfig::Learned;
        let name = format!("{}.{part}.level_weights", b.prefix);
        let scale = config.combine.scale(k);
        let weights = learned.then(|| b.params.add(name, &[k], Kind::Gate, Init::Constant(scale)));
        Self { list, scale, weights }
    }

    pub fn infos(&self) -> Vec<MemoryInfo> {
        self.list.iter().map(Memory::info).collect()
    }

    /// Extent of the reads.
    pub fn head_shape(&self, tokens: usize) -> HeadShape {
        self.list[0].head_shape(tokens)
    }

    /// The weight of a level.
    fn weight<F: Scalar>(&self, params: &[F], level: usize) -> F {
        match &self.weights {
            Some(range) => params[range.start + level],
            None => F::from_f64(self.scale),
        }
    }

    /// Adds up what the levels read, one `[H, T, dv]` after the other.
    pub fn combine<'r, F: Scalar>(&self, params: &[F], reads: impl Iterator<Item = &'r [F]>, sum: &mut Vec<F>) {
        for (level, read) in reads.enumerate() {
            let (a, sum) = (self.weight(params, level), fit(sum, read.len()));
            if level == 0 {
                sum.iter_mut().zip(read).for_each(|(s, &y)| *s = a * y);
            } else {
                sum.iter_mut().zip(read).for_each(|(s, &y)| *s += a * y);
            }
        }
    }

    /// Transpose of [`Levels::combine`] for one level: the gradient of its read.
    pub fn combine_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        level: usize,
        read: &[O::F],
        dsum: &[O::F],
        dread: &mut [O::F],
        grads: &mut [O::F],
    ) {
        let a = self.weight(call.params, level);
        dread.iter_mut().zip(dsum).for_each(|(d, &ds)| *d = a * ds);
        if let Some(range) = &self.weights {
            call.grad(grads, range)[level] += read.iter().zip(dsum).map(|(&y, &d)| y * d).sum::<O::F>();
        }
    }

    /// Every level takes the call's tokens; the reads are in `tape.y()`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut LevelsTape<O::F>,
    ) -> Result<()> {
        tape.levels.resize_with(self.list.len(), MemoryTape::default);
        for (memory, own) in self.list.iter().zip(&mut tape.levels) {
            memory.forward(call, x, state, own)?;
        }
        if self.list.len() > 1 {
            let LevelsTape { levels, sum } = tape;
            self.combine(call.params, levels.iter().map(|own| &own.y[..]), sum);
        }
        Ok(())
    }

    /// Transpose of [`Levels::forward`]; `dy [H, T, dv]`.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &LevelsTape<O::F>,
        dy: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        if let ([memory], [own]) = (&self.list[..], &tape.levels[..]) {
            return memory.backward(call, x, own, dy, dx, grads, pool);
        }
        let mut down = pool.zeros(dy.len());
        for (level, (memory, own)) in self.list.iter().zip(&tape.levels).enumerate() {
            self.combine_backward(call, level, &own.y, dy, &mut down, grads);
            memory.backward(call, x, own, &down, dx, grads, pool)?;
        }
        pool.give(down);
        Ok(())
    }

    /// [`Levels::backward`] with what flows back through each level's state and tails.
    pub fn flow_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &LevelsTape<O::F>,
        dy: &[O::F],
        flows: &mut [Flow<O::F>],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let mut down = pool.zeros(dy.len());
        for (level, ((memory, own), flow)) in self.list.iter().zip(&tape.levels).zip(flows).enumerate() {
            match self.list.len() {
                1 => down.copy_from_slice(dy),
                _ => self.combine_backward(call, level, &own.y, dy, &mut down, grads),
            }
            memory.flow_backward(call, x, own, &down, flow, dx, grads, pool)?;
        }
        pool.give(down);
        Ok(())
    }

    /// Means of the gates in the recorded call, by level and name.
    pub fn gate_means<F: Scalar>(&self, tape: &LevelsTape<F>) -> Vec<(String, f64)> {
        let several = self.list.len() > 1;
        let mut all = Vec::new();
        for (level, (memory, own)) in self.list.iter().zip(&tape.levels).enumerate() {
            let name = |gate: &str| if several { format!("levels.{level}.{gate}") } else { gate.to_string() };
            all.extend(memory.gate_means(own).into_iter().map(|(gate, mean)| (name(gate), mean)));
        }
        all
    }

    /// Operations of a read alone, as a call without writing does it: inputs, gates, and the read of each entry.
    pub fn read_flops(&self) -> f64 {
        self.list.iter().map(Memory::read_flops).sum()
    }

    pub fn flops(&self) -> f64 {
        let sums = if self.list.len() > 1 { 2.0 * (self.list.len() * self.head_shape(1).len()) as f64 } else { 0.0 };
        sums + self.list.iter().map(Memory::flops).sum::<f64>()
    }
}
