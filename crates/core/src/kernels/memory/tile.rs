//! Small matrix products, a few rows by a strip of vectors at a time.
//!
//! Right operands and results are row-major with padded rows; a left operand has any two strides, so that its
//! transpose costs nothing. Every entry of a result is summed in rising order of the inner index.

use crate::simd::{Simd, Vectorized};
use std::ops::Range;

/// Rows of a tile; the last rows of a matrix are taken one by one.
pub(super) const ROWS: usize = 4;
/// Rows of a tile so narrow that its sums and operands still fit the registers: more sums that need not wait for each
/// other.
const TALL: usize = 8;

/// A left operand: entry `(i, k)` lies at `data[i * row + k * step]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    data: &'a [f32],
    row: usize,
    step: usize,
}

impl<'a> Left<'a> {
    /// A row-major matrix with rows of `width` values.
    pub(super) fn plain(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, step: 1 }
    }
    /// The transpose of a row-major matrix with rows of `width` values.
    pub(super) fn transposed(data: &'a [f32], width: usize) -> Self {
        Self { data, row: 1, step: width }
    }
    fn check(&self, rows: usize, inner: usize) {
        let last = rows.saturating_sub(1) * self.row + inner.saturating_sub(1) * self.step;
        assert!(rows == 0 || inner == 0 || last < self.data.len());
    }
}

/// What is known of the operands, so that zeros need not be multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing.
    Full,
    /// The left operand is lower triangular.
    LowerLeft,
    /// The left operand is upper triangular.
    UpperLeft,
    /// Of the result only the lower triangle is needed; columns beyond the tile that holds the diagonal stay as
    /// they are.
    LowerResult,
}

/// Extent of a product: `result [rows, columns] = left [rows, inner] right [inner, columns]`; `columns` is a
/// multiple of the padding.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
    pub(super) part: Part,
}

