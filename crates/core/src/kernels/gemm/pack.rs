//! Copies of operands in the order in which tiles read them.

use super::View;
use crate::simd::Simd;

/// Packs `b [depth, columns]` into panels of `width` columns (a multiple of the vector), each `[depth, width]`,
/// zeros behind the last column.
///
/// # Safety
/// `b` must be valid for its extent, `dst` for writing `depth * columns.next_multiple_of(width)` values.
#[inline(always)]
pub(crate) unsafe fn right<S: Simd>(s: S, b: View, depth: usize, columns: usize, width: usize, dst: *mut f32) {
    // SAFETY: every access below stays inside the extents that the caller vouches for.
    unsafe {
        for j in (0..columns).step_by(width) {
            let (n, dst) = (width.min(columns - j), dst.add(j * depth));
            if b.col_stride == 1 {
                rows_of_panel(s, b.at(0, j), depth, n, width, dst);
            } else if b.row_stride == 1 {
                columns_of_panel(s, b.at(0, j), depth, n, width, dst);
            } else {
                for p in 0..depth {
                    for c in 0..width {
                        *dst.add(p * width + c) = if c < n { *b.at(p, j + c).data } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// A panel whose source rows are contiguous.
#[inline(always)]
unsafe fn rows_of_panel<S: Simd>(s: S, b: View, depth: usize, n: usize, width: usize, dst: *mut f32) {
    // SAFETY: as `right`; the first n values of each row are read.
    unsafe {
        for p in 0..depth {
            let (src, dst) = (b.at(p, 0).data, dst.add(p * width));
            for v in (0..width).step_by(S::LANES) {
                let x = if v + S::LANES <= n {
                    s.load(src.add(v))
                } else if v < n {
                    s.load_first(src.add(v), n - v)
                } else {
                    s.splat(0.0)
                };
                s.store(dst.add(v), x);
            }
        }
    }
}

/// A panel whose source columns are contiguous: blocks are transposed in registers.
#[inline(always)]
unsafe fn columns_of_panel<S: Simd>(s: S, b: View, depth: usize, n: usize, width: usize, dst: *mut f32) {
    // SAFETY: as `right`; `transpose` reads the rows and columns that exist and writes whole vectors of the panel.
    unsafe {
        for v in (0..width).step_by(S::LANES) {
            let rows = n.saturating_sub(v).min(S::LANES);
            for p in (0..depth).step_by(S::LANES) {
                let cols = (depth - p).min(S::LANES);
                s.transpose(rows, cols, b.at(p, v).data, b.col_stride, dst.add(p * width + v), width);
            }
        }
    }
}

/// Packs `a [rows, depth]` into one panel `[depth, rows]`, `rows <= LANES`.
///
/// # Safety
/// `a` must be valid for its extent, `dst` for writing `depth * rows + LANES` values.
#[inline(always)]
pub(super) unsafe fn left<S: Simd>(s: S, a: View, rows: usize, depth: usize, dst: *mut f32) {
    debug_assert!(rows <= S::LANES || a.col_stride != 1);
    // SAFETY: every access below stays inside the extents that the caller vouches for; rows of the panel are
    // written in rising order, so that what a vector writes past its row is overwritten by the next.
    unsafe {
        if a.col_stride == 1 {
            for p in (0..depth).step_by(S::LANES) {
                let cols = (depth - p).min(S::LANES);
                s.transpose(rows, cols, a.at(0, p).data, a.row_stride, dst.add(p * rows), rows);
            }
        } else if a.row_stride == 1 && rows <= S::LANES {
            for p in 0..depth {
                let x = if rows == S::LANES { s.load(a.at(0, p).data) } else { s.load_first(a.at(0, p).data, rows) };
                s.store(dst.add(p * rows), x);
            }
        } else {
            for p in 0..depth {
                for r in 0..rows {
                    *dst.add(p * rows + r) = *a.at(r, p).data;
                }
            }
        }
    }
}
