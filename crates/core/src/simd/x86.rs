//! AVX2 and AVX-512.
#![allow(unsafe_code)]

use super::{Simd, Vectorized};
use std::arch::x86_64::*;
use std::sync::atomic::{AtomicU8, Ordering};

/// Proof that AVX2 and FMA are there: eight lanes.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Proof that AVX-512 F, BW, DQ and VL are there: sixteen lanes.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// An answer that is found once: a kernel's start asks for it, and small kernels start often.
struct Known(AtomicU8);

impl Known {
    const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    #[inline]
    fn get(&self, find: impl Fn() -> bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => {
                let answer = find();
                self.0.store(1 + u8::from(answer), Ordering::Relaxed);
                answer
            }
            known => known == 2,
        }
    }
}

impl Avx2 {
    /// The proof, if this machine has the instructions.
    #[inline]
    pub fn new() -> Option<Self> {
        static KNOWN: Known = Known::new();
        KNOWN.get(|| is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    /// Runs a kernel with the instructions enabled.
    #[inline]
    pub fn run<K: Vectorized>(self, kernel: K) -> K::Out {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn enabled<K: Vectorized>(kernel: K, simd: Avx2) -> K::Out {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the instructions are there.
        unsafe { enabled(kernel, self) }
    }
}

impl Avx512 {
    /// The proof, if this machine has the instructions.
    #[inline]
    pub fn new() -> Option<Self> {
        static KNOWN: Known = Known::new();
        let detect = || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
        };
        KNOWN.get(detect).then_some(Self(()))
    }

    /// Runs a kernel with the instructions enabled.
    #[inline]
    pub fn run<K: Vectorized>(self, kernel: K) -> K::Out {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn enabled<K: Vectorized>(kernel: K, simd: Avx512) -> K::Out {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the instructions are there.
        unsafe { enabled(kernel, self) }
    }
}

/// Ones in the first `n` of eight lanes.
#[inline(always)]
fn mask8(n: usize) -> __m256i {
    const BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(n <= 8);
    // SAFETY: 8 - n is at most 8, so eight of the sixteen entries follow; Avx2 proves the instruction.
    unsafe { _mm256_loadu_si256(BITS.as_ptr().add(8 - n).cast()) }
}

// SAFETY: every intrinsic below needs AVX2 or FMA at most, which a value of this type proves; pointers are used
// as the trait's contract allows.
unsafe impl Simd for Avx2 {
    const NAME: &'static str = "avx2";
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type V = __m256;
    type Narrow = Self;

    #[inline(always)]
    fn outline<K: Vectorized>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        fn call<K: Vectorized>(kernel: K, simd: Avx2) -> K::Out {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the instructions are there.
        unsafe { call(kernel, self) }
    }

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: see the impl; masked lanes are not touched.
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: __m256) {
        // SAFETY: see the impl; masked lanes are not touched.
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
    #[inline(always)]
    unsafe fn columns(self, rows: usize, p: *const f32, stride: usize) -> [__m256; 4] {
        debug_assert!(rows >= 1);
        // SAFETY: see the impl; four values of existing rows are read.
        unsafe {
            // Halves of r[i] hold rows i and i + 4, so that the rest happens inside of halves.
            let mut r = [_mm256_setzero_ps(); 4];
            for (i, r) in r.iter_mut().enumerate() {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(p.add(i.min(rows - 1) * stride)));
                *r = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(p.add((i + 4).min(rows - 1) * stride)));
            }
            let (lo, lo2) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpacklo_ps(r[2], r[3]));
            let (hi, hi2) = (_mm256_unpackhi_ps(r[0], r[1]), _mm256_unpackhi_ps(r[2], r[3]));
            [
                _mm256_shuffle_ps::<0x44>(lo, lo2),
                _mm256_shuffle_ps::<0xee>(lo, lo2),
                _mm256_shuffle_ps::<0x44>(hi, hi2),
                _mm256_shuffle_ps::<0xee>(hi, hi2),
            ]
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch is a hint; it neither faults nor changes memory, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2_int(self, a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        rows: usize,
        cols: usize,
        src: *const f32,
        src_stride: usize,
        dst: *mut f32,
        dst_stride: usize,
    ) {
        // SAFETY: see the impl; only the first `rows` rows and `cols` columns are read, `cols` rows written.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            // Whole blocks, the common case, stay in registers.
            if rows == 8 && cols == 8 {
                for (i, r) in r.iter_mut().enumerate() {
                    *r = self.load(src.add(i * src_stride));
                }
                for (i, &c) in transpose8(r).iter().enumerate() {
                    self.store(dst.add(i * dst_stride), c);
                }
                return;
            }
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                let p = src.add(i * src_stride);
                *r = if cols == 8 { self.load(p) } else { self.load_first(p, cols) };
            }
            let columns = transpose8(r);
            for (i, &c) in columns.iter().enumerate().take(cols) {
                self.store(dst.add(i * dst_stride), c);
            }
        }
    }
}

