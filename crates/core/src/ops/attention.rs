//! Softmax attention over a prefix that every query sees and a ring of keys and values at absolute positions, and the
//! ring's upkeep.
//!
//! ```text
//! s_ij = q_i . k_j / sqrt(D)         for every j of the prefix, and for j <= i, i - j < window
//! p_ij = exp(s_ij - lse_i)           lse_i = log sum_j exp(s_ij)
//! y_i  = sum_j p_ij v_j
//! ```

use super::{AttentionShape, KEY_BLOCK, Prefix};
use crate::scalar::Scalar;

/// `q, y [heads, T, D]`, caches as in [`AttentionShape`] with the call's own keys already stored; `lse [heads, T]`
/// receives log-sum-exp for the backward pass. The prefix is taken first, then keys in rising position.
pub fn attention_forward<F: Scalar>(
    s: AttentionShape,
    q: &[F],
    keys: &[F],
    values: &[F],
    prefix: Prefix<&[F]>,
    y: &mut [F],
    lse: &mut [F],
) {
    let store = Store::new(s, keys, values, prefix);
    check(s, q, y, lse);
    for h in 0..s.heads {
        let kv = key_head(s, h);
        for t in 0..s.tokens {
            let row = h * s.tokens + t;
            let q = &q[row * s.width..][..s.width];
            let scores: Vec<F> = seen(s, t).map(|key| store.score(q, kv, key)).collect();
            let max = scores.iter().fold(scores[0], |a, &b| if b > a { b } else { a }).detach();
            let sum: F = scores.iter().map(|&x| (x - max).exp()).sum();
            lse[row] = max + sum.ln();
            let y = &mut y[row * s.width..][..s.width];
            y.fill(F::zero());
            for (key, &x) in seen(s, t).zip(&scores) {
                // Not exp(x - lse): the logarithm of the sum would cost digits where scores are large.
                let weight = (x - max).exp() / sum;
                for (c, y) in y.iter_mut().enumerate() {
                    *y += weight * store.value(kv, key, c);
                }
            }
        }
    }
}

/// Transpose of [`attention_forward`], from its `y` and `lse`: adds into `dq [heads, T, D]`, for the call's own
/// keys and values into `dk, dv [kv_heads, T, D]`, and into those of the prefix. Older keys and values are constants.
pub fn attention_backward<F: Scalar>(
    s: AttentionShape,
    q: &[F],
    keys: &[F],
    values: &[F],
    prefix: Prefix<&[F]>,
    y: &[F],
    lse: &[F],
    dy: &[F],
    dq: &mut [F],
    dk: &mut [F],
    dv: &mut [F],
    dprefix: Prefix<&mut [F]>,
) {
    debug_assert_eq!((dk.len(), dv.len()), (s.kv_heads * s.tokens * s.width, s.kv_heads * s.tokens * s.width));
    debug_assert_eq!((dprefix.keys.len(), dprefix.values.len()), (s.prefix_len(), s.prefix_len()));
    pairs_backward(Store::new(s, keys, values, prefix), [q, y, lse, dy], dq, |pair| match pair.key {
        Key::Prefix(j) => pair.add_to(pair.kv * s.prefix + j, dprefix.keys, dprefix.values),
        Key::At(p) => {
            if let Some(own) = p.checked_sub(s.pos) {
                pair.add_to(pair.kv * s.tokens + own as usize, dk, dv);
            }
        }
    });
}

/// [`attention_backward`] along the column of each token: adds into `dq` as there, and into `dk, dv` what the token's
/// own query gives to its own key and value. All other keys and values are constants.
pub fn attention_column_backward<F: Scalar>(
    s: AttentionShape,
    q: &[F],
    keys: &[F],
    values: &[F],
    prefix: Prefix<&[F]>,
    y: &[F],
    lse: &[F],
    dy: &[F],
    dq: &mut [F],
    dk: &mut [F],
    dv: &mut [F],
) {
    debug_assert_eq!((dk.len(), dv.len()), (s.kv_heads * s.tokens * s.width, s.kv_heads * s.tokens * s.width));
    pairs_backward(Store::new(s, keys, values, prefix), [q, y, lse, dy], dq, |pair| {
        if pair.key == Key::At(s.pos + pair.t as u64) {
            pair.add_to(pair.kv * s.tokens + pair.t, dk, dv);
        }
    });
}

