//! The learned state of one sequence: an object of its own, apart from the weights.
//!
//! Memory states, convolution tails, attention windows and the position lie in one flat buffer with names. Copying
//! it is a fork; comparing it is a diff; its bytes are a file.

use crate::buffer::{Buffer, place};
use crate::error::{Error, Result};
use crate::tensorfile::{Data, Encoding, Tensor};
use crate::weights;
use hecate_core::{Scalar, StateTensor};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Version of the state file.
pub const FORMAT: u32 = 1;

const WHAT: &str = "state file";

/// One part of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// Name, or the prefix of the names where a memory holds several tensors.
    pub name: String,
    /// What it holds.
    pub content: Content,
    /// Place in the flat buffer.
    pub range: Range<usize>,
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
}

/// All parts of a state, in the order of the flat buffer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateLayout {
    /// The parts.
    pub specs: Vec<StateSpec>,
    /// Length of the flat buffer, gaps between parts included.
    pub len: usize,
    /// The levels that change less often than at every token.
    pub levels: Vec<LevelSchedule>,
}

/// When a level of a memory changes.
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
        let n = match &content {
            Content::Tensor(shape) => shape.iter().product(),
            Content::Memory { heads, tensors } => heads * tensors.iter().map(StateTensor::len).sum::<usize>(),
        };
        let range = place(self.len, n);
        self.len = range.end;
        self.specs.push(StateSpec { name, content, range: range.clone() });
        range
    }

    /// Every tensor by its name in files: shape, and the runs of the flat buffer that it is made of.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        let mut out = Vec::new();
        for spec in &self.specs {
            match &spec.content {
                Content::Tensor(shape) => {
                    out.push(NamedTensor {
                        name: spec.name.clone(),
                        shape: shape.clone(),
                        runs: vec![spec.range.clone()],
                    });
                }
                Content::Memory { heads, tensors } => {
                    let stride: usize = tensors.iter().map(StateTensor::len).sum();
                    let mut at = spec.range.start;
                    for t in tensors {
                        let run = |h: usize| at + h * stride..at + h * stride + t.len();
                        out.push(NamedTensor {
                            name: format!("{}.{}", spec.name, t.name),
                            shape: [&[*heads], t.shape.as_slice()].concat(),
                            runs: (0..*heads).map(run).collect(),
                        });
                        at += t.len();
                    }
                }
            }
        }
        out
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

/// What a state file says about where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// sha256 of the base model's weights.
    pub base: String,
    /// sha256 of the base model's config.
    pub config: String,
    /// Instruction set on which it was written: bits are promised to continue on that one.
    pub isa: String,
}

/// The learned state of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct State<F> {
    layout: Arc<StateLayout>,
    /// Values, laid out by [`StateLayout`].
    pub data: Buffer<F>,
    /// Tokens taken since the start or the last reset.
    pub position: u64,
    /// A token that was drawn and has not been read yet: the next call reads it first.
    pub pending: Option<u32>,
}

impl<F: Scalar> State<F> {
    /// The state before the first token: zeros. What a memory starts from is part of the weights, and the call that
    /// takes the first token puts it in.
    pub fn new(layout: Arc<StateLayout>) -> Self {
        let data = Buffer::zeros(layout.len);
        Self { layout, data, position: 0, pending: None }
    }

    /// Back to the state before the first token.
    pub fn reset(&mut self) {
        self.data.fill(F::zero());
        self.position = 0;
        self.pending = None;
    }

    /// Its layout.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// The first part that holds a value that is infinite or not a number.
    pub fn first_non_finite(&self) -> Option<&StateSpec> {
        self.layout.specs.iter().find(|s| !self.data[s.range.clone()].iter().all(|x| x.is_finite()))
    }
}

impl State<f32> {
    /// sha256 over position and values: equal exactly when the states are equal bit for bit.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.position.to_le_bytes());
        hasher.update(self.pending.map_or(u64::MAX, u64::from).to_le_bytes());
        for x in self.data.iter() {
            hasher.update(x.to_le_bytes());
        }
        hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// One safetensors file: every tensor by name, lineage and position in the header.
    ///
    /// # Errors
    /// [`Error::Format`] if the library refuses, which names the tensor.
    pub fn encode(&self, lineage: &Lineage) -> Result<Encoding<'_>> {
        let tensor = |t: NamedTensor| {
            let runs = t.runs.into_iter().map(|run| &self.data[run]).collect();
            Tensor { name: t.name, shape: t.shape, data: Data::F32(runs) }
        };
        let tensors = self.layout.tensors().into_iter().map(tensor).collect();
        let header = BTreeMap::from([
            ("format".to_string(), format!("hecate-state {FORMAT}")),
            ("base_sha256".to_string(), lineage.base.clone()),
            ("config_sha256".to_string(), lineage.config.clone()),
            ("isa".to_string(), lineage.isa.clone()),
            ("tokens".to_string(), self.position.to_string()),
            ("levels".to_string(), serde_json::to_string(&self.layout.levels).expect("plain numbers")),
            ("pending".to_string(), self.pending.map_or("none".to_string(), |t| t.to_string())),
        ]);
        Encoding::new(WHAT, tensors, &header)
    }

    /// [`State::encode`] as bytes.
    ///
    /// # Errors
    /// As there.
    pub fn to_bytes(&self, lineage: &Lineage) -> Result<Vec<u8>> {
        Ok(self.encode(lineage)?.to_vec())
    }

    /// Reads [`State::to_bytes`] back onto the model that it belongs to.
    ///
    /// # Errors
    /// [`Error::Base`] if it belongs to other weights or another config, [`Error::Format`] if it is no state file,
    /// of another version, or does not hold exactly this model's tensors.
    pub fn from_bytes(layout: Arc<StateLayout>, lineage: &Lineage, bytes: Vec<u8>) -> Result<Self> {
        let bad = |reason: String| Error::Format { what: WHAT.to_string(), reason };
        let file = weights::open(bytes, WHAT, &format!("hecate-state {FORMAT}"))?;
        let field = |key: &'static str| {
            let value = file.metadata().get(key).cloned();
            value.ok_or_else(|| bad(format!("the header has no `{key}`: not written by hecate")))
        };
        for (key, expected) in [("base_sha256", &lineage.base), ("config_sha256", &lineage.config)] {
            let got = field(key)?;
            if &got != expected {
                return Err(Error::Base { what: WHAT, field: key, expected: expected.clone(), got });
            }
        }
        let position = field("tokens")?.parse().map_err(|_| bad("`tokens` is not a number".into()))?;
        let pending = match field("pending")?.as_str() {
            "none" => None,
            token => Some(token.parse().map_err(|_| bad("`pending` is not a token".into()))?),
        };
        let mut state = Self::new(layout);
        let list = state.layout.tensors();
        if file.entries().len() != list.len() {
            let count = file.entries().len();
            return Err(bad(format!("it holds {count} tensors, this model's state has {}", list.len())));
        }
        for t in &list {
            let mut values = file.f32(&t.name, &t.shape)?.into_iter();
            for run in &t.runs {
                state.data[run.clone()].fill_with(|| values.next().expect("the shape was checked"));
            }
        }
        (state.position, state.pending) = (position, pending);
        if let Some(part) = state.first_non_finite() {
            return Err(bad(format!("`{}` holds a value that is not finite", part.name)));
        }
        Ok(state)
    }
}
