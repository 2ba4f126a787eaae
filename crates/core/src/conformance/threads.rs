//! Tests by the hundred, on all processors.

use super::kernels;
use crate::erased::ErasedRule;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `f` on every item, on all processors, and gives what it gave in order. The items of the largest `cost` run
/// first, so that none of them is left to one processor in the end.
///
/// # Panics
/// If `f` does.
pub fn side_by_side<T: Sync, U: Send>(items: &[T], cost: impl Fn(&T) -> f64, f: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let costs: Vec<f64> = items.iter().map(cost).collect();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|&a, &b| costs[b].total_cmp(&costs[a]));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((at, f(&items[at])));
        }
        done
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(usize, U)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|h| h.join().expect("no item panics")).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

/// About how long the checks of a rule take, next to other rules: most of it goes into the references of its kernels.
pub fn cost(rule: &dyn ErasedRule) -> f64 {
    kernels::cost(rule)
}
