//! Names and places of everything that a state holds.

use crate::buffer::place;
use hecate_core::StateTensor;
use serde::Serialize;
use std::ops::Range;

/// One part of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// Name, or the prefix of the names where a memory holds several tensors.
    pub name: String,
    /// What it holds.
    pub content: Content,
    /// Place in the flat buffer.
    pub range: Range<usize>,
    /// Running the same tokens again from a later state makes it what it was: attention writes keys to their places.
    again: bool,
}

/// What a part of a state holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// One tensor of this shape.
    Tensor(Vec<usize>),
    /// A memory of so many heads: head by head, each with these tensors one after the other.
    Memory {
        /// Number of heads.
        heads: usize,
        /// Tensors of one head.
        tensors: Vec<StateTensor>,
    },
    /// One whole number, from 0 to this.
    Count(u64),
}

/// All parts of a state, in the order of the flat buffer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateLayout {
    /// The parts.
    pub specs: Vec<StateSpec>,
    /// Length of the flat buffer, gaps between parts included.
    pub len: usize,
    /// The weights that a sequence changes, in a buffer of their own.
    pub fast: Vec<StateSpec>,
    /// Its length.
    pub fast_len: usize,
    /// The levels that change less often than at every token.
    pub levels: Vec<LevelSchedule>,
}

/// When a level of a memory or of a continuum memory changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LevelSchedule {
    /// Block, from 0.
    pub block: usize,
    /// Level of its memory, from 0.
    pub level: usize,
    /// Tokens from one change to the next.
    pub period: u64,
}

impl StateLayout {
    /// Appends a part and gives its place.
    pub(crate) fn add(&mut self, name: String, content: Content) -> Range<usize> {
        self.push(name, content, false)
    }

    /// Appends a part of which running the same tokens again makes what it was.
    pub(crate) fn add_again(&mut self, name: String, content: Content) -> Range<usize> {
        self.push(name, content, true)
    }

    fn push(&mut self, name: String, content: Content, again: bool) -> Range<usize> {
        let n = match &content {
            Content::Tensor(shape) => shape.iter().product(),
            Content::Memory { heads, tensors } => heads * tensors.iter().map(StateTensor::len).sum::<usize>(),
            Content::Count(_) => 1,
        };
        let range = place(self.len, n);
        self.len = range.end;
        self.specs.push(StateSpec { name, content, range: range.clone(), again });
        range
    }

    /// Appends a tensor that belongs to weights which the sequence changes, and gives its place in their buffer.
    pub(crate) fn add_fast(&mut self, name: String, shape: Vec<usize>) -> Range<usize> {
        let n = shape.iter().product();
        self.push_fast(name, Content::Tensor(shape), n)
    }

    /// Appends a whole number of at most `most` to that buffer, and gives its place.
    pub(crate) fn add_count(&mut self, name: String, most: u64) -> usize {
        self.push_fast(name, Content::Count(most), 1).start
    }

    fn push_fast(&mut self, name: String, content: Content, n: usize) -> Range<usize> {
        let range = place(self.fast_len, n);
        self.fast_len = range.end;
        self.fast.push(StateSpec { name, content, range: range.clone(), again: false });
        range
    }

    /// Values of a state: memories, added weights, and what it keeps of the tokens that wait.
    pub fn values(&self) -> usize {
        self.len + self.fast_len + super::open::len(self)
    }

    /// The parts that have to be kept for running tokens again.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &StateSpec> {
        self.specs.iter().filter(|spec| !spec.again)
    }

    /// Every tensor by its name in files: shape, and the runs of the flat buffer that it is made of.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        self.specs.iter().flat_map(StateSpec::tensors).collect()
    }

    /// The same of the weights that the sequence changes, in their buffer.
    pub fn fast_tensors(&self) -> Vec<NamedTensor> {
        self.fast.iter().flat_map(StateSpec::tensors).collect()
    }
}

impl StateSpec {
    /// What a count must be and is not, in a buffer of such parts.
    pub(super) fn miscounts(&self, values: &[f32]) -> Option<String> {
        let Content::Count(most) = self.content else { return None };
        let value = f64::from(values[self.range.start]);
        let counts = value >= 0.0 && value.fract() == 0.0 && value <= most as f64;
        (!counts).then(|| format!("`{}` is {value}, and must be a whole number between 0 and {most}", self.name))
    }

    /// The tensors that files show of it.
    pub(super) fn tensors(&self) -> Vec<NamedTensor> {
        let one = |shape| vec![NamedTensor { name: self.name.clone(), shape, runs: vec![self.range.clone()] }];
        let (heads, tensors) = match &self.content {
            Content::Tensor(shape) => return one(shape.clone()),
            Content::Count(_) => return one(vec![1]),
            Content::Memory { heads, tensors } => (*heads, tensors),
        };
        let stride: usize = tensors.iter().map(StateTensor::len).sum();
        let mut at = self.range.start;
        let mut named = |t: &StateTensor| {
            let run = |h: usize| at + h * stride..at + h * stride + t.len();
            let (name, shape) = (format!("{}.{}", self.name, t.name), [&[heads], t.shape.as_slice()].concat());
            let runs = (0..heads).map(run).collect();
            at += t.len();
            NamedTensor { name, shape, runs }
        };
        tensors.iter().map(&mut named).collect()
    }
}

/// One tensor of a state as files show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTensor {
    /// Name.
    pub name: String,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Runs of the flat buffer, in order.
    pub runs: Vec<Range<usize>>,
}
