//! Triangular solves with a right-hand side per value, four tokens by a strip of vectors at a time.

use super::tile::{ROWS, Strips, accumulate, each_strip, load, store};
use crate::simd::Simd;

/// A strictly lower triangular matrix and the extent of the two solves with it.
#[derive(Clone, Copy)]
pub(super) struct Triangle<'a> {
    /// `[rows, stride]`, zero on and above the diagonal.
    pub(super) data: &'a [f32],
    /// Values between two of its rows.
    pub(super) stride: usize,
    /// Rows.
    pub(super) rows: usize,
    /// Values in a row of the right-hand side and of the solution; padded.
    pub(super) width: usize,
}

impl Triangle<'_> {
    fn check<S: Simd>(&self, sides: [usize; 3], gates: usize) {
        assert!(self.rows <= self.stride && self.width.is_multiple_of(S::LANES));
        assert!(self.data.len() >= self.rows * self.stride && gates >= self.rows);
        assert!(sides.into_iter().all(|n| n >= self.rows * self.width));
    }
}

/// Solves token by token: `p_t += sum_{j<t} M[t,j] c_j`, `c_t = rate_t v_t - erase_t p_t`.
pub(super) struct Solve<'a> {
    pub(super) m: Triangle<'a>,
    pub(super) rate: &'a [f32],
    pub(super) erase: &'a [f32],
    pub(super) v: &'a [f32],
    /// In: what the start of the chunk gives. Out: the whole.
    pub(super) p: &'a mut [f32],
    pub(super) c: &'a mut [f32],
}

impl Solve<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(mut self, s: S) {
        let m = self.m;
        m.check::<S>([self.v.len(), self.p.len(), self.c.len()], self.rate.len().min(self.erase.len()));
        // SAFETY: the operands hold `rows` rows of `width` values (checked above).
        unsafe { each_strip(s, m.width, &mut self) }
    }
}

impl Strips for Solve<'_> {
    #[inline(always)]
    unsafe fn strip<S: Simd, const N: usize>(&mut self, s: S, column: usize) {
        let whole = self.m.rows - self.m.rows % ROWS;
        // SAFETY: the caller promises the columns; rows up to `whole` are taken by `ROWS`, the others one by one.
        unsafe {
            for row in (0..whole).step_by(ROWS) {
                self.tile::<S, ROWS, N>(s, row, column);
            }
            for row in whole..self.m.rows {
                self.tile::<S, 1, N>(s, row, column);
            }
        }
    }
}

impl Solve<'_> {
    /// # Safety
    /// The operands hold what `m` says, `row + R <= m.rows` and `column + N * LANES <= m.width`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const N: usize>(&mut self, s: S, row: usize, column: usize) {
        let m = self.m;
        // SAFETY: the caller promises the rows.
        unsafe {
            let at = row * m.width + column;
            let left = m.data.as_ptr().add(row * m.stride);
            let start = load::<S, R, N>(s, self.p.as_ptr().add(at), m.width);
            let before = (self.c.as_ptr().add(column), m.width);
            let mut p = accumulate(s, start, (left, m.stride, 1), before, row);
            let mut c = [[s.splat(0.0); N]; R];
            for r in 0..R {
                for j in 0..r {
                    let a = s.splat(*left.add(r * m.stride + row + j));
                    for n in 0..N {
                        p[r][n] = s.fma(a, c[j][n], p[r][n]);
                    }
                }
                let (rate, erase) = (s.splat(self.rate[row + r]), s.splat(-self.erase[row + r]));
                for n in 0..N {
                    let v = s.load(self.v.as_ptr().add(at + r * m.width + n * S::LANES));
                    c[r][n] = s.fma(erase, p[r][n], s.mul(rate, v));
                }
            }
            store(s, self.p.as_mut_ptr().add(at), m.width, p);
            store(s, self.c.as_mut_ptr().add(at), m.width, c);
        }
    }
}

/// Transpose of [`Solve`] in `p` and `c`: `dc_j += sum_{t>j} M[t,j] dp_t`, `dp_j = -erase_j dc_j`.
pub(super) struct SolveTransposed<'a> {
    pub(super) m: Triangle<'a>,
    pub(super) erase: &'a [f32],
    /// In: what the reads and the end of the chunk give. Out: the whole.
    pub(super) dc: &'a mut [f32],
    pub(super) dp: &'a mut [f32],
}

impl SolveTransposed<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(mut self, s: S) {
        let m = self.m;
        m.check::<S>([self.dc.len(), self.dp.len(), self.dp.len()], self.erase.len());
        // SAFETY: the operands hold `rows` rows of `width` values (checked above).
        unsafe { each_strip(s, m.width, &mut self) }
    }
}

impl Strips for SolveTransposed<'_> {
    #[inline(always)]
    unsafe fn strip<S: Simd, const N: usize>(&mut self, s: S, column: usize) {
        let whole = self.m.rows - self.m.rows % ROWS;
        // SAFETY: the caller promises the columns; rows up to `whole` are taken by `ROWS`, the others one by one.
        unsafe {
            for row in (whole..self.m.rows).rev() {
                self.tile::<S, 1, N>(s, row, column);
            }
            for row in (0..whole).step_by(ROWS).rev() {
                self.tile::<S, ROWS, N>(s, row, column);
            }
        }
    }
}

impl SolveTransposed<'_> {
    /// # Safety
    /// As for [`Solve`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const N: usize>(&mut self, s: S, row: usize, column: usize) {
        let m = self.m;
        let (at, next) = (row * m.width + column, row + R);
        // SAFETY: the caller promises the rows; nothing is read behind the last one.
        unsafe {
            let start = load::<S, R, N>(s, self.dc.as_ptr().add(at), m.width);
            let left = m.data.as_ptr().wrapping_add(next * m.stride + row);
            let after = self.dp.as_ptr().wrapping_add(next * m.width + column);
            let mut dc = accumulate(s, start, (left, 1, m.stride), (after, m.width), m.rows - next);
            let mut dp = [[s.splat(0.0); N]; R];
            for r in (0..R).rev() {
                for t in r + 1..R {
                    let a = s.splat(m.data[(row + t) * m.stride + row + r]);
                    for n in 0..N {
                        dc[r][n] = s.fma(a, dp[t][n], dc[r][n]);
                    }
                }
                let erase = s.splat(-self.erase[row + r]);
                for n in 0..N {
                    dp[r][n] = s.mul(erase, dc[r][n]);
                }
            }
            store(s, self.dc.as_mut_ptr().add(at), m.width, dc);
            store(s, self.dp.as_mut_ptr().add(at), m.width, dp);
        }
    }
}
