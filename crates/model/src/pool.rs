//! Buffers that go round: what one call gave back, the next one takes, so that a warm model allocates nothing.

use hecate_core::Scalar;

/// A shelf of buffers.
#[derive(Debug, Default)]
pub(crate) struct Pool<F> {
    shelf: Vec<Vec<F>>,
}

impl<F: Scalar> Pool<F> {
    /// A buffer of `n` values, contents unspecified.
    pub fn take(&mut self, n: usize) -> Vec<F> {
        // The smallest that fits, else the largest, which then grows.
        let fits = |v: &Vec<F>| v.capacity() >= n;
        let best = (0..self.shelf.len()).min_by_key(|&i| {
            let v = &self.shelf[i];
            if fits(v) { (0, v.capacity()) } else { (1, usize::MAX - v.capacity()) }
        });
        let mut buffer = best.map(|i| self.shelf.swap_remove(i)).unwrap_or_default();
        buffer.resize(n, F::zero());
        buffer
    }

    /// A buffer of `n` zeros.
    pub fn zeros(&mut self, n: usize) -> Vec<F> {
        let mut buffer = self.take(n);
        buffer.fill(F::zero());
        buffer
    }

    /// Values on the shelf.
    pub fn len(&self) -> usize {
        self.shelf.iter().map(Vec::capacity).sum()
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Vec<F>) {
        self.shelf.push(buffer);
    }
}

/// Makes `buffer` hold `n` values, without giving memory back, and lends it.
pub(crate) fn fit<F: Scalar>(buffer: &mut Vec<F>, n: usize) -> &mut [F] {
    buffer.resize(n, F::zero());
    buffer
}
