//! Asks early for memory that a pass of training comes to next.
//!
//! A pass from the end of a sequence to its start takes blocks of a few kilobytes, each of which lies before the last
//! one: an order that hardware does not foresee, so that without a hint every block is waited for. The states that a
//! forward pass keeps are written in bursts, long after the last one.

use crate::simd::Simd;

/// Values of a cache line.
const LINE: usize = 16;

/// Memory to be asked for, a part of it at a time: a burst of requests would itself be waited for.
pub(super) struct Ahead<const N: usize> {
    /// First value and number of values of each list.
    lists: [(*const f32, usize); N],
    /// Lines of a part.
    part: usize,
    list: usize,
    at: usize,
}

impl<const N: usize> Ahead<N> {
    /// These lists, in `parts` parts.
    #[inline(always)]
    pub(super) fn to(lists: [&[f32]; N], parts: usize) -> Self {
        Self::before(lists.map(|list| (list, 0)), parts)
    }

    /// What lies so many values before each of these lists, as much as it holds, in `parts` parts. Nothing need lie
    /// there: these are hints.
    #[inline(always)]
    pub(super) fn before(lists: [(&[f32], usize); N], parts: usize) -> Self {
        let lines: usize = lists.iter().map(|(list, _)| list.len().div_ceil(LINE)).sum();
        let lists = lists.map(|(list, distance)| (list.as_ptr().wrapping_sub(distance), list.len()));
        Self { lists, part: lines.div_ceil(parts), list: 0, at: 0 }
    }

    /// Asks for nothing.
    #[inline(always)]
    pub(super) fn nothing() -> Self {
        Self { lists: [(std::ptr::null(), 0); N], part: 0, list: N, at: 0 }
    }

    /// Asks for a part.
    #[inline(always)]
    pub(super) fn ask<S: Simd>(&mut self, s: S) {
        let mut left = self.part;
        while let (1.., Some(&(list, len))) = (left, self.lists.get(self.list)) {
            let lines = left.min((len - self.at).div_ceil(LINE));
            for line in 0..lines {
                s.prefetch(list.wrapping_add(self.at + line * LINE));
            }
            left -= lines;
            self.at += lines * LINE;
            if self.at >= len {
                (self.list, self.at) = (self.list + 1, 0);
            }
        }
    }
}
