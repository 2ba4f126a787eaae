//! The way back through a sequence whose transpose needs the state before and behind every token.

use crate::scan::CHECKPOINT_TOKENS;

/// Keeps the state before token `t`, where the way back will start from it.
pub(crate) fn keep(saved: &mut Option<&mut [f32]>, t: usize, state: &[f32]) {
    if let Some(saved) = saved.as_deref_mut().filter(|_| t.is_multiple_of(CHECKPOINT_TOKENS)) {
        saved[t / CHECKPOINT_TOKENS * state.len()..][..state.len()].copy_from_slice(state);
    }
}

/// Tokens of a piece of a sequence of `n`: states before pieces are kept, and within one those before its tokens, so that
/// states take the root of the sequence.
fn piece(n: usize) -> usize {
    n.isqrt().max(1)
}

/// Values of the buffer that [`backward`] needs.
pub(crate) fn room(n: usize, len: usize) -> usize {
    (n.div_ceil(piece(n)) + piece(n) + 1) * len
}

/// Runs `step` from `start` on over `n` tokens, twice, and `back` from the last to the first, with the states before and
/// behind each. Both get `with`.
pub(crate) fn backward<W>(
    n: usize,
    start: &[f32],
    buffer: &mut [f32],
    with: &mut W,
    step: impl Fn(&mut W, usize, &mut [f32]),
    back: impl Fn(&mut W, usize, [&[f32]; 2]),
) {
    let (len, piece) = (start.len(), piece(n));
    let (outer, inner) = buffer.split_at_mut(n.div_ceil(piece) * len);
    let running = &mut inner[..len];
    running.copy_from_slice(start);
    for (i, kept) in outer.chunks_exact_mut(len).enumerate() {
        kept.copy_from_slice(running);
        (i * piece..((i + 1) * piece).min(n)).for_each(|t| step(with, t, running));
    }
    for (i, kept) in outer.chunks_exact(len).enumerate().rev() {
        let (first, count) = (i * piece, piece.min(n - i * piece));
        inner[..len].copy_from_slice(kept);
        for j in 0..count {
            inner.copy_within(j * len..(j + 1) * len, (j + 1) * len);
            step(with, first + j, &mut inner[(j + 1) * len..(j + 2) * len]);
        }
        for j in (0..count).rev() {
            let (prev, next) = inner[j * len..(j + 2) * len].split_at(len);
            back(with, first + j, [prev, next]);
        }
    }
}