/// A query and a key that it sees, on the way back.
struct Pair<'a, F> {
    /// Row of the query.
    t: usize,
    /// Head of the key.
    kv: usize,
    key: Key,
    weight: F,
    /// Gradient of the unscaled score.
    dscore: F,
    q: &'a [F],
    dy: &'a [F],
}

impl<F: Scalar> Pair<'_, F> {
    /// Adds to row `row` of the gradients of keys and values what this query gives it.
    fn add_to(&self, row: usize, dk: &mut [F], dv: &mut [F]) {
        let at = row * self.q.len();
        for c in 0..self.q.len() {
            dk[at + c] += self.dscore * self.q[c];
            dv[at + c] += self.weight * self.dy[c];
        }
    }
}

/// Adds into `dq`, and calls `each` for every query and every key that it sees.
fn pairs_backward<F: Scalar>(
    store: Store<'_, F>,
    [q, y, lse, dy]: [&[F]; 4],
    dq: &mut [F],
    mut each: impl FnMut(Pair<'_, F>),
) {
    let s = store.shape;
    check(s, q, y, lse);
    debug_assert_eq!((dy.len(), dq.len()), (q.len(), q.len()));
    let scale = score_scale::<F>(s);
    for h in 0..s.heads {
        let kv = key_head(s, h);
        for t in 0..s.tokens {
            let row = h * s.tokens + t;
            let at = row * s.width..(row + 1) * s.width;
            let (q, y, dy, dq) = (&q[at.clone()], &y[at.clone()], &dy[at.clone()], &mut dq[at]);
            let mean: F = dy.iter().zip(y).map(|(&dy, &y)| dy * y).sum();
            for key in seen(s, t) {
                let weight = (store.score(q, kv, key) - lse[row]).exp();
                let dweight: F = dy.iter().enumerate().map(|(c, &dy)| dy * store.value(kv, key, c)).sum();
                let dscore = weight * (dweight - mean) * scale;
                for (c, dq) in dq.iter_mut().enumerate() {
                    *dq += dscore * store.key(kv, key, c);
                }
                each(Pair { t, kv, key, weight, dscore, q, dy });
            }
        }
    }
}

/// Writes the call's keys and values `k, v [kv_heads, T, D]` into the ring at positions `pos..pos + T`.
pub fn store<F: Scalar>(s: AttentionShape, k: &[F], v: &[F], keys: &mut [F], values: &mut [F]) {
    debug_assert_eq!((k.len(), v.len()), (s.kv_heads * s.tokens * s.width, s.kv_heads * s.tokens * s.width));
    debug_assert_eq!((keys.len(), values.len()), (s.cache_len(), s.cache_len()));
    for h in 0..s.kv_heads {
        for t in 0..s.tokens {
            let (p, row) = (s.pos + t as u64, (h * s.tokens + t) * s.width..(h * s.tokens + t + 1) * s.width);
            let (key, value) = (s.key_index(h, p, 0), s.value_index(h, p, 0));
            for (c, &x) in k[row.clone()].iter().enumerate() {
                keys[key + c * KEY_BLOCK] = x;
            }
            values[value..value + s.width].copy_from_slice(&v[row]);
        }
    }
}

/// Copies what later calls can still see, the last `window - 1` keys and values before position
/// `from.pos + from.tokens`, from the ring of `from` into one of `to_ring` slots. Other slots stay as they are.
///
/// Both rings hold at least `window - 1` slots; `to_ring` is a multiple of [`super::KEY_BLOCK`].
pub fn carry<F: Scalar>(
    from: AttentionShape,
    keys: &[F],
    values: &[F],
    to_ring: usize,
    to_keys: &mut [F],
    to_values: &mut [F],
) {
    let to = AttentionShape { ring: to_ring, ..from };
    debug_assert_eq!((keys.len(), values.len()), (from.cache_len(), from.cache_len()));
    debug_assert_eq!((to_keys.len(), to_values.len()), (to.cache_len(), to.cache_len()));
    let end = from.pos + from.tokens as u64;
    let first = end.saturating_sub(from.window as u64 - 1);
    debug_assert!(end - first <= from.ring.min(to.ring) as u64);
    for h in 0..from.kv_heads {
        for p in first..end {
            let (key, to_key) = (from.key_index(h, p, 0), to.key_index(h, p, 0));
            for c in (0..from.width).map(|c| c * KEY_BLOCK) {
                to_keys[to_key + c] = keys[key + c];
            }
            let (value, to_value) = (from.value_index(h, p, 0), to.value_index(h, p, 0));
            to_values[to_value..to_value + from.width].copy_from_slice(&values[value..value + from.width]);
        }
    }
}

/// The key head that query head `h` looks at.
fn key_head(s: AttentionShape, h: usize) -> usize {
    h / (s.heads / s.kv_heads)
}

/// A key that a query sees.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    /// The one with this number in the prefix.
    Prefix(usize),
    /// The one at this position.
    At(u64),
}

