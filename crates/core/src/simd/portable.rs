//! The version for machines without a known vector unit: arrays that the compiler may vectorise.
#![allow(unsafe_code)]

use super::{Simd, Vectorized};

/// Eight lanes of plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

const N: usize = 8;

#[inline(always)]
fn zip(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: needs no instructions beyond the target's baseline.
unsafe impl Simd for Portable {
    const NAME: &'static str = "portable";
    const LANES: usize = N;
    // Sixteen registers of four lanes are common to the baselines.
    const REGISTERS: usize = 8;
    type V = [f32; N];
    type Narrow = Self;

    #[inline(always)]
    fn outline<K: Vectorized>(self, kernel: K) -> K::Out {
        #[inline(never)]
        fn call<K: Vectorized>(kernel: K) -> K::Out {
            kernel.run(Portable)
        }
        call(kernel)
    }

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller promises N readable values; an array of f32 has the alignment of f32.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller promises n readable values.
        std::array::from_fn(|i| if i < n { unsafe { p.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller promises N writable values.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: Self::V) {
        for (i, &x) in v.iter().enumerate().take(n) {
            // SAFETY: the caller promises n writable values.
            unsafe { p.add(i).write(x) }
        }
    }
    #[inline(always)]
    unsafe fn columns(self, rows: usize, p: *const f32, stride: usize) -> [Self::V; 4] {
        debug_assert!(rows >= 1);
        let at = |r: usize, c: usize| r.min(rows - 1) * stride + c;
        // SAFETY: the caller promises four readable values in each of the rows.
        std::array::from_fn(|c| std::array::from_fn(|r| unsafe { p.add(at(r, c)).read() }))
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction a fused multiply-add is a slow library call; with it, it is the same as elsewhere.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        // Adding and taking away 1.5 * 2^23 rounds to nearest even for |a| < 2^22, which is all that is asked for.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn exp2_int(self, a: Self::V) -> Self::V {
        a.map(|x| f32::from_bits((((x as i32) + 127) << 23) as u32))
    }
    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        let [a, b, c, d, e, f, g, h] = a;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    fn max_lane(self, a: Self::V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
