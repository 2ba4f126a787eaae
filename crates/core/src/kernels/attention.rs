//! Attention over a prefix and a ring of keys: blocks of keys against tiles of query rows, with a softmax that is
//! corrected as the maximum rises.
//!
//! **Invariant:** every sum of a row runs over the prefix, then over the key blocks that the row sees any part of, in
//! rising absolute position, and within a block in an order that the block alone fixes. A key of such a block that the
//! row does not see has weight zero, exactly. So a row has the same bits alone, in a prefill, and after any cut.

mod backward;
mod forward;

pub(crate) use backward::{Gradients, backward};
pub(crate) use forward::forward;

use super::gemm::View;
use crate::ops::{AttentionShape, KEY_BLOCK, Prefix};
use std::ops::Range;

/// Query rows of one tile.
const TILE: usize = 32;

/// The keys and values of a call: see [`AttentionShape`].
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub prefix: Prefix<&'a [f32]>,
}

/// Keys that are taken together.
#[derive(Clone, Copy)]
enum Keys {
    /// So many of the prefix, from `first` on: every row sees all of them.
    Prefix { first: usize, count: usize },
    /// The block of the ring with this absolute number.
    Block(u64),
}

impl Keys {
    /// All keys that rows `first..first + rows` see, in the order in which they are taken.
    fn all(s: AttentionShape, first: usize, rows: usize) -> impl Iterator<Item = Self> {
        let part = move |first| Self::Prefix { first, count: KEY_BLOCK.min(s.prefix - first) };
        let blocks = s.first_key(first) / KEY_BLOCK as u64..=(s.pos + (first + rows - 1) as u64) / KEY_BLOCK as u64;
        (0..s.prefix).step_by(KEY_BLOCK).map(part).chain(blocks.map(Self::Block))
    }

    /// The rows among `first..first + rows` that see any of them.
    fn rows(self, s: AttentionShape, first: usize, rows: usize) -> Range<usize> {
        let Self::Block(block) = self else { return first..first + rows };
        let start = block * KEY_BLOCK as u64;
        // Row t sees the block if its own position is not before it, and its first key not behind it.
        let from = start.saturating_sub(s.pos).min(usize::MAX as u64) as usize;
        let to = (start + (KEY_BLOCK - 1) as u64).saturating_add(s.window as u64).saturating_sub(s.pos);
        let to = to.min((first + rows) as u64) as usize;
        from.max(first)..to
    }

    /// Those that row `t` sees, from 0 to [`KEY_BLOCK`].
    fn of_row(self, s: AttentionShape, t: usize) -> Range<usize> {
        match self {
            Self::Prefix { count, .. } => 0..count,
            Self::Block(block) => {
                let start = block * KEY_BLOCK as u64;
                let from = s.first_key(t).saturating_sub(start) as usize;
                from..(s.pos + t as u64 + 1 - start).min(KEY_BLOCK as u64) as usize
            }
        }
    }

    /// Those that any of `rows` sees, in whole vectors of `lanes`.
    fn of_rows(self, s: AttentionShape, rows: &Range<usize>, lanes: usize) -> Range<usize> {
        let (from, to) = (self.of_row(s, rows.start).start, self.of_row(s, rows.end - 1).end);
        from / lanes * lanes..to.next_multiple_of(lanes)
    }
}

impl<'a> Store<'a> {
    /// A block of the ring for key head `kv`: keys `[D, KEY_BLOCK]`, values `[KEY_BLOCK, D]`.
    fn block(self, s: AttentionShape, kv: usize, block: u64) -> [&'a [f32]; 2] {
        let slot = (block % (s.ring / KEY_BLOCK) as u64) as usize;
        let at = (kv * s.ring + slot * KEY_BLOCK) * s.width;
        [self.keys, self.values].map(|x| &x[at..][..KEY_BLOCK * s.width])
    }

    /// Rows of the prefix for key head `kv`: keys and values, `[count, D]`.
    fn prefix(self, s: AttentionShape, kv: usize, first: usize, count: usize) -> [&'a [f32]; 2] {
        let at = (kv * s.prefix + first) * s.width;
        [self.prefix.keys, self.prefix.values].map(|x| &x[at..][..count * s.width])
    }
}

/// A row-major matrix.
fn by_rows(data: &[f32], stride: usize) -> View {
    View { data: data.as_ptr(), row_stride: stride, col_stride: 1 }
}

/// The transpose of a row-major matrix.
fn turned(data: &[f32], stride: usize) -> View {
    View { data: data.as_ptr(), row_stride: 1, col_stride: stride }
}
