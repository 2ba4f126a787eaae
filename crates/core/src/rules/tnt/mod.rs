//! TNT: one global memory that is written in long chunks and several local ones that start afresh in every shard, so
//! that shards can be trained side by side.
//!
//! ```text
//! V      global, gradients at the start V_c of the token's global chunk:   V' = V - rate G(V_c)       [TNT v1 eq.5]
//! L_i    local, set to its learned start P_i at the first token of a shard, then written:
//!        gradients at the start L_c of the token's local chunk:            L_i' = L_i - rate_i G(L_c) [TNT v1 eq.6]
//! y      = M(V_c, q) + sum_i M(L_i', project_i(q))                                                    [TNT v1 eq.7]
//! ```
//!
//! The global memory is read at its chunk's start: of the tokens since then only the locals know. Local memories see
//! queries where keys were: see [`Projection`]. Every memory is a [`Miras`] of its own with the same structure and
//! bias, whose state holds its chunk's start as `anchor_*`; `P*_*` are never written. A reset comes before the token's write.
//!
//! Unlike the paper, every memory has its own rate unless `shared_rate` says otherwise, and the sum of a local chunk
//! starts from the chunk's first memory: the printed recurrence counts earlier tokens twice.

pub(crate) mod projection;

pub use projection::Projection;

use super::matrix::add_scaled;
use super::miras::bias::{self, AnyBias};
use super::miras::retention;
use super::miras::structure::{self, AnyStructure};
use super::miras::{Miras, RateScale, ReadAt};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::rule::{About, ChunkForm, Dims, Holds, Input, MemoryRule, Start, StateTensor};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Global and local memories; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tnt {
    /// What every memory is.
    pub structure: AnyStructure,
    /// What every memory is learned for.
    pub bias: AnyBias,
    /// Whether the memories decay, all by the same gate `retain` [TNT v1 sec.D].
    pub retain: bool,
    /// Tokens of a chunk of the global memory.
    pub global_chunk: usize,
    /// Tokens of a chunk of each local memory.
    pub locals: Vec<usize>,
    /// Tokens after which local memories start afresh.
    pub shard: usize,
    /// What local memories are asked.
    pub projection: Projection,
    /// One rate for all memories, as printed.
    pub shared_rate: bool,
    /// One learned start for all local memories.
    pub shared_start: bool,
    /// How the ranges of the rates depend on the chunks.
    pub rate_scale: RateScale,
}

impl Default for Tnt {
    fn default() -> Self {
        // The chunks and shards of the paper's experiments.
        Self {
            structure: structure::Mlp::default().into(),
            bias: bias::L2::default().into(),
            retain: false,
            global_chunk: 2048,
            locals: vec![8, 16],
            shard: 2048,
            projection: Projection::Shard,
            shared_rate: false,
            shared_start: false,
            rate_scale: RateScale::Auto,
        }
    }
}

/// The most local memories.
const MOST_LOCALS: usize = 4;
/// Longest chunk and shard: far beyond use, far below what an index can hold.
const MOST_TOKENS: usize = 1 << 20;
/// Shards and global chunks of the brief form.
const BRIEF_TOKENS: usize = 16;
const RATES: [&str; MOST_LOCALS + 1] = ["rate", "rate1", "rate2", "rate3", "rate4"];

