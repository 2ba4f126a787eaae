//! Which memories there are, where they lie in the state, and the ranges of their gates.

use super::memory::Net;
use super::{Precond, SelfModifying};
use crate::rule::{Dims, Start, StateTensor};
use crate::rules::miras::RateScale;
use crate::rules::miras::structure::{AnyStructure, Mlp};
use crate::rules::tnt::{Names, names};
use std::ops::Range;

/// What a memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Key,
    Value,
    Query,
    Rate,
    Retain,
    Memory,
}

impl Role {
    /// True if it answers with one number.
    pub(crate) fn is_gate(self) -> bool {
        matches!(self, Role::Rate | Role::Retain)
    }

    /// Names of its tensors: weights, momentum, anchor.
    fn names(self) -> [Names; 3] {
        match self {
            Role::Key => [names!("k_"), names!("S_k_"), names!("anchor_k_")],
            Role::Value => [names!("v_"), names!("S_v_"), names!("anchor_v_")],
            Role::Query => [names!("q_"), names!("S_q_"), names!("anchor_q_")],
            Role::Rate => [names!("rate_"), names!("S_rate_"), names!("anchor_rate_")],
            Role::Retain => [names!("retain_"), names!("S_retain_"), names!("anchor_retain_")],
            Role::Memory => [names!("mem_"), names!("S_mem_"), names!("anchor_mem_")],
        }
    }
}

/// One memory: where it lies, and what its gates range over.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub role: Role,
    /// Tokens of a chunk.
    pub chunk: u64,
    /// The weights.
    pub own: Range<usize>,
    /// Their momentum; empty without one.
    pub momentum: Range<usize>,
    /// Where gradients are taken: the weights themselves without chunks.
    pub anchor: Range<usize>,
    /// The most that its step size may be, and the least that it may keep.
    pub most: f64,
    pub least: f64,
}

impl Place {
    /// True if the token at `pos` is the last one of a chunk that ends with a new anchor.
    pub(crate) fn settles(&self, pos: u64) -> bool {
        self.chunk > 1 && (pos + 1).is_multiple_of(self.chunk)
    }
}

/// The shape of one rule at one size.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    pub rule: &'a SelfModifying,
    /// Memories that answer with a vector, and those that answer with a number.
    wide: Net,
    gate: Net,
    pub memories: Vec<Place>,
    /// Number of values in the state.
    pub len: usize,
}

/// The least of its memory that a normalised memory keeps over a chunk, as in `miras`.
const LEAST_KEPT: f64 = 1.0 / 16.0;

impl<'a> Plan<'a> {
    pub(crate) fn new(rule: &'a SelfModifying, d: Dims) -> Self {
        let wide = Net::new(rule.structure.clone(), rule.bias.clone(), d);
        let gate = Net::new(gate_structure(&rule.structure, d), rule.bias.clone(), Dims::new(d.dk, 1));
        let mut plan = Self { rule, wide, gate, memories: Vec::new(), len: 0 };
        let query = rule.adaptive_q.then_some(Role::Query);
        let roles = [Role::Key, Role::Value].into_iter().chain(query);
        for role in roles.chain([Role::Rate, Role::Retain, Role::Memory]) {
            let chunk = if role == Role::Memory { rule.chunk_memory } else { rule.chunk };
            let n = if role.is_gate() { plan.gate.len() } else { plan.wide.len() };
            let mut place = |n: usize| {
                plan.len += n;
                plan.len - n..plan.len
            };
            let own = place(n);
            let momentum = place(if rule.momentum == super::Momentum::None { 0 } else { n });
            let anchor = if chunk > 1 { place(n) } else { own.clone() };
            let (most, least) = ranges(rule, chunk);
            plan.memories.push(Place { role, chunk: chunk as u64, own, momentum, anchor, most, least });
        }
        plan
    }

    /// What a memory is made of.
    pub(crate) fn net(&self, m: &Place) -> &Net {
        if m.role.is_gate() { &self.gate } else { &self.wide }
    }

    /// For tensor `i` of `n`, from the output: whether it erases.
    pub(crate) fn erases(&self, i: usize, n: usize) -> bool {
        match self.rule.precond {
            Precond::PerLayer => true,
            Precond::FirstOnly => i + 1 == n,
            Precond::None => false,
        }
    }

    /// The memory of that role, which there must be.
    pub(super) fn memory(&self, role: Role) -> &Place {
        self.memories.iter().find(|m| m.role == role).expect("every role that is asked for has a memory")
    }

    /// The state's tensors, in order.
    pub(super) fn state(&self) -> Vec<StateTensor> {
        let mut list: Vec<StateTensor> = Vec::new();
        for m in &self.memories {
            let (net, first) = (self.net(m), list.len());
            let parts = [true, !m.momentum.is_empty(), m.chunk > 1];
            for (part, names) in m.role.names().iter().enumerate().filter(|(part, _)| parts[*part]) {
                for (i, (tensor, _)) in net.tensors().iter().enumerate() {
                    let start = match part {
                        0 => Start::Learned { deviation: (tensor.columns as f64).powf(-0.5) },
                        1 => Start::Zero,
                        _ => Start::Same(first + i),
                    };
                    let name = names[if net.tensors().len() == 1 { 0 } else { i + 1 }];
                    let tensor = StateTensor::zeros(name, vec![tensor.rows, tensor.columns]).starting(start);
                    list.push(if part == 2 { tensor.of_the_past() } else { tensor });
                }
            }
        }
        list
    }
}

/// Hidden layers as wide as those of the others; one number has no residual, and a norm would leave nothing of it.
fn gate_structure(structure: &AnyStructure, d: Dims) -> AnyStructure {
    match structure {
        AnyStructure::Mlp(mlp) => {
            Mlp { expansion: mlp.expansion * d.dv, residual: false, norm: false, ..mlp.clone() }.into()
        }
        other => other.clone(),
    }
}

/// The most that a step size may be: the gradients of a whole chunk add up at one point. And the least that is kept: a
/// normalised memory takes steps as large as its inverse.
fn ranges(rule: &SelfModifying, chunk: usize) -> (f64, f64) {
    let c = chunk as f64;
    let scale = match rule.rate_scale {
        RateScale::Auto if rule.is_linear() => 1.0 / c,
        RateScale::Auto | RateScale::InvSqrt => 1.0 / c.sqrt(),
        RateScale::Inv => 1.0 / c,
        RateScale::None => 1.0,
    };
    let normed = matches!(&rule.structure, AnyStructure::Mlp(mlp) if mlp.norm);
    (rule.rate_max() * scale, if normed { LEAST_KEPT.powf(1.0 / c) } else { 0.0 })
}
