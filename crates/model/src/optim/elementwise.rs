//! Steps that treat every number alone, side by side on all threads.

use hecate_core::Scalar;
use rayon::prelude::*;

/// Numbers of one part.
const CHUNK: usize = 1 << 14;

/// Calls `f` with matching parts of `p`, `g` and the state tensors. Each number is on its own, so the number of threads
/// does not matter.
pub(super) fn each<F: Scalar, const N: usize>(
    p: &mut [F],
    g: &[F],
    state: [&mut [F]; N],
    f: impl Fn(&mut [F], &[F], [&mut [F]; N]) + Sync,
) {
    let mut state = state.map(|s| s.chunks_mut(CHUNK));
    let parts: Vec<_> = p
        .chunks_mut(CHUNK)
        .zip(g.chunks(CHUNK))
        .map(|(p, g)| (p, g, state.each_mut().map(|s| s.next().expect("state is like the parameter"))))
        .collect();
    parts.into_par_iter().for_each(|(p, g, state)| f(p, g, state));
}

/// `p = keep p + by d`.
pub(super) fn advance<F: Scalar>(p: &mut [F], keep: F, by: F, d: &[F]) {
    each(p, d, [], |p, d, []| p.iter_mut().zip(d).for_each(|(p, &d)| *p = keep * *p + by * d));
}

/// `m = momentum m + by g`.
pub(super) fn gather<F: Scalar>(m: &mut [F], momentum: F, by: F, g: &[F]) {
    advance(m, momentum, by, g);
}