/// Keys that the query of row `t` sees, in the order in which they are taken.
fn seen(s: AttentionShape, t: usize) -> impl Iterator<Item = Key> {
    (0..s.prefix).map(Key::Prefix).chain((s.first_key(t)..=s.pos + t as u64).map(Key::At))
}

fn score_scale<F: Scalar>(s: AttentionShape) -> F {
    F::from_f64(1.0 / (s.width as f64).sqrt())
}

/// The keys and values of a call.
#[derive(Clone, Copy)]
struct Store<'a, F> {
    shape: AttentionShape,
    keys: &'a [F],
    values: &'a [F],
    prefix: Prefix<&'a [F]>,
}

impl<'a, F: Scalar> Store<'a, F> {
    fn new(shape: AttentionShape, keys: &'a [F], values: &'a [F], prefix: Prefix<&'a [F]>) -> Self {
        debug_assert_eq!((keys.len(), values.len()), (shape.cache_len(), shape.cache_len()));
        debug_assert_eq!((prefix.keys.len(), prefix.values.len()), (shape.prefix_len(), shape.prefix_len()));
        Self { shape, keys, values, prefix }
    }

    /// Component `c` of a key of head `kv`.
    fn key(&self, kv: usize, key: Key, c: usize) -> F {
        match key {
            Key::Prefix(j) => self.prefix.keys[(kv * self.shape.prefix + j) * self.shape.width + c],
            Key::At(p) => self.keys[self.shape.key_index(kv, p, c)],
        }
    }

    /// Component `c` of the value under it.
    fn value(&self, kv: usize, key: Key, c: usize) -> F {
        match key {
            Key::Prefix(j) => self.prefix.values[(kv * self.shape.prefix + j) * self.shape.width + c],
            Key::At(p) => self.values[self.shape.value_index(kv, p, c)],
        }
    }

    fn score(&self, q: &[F], kv: usize, key: Key) -> F {
        let dot: F = q.iter().enumerate().map(|(c, &q)| q * self.key(kv, key, c)).sum();
        dot * score_scale(self.shape)
    }
}

fn check<F>(s: AttentionShape, q: &[F], y: &[F], lse: &[F]) {
    let rows = s.heads * s.tokens;
    debug_assert_eq!(s.heads % s.kv_heads, 0);
    debug_assert_eq!((q.len(), y.len(), lse.len()), (rows * s.width, rows * s.width, rows));
}