/// What becomes of a product `x`. A gradient is that of the weights: `+= x . with` along what they weigh, for `with`
/// shaped like the result.
pub(super) enum Into<'a> {
    /// `result = x`.
    Set,
    /// `result += x`.
    Add,
    /// `result += weight x`, a weight per row.
    AddByRow(&'a [f32]),
    /// The same, and the weights' own gradient.
    AddByRowAndGradient { weights: &'a [f32], with: &'a [f32], gradient: &'a mut [f32] },
    /// `result += weight x`, a weight per column.
    AddByColumn(&'a [f32]),
    /// The same, and the weights' own gradient.
    AddByColumnAndGradient { weights: &'a [f32], with: &'a [f32], gradient: &'a mut [f32] },
    /// `result = keep result + weight other + x`, for `other` a weight and a matrix shaped like the result. What
    /// `result . with` and `other . with` were before is added to `dots`.
    Carry { keep: f32, other: Option<(f32, &'a [f32])>, with: &'a [f32], dots: &'a mut [f32; 2] },
}

impl Into<'_> {
    fn check(&self, e: Extent) {
        let (weights, gradient, with, least) = match self {
            Into::Set | Into::Add => return,
            Into::AddByRow(weights) => return assert!(weights.len() >= e.rows),
            Into::AddByColumn(weights) => return assert!(weights.len() >= e.columns),
            Into::AddByRowAndGradient { weights, with, gradient } => (weights, gradient, with, e.rows),
            Into::AddByColumnAndGradient { weights, with, gradient } => (weights, gradient, with, e.columns),
            Into::Carry { other, with, .. } => {
                let shortest = other.map_or(with.len(), |(_, other)| other.len().min(with.len()));
                return assert!(shortest >= e.rows * e.columns);
            }
        };
        assert!(weights.len().min(gradient.len()) >= least && with.len() >= e.rows * e.columns);
    }
}

/// A product; rows of `right` and `result` hold `columns` values.
#[inline(always)]
pub(super) fn product<S: Simd>(s: S, e: Extent, left: Left<'_>, right: &[f32], result: &mut [f32], into: Into<'_>) {
    s.outline(Product { e, left, right, result, into });
}

struct Product<'a> {
    e: Extent,
    left: Left<'a>,
    right: &'a [f32],
    result: &'a mut [f32],
    into: Into<'a>,
}

impl Vectorized for Product<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let e = self.e;
        assert!(e.columns.is_multiple_of(S::LANES));
        assert!(self.right.len() >= e.inner * e.columns && self.result.len() >= e.rows * e.columns);
        self.into.check(e);
        self.left.check(e.rows, e.inner);
        if e.part == Part::LowerResult {
            for row in (0..e.rows).step_by(S::LANES) {
                let last = (row + S::LANES).min(e.rows);
                self.strips(s, row..last, last.next_multiple_of(S::LANES).min(e.columns));
            }
        } else {
            self.strips(s, 0..e.rows, e.columns);
        }
    }
}

/// Work on rows of padded values that is done a strip of vectors at a time.
pub(super) trait Strips {
    /// The strip of `N` vectors that begins at `column`.
    ///
    /// # Safety
    /// The rows of the operands hold `column + N * LANES` values.
    unsafe fn strip<S: Simd, const N: usize>(&mut self, s: S, column: usize);
}

/// All strips of rows of `width` values, each as wide as the registers allow.
///
/// # Safety
/// The rows of the operands of `work` hold `width` values.
#[inline(always)]
pub(super) unsafe fn each_strip<S: Simd>(s: S, width: usize, work: &mut impl Strips) {
    let mut column = 0;
    while column < width {
        let vectors = ((width - column) / S::LANES).min(S::STRIP);
        // SAFETY: the strip ends inside the rows.
        unsafe {
            match vectors {
                1 => work.strip::<S, 1>(s, column),
                2 => work.strip::<S, 2>(s, column),
                3 if S::STRIP >= 3 => work.strip::<S, 3>(s, column),
                _ if S::STRIP >= 4 => work.strip::<S, 4>(s, column),
                _ => unreachable!("a strip is at most STRIP vectors wide"),
            }
        }
        column += vectors * S::LANES;
    }
}

/// Some rows of a product.
struct Rows<'p, 'a> {
    of: &'p mut Product<'a>,
    rows: Range<usize>,
}

impl Strips for Rows<'_, '_> {
    #[inline(always)]
    unsafe fn strip<S: Simd, const N: usize>(&mut self, s: S, column: usize) {
        let mut row = self.rows.start;
        // SAFETY: the caller promises the columns; rows are taken as long as so many are left.
        unsafe {
            if (TALL + 1) * N + 1 < S::REGISTERS {
                while row + TALL <= self.rows.end {
                    self.of.tile::<S, TALL, N>(s, row, column);
                    row += TALL;
                }
            }
            while row + ROWS <= self.rows.end {
                self.of.tile::<S, ROWS, N>(s, row, column);
                row += ROWS;
            }
            while row < self.rows.end {
                self.of.tile::<S, 1, N>(s, row, column);
                row += 1;
            }
        }
    }
}

impl Product<'_> {
    /// These rows of the result, as far as `columns`.
    #[inline(always)]
    fn strips<S: Simd>(&mut self, s: S, rows: Range<usize>, columns: usize) {
        // SAFETY: the operands hold what the extent says (checked on entry), and `rows` and `columns` lie inside it.
        unsafe { each_strip(s, columns, &mut Rows { of: self, rows }) }
    }

    /// `R` rows of a strip.
    ///
    /// # Safety
    /// The operands hold what the extent says, and `row + R` and `column + N * LANES` are inside it.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const N: usize>(&mut self, s: S, row: usize, column: usize) {
        let (e, left) = (self.e, self.left);
        let (from, to) = match e.part {
            Part::LowerLeft => (0, e.inner.min(row + R)),
            Part::UpperLeft => (row.min(e.inner), e.inner),
            Part::Full | Part::LowerResult => (0, e.inner),
        };
        // SAFETY: rows `row..row + R` of the result and `from..to` of the right operand are inside the extent.
        unsafe {
            let at = row * e.columns + column;
            let c = self.result.as_mut_ptr().add(at);
            let a = (left.data.as_ptr().add(row * left.row + from * left.step), left.row, left.step);
            let b = (self.right.as_ptr().add(from * e.columns + column), e.columns);
            if let Into::Add | Into::Carry { .. } = self.into {
                let mut before: Tile<S::V, R, N> = load(s, c, e.columns);
                if let Into::Carry { keep, other, with, dots } = &mut self.into {
                    let other = other.map(|(weight, other)| (weight, other.as_ptr().add(at)));
                    carry(s, *keep, other, with.as_ptr().add(at), e.columns, dots, &mut before);
                }
                let sum = accumulate::<S, R, N>(s, before, a, b, to - from);
                return store(s, c, e.columns, sum);
            }
            let sum = accumulate::<S, R, N>(s, [[s.splat(0.0); N]; R], a, b, to - from);
            match &mut self.into {
                Into::Set | Into::Add | Into::Carry { .. } => store(s, c, e.columns, sum),
                Into::AddByRow(weights) => {
                    store(s, c, e.columns, by_row(s, &weights[row..], sum, load(s, c, e.columns)));
                }
                Into::AddByColumn(weights) => {
                    let [weights]: Tile<S::V, 1, N> = load(s, weights.as_ptr().add(column), 0);
                    store(s, c, e.columns, by_column(s, weights, sum, load(s, c, e.columns)));
                }
                Into::AddByRowAndGradient { weights, with, gradient } => {
                    store(s, c, e.columns, by_row(s, &weights[row..], sum, load(s, c, e.columns)));
                    let with: Tile<S::V, R, N> = load(s, with.as_ptr().add(at), e.columns);
                    for (r, gradient) in gradient[row..row + R].iter_mut().enumerate() {
                        let mut total = s.mul(sum[r][0], with[r][0]);
                        for n in 1..N {
                            total = s.fma(sum[r][n], with[r][n], total);
                        }
                        *gradient += s.sum(total);
                    }
                }
                Into::AddByColumnAndGradient { weights, with, gradient } => {
                    let [weights]: Tile<S::V, 1, N> = load(s, weights.as_ptr().add(column), 0);
                    store(s, c, e.columns, by_column(s, weights, sum, load(s, c, e.columns)));
                    let with: Tile<S::V, R, N> = load(s, with.as_ptr().add(at), e.columns);
                    let gradient = gradient.as_mut_ptr().add(column);
                    let mut total: Tile<S::V, 1, N> = load(s, gradient, 0);
                    for r in 0..R {
                        for n in 0..N {
                            total[0][n] = s.fma(sum[r][n], with[r][n], total[0][n]);
                        }
                    }
                    store(s, gradient, 0, total);
                }
            }
        }
    }
}

