//! Matrix products with one documented order of summation.
//!
//! **Invariant:** every result is `c[i][j] = fma(a[i][k-1], b[k-1][j], ... fma(a[i][0], b[0][j], start))`: summed
//! over the inner index in rising order, from zero or from what `c` holds. Tiles, blocks, packing and threads
//! change who computes a value and when, never its order, so one row alone and the same row among thousands have
//! the same bits on one instruction set. Where a block of the inner index ends, the partial sum is stored and
//! loaded again as `f32`, which is what it is in a register too.
//!
//! Large products follow the usual scheme: the right operand is packed in blocks of `DEPTH x COLUMNS`, the left
//! one in blocks of `ROWS x DEPTH`, and a tile of results stays in registers. Small products, and products of few
//! rows with a large matrix, read their operands in place; a single row (decoding) and few rows against a transposed
//! matrix have paths of their own.
#![allow(unsafe_code)]

mod pack;
mod row;
mod tile;
mod turned;

use super::parallel::{Shared, for_each};
use super::scratch;
use crate::simd::{Isa, Simd, Vectorized};
use tile::{Ahead, Left, Operands, max_rows};

pub(crate) use pack::right as pack_right;

/// Depth of a packed block.
const DEPTH: usize = 512;
/// Rows of a packed block of the left operand: with its depth, half of a second-level cache.
const ROWS: usize = 504;
/// Columns of a packed block of the right operand.
const COLUMNS: usize = 256;
/// Values of a right operand that is read in place whatever the number of rows: a part of a second-level cache, where copying
/// it first gains nothing.
const IN_PLACE: usize = 32_768;
/// Values of a first-level cache.
const NEAR: usize = 8192;
/// Up to this many rows a large right operand is not worth packing.
const FEW_ROWS: usize = 16;
/// Rows of a large right operand that few rows of the left one go through side by side: at first, and at most. A result is
/// read and written once for each such part.
const STREAMED: [usize; 2] = [16, 64];
/// Values of a cache line.
const LINE: usize = 16;
/// Multiply-adds below which a product stays on one thread.
const PARALLEL_WORK: usize = 1 << 20;
/// Multiply-adds of one part of a parallel product.
const PART_WORK: usize = 1 << 22;

/// A matrix that is read: element `(i, j)` at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A row-major matrix without gaps.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A matrix with any strides.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        assert!(extent(rows, cols, row_stride, col_stride) <= data.len(), "the matrix reaches past its data");
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// The transpose; nothing moves.
    pub fn transposed(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn view(self) -> View {
        View { data: self.data.as_ptr(), row_stride: self.row_stride, col_stride: self.col_stride }
    }
}

/// A matrix that is written: rows of contiguous values, `row_stride` apart.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A row-major matrix without gaps.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows are `row_stride` apart.
    ///
    /// # Panics
    /// If `data` is too short or rows overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows <= 1 || row_stride >= cols, "rows of the result overlap");
        assert!(extent(rows, cols, row_stride, 1) <= data.len(), "the matrix reaches past its data");
        Self { data, rows, cols, row_stride }
    }
}

/// Values from the first to the last element, both included.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// What a product starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `c = a b`.
    Zero,
    /// `c += a b`.
    Current,
}

/// `c = a b` or `c += a b`, in the order of the module text; large products run side by side if `parallel`.
///
/// # Panics
/// If the extents do not match.
pub fn product(isa: Isa, parallel: bool, a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, start: Start) {
    let (m, n, k) = (c.rows, c.cols, a.cols);
    assert!(a.rows == m && b.rows == k && b.cols == n, "a product of matrices that do not fit");
    if m == 0 || n == 0 {
        return;
    }
    let whole = Product { m, n, k, a: a.view(), b: b.view(), c: c.data.as_mut_ptr(), c_stride: c.row_stride, start };
    if !parallel || m * n * k < PARALLEL_WORK {
        return isa.run(Run(whole));
    }
    let (rows, columns) = part_size(m, n, k);
    let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
    let data = Shared::new(c.data);
    for_each(true, down * across, |part| {
        let (i, j) = (part % down * rows, part / down * columns);
        isa.run(Run(Product {
            m: rows.min(m - i),
            n: columns.min(n - j),
            a: a.view().at(i, 0),
            b: b.view().at(0, j),
            c: data.pointer(i * c.row_stride + j),
            ..whole
        }));
    });
}

/// Rows and columns of one part: by the shape alone, about [`PART_WORK`] each but at most about 32 parts.
fn part_size(m: usize, n: usize, k: usize) -> (usize, usize) {
    let (mut rows, mut columns) = (m, n);
    let target = PART_WORK.max(m * n * k / 32);
    while rows * columns * k > target && rows.max(columns) > 64 {
        if rows >= columns {
            rows = rows.div_ceil(2).next_multiple_of(14);
        } else {
            columns = columns.div_ceil(2).next_multiple_of(32);
        }
    }
    (rows, columns)
}

