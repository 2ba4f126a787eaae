//! Cross-entropy.

use super::parallel::{for_parts, for_rows, rows_per_part};
use super::vector::{add_to, get, kernel};
use crate::simd::{Isa, Simd};

/// See [`crate::ops::Ops::cross_entropy_forward`].
pub(crate) fn forward(isa: Isa, parallel: bool, vocab: usize, logits: &[f32], targets: &[u32], loss: &mut [f32]) {
    // A row is one loss, but its work is the vocabulary.
    for_parts(parallel, rows_per_part(vocab), 1, loss, |row, loss| {
        let logits = &logits[row * vocab..][..loss.len() * vocab];
        losses(isa, vocab, logits, &targets[row..][..loss.len()], loss);
    });
}

/// See [`crate::ops::Ops::cross_entropy_backward`].
pub(crate) fn backward(
    isa: Isa,
    parallel: bool,
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    dloss: &[f32],
    dlogits: &mut [f32],
) {
    for_rows(parallel, vocab, dlogits, |row, d| {
        let count = d.len() / vocab;
        let logits = &logits[row * vocab..][..d.len()];
        gradients(isa, vocab, logits, &targets[row..][..count], &dloss[row..][..count], d);
    });
}

kernel! {
    fn losses(s: S, vocab: usize, logits: &'a [f32], targets: &'a [u32], loss: &'a mut [f32]) {
        for ((row, &target), loss) in logits.chunks_exact(vocab).zip(targets).zip(loss) {
            let (max, sum) = max_and_sum(s, row);
            *loss = (max - row[target as usize]) + sum.ln();
        }
    }

    fn gradients(
        s: S,
        vocab: usize,
        logits: &'a [f32],
        targets: &'a [u32],
        dloss: &'a [f32],
        dlogits: &'a mut [f32],
    ) {
        for (t, (row, d)) in logits.chunks_exact(vocab).zip(dlogits.chunks_exact_mut(vocab)).enumerate() {
            let (max, sum) = max_and_sum(s, row);
            let (max, share) = (s.splat(max), s.splat(dloss[t] / sum));
            for c in (0..vocab).step_by(S::LANES) {
                add_to(s, d, c, s.mul(s.exp(s.sub(get(s, row, c), max)), share));
            }
            d[targets[t] as usize] -= dloss[t];
        }
    }
}

/// `max x` and `sum exp(x - max x)`, in an order that the length alone fixes.
#[inline(always)]
fn max_and_sum<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let whole = x.len() / S::LANES * S::LANES;
    let mut max = s.splat(f32::NEG_INFINITY);
    for c in (0..whole).step_by(S::LANES) {
        max = s.max(get(s, x, c), max);
    }
    let max = x[whole..].iter().fold(s.max_lane(max), |a, &b| a.max(b));
    let mut sum = s.splat(0.0);
    for c in (0..whole).step_by(S::LANES) {
        sum = s.add(sum, s.exp(s.sub(get(s, x, c), s.splat(max))));
    }
    // Zeros behind the end would count as values, so the last few are padded with what has no weight.
    let mut last = [f32::NEG_INFINITY; 64];
    last[..x.len() - whole].copy_from_slice(&x[whole..]);
    sum = s.add(sum, s.exp(s.sub(get(s, &last, 0), s.splat(max))));
    (max, s.sum(sum))
}
