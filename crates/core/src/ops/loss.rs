//! Cross-entropy of a distribution given by logits.

use crate::scalar::Scalar;

/// Cross-entropy in nats: `logits [T, V]`, `targets [T]`, `loss [T]`, `V = vocab`. Every target is below `V`.
pub fn cross_entropy_forward<F: Scalar>(vocab: usize, logits: &[F], targets: &[u32], loss: &mut [F]) {
    debug_assert_eq!((logits.len(), loss.len()), (targets.len() * vocab, targets.len()));
    for ((row, &target), loss) in logits.chunks_exact(vocab).zip(targets).zip(loss) {
        *loss = log_sum_exp(row) - row[target as usize];
    }
}

/// Transpose of [`cross_entropy_forward`]: adds `dloss[t] (softmax(logits[t]) - onehot(targets[t]))` into
/// `dlogits [T, V]`.
pub fn cross_entropy_backward<F: Scalar>(vocab: usize, logits: &[F], targets: &[u32], dloss: &[F], dlogits: &mut [F]) {
    debug_assert_eq!((logits.len(), dloss.len()), (targets.len() * vocab, targets.len()));
    debug_assert_eq!(dlogits.len(), logits.len());
    for (t, (row, d)) in logits.chunks_exact(vocab).zip(dlogits.chunks_exact_mut(vocab)).enumerate() {
        let lse = log_sum_exp(row);
        for (d, &x) in d.iter_mut().zip(row) {
            *d += dloss[t] * (x - lse).exp();
        }
        d[targets[t] as usize] -= dloss[t];
    }
}

/// `log sum exp(x)`, without overflow.
fn log_sum_exp<F: Scalar>(x: &[F]) -> F {
    let max = x.iter().fold(x[0], |a, &b| if b > a { b } else { a }).detach();
    max + x.iter().map(|&x| (x - max).exp()).sum::<F>().ln()
}