/// A raw matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub data: *const f32,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl View {
    /// The matrix from element `(i, j)` on.
    #[inline(always)]
    fn at(self, i: usize, j: usize) -> Self {
        Self { data: self.data.wrapping_add(i * self.row_stride + j * self.col_stride), ..self }
    }
}

/// A product `c [m, n]` of `a [m, k]` and `b [k, n]` on one thread, over raw matrices: what kernels call.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: View,
    pub b: View,
    pub c: *mut f32,
    pub c_stride: usize,
    pub start: Start,
}

/// A product whose matrices are known to be valid.
struct Run(Product);

impl Vectorized for Run {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `product` makes these from checked matrices, and the callers of `multiply` vouch for theirs.
        unsafe { choose_path(s, self.0) }
    }
}

/// Computes a product inside a kernel.
///
/// # Safety
/// The three matrices must be valid for their extents, and `c` must overlap neither operand.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd>(s: S, p: Product) {
    s.outline(Run(p));
}

/// Picks the path by the shape; all of them sum in the same order.
#[inline(always)]
unsafe fn choose_path<S: Simd>(s: S, p: Product) {
    // SAFETY: the caller vouches for the matrices.
    unsafe {
        if p.m == 0 || p.n == 0 {
            return;
        }
        if p.k == 0 {
            return if p.start == Start::Zero {
                zero(p)
            };
        }
        if p.m == 1 && p.b.col_stride == 1 {
            return row::run(s, p);
        }
        let left = if p.a.col_stride == 1 {
            Some(Left::ByRow)
        } else if p.a.row_stride == 1 || p.m == 1 {
            Some(Left::ByColumn)
        } else {
            None
        };
        match left {
            Some(left) if p.b.col_stride == 1 && p.k * p.n <= IN_PLACE => in_place(s, p, left, 0),
            Some(left) if p.m <= FEW_ROWS && p.b.col_stride == 1 => streamed(s, p, left),
            _ if turned::is_worth(&p) && p.m <= S::Narrow::LANES => s.narrow().outline(turned::Turned(p)),
            _ if turned::is_worth(&p) => s.outline(turned::Turned(p)),
            Some(left) if p.m <= FEW_ROWS || p.k * p.n <= IN_PLACE => in_place(s, p, left, 0),
            _ => blocked(s, p),
        }
    }
}

unsafe fn zero(p: Product) {
    for i in 0..p.m {
        // SAFETY: the caller vouches for the result.
        unsafe { std::slice::from_raw_parts_mut(p.c.add(i * p.c_stride), p.n) }.fill(0.0);
    }
}

/// `(first, count)` of the parts of `0..n`, of nearly equal size, none above `most`.
#[inline(always)]
fn even_parts(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = n.div_ceil(most).max(1);
    let (size, larger) = (n / parts, n % parts);
    (0..parts).map(move |i| (i * size + i.min(larger), size + usize::from(i < larger)))
}

/// Few rows and a large right operand: a few rows of it at a time, from end to end, so that memory is read in the order in
/// which it lies. Strip by strip through all of its rows, every row would be on another page. While some rows are at work
/// the next ones are asked for, in order too where they are one run of memory: what such a product waits for is memory. Nobody has asked for the first ones,
/// so there are fewer of them.
#[inline(always)]
unsafe fn streamed<S: Simd>(s: S, p: Product, left: Left) {
    let (mut l, mut rows) = (0, STREAMED[0]);
    while l < p.k {
        let start = if l == 0 { p.start } else { Start::Current };
        let part = Product { k: rows.min(p.k - l), a: p.a.at(0, l), b: p.b.at(l, 0), start, ..p };
        l += part.k;
        rows = (2 * rows).min(STREAMED[1]);
        // SAFETY: the part lies inside the product.
        unsafe { in_place(s, part, left, rows.min(p.k - l)) };
    }
}

/// Asks for the cache lines of `rows` rows of `columns` values, all at once.
#[inline(always)]
fn ask_for<S: Simd>(s: S, b: View, rows: usize, columns: usize) {
    for r in 0..rows {
        for c in (0..columns).step_by(LINE) {
            s.prefetch(b.at(r, c).data);
        }
    }
}