/// `tile + weight sum`, a weight per row.
#[inline(always)]
fn by_row<S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: &[f32],
    sum: Tile<S::V, R, N>,
    mut tile: Tile<S::V, R, N>,
) -> Tile<S::V, R, N> {
    for r in 0..R {
        let weight = s.splat(weights[r]);
        for n in 0..N {
            tile[r][n] = s.fma(weight, sum[r][n], tile[r][n]);
        }
    }
    tile
}

/// `tile = keep tile + weight other`; adds to `dots` what `tile . with` and `other . with` were.
///
/// # Safety
/// `R` rows of `N` vectors, `width` values apart, are readable at `with` and `other`.
#[inline(always)]
unsafe fn carry<S: Simd, const R: usize, const N: usize>(
    s: S,
    keep: f32,
    other: Option<(f32, *const f32)>,
    with: *const f32,
    width: usize,
    dots: &mut [f32; 2],
    tile: &mut Tile<S::V, R, N>,
) {
    let (keep, mut sums) = (s.splat(keep), [s.splat(0.0); 2]);
    for r in 0..R {
        for n in 0..N {
            let (at, x) = (r * width + n * S::LANES, tile[r][n]);
            // SAFETY: the caller promises the rows.
            let with = unsafe { s.load(with.add(at)) };
            sums[0] = s.fma(x, with, sums[0]);
            tile[r][n] = s.mul(keep, x);
            if let Some((weight, other)) = other {
                // SAFETY: the caller promises the rows.
                let other = unsafe { s.load(other.add(at)) };
                sums[1] = s.fma(other, with, sums[1]);
                tile[r][n] = s.fma(s.splat(weight), other, tile[r][n]);
            }
        }
    }
    dots[0] += s.sum(sums[0]);
    dots[1] += s.sum(sums[1]);
}

