//! Rows of a table. Reading is a copy; writing back adds, token by token, on one thread: tokens may share a row.

use super::vector::{add_to, get, kernel};

kernel! {
    /// See [`crate::ops::Ops::embedding_backward`].
    pub(crate) fn backward(s: S, width: usize, ids: &'a [u32], dy: &'a [f32], dtable: &'a mut [f32]) {
        for (&id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
            let row = &mut dtable[id as usize * width..][..width];
            for c in (0..width).step_by(S::LANES) {
                add_to(s, row, c, get(s, dy, c));
            }
        }
    }
}
