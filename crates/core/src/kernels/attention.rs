//! Attention over a ring of keys: blocks of keys against tiles of query rows, with a softmax that is corrected as
//! the maximum rises.
//!
//! **Invariant:** every sum of a row runs over the key blocks that the row sees any part of, in rising absolute
//! position, and within a block in an order that the block alone fixes. A key of such a block that the row does not
//! see has weight zero, exactly. So a row has the same bits alone, in a prefill, and after any cut.

mod backward;
mod forward;

pub(crate) use backward::{Gradients, backward};
pub(crate) use forward::forward;

use super::gemm::View;
use crate::ops::{AttentionShape, KEY_BLOCK};
use std::ops::Range;

/// Query rows of one tile.
const TILE: usize = 32;

/// Absolute numbers of the key blocks that rows `first..first + rows` see.
fn blocks(s: AttentionShape, first: usize, rows: usize) -> std::ops::RangeInclusive<u64> {
    s.first_key(first) / KEY_BLOCK as u64..=(s.pos + (first + rows - 1) as u64) / KEY_BLOCK as u64
}

/// The rows among `first..first + rows` that see any key of a block.
fn rows_of_block(s: AttentionShape, block: u64, first: usize, rows: usize) -> Range<usize> {
    let start = block * KEY_BLOCK as u64;
    // Row t sees the block if its own position is not before it, and its first key not behind it.
    let from = start.saturating_sub(s.pos).min(usize::MAX as u64) as usize;
    let to = (start + (KEY_BLOCK - 1) as u64).saturating_add(s.window as u64).saturating_sub(s.pos);
    let to = to.min((first + rows) as u64) as usize;
    from.max(first)..to
}

/// The keys of a block that row `t` sees, from 0 to [`KEY_BLOCK`].
fn keys_of_row(s: AttentionShape, block: u64, t: usize) -> Range<usize> {
    let start = block * KEY_BLOCK as u64;
    let from = s.first_key(t).saturating_sub(start) as usize;
    let to = (s.pos + t as u64 + 1 - start).min(KEY_BLOCK as u64) as usize;
    from..to
}

/// The keys of a block that any of `rows` sees, in whole vectors of `lanes`.
fn keys_of_rows(s: AttentionShape, block: u64, rows: &Range<usize>, lanes: usize) -> Range<usize> {
    let (from, to) = (keys_of_row(s, block, rows.start).start, keys_of_row(s, block, rows.end - 1).end);
    from / lanes * lanes..to.next_multiple_of(lanes)
}

/// Where block `block` of key head `kv` starts, in the key cache and in the value cache.
fn block_start(s: AttentionShape, kv: usize, block: u64) -> usize {
    let slot = (block % (s.ring / KEY_BLOCK) as u64) as usize;
    (kv * s.ring + slot * KEY_BLOCK) * s.width
}

/// A row-major matrix.
fn by_rows(data: &[f32], stride: usize) -> View {
    View { data: data.as_ptr(), row_stride: stride, col_stride: 1 }
}
