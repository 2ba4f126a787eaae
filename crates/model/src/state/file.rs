//! A state as a file.

use super::open::places;
use super::{Lineage, NamedTensor, State, StateLayout};
use crate::access::Access;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::slices::SLICE_TOKENS;
use crate::tensorfile::{Data, Encoding, Tensor};
use crate::weights;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the state file.
pub const FORMAT: u32 = 1;

/// Tokens of a state at most: those that a double counts, and more than any that was read.
const MOST_TOKENS: u64 = 1 << 53;

const WHAT: &str = "state file";

impl State<f32> {
    /// One safetensors file: every tensor by name, lineage and position in the header.
    ///
    /// # Errors
    /// [`Error::Format`] if the library refuses, which names the tensor.
    pub fn encode(&self, lineage: &Lineage) -> Result<Encoding<'_>> {
        let mut tensors = Vec::new();
        for (list, values) in self.buffers(!self.open.tokens.is_empty()) {
            tensors.extend(list.into_iter().map(|t| {
                let runs = t.runs.into_iter().map(|run| &values[run]).collect();
                Tensor { name: t.name, shape: t.shape, data: Data::F32(runs) }
            }));
        }
        let mut header = BTreeMap::from([
            ("format".to_string(), format!("hecate-state {FORMAT}")),
            ("base_sha256".to_string(), lineage.base.clone()),
            ("config_sha256".to_string(), lineage.config.clone()),
            ("isa".to_string(), lineage.isa.clone()),
            ("tokens".to_string(), self.position.to_string()),
            ("levels".to_string(), serde_json::to_string(&self.layout.levels).expect("plain numbers")),
            ("pending".to_string(), self.pending.map_or("none".to_string(), |t| t.to_string())),
        ]);
        if !self.open.tokens.is_empty() {
            let open = OpenHeader { tokens: self.open.tokens.clone(), access: self.open.access.clone() };
            header.insert("open".to_string(), serde_json::to_string(&open).expect("plain data"));
        }
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
        let position: u64 = field("tokens")?.parse().map_err(|_| bad("`tokens` is not a number".into()))?;
        if position > MOST_TOKENS {
            return Err(bad(format!("`tokens` is {position}, and at most {MOST_TOKENS} are counted")));
        }
        let pending = match field("pending")?.as_str() {
            "none" => None,
            token => Some(token.parse().map_err(|_| bad("`pending` is not a token".into()))?),
        };
        let mut state = Self::new(layout);
        (state.position, state.pending) = (position, pending);
        if let Some(open) = file.metadata().get("open") {
            state.open_from(open).map_err(bad)?;
        }
        let lists = state.buffers(!state.open.tokens.is_empty()).map(|(list, _)| list);
        let count: usize = lists.iter().map(Vec::len).sum();
        if file.entries().len() != count {
            let found = file.entries().len();
            return Err(bad(format!("it holds {found} tensors, this model's state has {count}")));
        }
        let State { data, fast, open, .. } = &mut state;
        for (list, into) in lists.iter().zip([data, fast, &mut open.start]) {
            for t in list {
                let mut values = file.f32(&t.name, &t.shape)?.into_iter();
                for run in &t.runs {
                    into[run.clone()].fill_with(|| values.next().expect("the shape was checked"));
                }
            }
        }
        if let Some(part) = state.first_non_finite() {
            return Err(bad(format!("`{}` holds a value that is not finite", part.name)));
        }
        if let Some(reason) = state.layout.fast.iter().find_map(|spec| spec.miscounts(&state.fast)) {
            return Err(bad(reason));
        }
        if !state.open.tokens.is_empty() && !state.open.start.iter().all(|x| x.is_finite()) {
            return Err(bad("what it was before its open tokens holds a value that is not finite".into()));
        }
        Ok(state)
    }

    /// Every buffer with the tensors that files show of it; the last is empty without tokens that wait.
    fn buffers(&self, open: bool) -> [(Vec<NamedTensor>, &Buffer<f32>); 3] {
        let kept = if open { open_tensors(&self.layout) } else { Vec::new() };
        let (layout, open) = (&self.layout, &self.open);
        [(layout.tensors(), &self.data), (layout.fast_tensors(), &self.fast), (kept, &open.start)]
    }

    /// Takes over what a header says of the tokens that wait.
    fn open_from(&mut self, header: &str) -> std::result::Result<(), String> {
        let open: OpenHeader = serde_json::from_str(header).map_err(|e| format!("`open` cannot be read: {e}"))?;
        if self.layout.fast.is_empty() {
            return Err("`open` belongs to a model with continuum memories, which this is not".into());
        }
        let count = open.tokens.len();
        if count == 0 || count > SLICE_TOKENS || count as u64 > self.position {
            return Err(format!("`open` has {count} tokens, between 1 and {SLICE_TOKENS} of those taken may wait"));
        }
        (self.open.tokens, self.open.access) = (open.tokens, open.access);
        Ok(())
    }
}

/// What a header says of the tokens that wait.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenHeader {
    tokens: Vec<u32>,
    access: Access,
}

/// The tensors of [`Open::start`](super::Open).
fn open_tensors(layout: &StateLayout) -> Vec<NamedTensor> {
    let mut out = Vec::new();
    for (spec, (from, to)) in layout.kept().zip(places(layout)) {
        for mut t in spec.tensors() {
            t.name = format!("open.{}", t.name);
            let there = |run: &mut std::ops::Range<usize>| {
                *run = run.start - from.start + to.start..run.end - from.start + to.start;
            };
            t.runs.iter_mut().for_each(there);
            out.push(t);
        }
    }
    out
}