/// Reads the left operand where it is, and the right one too where its rows are contiguous; columns behind the last
/// whole vector are copied, and a transposed right operand is turned strip by strip. Of the rows that follow the right one,
/// `next` will be needed soon.
#[inline(always)]
unsafe fn in_place<S: Simd>(s: S, p: Product, left: Left, next: usize) {
    let turned = p.b.col_stride != 1;
    let widest = if p.m <= 4 { 4 } else { 2 };
    let mut scratch = scratch::borrow();
    let [panel] = scratch.take([p.k * S::LANES * if turned { widest } else { 1 }]);
    let mut j = 0;
    while j < p.n {
        let mut vectors = widest;
        while vectors > 1 && vectors * S::LANES > p.n - j {
            vectors /= 2;
        }
        let width = vectors * S::LANES;
        let ahead = if left == Left::ByRow && p.b.row_stride == p.n {
            Ahead::run(p.b.at(p.k, 0).data.wrapping_add(j * next), width * next)
        } else {
            ask_for(s, p.b.at(p.k, j), next, width);
            Ahead::NOTHING
        };
        // SAFETY: the strip holds the columns from j on that exist, and the scratch one panel of them.
        unsafe {
            if turned || p.n - j < width {
                pack::right(s, p.b.at(0, j), p.k, width.min(p.n - j), width, panel.as_mut_ptr());
                strip(s, p, left, vectors, j, (panel.as_ptr(), width), ahead);
            } else {
                strip(s, p, left, vectors, j, (p.b.at(0, j).data, p.b.row_stride), ahead);
            }
        }
        j += width;
    }
}

/// All rows of the columns from `j` on, `vectors` vectors wide.
#[inline(always)]
unsafe fn strip<S: Simd>(
    s: S,
    p: Product,
    left: Left,
    vectors: usize,
    j: usize,
    (b, b_stride): (*const f32, usize),
    ahead: Ahead,
) {
    for (i, rows) in even_parts(p.m, max_rows::<S>(vectors, left)) {
        let operands = Operands {
            depth: p.k,
            a: p.a.at(i, 0).data,
            a_stride: if left == Left::ByRow { p.a.row_stride } else { p.a.col_stride },
            b,
            b_stride,
            c: p.c.wrapping_add(i * p.c_stride + j),
            c_stride: p.c_stride,
            columns: (vectors * S::LANES).min(p.n - j),
            fresh: p.start == Start::Zero,
            ahead: if i == 0 { ahead } else { Ahead::NOTHING },
        };
        // SAFETY: rows i .. i + rows and the strip's columns exist.
        unsafe { tile::run(s, rows, vectors, left, operands) };
    }
}

/// Packs both operands block by block.
#[inline(always)]
unsafe fn blocked<S: Simd>(s: S, p: Product) {
    let width = 2 * S::LANES;
    let (depth, rows, columns) = (DEPTH.min(p.k), ROWS.min(p.m), COLUMNS.min(p.n.next_multiple_of(width)));
    let mut scratch = scratch::borrow();
    let [a, b] = scratch.take([rows * depth + S::LANES, depth * columns]);
    for j in (0..p.n).step_by(columns) {
        let n = columns.min(p.n - j);
        for l in (0..p.k).step_by(depth) {
            let k = depth.min(p.k - l);
            // SAFETY: the block lies inside the operand, and the scratch holds it.
            unsafe { pack::right(s, p.b.at(l, j), k, n, width, b.as_mut_ptr()) };
            for i in (0..p.m).step_by(rows) {
                let block = Product {
                    m: rows.min(p.m - i),
                    n,
                    k,
                    a: p.a.at(i, l),
                    c: p.c.wrapping_add(i * p.c_stride + j),
                    start: if l == 0 { p.start } else { Start::Current },
                    ..p
                };
                // SAFETY: the block lies inside the operands, and `b` holds its packed right side.
                unsafe { packed(s, block, a, b) };
            }
        }
    }
}

/// One block of rows against the packed right operand `b`; `a` is scratch for the left one.
#[inline(always)]
unsafe fn packed<S: Simd>(s: S, p: Product, a: &mut [f32], b: &[f32]) {
    let (width, most) = (2 * S::LANES, max_rows::<S>(2, Left::ByColumn));
    debug_assert!(a.len() >= p.m * p.k + S::LANES && b.len() >= p.k * p.n);
    for (i, rows) in even_parts(p.m, most) {
        // SAFETY: panels are written in rising order, each followed by room for one vector.
        unsafe { pack::left(s, p.a.at(i, 0), rows, p.k, a.as_mut_ptr().add(i * p.k)) };
    }
    for j in (0..p.n).step_by(width) {
        let columns = width.min(p.n - j);
        let vectors = columns.div_ceil(S::LANES);
        for (i, rows) in even_parts(p.m, most) {
            // SAFETY: panel i of `a` and panel j of `b` are packed, and the results exist.
            unsafe {
                let operands = Operands {
                    depth: p.k,
                    a: a.as_ptr().add(i * p.k),
                    a_stride: rows,
                    b: b.as_ptr().add(j * p.k),
                    b_stride: width,
                    c: p.c.add(i * p.c_stride + j),
                    c_stride: p.c_stride,
                    columns,
                    fresh: p.start == Start::Zero,
                    ahead: Ahead::NOTHING,
                };
                tile::run(s, rows, vectors, Left::ByColumn, operands);
            }
        }
    }
}

#[cfg(test)]
mod tests;
