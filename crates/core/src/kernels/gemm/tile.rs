//! The innermost product: a tile of results that lives in registers.

use super::LINE;
use crate::simd::{Simd, Vectorized};

/// How a tile reads its left operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Row `r` at `a + r * stride`, its values one after the other.
    ByRow,
    /// Column `p` at `a + p * stride`, its values one after the other: packed, or a transposed matrix.
    ByColumn,
}

/// Cache lines that will be needed soon. A tile asks for them one after the other while it is at work: all at once they
/// would keep its own loads waiting.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub at: *const f32,
    pub lines: usize,
}

impl Ahead {
    /// None.
    pub const NOTHING: Self = Self { at: std::ptr::null(), lines: 0 };

    /// `count` values from `at` on.
    pub fn run(at: *const f32, count: usize) -> Self {
        Self { at, lines: count.div_ceil(LINE) }
    }
}

/// Operands of one tile: `c = a b` or `c += a b`, with `a [rows, depth]`, `b [depth, columns]`.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub depth: usize,
    pub a: *const f32,
    pub a_stride: usize,
    /// Rows of whole vectors, `b_stride` apart.
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    /// Columns that exist: only the last vector may reach past them.
    pub columns: usize,
    /// Start from zero instead of from `c`.
    pub fresh: bool,
    /// Asked for by tiles by row that are large enough to hide it.
    pub ahead: Ahead,
}

/// Most rows of a tile that is `vectors` vectors wide: the results, one row of the right operand and one
/// broadcast value share the registers.
pub(super) const fn max_rows<S: Simd>(vectors: usize, left: Left) -> usize {
    let fit = (S::REGISTERS - 1).saturating_sub(vectors) / vectors;
    // By row, every row needs an address register, and there are sixteen of those.
    let most = if matches!(left, Left::ByRow) { 8 } else { 14 };
    if fit == 0 {
        1
    } else if fit > most {
        most
    } else {
        fit
    }
}

macro_rules! dispatch {
    ($s:ident, $rows:ident, $left:ident, $o:ident, $V:literal: $($R:literal)*) => {
        match ($rows, $left) {
            $(
                ($R, Left::ByRow) if const { $R <= max_rows::<S>($V, Left::ByRow) } => {
                    if const { $R <= max_rows::<S>($V, Left::ByRow) } { $s.outline(Tile::<$R, $V, true>($o)) }
                }
                ($R, Left::ByColumn) if const { $R <= max_rows::<S>($V, Left::ByColumn) } => {
                    if const { $R <= max_rows::<S>($V, Left::ByColumn) } { $s.outline(Tile::<$R, $V, false>($o)) }
                }
            )*
            _ => unreachable!("a tile of {} rows and {} vectors does not fit into registers", $rows, $V),
        }
    };
}

/// Computes one tile of `rows <= max_rows(vectors, left)` rows and 1, 2 or 4 vectors.
///
/// # Safety
/// All rows and columns that `o` names must be valid, and `c` must not overlap the operands.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, rows: usize, vectors: usize, left: Left, o: Operands) {
    debug_assert!(o.columns <= vectors * S::LANES && o.columns > (vectors - 1) * S::LANES);
    match vectors {
        1 => dispatch!(s, rows, left, o, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        2 => dispatch!(s, rows, left, o, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        4 => dispatch!(s, rows, left, o, 4: 1 2 3 4 5 6),
        _ => unreachable!("no tile is {vectors} vectors wide"),
    }
}

/// A tile of `R` rows and `V` vectors; `BY_ROW` stands for [`Left::ByRow`].
struct Tile<const R: usize, const V: usize, const BY_ROW: bool>(Operands);

impl<const R: usize, const V: usize, const BY_ROW: bool> Vectorized for Tile<R, V, BY_ROW> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let o = self.0;
        // SAFETY: whoever called `run` above vouches for the rows and columns named in the operands; vectors of
        // `c` that reach past them are cut.
        unsafe {
            let mut acc = if o.fresh { [[s.splat(0.0); V]; R] } else { load::<S, R, V>(s, o) };
            let mut rows = [o.a; R];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = o.a.wrapping_add(r * if BY_ROW { o.a_stride } else { 1 });
            }
            let (mut b, mut column) = (o.b, o.a);
            // Lines that are asked for at every step.
            let each = if V == 1 { 1 } else { 2 * V };
            for p in 0..o.depth {
                if const { BY_ROW && R * V >= 8 } && p * each < o.ahead.lines {
                    for line in p * each..(p + 1) * each {
                        s.prefetch(o.ahead.at.wrapping_add(line * LINE));
                    }
                }
                let mut x = [s.splat(0.0); V];
                for (v, x) in x.iter_mut().enumerate() {
                    *x = s.load(b.add(v * S::LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = s.splat(if BY_ROW { *rows[r].add(p) } else { *column.add(r) });
                    for (acc, &x) in acc.iter_mut().zip(&x) {
                        *acc = s.fma(a, x, *acc);
                    }
                }
                b = b.wrapping_add(o.b_stride);
                column = column.wrapping_add(o.a_stride);
            }
            store::<S, R, V>(s, o, acc);
        }
    }
}

#[inline(always)]
unsafe fn load<S: Simd, const R: usize, const V: usize>(s: S, o: Operands) -> [[S::V; V]; R] {
    let mut acc = [[s.splat(0.0); V]; R];
    let last = o.columns - (V - 1) * S::LANES;
    for (r, acc) in acc.iter_mut().enumerate() {
        for (v, acc) in acc.iter_mut().enumerate() {
            // SAFETY: row r exists, and so does the vector or its first `last` values.
            unsafe {
                let p = o.c.add(r * o.c_stride + v * S::LANES);
                *acc = if v < V - 1 || last == S::LANES { s.load(p) } else { s.load_first(p, last) };
            }
        }
    }
    acc
}

#[inline(always)]
unsafe fn store<S: Simd, const R: usize, const V: usize>(s: S, o: Operands, acc: [[S::V; V]; R]) {
    let last = o.columns - (V - 1) * S::LANES;
    for (r, acc) in acc.iter().enumerate() {
        for (v, &acc) in acc.iter().enumerate() {
            // SAFETY: row r exists, and so does the vector or its first `last` values.
            unsafe {
                let p = o.c.add(r * o.c_stride + v * S::LANES);
                if v < V - 1 || last == S::LANES { s.store(p, acc) } else { s.store_first(p, last, acc) }
            }
        }
    }
}
