//! What this machine can do: the figures that every row of the bench is a share of.

use super::harness::Clock;
use hecate_core::simd::{Isa, Simd, Vectorized};
use serde::Serialize;
use std::hint::black_box;

/// The machine, as far as the bench needs to know it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Instruction set that the kernels use.
    pub isa: &'static str,
    /// Threads of the pool that the rows for all threads ran in.
    pub threads: usize,
    /// Single-precision fused multiply-adds on one thread, in 10^9 operations a second, a multiply-add counted as 2.
    pub peak_one_gflops: f64,
    /// The same on all threads at once.
    pub peak_all_gflops: f64,
    /// Bytes read plus bytes written by a large copy on one thread, in 10^9 a second.
    pub copy_gbytes: f64,
}

/// Vectors in flight: twice what latency and two units ask for.
const CHAINS: usize = 16;
/// Steps of one measurement.
const STEPS: usize = 200_000;
/// Measurements of which [`peak`] takes the best: a twentieth of a second together.
const PEAK_LOOKS: usize = 50;

struct MultiplyAdd;

impl Vectorized for MultiplyAdd {
    /// Operations done, and a result that depends on all of them.
    type Out = (f64, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f32) {
        let (factor, term) = (s.splat(black_box(0.999_9)), s.splat(black_box(1e-3)));
        let mut chains = [s.splat(black_box(1.0)); CHAINS];
        for _ in 0..STEPS {
            for chain in &mut chains {
                *chain = s.fma(*chain, factor, term);
            }
        }
        let sum = chains.into_iter().fold(s.splat(0.0), |a, b| s.add(a, b));
        ((2 * CHAINS * STEPS * S::LANES) as f64, s.sum(sum))
    }
}

impl Machine {
    /// A quick look: medians of five short measurements.
    pub fn measure(threads: usize) -> Self {
        let (isa, pool) = (Isa::best(), pool(threads));
        // Far larger than a cache that one thread owns.
        let (from, mut to) = (vec![1.0; 1 << 24], vec![0.0; 1 << 24]);
        Self {
            isa: isa.name(),
            threads,
            peak_one_gflops: median_of_five(|| peak_one(isa)),
            peak_all_gflops: median_of_five(|| peak_all(isa, &pool)),
            copy_gbytes: median_of_five(|| copy(&from, &mut to)),
        }
    }
}

/// 10^9 single-precision operations a second of so many threads together, at best: what a share of peak on the way is
/// of. A run takes minutes, so that a look at one moment when the machine has other work would say too little.
pub fn peak(threads: usize) -> f64 {
    let pool = pool(threads);
    (0..PEAK_LOOKS).map(|_| peak_all(Isa::best(), &pool)).fold(0.0, f64::max)
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}

fn median_of_five(mut measure: impl FnMut() -> f64) -> f64 {
    let mut seen: [f64; 5] = std::array::from_fn(|_| measure());
    seen.sort_unstable_by(f64::total_cmp);
    seen[2]
}

/// 10^9 operations a second of one thread.
pub(super) fn peak_one(isa: Isa) -> f64 {
    let clock = Clock::start();
    let (operations, sum) = isa.run(MultiplyAdd);
    black_box(sum);
    operations / clock.ns()
}

/// 10^9 operations a second of all threads of the pool together.
pub(super) fn peak_all(isa: Isa, pool: &rayon::ThreadPool) -> f64 {
    let clock = Clock::start();
    let operations: f64 =
        pool.broadcast(|_| isa.run(MultiplyAdd)).into_iter().map(|(n, sum)| n + 0.0 * f64::from(sum)).sum();
    operations / clock.ns()
}

/// 10^9 bytes a second of a copy far larger than any cache that one thread owns.
pub(super) fn copy(from: &[f32], to: &mut [f32]) -> f64 {
    let clock = Clock::start();
    black_box(&mut *to).copy_from_slice(black_box(from));
    black_box(&*to);
    (2 * size_of_val(from)) as f64 / clock.ns()
}
