//! Cutting an op into parts that run side by side.
#![allow(unsafe_code)]

use rayon::prelude::*;
use std::marker::PhantomData;

/// Calls `f` for every part, side by side on the current pool if `parallel`.
pub(crate) fn for_each(parallel: bool, parts: usize, f: impl Fn(usize) + Sync) {
    if parallel && parts > 1 {
        (0..parts).into_par_iter().with_max_len(1).for_each(&f);
    } else {
        (0..parts).for_each(&f);
    }
}

/// A mutable slice whose parts go to different threads, where they are not contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    data: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever takes a part out promises that no other part overlaps it, see `part`.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), owner: PhantomData }
    }

    /// `len` values from `start` on.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[inline(always)]
    pub(crate) unsafe fn part(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start <= self.len && len <= self.len - start, "a part reaches past the slice");
        // SAFETY: the part lies inside the slice, and the caller promises that nothing else does at the same place.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// Pointer to value `start`.
    pub(crate) fn pointer(self, start: usize) -> *mut f32 {
        debug_assert!(start <= self.len);
        self.data.wrapping_add(start)
    }
}

/// Values of one part of an op that works row by row.
const PART_LEN: usize = 1 << 14;

/// Rows of `width` values in one part: by the width alone.
pub(crate) fn rows_per_part(width: usize) -> usize {
    (PART_LEN / width.max(1)).max(1)
}

/// Cuts `y`, rows of `width` values, into parts of whole rows and calls `f` with each part's first row and its rows.
pub(crate) fn for_rows(parallel: bool, width: usize, y: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    // A single row, as in decoding, is not worth the divisions below.
    if !y.is_empty() && y.len() <= width {
        return f(0, y);
    }
    for_parts(parallel, rows_per_part(width), width, y, f);
}

/// [`for_rows`] with `rows` rows in a part.
pub(crate) fn for_parts(
    parallel: bool,
    rows: usize,
    width: usize,
    y: &mut [f32],
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let (len, part) = (y.len(), (rows * width).max(1));
    let y = Shared::new(y);
    for_each(parallel, len.div_ceil(part), |i| {
        let from = i * part;
        // SAFETY: parts do not overlap.
        f(i * rows, unsafe { y.part(from, part.min(len - from)) });
    });
}
