//! Rows of a table, picked by token.

use crate::scalar::Scalar;

/// `y[t] = table[ids[t]]`: `ids [T]`, `table [V, C]`, `y [T, C]`, `C = width`. Every id is below `V`.
pub fn embedding_forward<F: Scalar>(width: usize, ids: &[u32], table: &[F], y: &mut [F]) {
    debug_assert_eq!(y.len(), ids.len() * width);
    for (&id, y) in ids.iter().zip(y.chunks_exact_mut(width)) {
        y.copy_from_slice(&table[id as usize * width..][..width]);
    }
}

/// Transpose of [`embedding_forward`]: `dy [T, C]`; adds into `dtable [V, C]`, once for each time a row was picked.
pub fn embedding_backward<F: Scalar>(width: usize, ids: &[u32], dy: &[F], dtable: &mut [F]) {
    debug_assert_eq!(dy.len(), ids.len() * width);
    for (&id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
        for (d, &dy) in dtable[id as usize * width..][..width].iter_mut().zip(dy) {
            *d += dy;
        }
    }
}