/// `tile + weight sum`, a weight per column.
#[inline(always)]
fn by_column<S: Simd, const R: usize, const N: usize>(
    s: S,
    weights: [S::V; N],
    sum: Tile<S::V, R, N>,
    mut tile: Tile<S::V, R, N>,
) -> Tile<S::V, R, N> {
    for r in 0..R {
        for n in 0..N {
            tile[r][n] = s.fma(weights[n], sum[r][n], tile[r][n]);
        }
    }
    tile
}

pub(super) type Tile<V, const R: usize, const N: usize> = [[V; N]; R];

/// # Safety
/// `R` rows of `N` vectors, `width` values apart, are readable at `p`.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const R: usize, const N: usize>(
    s: S,
    p: *const f32,
    width: usize,
) -> Tile<S::V, R, N> {
    let mut tile = [[s.splat(0.0); N]; R];
    for (r, row) in tile.iter_mut().enumerate() {
        for (j, x) in row.iter_mut().enumerate() {
            // SAFETY: the caller promises the rows.
            *x = unsafe { s.load(p.add(r * width + j * S::LANES)) };
        }
    }
    tile
}

/// # Safety
/// `R` rows of `N` vectors, `width` values apart, are writable at `p`.
#[inline(always)]
pub(super) unsafe fn store<S: Simd, const R: usize, const N: usize>(
    s: S,
    p: *mut f32,
    width: usize,
    tile: Tile<S::V, R, N>,
) {
    for (r, row) in tile.iter().enumerate() {
        for (j, &x) in row.iter().enumerate() {
            // SAFETY: the caller promises the rows.
            unsafe { s.store(p.add(r * width + j * S::LANES), x) }
        }
    }
}

/// `sum += left right` over `inner` steps, in registers.
///
/// # Safety
/// `left` is `R` rows by `inner` steps of readable values, `right` is `inner` rows of `N` readable vectors.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, const R: usize, const N: usize>(
    s: S,
    mut sum: Tile<S::V, R, N>,
    (left, row, step): (*const f32, usize, usize),
    (right, width): (*const f32, usize),
    inner: usize,
) -> Tile<S::V, R, N> {
    for k in 0..inner {
        // SAFETY: the caller promises `inner` steps of the left and rows of the right operand.
        unsafe {
            let mut b = [s.splat(0.0); N];
            for (j, b) in b.iter_mut().enumerate() {
                *b = s.load(right.add(k * width + j * S::LANES));
            }
            for (r, sum) in sum.iter_mut().enumerate() {
                let a = s.splat(*left.add(r * row + k * step));
                for (sum, &b) in sum.iter_mut().zip(&b) {
                    *sum = s.fma(a, b, *sum);
                }
            }
        }
    }
    sum
}

/// `dst[c, r] = src[r, c]` for `src [rows, columns]`, with rows of `from` and `to` values.
#[inline(always)]
pub(in crate::kernels) fn transpose<S: Simd>(
    s: S,
    (rows, columns): (usize, usize),
    src: &[f32],
    from: usize,
    dst: &mut [f32],
    to: usize,
) {
    s.outline(Transpose { rows, columns, src, from, dst, to });
}

struct Transpose<'a> {
    rows: usize,
    columns: usize,
    src: &'a [f32],
    from: usize,
    dst: &'a mut [f32],
    to: usize,
}

impl Vectorized for Transpose<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, columns, src, from, dst, to } = self;
        if rows == 0 || columns == 0 {
            return;
        }
        assert!((rows - 1) * from + columns <= src.len() && (columns - 1) * to + rows <= dst.len());
        let whole = (rows - rows % S::LANES, columns - columns % S::LANES);
        for r in (0..whole.0).step_by(S::LANES) {
            for c in (0..whole.1).step_by(S::LANES) {
                // SAFETY: the squares lie inside both matrices, which are distinct borrows.
                unsafe {
                    s.transpose(
                        S::LANES,
                        S::LANES,
                        src.as_ptr().add(r * from + c),
                        from,
                        dst.as_mut_ptr().add(c * to + r),
                        to,
                    )
                }
            }
        }
        for r in 0..rows {
            for c in if r < whole.0 { whole.1 } else { 0 }..columns {
                dst[c * to + r] = src[r * from + c];
            }
        }
    }
}
