//! The shapes at which every op is checked.

use super::OpCase;
use crate::ops::{AttentionShape, ConvShape, GateKind, GateSpec, HeadShape, LinearShape, MlpKind};
use crate::rule::{Dims, HeadDecay};
use crate::rules::AnyRule;
use crate::scan::ScanShape;

/// Awkward shapes of every op, small enough for dual numbers: no token, one token, odd widths, full caches.
///
/// Every output and gradient has several values, or is a sum without cancellation: a single number that happens
/// to be small beside its terms would measure the condition of the inputs and not the implementation.
pub fn small_cases() -> Vec<OpCase> {
    let mut all = Vec::new();
    for tokens in [0, 1, 5] {
        all.extend([
            OpCase::Embedding { tokens, vocab: 7, width: 3 },
            OpCase::RmsNorm { tokens, width: 7 },
            OpCase::CrossEntropy { tokens, vocab: 2 },
            OpCase::CrossEntropy { tokens, vocab: 11 },
            OpCase::SigmoidGate { len: 3 * tokens },
        ]);
        for kind in [MlpKind::Gated, MlpKind::Gelu] {
            all.extend([3, 5].map(|hidden| OpCase::Mlp { kind, tokens, hidden }));
        }
        for [inner, outer] in [[1, 3], [3, 5], [17, 2]] {
            let s = LinearShape { rows: tokens, inner, outer };
            all.extend([OpCase::Linear(s), OpCase::LinearTransposed(s)]);
        }
        for [heads, width] in [[1, 5], [3, 3], [2, 8]] {
            let shape = HeadShape { tokens, heads, width };
            all.extend([OpCase::Turn(shape), OpCase::Merge(shape), OpCase::GatedNorm(shape)]);
            all.extend(convolutions(shape));
        }
        for [heads, width] in [[1, 2], [3, 6]] {
            let shape = HeadShape { tokens, heads, width };
            all.extend([0, 1_000_003].map(|pos| OpCase::Rope { shape, pos }));
        }
        all.extend(gates(tokens, 3));
        all.extend(scans(2, tokens, Dims::new(3, 2), 5));
    }
    let single = LinearShape { rows: 1, inner: 1, outer: 1 };
    all.extend([OpCase::Linear(single), OpCase::LinearTransposed(single)]);
    all.extend(small_attention());
    // More tokens than lie between two checkpoints; columns would take a forward pass for each.
    with_columns(all).into_iter().chain(scans(1, 67, Dims::new(2, 3), 0)).collect()
}

/// Shapes of real use, with edges that no vector length divides: for kernels.
pub fn large_cases() -> Vec<OpCase> {
    let head = |tokens, heads, width| HeadShape { tokens, heads, width };
    let mut all = vec![
        OpCase::Embedding { tokens: 300, vocab: 256, width: 129 },
        OpCase::RmsNorm { tokens: 65, width: 256 },
        OpCase::RmsNorm { tokens: 3, width: 1001 },
        OpCase::CrossEntropy { tokens: 33, vocab: 256 },
        OpCase::CrossEntropy { tokens: 5, vocab: 4099 },
        OpCase::SigmoidGate { len: 4097 },
        OpCase::Mlp { kind: MlpKind::Gated, tokens: 33, hidden: 683 },
        OpCase::Mlp { kind: MlpKind::Gelu, tokens: 33, hidden: 1024 },
        OpCase::GatedNorm(head(65, 4, 64)),
        OpCase::GatedNorm(head(7, 3, 33)),
        OpCase::Merge(head(65, 4, 64)),
        OpCase::Turn(head(65, 3, 33)),
        OpCase::Rope { shape: head(65, 4, 64), pos: 70_001 },
        OpCase::Rope { shape: head(9, 2, 34), pos: 3 },
    ];
    for [rows, inner, outer] in [[1, 256, 512], [3, 100, 33], [64, 64, 64], [65, 130, 257], [129, 257, 96]] {
        let s = LinearShape { rows, inner, outer };
        all.extend([OpCase::Linear(s), OpCase::LinearTransposed(s)]);
    }
    for shape in [head(130, 4, 64), head(1, 4, 64), head(67, 3, 33)] {
        all.extend(convolutions(shape));
    }
    all.extend(gates(130, 8));
    all.extend(scans(2, 65, Dims::new(33, 17), 9));
    all.extend(scans(1, 7, Dims::new(64, 64), 0));
    all.extend([
        attention(1, [4, 4], 64, 512, 5000, 0),
        attention(150, [4, 2], 64, 100, 333, 0),
        attention(129, [2, 2], 32, 1000, 0, 0),
        attention(70, [4, 1], 33, 65, 127, 0),
        attention(64, [2, 1], 64, 64, 64, 0),
        attention(1, [4, 4], 64, 512, 5000, 16),
        attention(150, [4, 2], 64, 20, 333, 4),
        attention(129, [2, 2], 32, 1000, 0, 1),
        attention(70, [4, 1], 33, 65, 127, 17),
        attention(33, [2, 1], 24, 7, 64, 130),
    ]);
    // What takes the reference longest comes once.
    with_columns(all).into_iter().chain(scans(3, 130, Dims::new(64, 64), 0)).collect()
}

