//! Rotary positions, and the turn from tokens to heads.

use super::HeadShape;
use crate::scalar::Scalar;

/// The rotations of `tokens` tokens from absolute position `pos`: `[tokens, width]`, a row holds `width / 2`
/// cosines, then `width / 2` sines, of the angles `position * base^(-2 c / width)`. `width` is even.
///
/// Angles are computed in `f64`, so that positions far into a stream stay apart.
pub fn table<F: Scalar>(pos: u64, tokens: usize, width: usize, base: f64) -> Vec<F> {
    let mut table = vec![F::zero(); tokens * width];
    table_into(pos, &frequencies(width, base), &mut table);
    table
}

/// The angles by which one position turns: `base^(-2 c / width)` for `c` in `0..width / 2`.
pub fn frequencies(width: usize, base: f64) -> Vec<f64> {
    (0..width / 2).map(|c| base.powf(-2.0 * c as f64 / width as f64)).collect()
}

/// [`table`] from its [`frequencies`] into a buffer of the caller, `[tokens, width]`; allocates nothing.
pub fn table_into<F: Scalar>(pos: u64, frequencies: &[f64], table: &mut [F]) {
    let half = frequencies.len();
    debug_assert_eq!(table.len() % (2 * half), 0);
    for (t, row) in table.chunks_exact_mut(2 * half).enumerate() {
        for (c, frequency) in frequencies.iter().enumerate() {
            let (sin, cos) = ((pos + t as u64) as f64 * frequency).sin_cos();
            row[c] = F::from_f64(cos);
            row[half + c] = F::from_f64(sin);
        }
    }
}

/// `x [T, H * D]` to `y [H, T, D]`, the pairs `(c, c + D / 2)` rotated by `table [T, D]`. An empty table only turns.
pub fn rope_forward<F: Scalar>(s: HeadShape, table: &[F], x: &[F], y: &mut [F]) {
    check(s, table, x, y);
    for h in 0..s.heads {
        for t in 0..s.tokens {
            let (x, y) = (&x[s.by_token(h, t)..][..s.width], &mut y[s.by_head(h, t)..][..s.width]);
            if table.is_empty() {
                y.copy_from_slice(x);
                continue;
            }
            let half = s.width / 2;
            let (cos, sin) = table[t * s.width..][..s.width].split_at(half);
            for c in 0..half {
                y[c] = x[c] * cos[c] - x[c + half] * sin[c];
                y[c + half] = x[c] * sin[c] + x[c + half] * cos[c];
            }
        }
    }
}

/// Transpose of [`rope_forward`]: adds into `dx [T, H * D]`. The table is a constant.
pub fn rope_backward<F: Scalar>(s: HeadShape, table: &[F], dy: &[F], dx: &mut [F]) {
    check(s, table, dx, dy);
    for h in 0..s.heads {
        for t in 0..s.tokens {
            let (dy, dx) = (&dy[s.by_head(h, t)..][..s.width], &mut dx[s.by_token(h, t)..][..s.width]);
            if table.is_empty() {
                for (dx, &dy) in dx.iter_mut().zip(dy) {
                    *dx += dy;
                }
                continue;
            }
            let half = s.width / 2;
            let (cos, sin) = table[t * s.width..][..s.width].split_at(half);
            for c in 0..half {
                dx[c] += dy[c] * cos[c] + dy[c + half] * sin[c];
                dx[c + half] += dy[c + half] * cos[c] - dy[c] * sin[c];
            }
        }
    }
}

fn check<F>(s: HeadShape, table: &[F], x: &[F], y: &[F]) {
    debug_assert_eq!((x.len(), y.len()), (s.len(), s.len()));
    debug_assert!(table.is_empty() || (table.len() == s.tokens * s.width && s.width.is_multiple_of(2)));
}