/// Columns of eight rows.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    let mut out = r;
    let mut u = r;
    for g in 0..2 {
        let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
        let (lo, lo2) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (hi, hi2) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        u[4 * g] = _mm256_shuffle_ps::<0x44>(lo, lo2);
        u[4 * g + 1] = _mm256_shuffle_ps::<0xee>(lo, lo2);
        u[4 * g + 2] = _mm256_shuffle_ps::<0x44>(hi, hi2);
        u[4 * g + 3] = _mm256_shuffle_ps::<0xee>(hi, hi2);
    }
    for j in 0..4 {
        out[j] = _mm256_permute2f128_ps::<0x20>(u[j], u[4 + j]);
        out[4 + j] = _mm256_permute2f128_ps::<0x31>(u[j], u[4 + j]);
    }
    out
}

// SAFETY: every intrinsic below needs the AVX-512 parts at most that a value of this type proves; pointers are
// used as the trait's contract allows.
unsafe impl Simd for Avx512 {
    const NAME: &'static str = "avx512";
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type V = __m512;
    type Narrow = Avx2;

    #[inline(always)]
    fn outline<K: Vectorized>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        #[inline(never)]
        fn call<K: Vectorized>(kernel: K, simd: Avx512) -> K::Out {
            kernel.run(simd)
        }
        // SAFETY: a value of this type proves that the instructions are there.
        unsafe { call(kernel, self) }
    }

    #[inline(always)]
    fn narrow(self) -> Avx2 {
        // AVX-512 VL has all of AVX2, and FMA is asked for beside it.
        Avx2(())
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: see the impl; masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(((1_u32 << n) - 1) as u16, p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: see the impl; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(p, ((1_u32 << n) - 1) as u16, v) }
    }
    #[inline(always)]
    unsafe fn columns(self, rows: usize, p: *const f32, stride: usize) -> [__m512; 4] {
        debug_assert!(rows >= 1);
        // SAFETY: see the impl; four values of existing rows are read.
        unsafe {
            // Quarters of r[i] hold rows i, i + 4, i + 8 and i + 12, so that the rest happens inside of quarters.
            let mut r = [_mm512_setzero_ps(); 4];
            for (i, r) in r.iter_mut().enumerate() {
                let row = [i, i + 4, i + 8, i + 12].map(|i| p.add(i.min(rows - 1) * stride));
                let low = _mm512_castps128_ps512(_mm_loadu_ps(row[0]));
                let low = _mm512_insertf32x4::<1>(low, _mm_loadu_ps(row[1]));
                let high = _mm512_insertf32x4::<2>(low, _mm_loadu_ps(row[2]));
                *r = _mm512_insertf32x4::<3>(high, _mm_loadu_ps(row[3]));
            }
            let (lo, lo2) = (_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpacklo_ps(r[2], r[3]));
            let (hi, hi2) = (_mm512_unpackhi_ps(r[0], r[1]), _mm512_unpackhi_ps(r[2], r[3]));
            [
                _mm512_shuffle_ps::<0x44>(lo, lo2),
                _mm512_shuffle_ps::<0xee>(lo, lo2),
                _mm512_shuffle_ps::<0x44>(hi, hi2),
                _mm512_shuffle_ps::<0xee>(hi, hi2),
            ]
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch is a hint; it neither faults nor changes memory, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2_int(self, a: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: see the impl; the halves are summed as in AVX2.
        unsafe {
            let x = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            Avx2(()).sum(x)
        }
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let x = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            Avx2(()).max_lane(x)
        }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        rows: usize,
        cols: usize,
        src: *const f32,
        src_stride: usize,
        dst: *mut f32,
        dst_stride: usize,
    ) {
        // SAFETY: see the impl; only the first `rows` rows and `cols` columns are read, `cols` rows written.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            // Whole blocks, the common case, stay in registers.
            if rows == 16 && cols == 16 {
                for (i, r) in r.iter_mut().enumerate() {
                    *r = self.load(src.add(i * src_stride));
                }
                for (i, &c) in transpose16(r).iter().enumerate() {
                    self.store(dst.add(i * dst_stride), c);
                }
                return;
            }
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                let p = src.add(i * src_stride);
                *r = if cols == 16 { self.load(p) } else { self.load_first(p, cols) };
            }
            let columns = transpose16(r);
            for (i, &c) in columns.iter().enumerate().take(cols) {
                self.store(dst.add(i * dst_stride), c);
            }
        }
    }
}

/// Columns of sixteen rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline]
fn transpose16(r: [__m512; 16]) -> [__m512; 16] {
    let mut out = r;
    let mut u = r;
    for g in 0..4 {
        let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
        let (lo, lo2) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
        let (hi, hi2) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
        u[4 * g] = _mm512_shuffle_ps::<0x44>(lo, lo2);
        u[4 * g + 1] = _mm512_shuffle_ps::<0xee>(lo, lo2);
        u[4 * g + 2] = _mm512_shuffle_ps::<0x44>(hi, hi2);
        u[4 * g + 3] = _mm512_shuffle_ps::<0xee>(hi, hi2);
    }
    // Lane l of u[4 g + j] now holds column 4 l + j of rows 4 g .. 4 g + 4: a transpose of whole lanes is left.
    for j in 0..4 {
        let even = _mm512_shuffle_f32x4::<0x88>(u[j], u[4 + j]);
        let odd = _mm512_shuffle_f32x4::<0xdd>(u[j], u[4 + j]);
        let even2 = _mm512_shuffle_f32x4::<0x88>(u[8 + j], u[12 + j]);
        let odd2 = _mm512_shuffle_f32x4::<0xdd>(u[8 + j], u[12 + j]);
        out[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
        out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
        out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
        out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
    }
    out
}