/// The cases, and once more those that mix tokens, with gradients along columns.
fn with_columns(all: Vec<OpCase>) -> Vec<OpCase> {
    let mixing = |case: &&OpCase| matches!(case, OpCase::Attention(_) | OpCase::Conv(_) | OpCase::Scan { .. });
    let columns: Vec<OpCase> = all.iter().filter(mixing).cloned().map(OpCase::along_columns).collect();
    all.into_iter().chain(columns).collect()
}

fn convolutions(heads: HeadShape) -> Vec<OpCase> {
    let case = |taps, silu, unit| OpCase::Conv(ConvShape { heads, taps, silu, unit });
    let of_taps = |taps| [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| case(taps, a, b));
    [0, 1, 4].into_iter().flat_map(of_taps).collect()
}

fn gates(tokens: usize, heads: usize) -> Vec<OpCase> {
    let of = |width, kind| GateSpec { width, kind };
    let gate = |width, max, damped_by| of(width, GateKind::Sigmoid { floor: 0.0, max, damped_by });
    let above = |floor, damped_by| of(1, GateKind::Sigmoid { floor, max: 1.0, damped_by });
    let constant = |decay| of(1, GateKind::PerHead(decay));
    let lists = [
        vec![gate(1, 1.0, None)],
        vec![gate(1, 1.0, None), gate(1, 1.0, Some(2)), gate(1, 1.0, None)],
        vec![above(0.5, None), above(0.25, Some(2)), gate(1, 1.0, None)],
        vec![gate(3, 0.1, None), gate(1, 2.0, None), gate(3, 0.5, Some(0))],
        // A window that a momentum damps, between constants that take no column.
        vec![constant(HeadDecay::RetNet), gate(4, 0.25, Some(2)), gate(1, 1.0, None), constant(HeadDecay::Lightning)],
        vec![of(1, GateKind::Softplus { floor: 1e-3 }), gate(1, 1.0, None), of(3, GateKind::Softplus { floor: 0.0 })],
        vec![of(5, GateKind::Softmax), constant(HeadDecay::RetNet), gate(2, 1.0, None), of(17, GateKind::Softmax)],
    ];
    lists.into_iter().map(|gates| OpCase::Gates { gates, tokens, heads }).collect()
}

/// Rules that write a matrix of rank one per token: from any state their kernels agree to the tolerance of ops. Deep
/// memories and others are held to their references by the suite of rules, from states as they occur.
fn scans(heads: usize, tokens: usize, dims: Dims, pos: u64) -> Vec<OpCase> {
    let case = |rule: AnyRule| {
        // Some rules take keys as wide as values only; a norm over a pair of values is a sign, without a slope.
        let dims = if rule.check(dims).is_ok() { dims } else { Dims::new(dims.dk + 2, dims.dk + 2) };
        OpCase::Scan { rule, shape: ScanShape { heads, tokens, dims, pos } }
    };
    let rank_one = |rule: &AnyRule| rule.kernels(Dims::new(8, 8)).iter().any(|k| k.available && k.name == "sequential");
    AnyRule::all().into_iter().filter(rank_one).map(case).collect()
}

fn attention(
    tokens: usize,
    [heads, kv_heads]: [usize; 2],
    width: usize,
    window: usize,
    pos: u64,
    prefix: usize,
) -> OpCase {
    let ring = AttentionShape::ring_for(window, tokens);
    OpCase::Attention(AttentionShape { tokens, heads, kv_heads, width, window, prefix, pos, ring })
}

/// Windows of one key, shorter and longer than the call; starts of streams and filled caches; grouped heads;
/// positions across the ends of blocks and of the ring; prefixes.
fn small_attention() -> Vec<OpCase> {
    let mut all = Vec::new();
    for (tokens, heads) in [(0, [1, 1]), (1, [2, 1]), (5, [2, 2]), (5, [3, 1]), (4, [4, 2])] {
        for window in [1, 3, 100] {
            for pos in [0, 2, 61, 1000] {
                all.push(attention(tokens, heads, 3, window, pos, 0));
            }
            for (prefix, pos) in [(1, 0), (4, 61), (17, 1000)] {
                all.push(attention(tokens, heads, 3, window, pos, prefix));
            }
        }
    }
    if let Some(OpCase::Attention(s)) = all.last().cloned() {
        all.push(OpCase::Attention(AttentionShape { ring: 2 * s.ring, ..s }));
    }
    all
}