/// Names of a memory's tensors: alone, or from the output side.
macro_rules! names {
    ($prefix:literal) => {
        [
            concat!($prefix, "W"),
            concat!($prefix, "W1"),
            concat!($prefix, "W2"),
            concat!($prefix, "W3"),
            concat!($prefix, "W4"),
            concat!($prefix, "W5"),
            concat!($prefix, "W6"),
            concat!($prefix, "W7"),
            concat!($prefix, "W8"),
        ]
    };
}
pub(crate) use names;
pub(crate) type Names = [&'static str; 9];
const GLOBAL: [Names; 2] = [names!("V_"), names!("anchor_V_")];
const LOCAL: [[Names; 2]; MOST_LOCALS] = [
    [names!("L1_"), names!("anchor_L1_")],
    [names!("L2_"), names!("anchor_L2_")],
    [names!("L3_"), names!("anchor_L3_")],
    [names!("L4_"), names!("anchor_L4_")],
];
const SHARED_START: Names = names!("P_");
const STARTS: [Names; MOST_LOCALS] = [names!("P1_"), names!("P2_"), names!("P3_"), names!("P4_")];
const GRAMS: [&str; MOST_LOCALS] = ["gram1", "gram2", "gram3", "gram4"];

/// Where everything lies in the flat state.
pub(crate) struct Places {
    pub global: Range<usize>,
    /// Start and memory of every local; a shared start is the same range.
    pub locals: Vec<(Range<usize>, Range<usize>)>,
    /// What queries are projected by: none, one for all locals, or one each.
    pub grams: Vec<Range<usize>>,
}

impl Places {
    /// Index of the projection of local `i`.
    fn gram(&self, i: usize) -> usize {
        if self.grams.len() == 1 { 0 } else { i }
    }
}

impl Tnt {
    fn memory(&self, chunk: usize, read: ReadAt) -> Miras {
        let mut memory = Miras::default();
        memory.structure = self.structure.clone();
        memory.bias = self.bias.clone();
        if !self.retain {
            memory.retention = retention::None::default().into();
        }
        (memory.chunk, memory.read, memory.rate_scale) = (chunk, read, self.rate_scale);
        memory
    }

    /// The global memory, then the local ones.
    pub(crate) fn memories(&self) -> Vec<Miras> {
        let locals = self.locals.iter().map(|&chunk| self.memory(chunk, ReadAt::Post));
        [self.memory(self.global_chunk, ReadAt::Start)].into_iter().chain(locals).collect()
    }

    pub(crate) fn places(&self, d: Dims) -> Places {
        let mut end = 0;
        let mut place = |n: usize| {
            end += n;
            end - n..end
        };
        let len = |m: &Miras| m.state(d).iter().map(StateTensor::len).sum::<usize>();
        let weights: usize = self.memory(1, ReadAt::Post).state(d).iter().map(StateTensor::len).sum();
        let global = place(len(&self.memory(self.global_chunk, ReadAt::Start)));
        let mut locals: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        for &chunk in &self.locals {
            let start = match locals.first() {
                Some((start, _)) if self.shared_start => start.clone(),
                _ => place(weights),
            };
            locals.push((start, place(len(&self.memory(chunk, ReadAt::Post)))));
        }
        let grams = (0..self.projection.count(self.locals.len())).map(|_| place(d.dk * d.dk)).collect();
        Places { global, locals, grams }
    }

    /// For memory `n` (0 is the global one): the places of its inputs among those of a token.
    pub(crate) fn slots(&self, n: usize) -> Vec<usize> {
        let all = self.inputs();
        let of = |input: &Input| {
            let name = if input.name == "rate" && !self.shared_rate { RATES[n] } else { input.name };
            all.iter().position(|x| x.name == name).expect("every input of a memory is listed")
        };
        self.memory(1, ReadAt::Post).inputs().iter().map(of).collect()
    }

    /// The names of a memory's tensors that lie one after the other, what they are for, and what each starts with.
    fn tensors(
        &self,
        d: Dims,
        list: &mut Vec<StateTensor>,
        (names, holds): (&Names, Holds),
        start: impl Fn(usize, &StateTensor) -> Start,
    ) {
        let tensors = self.memory(1, ReadAt::Post).state(d);
        let alone = tensors.len() == 1;
        for (i, tensor) in tensors.into_iter().enumerate() {
            let (name, start) = (names[if alone { 0 } else { i + 1 }].into(), start(i, &tensor));
            list.push(StateTensor { name, start, holds, ..tensor });
        }
    }

    /// True at the first token of a shard.
    pub(crate) fn resets(&self, pos: u64) -> bool {
        pos.is_multiple_of(self.shard.max(1) as u64)
    }

    /// True where projection `i` starts afresh.
    pub(crate) fn forgets(&self, i: usize, pos: u64) -> bool {
        let every = if self.projection == Projection::Chunk { self.locals[i] } else { self.shard };
        pos.is_multiple_of(every.max(1) as u64)
    }
}

/// A start that is learned: a shard begins with it for ever.
fn learned(tensor: &StateTensor) -> Start {
    match tensor.start {
        Start::Zero => Start::Learned { deviation: (tensor.shape[tensor.shape.len() - 1] as f64).powf(-0.5) },
        start => start,
    }
}

/// The inputs of one memory, with its own query.
fn inputs_of<'a, F>(x: &[&'a [F]], slots: &[usize], q: &'a [F]) -> Vec<&'a [F]> {
    slots.iter().enumerate().map(|(i, &slot)| if i == QUERY { q } else { x[slot] }).collect()
}

/// Runs `f` on gradients of one memory's inputs and adds them to the token's; gives the gradient of its query.
fn with_gradients<F: Scalar>(
    x: &[&[F]],
    slots: &[usize],
    dx: &mut [&mut [F]],
    f: impl FnOnce(&mut [&mut [F]]),
) -> Vec<F> {
    let mut own: Vec<Vec<F>> = slots.iter().map(|&slot| vec![F::zero(); x[slot].len()]).collect();
    let mut refs: Vec<&mut [F]> = own.iter_mut().map(|x| &mut x[..]).collect();
    f(&mut refs);
    for (i, (&slot, d)) in slots.iter().zip(&own).enumerate() {
        if i != QUERY {
            add_scaled(dx[slot], F::one(), d);
        }
    }
    own.swap_remove(QUERY)
}

/// Index of the query among the inputs.
pub(crate) const QUERY: usize = 2;

impl MemoryRule for Tnt {
    const NAME: &'static str = "tnt";
    const KERNELS: &'static [Kernel<Self>] = crate::kernels::tnt::KERNELS;

    fn unbounded(&self) -> Option<&'static str> {
        self.memories().iter().find_map(Miras::unbounded)
    }

    fn positional(&self) -> bool {
        true
    }
    fn brief(&self) -> Self {
        let mut brief = self.clone();
        brief.global_chunk = brief.global_chunk.min(BRIEF_TOKENS);
        if brief.shard > BRIEF_TOKENS {
            brief.shard = BRIEF_TOKENS;
            // Chunks go into shards.
            brief.locals.iter_mut().for_each(|c| *c = common_divisor(*c, BRIEF_TOKENS));
        }
        brief
    }

    fn about(&self) -> About {
        About {
            equation: "V' = V - rate G(V_c); Lᵢ' = Lᵢ - rateᵢ G(L_c), Lᵢ = Pᵢ at shards; y = M(V_c, q) + Σᵢ M(Lᵢ', P q)",
            source: "[TNT v1 eq.7]",
            structure: match self.structure.name() {
                "matrix" => "matrices: 1 global, locals",
                "mlp" => "mlps: 1 global, locals",
                "gated_mlp" => "gated mlps: 1 global, locals",
                _ => "memories: 1 global, locals",
            },
            features: "none",
            bias: self.bias.name(),
            retention: if self.retain { "l2" } else { "none" },
            algorithm: "gd",
            chunk: ChunkForm::Frozen,
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let mut list = Vec::new();
        let memories: Vec<Vec<Input>> = self.memories().iter().map(Miras::inputs).collect();
        for (i, input) in memories[0].iter().enumerate() {
            if input.name != "rate" || self.shared_rate {
                // The range of a shared rate is that of the longest chunk.
                list.push(memories.iter().map(|m| m[i]).min_by(narrower).unwrap_or(*input));
                continue;
            }
            for (n, (memory, name)) in memories.iter().zip(RATES).enumerate() {
                let whose = ["inner step size of the global memory", "inner step size of a local memory"];
                list.push(Input { name, about: whose[n.min(1)], ..memory[i] });
            }
        }
        list
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        let mut list = Vec::new();
        self.tensors(d, &mut list, (&GLOBAL[0], Holds::Memory), |_, t| learned(t));
        if self.global_chunk > 1 {
            self.tensors(d, &mut list, (&GLOBAL[1], Holds::Past), |i, _| Start::Same(i));
        }
        let mut first = list.len();
        for (n, &chunk) in self.locals.iter().enumerate() {
            if n == 0 || !self.shared_start {
                first = list.len();
                let names = if self.shared_start { &SHARED_START } else { &STARTS[n] };
                self.tensors(d, &mut list, (names, Holds::Past), |_, t| learned(t));
            }
            self.tensors(d, &mut list, (&LOCAL[n][0], Holds::Memory), |i, _| Start::Same(first + i));
            if chunk > 1 {
                self.tensors(d, &mut list, (&LOCAL[n][1], Holds::Past), |i, _| Start::Same(first + i));
            }
        }
        let grams = self.projection.count(self.locals.len());
        let names = if grams == 1 { ["gram"; MOST_LOCALS] } else { GRAMS };
        list.extend(names.into_iter().take(grams).map(|name| StateTensor::matrix(name, d.dk, d.dk).of_the_past()));
        list
    }

    /// Those of every memory, and 4 or 6 per entry of what queries are projected by.
    fn flops(&self, d: Dims) -> f64 {
        let entries = (self.projection.count(self.locals.len()) * d.dk * d.dk) as f64;
        self.memories().iter().map(|m| m.flops(d)).sum::<f64>() + self.projection.flops() * entries
    }

    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: "rule `tnt`".into(), reason });
        if !(1..=MOST_LOCALS).contains(&self.locals.len()) {
            return refuse(format!("{} local memories: from 1 to {MOST_LOCALS}", self.locals.len()));
        }
        if !(2..=MOST_TOKENS).contains(&self.global_chunk) {
            return refuse(format!(
                "global_chunk = {}: the global memory is read at the start of its chunk, so chunks have 2 to \
                 {MOST_TOKENS} tokens",
                self.global_chunk
            ));
        }
        if !(2..=MOST_TOKENS).contains(&self.shard) {
            return refuse(format!("shard = {}: from 2 to {MOST_TOKENS}, or nothing is carried on", self.shard));
        }
        if self.projection == Projection::Shard && d.dk < 2 {
            return refuse("keys of a single value have one direction: projection = \"none\"".into());
        }
        if let Some(chunk) = self.locals.iter().find(|&&c| c == 0 || !self.shard.is_multiple_of(c)) {
            return refuse(format!("a local chunk of {chunk} does not go into a shard of {}", self.shard));
        }
        for memory in self.memories() {
            match memory.check(d) {
                Err(Error::Invalid { reason, .. }) => return refuse(reason),
                other => other?,
            }
        }
        Ok(())
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        let at = self.places(d);
        for (i, gram) in at.grams.iter().enumerate() {
            let gram = &mut state[gram.clone()];
            if self.forgets(i, pos) {
                gram.fill(F::zero());
            }
            self.projection.see(gram, x[0]);
        }
        if self.resets(pos) {
            at.locals.iter().for_each(|(start, own)| state.copy_within(start.clone(), own.start));
        }
        let memories = self.memories();
        let ranges = [&at.global].into_iter().chain(at.locals.iter().map(|(_, own)| own));
        for (n, (memory, range)) in memories.iter().zip(ranges).enumerate() {
            memory.write(d, pos, &inputs_of(x, &self.slots(n), x[QUERY]), &mut state[range.clone()]);
        }
    }

    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let at = self.places(d);
        let mut before = prev.to_vec();
        if self.resets(pos) {
            at.locals.iter().for_each(|(start, own)| before.copy_within(start.clone(), own.start));
        }
        let memories = self.memories();
        let ranges = [&at.global].into_iter().chain(at.locals.iter().map(|(_, own)| own));
        for (n, (memory, range)) in memories.iter().zip(ranges).enumerate() {
            let slots = self.slots(n);
            let own = inputs_of(x, &slots, x[QUERY]);
            let dquery = with_gradients(x, &slots, dx, |dx| {
                memory.write_backward(d, pos, &own, &before[range.clone()], dx, &mut dstate[range.clone()]);
            });
            add_scaled(dx[QUERY], F::one(), &dquery);
        }
        if self.resets(pos) {
            for (start, own) in &at.locals {
                for (i, start) in start.clone().enumerate() {
                    let back = std::mem::take(&mut dstate[own.start + i]);
                    dstate[start] += back;
                }
            }
        }
        for (i, gram) in at.grams.iter().enumerate() {
            let fresh = self.forgets(i, pos);
            let zeros = vec![F::zero(); gram.len()];
            let before = if fresh { &zeros } else { &prev[gram.clone()] };
            let dgram = &mut dstate[gram.clone()];
            self.projection.see_backward(before, x[0], dgram, dx[0]);
            if fresh {
                dgram.fill(F::zero());
            }
        }
    }

    fn read<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        let at = self.places(d);
        let memories = self.memories();
        memories[0].read(d, pos, &inputs_of(x, &self.slots(0), x[QUERY]), &state[at.global.clone()], y);
        let mut part = vec![F::zero(); y.len()];
        for (i, (_, own)) in at.locals.iter().enumerate() {
            let gram = at.grams.get(at.gram(i)).map(|g| &state[g.clone()]);
            let q = self.projection.project(gram, x[QUERY]);
            memories[i + 1].read(d, pos, &inputs_of(x, &self.slots(i + 1), &q), &state[own.clone()], &mut part);
            add_scaled(y, F::one(), &part);
        }
    }

    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let at = self.places(d);
        let memories = self.memories();
        let back = |n: usize, range: &Range<usize>, q: &[F], dx: &mut [&mut [F]], dstate: &mut [F]| {
            let slots = self.slots(n);
            let own = inputs_of(x, &slots, q);
            with_gradients(x, &slots, dx, |dx| {
                memories[n].read_backward(d, pos, &own, &state[range.clone()], dy, dx, &mut dstate[range.clone()]);
            })
        };
        let dq = back(0, &at.global, x[QUERY], dx, dstate);
        add_scaled(dx[QUERY], F::one(), &dq);
        for (i, (_, own)) in at.locals.iter().enumerate() {
            let range = at.grams.get(at.gram(i));
            let gram = range.map(|g| &state[g.clone()]);
            let q = self.projection.project(gram, x[QUERY]);
            let dq = back(i + 1, own, &q, dx, dstate);
            let dgram = range.map(|g| &mut dstate[g.clone()]);
            self.projection.project_backward(gram, x[QUERY], &dq, dgram, dx[QUERY]);
        }
    }
}

/// Orders inputs by the upper end of their range.
fn narrower(a: &Input, b: &Input) -> std::cmp::Ordering {
    let max = |input: &Input| match input.activation {
        crate::rule::Activation::Sigmoid { max, .. } => max,
        _ => 0.0,
    };
    max(a).total_cmp(&max(b))
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::start_state;

    fn noise() -> impl FnMut() -> f64 {
        let mut seed = 0.5_f64;
        move || {
            seed = (seed * 78.233 + 0.37).sin();
            1.7 * seed
        }
    }

    /// Reads of a stream whose first `differs` tokens are of another kind.
    fn reads(rule: &Tnt, d: Dims, tokens: usize, differs: usize, gates: &[f64]) -> Vec<Vec<f64>> {
        let mut state = start_state(&rule.state(d), &mut noise());
        let token = |t: usize| {
            let phase = if t < differs { 5.0 } else { 0.0 };
            [0, 1, 2].map(|i| (0..d.dk).map(|j| (phase + (t * 7 + i * 3 + j * 5) as f64).sin()).collect::<Vec<f64>>())
        };
        let mut out = Vec::new();
        for t in 0..tokens {
            let [k, v, q] = token(t);
            let rates: Vec<Vec<f64>> = gates.iter().map(|&g| vec![g]).collect();
            let x: Vec<&[f64]> = [&k[..], &v, &q].into_iter().chain(rates.iter().map(|r| &r[..])).collect();
            let mut y = vec![0.0; d.dv];
            rule.step(d, t as u64, &x, &mut state, &mut y);
            out.push(y);
        }
        out
    }

    #[test]
    fn local_memories_know_nothing_of_earlier_shards_and_the_global_memory_does() {
        let (d, rule) = (Dims::new(4, 4), Tnt { locals: vec![4, 2], ..Tnt::default().brief() });
        let without = |gates: &[f64]| (reads(&rule, d, 40, 0, gates), reads(&rule, d, 40, 16, gates));
        let (a, b) = without(&[0.0, 0.1, 0.1]);
        assert_ne!(a[..16], b[..16]);
        assert_eq!(a[16..], b[16..], "with a global rate of zero shards are independent");
        let (a, b) = without(&[0.1, 0.1, 0.1]);
        assert_ne!(a[16..], b[16..], "the global memory carries over");
    }

    #[test]
    fn impossible_chunks_and_counts_are_refused_with_the_reason() {
        let d = Dims::new(4, 4);
        let refused = |rule: Tnt, word: &str| {
            let error = rule.check(d).unwrap_err().to_string();
            assert!(error.contains("tnt") && error.contains(word), "{error}");
        };
        assert!(Tnt::default().check(d).is_ok());
        refused(Tnt { locals: vec![], ..Tnt::default() }, "local");
        refused(Tnt { locals: vec![1; 5], ..Tnt::default() }, "local");
        refused(Tnt { locals: vec![24], ..Tnt::default() }, "24");
        refused(Tnt { global_chunk: 1, ..Tnt::default() }, "global_chunk");
        refused(Tnt { shard: 1, locals: vec![1], ..Tnt::default() }, "shard");
        assert!(Tnt::default().check(Dims::new(4, 5)).is_err(), "the residual adds keys to values");
    }
}
