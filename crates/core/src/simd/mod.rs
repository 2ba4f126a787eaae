//! One vocabulary of vector operations, with a version per instruction set chosen at run time.
//!
//! A kernel is a value that implements [`Vectorized`]; [`Isa::run`] calls it with the best (or a named) [`Simd`].
//! Kernels are `#[inline(always)]`, so that they are compiled inside a function that has the instructions enabled.
//! Fused multiply-add is fused on AVX-512, AVX2 and NEON; the portable version multiplies, then adds.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// A kernel over any instruction set.
pub trait Vectorized {
    /// What it gives.
    type Out;
    /// The kernel's text. Mark it `#[inline(always)]`, and everything that it calls.
    fn run<S: Simd>(self, simd: S) -> Self::Out;
}

/// Vectors of `LANES` single-precision numbers.
///
/// # Safety
/// A value of the implementing type may exist only where its instructions do. The pointer functions ask for
/// `LANES` (or `n`) valid values behind the pointer; no alignment is needed.
#[allow(unsafe_code)]
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// Name in tables.
    const NAME: &'static str;
    /// Numbers per vector.
    const LANES: usize;
    /// Vectors that stay in registers: what sizes the tiles of a matrix product.
    const REGISTERS: usize;
    /// Vectors that a narrow tile is wide, so that four rows of it and their operands fit the registers.
    const STRIP: usize = if Self::REGISTERS >= 32 { 4 } else { 2 };
    /// A vector.
    type V: Copy;
    /// Vectors of half as many numbers of which twice as many are worked on at a time, if there are such; else itself.
    type Narrow: Simd;

    /// Runs a kernel in a function of its own with the instructions enabled, so that its registers are not
    /// shared with the caller's.
    fn outline<K: Vectorized>(self, kernel: K) -> K::Out;
    /// Proof that the narrow ones are there too.
    fn narrow(self) -> Self::Narrow;
    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads a vector.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` values.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// Reads `n < LANES` values, zeros behind.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` values.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::V;
    /// Writes a vector.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` values.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Writes the first `n < LANES` values.
    ///
    /// # Safety
    /// `p` must be valid for writing `n` values.
    unsafe fn store_first(self, p: *mut f32, n: usize, v: Self::V);
    /// Asks for the cache line around `p` to be brought near, for a read or write to come. Only a hint: `p` may point
    /// anywhere, and versions without such an instruction do nothing.
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        let _ = p;
    }
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each pair; `b` where `a` is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair; `b` where `a` is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square roots.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Nearest integers, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `2^a` for integral `a` in [-126, 127], and 0 for -127.
    fn exp2_int(self, a: Self::V) -> Self::V;
    /// Sum of the lanes, as a tree of halves.
    fn sum(self, a: Self::V) -> f32;
    /// Largest lane.
    fn max_lane(self, a: Self::V) -> f32;

    /// The first four columns of `rows` rows (1 to `LANES`) that lie `stride` apart, a vector per column. Lanes behind
    /// the last row repeat it.
    ///
    /// # Safety
    /// Four values of each row must be valid for reading.
    unsafe fn columns(self, rows: usize, p: *const f32, stride: usize) -> [Self::V; 4];

    /// Reads `cols` columns of `rows` rows (both at most `LANES`) from rows `src_stride` apart and writes the
    /// columns as rows `dst_stride` apart, in rising order, `LANES` values each with zeros behind the first `rows`.
    /// Rows of the result may therefore overlap: a later one overwrites the zeros of an earlier one.
    ///
    /// # Safety
    /// The values named above must be valid for reading and writing, and the two regions must not overlap.
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
        for c in 0..cols {
            for r in 0..Self::LANES {
                // SAFETY: row r < rows and column c < cols are among the values that the caller promises.
                unsafe { *dst.add(c * dst_stride + r) = if r < rows { *src.add(r * src_stride + c) } else { 0.0 } }
            }
        }
    }

    /// `e^a`, within 2 units in the last place on [-87, 88]; 0 below, inputs above 88 count as 88.
    /// `exp(0)` is exactly 1. NaN in, NaN out.
    #[inline(always)]
    fn exp(self, a: Self::V) -> Self::V {
        let s = self;
        // Order matters for NaN: min and max give their second argument where the first is NaN.
        let x = s.max(s.splat(-88.0), s.min(s.splat(88.0), a));
        let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, so that x - n ln 2 is exact in the first.
        let r = s.fma(n, s.splat(-0.693_359_4), x);
        let r = s.fma(n, s.splat(2.121_944_4e-4), r);
        let mut p = s.splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = s.fma(p, r, s.splat(c));
        }
        let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
        // Below -87.7 the factor is zero: results too small for a normal number would cost a hundred times more.
        s.mul(p, s.exp2_int(n))
    }

    /// What the normal distribution leaves beyond `|a|`, `erfc(|a| / sqrt 2) / 2`, within 1e-7 of it, and `e^(-a^2 / 2)`.
    ///
    /// Their quotient is `1/2 - |a| q`, where `q` is smooth and falls like `1 / |a|`: a polynomial in
    /// `1 / (1 + 0.32 |a|)`, fitted by us, gives the first to 4e-9. Near zero only the half is left, and is exact.
    #[inline(always)]
    fn normal_tail(self, a: Self::V) -> (Self::V, Self::V) {
        let s = self;
        let size = s.max(a, s.sub(s.splat(0.0), a));
        let density = s.exp(s.mul(s.mul(a, a), s.splat(-0.5)));
        let t = s.div(s.splat(1.0), s.fma(size, s.splat(0.32), s.splat(1.0)));
        let mut q = s.splat(0.015_424_315);
        for c in [-0.065_931_33, 0.074_777_63, 0.008_686_776, 0.088_378_51, 0.117_493_6, 0.160_112_8] {
            q = s.fma(q, t, s.splat(c));
        }
        let quotient = s.fma(s.sub(s.splat(0.0), s.mul(size, t)), q, s.splat(0.5));
        (s.mul(quotient, density), density)
    }

    /// The error function, within 2e-7 everywhere; odd, and exactly 1 far out. NaN in, NaN out.
    #[inline(always)]
    fn erf(self, a: Self::V) -> Self::V {
        let s = self;
        let (tail, _) = s.normal_tail(s.mul(a, s.splat(std::f32::consts::SQRT_2)));
        s.mul(s.sign(a), s.fma(s.splat(-2.0), tail, s.splat(1.0)))
    }

    /// -1, 0 or 1; in between where `|a|` is below 1e-30.
    #[inline(always)]
    fn sign(self, a: Self::V) -> Self::V {
        let s = self;
        s.max(s.splat(-1.0), s.min(s.splat(1.0), s.mul(a, s.splat(1e30))))
    }

    /// `1 / (1 + e^-a)`.
    #[inline(always)]
    fn sigmoid(self, a: Self::V) -> Self::V {
        let e = self.exp(self.sub(self.splat(0.0), a));
        self.div(self.splat(1.0), self.add(self.splat(1.0), e))
    }
}

/// An instruction set that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Plain Rust, eight lanes that the compiler may vectorise.
    Portable,
}

impl Isa {
    /// Every instruction set, fastest first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// Name in tables and state files.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().is_some(),
            Isa::Portable => true,
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest one of this machine.
    pub fn best() -> Isa {
        Self::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Runs a kernel with this instruction set.
    ///
    /// # Panics
    /// If the machine does not have it: ask [`Isa::is_available`] first.
    #[inline]
    pub fn run<K: Vectorized>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().expect("AVX-512 is available").run(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().expect("AVX2 is available").run(kernel),
            Isa::Portable => kernel.run(Portable),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("is_available is false for it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a [f32], &'a mut [f32]);
    impl Vectorized for Exp<'_> {
        type Out = ();
        #[inline(always)]
        #[allow(unsafe_code)]
        fn run<S: Simd>(self, s: S) {
            for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                let n = x.len();
                // SAFETY: each chunk holds n values, and n < LANES where the short forms are used.
                unsafe {
                    if n == S::LANES {
                        s.store(y.as_mut_ptr(), s.exp(s.load(x.as_ptr())));
                    } else {
                        s.store_first(y.as_mut_ptr(), n, s.exp(s.load_first(x.as_ptr(), n)));
                    }
                }
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place_on_every_instruction_set() {
        let x: Vec<f32> = (0..200_003).map(|i| -87.0 + 175.0 * i as f32 / 200_003.0).collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            let mut y = vec![0.0; x.len()];
            isa.run(Exp(&x, &mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let want = f64::from(x).exp();
                let ulp = f64::from(f32::EPSILON) * want;
                assert!((f64::from(y) - want).abs() <= 2.0 * ulp, "{}: exp({x}) = {y}, not {want}", isa.name());
            }
            let mut y = [0.0; 7];
            isa.run(Exp(&[0.0, -200.0, f32::NAN, 1000.0, f32::NEG_INFINITY, -88.5, -87.4], &mut y));
            assert_eq!((y[0], y[1], y[4], y[5]), (1.0, 0.0, 0.0, 0.0));
            assert!(y[6] >= 0.0 && y[6] < 1.2e-38);
            assert!(y[2].is_nan() && y[3].is_finite());
        }
    }

    struct Erf<'a>(&'a [f32], &'a mut [f32]);
    impl Vectorized for Erf<'_> {
        type Out = ();
        #[inline(always)]
        #[allow(unsafe_code)]
        fn run<S: Simd>(self, s: S) {
            for (x, y) in self.0.chunks_exact(S::LANES).zip(self.1.chunks_exact_mut(S::LANES)) {
                // SAFETY: each chunk holds a vector.
                unsafe { s.store(y.as_mut_ptr(), s.erf(s.load(x.as_ptr()))) };
            }
        }
    }

    #[test]
    fn erf_keeps_its_bound_on_every_instruction_set() {
        let x: Vec<f32> = (0..400_000).map(|i| -5.0 + i as f32 / 40_000.0).collect();
        let far = [0.0, -0.0, 1e-20, 30.0, -30.0, 1e4, -1e4, f32::NAN, 6.0, -6.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0];
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            let mut y = vec![0.0; x.len()];
            isa.run(Erf(&x, &mut y));
            for (&x, &y) in x.iter().zip(&y) {
                let want = libm::erf(f64::from(x));
                assert!((f64::from(y) - want).abs() <= 2e-7, "{}: erf({x}) = {y}, not {want}", isa.name());
            }
            let mut y = [0.0; 16];
            isa.run(Erf(&far, &mut y));
            assert_eq!(y[..7], [0.0, 0.0, y[2], 1.0, -1.0, 1.0, -1.0]);
            assert!(y[2].abs() < 1e-6 && y[7].is_nan());
        }
    }

    struct Transpose<'a>(usize, usize, &'a [f32], usize, &'a mut [f32], usize);
    impl Vectorized for Transpose<'_> {
        type Out = usize;
        #[inline(always)]
        #[allow(unsafe_code)]
        fn run<S: Simd>(self, s: S) -> usize {
            let Self(rows, cols, src, src_stride, dst, dst_stride) = self;
            let (rows, cols) = (rows.min(S::LANES), cols.min(S::LANES));
            // SAFETY: the test's buffers hold 16 rows of both strides and one vector more.
            unsafe { s.transpose(rows, cols, src.as_ptr(), src_stride, dst.as_mut_ptr(), dst_stride) };
            S::LANES
        }
    }

    #[test]
    fn transpose_moves_every_value_and_nothing_else_on_every_instruction_set() {
        let src: Vec<f32> = (1..=16 * 19).map(|i| i as f32).collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            for (rows, cols, dst_stride) in [(16, 16, 16), (13, 16, 13), (1, 16, 1), (16, 5, 17), (7, 3, 7), (0, 4, 1)]
            {
                let mut dst = vec![-1.0; 16 * 18];
                let lanes = isa.run(Transpose(rows, cols, &src, 19, &mut dst, dst_stride));
                let (rows, cols) = (rows.min(lanes), cols.min(lanes));
                for c in 0..cols {
                    for r in 0..rows.min(dst_stride) {
                        assert_eq!(dst[c * dst_stride + r], src[r * 19 + c], "{} {rows}x{cols}", isa.name());
                    }
                }
                let last = (cols - 1) * dst_stride;
                assert!(dst[last + rows..last + lanes].iter().all(|&x| x == 0.0));
                assert!(dst[last + lanes..].iter().all(|&x| x == -1.0));
            }
        }
    }

    struct Columns<'a>(usize, &'a [f32], usize, &'a mut [f32]);
    impl Vectorized for Columns<'_> {
        type Out = usize;
        #[inline(always)]
        #[allow(unsafe_code)]
        fn run<S: Simd>(self, s: S) -> usize {
            let Self(rows, src, stride, dst) = self;
            // SAFETY: the test's buffers hold 16 rows of the stride, and four vectors.
            unsafe {
                for (c, column) in s.columns(rows.min(S::LANES), src.as_ptr(), stride).into_iter().enumerate() {
                    s.store(dst[c * S::LANES..].as_mut_ptr(), column);
                }
            }
            S::LANES
        }
    }

    #[test]
    fn columns_hold_their_rows_and_then_repeat_the_last_on_every_instruction_set() {
        let src: Vec<f32> = (1..=16 * 19).map(|i| i as f32).collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            for (rows, stride) in [(16, 19), (8, 4), (13, 5), (5, 19), (1, 19)] {
                // No value behind the last row that is asked for may be read.
                let src = &src[..(rows - 1) * stride + 4];
                let mut dst = [0.0; 64];
                let lanes = isa.run(Columns(rows, src, stride, &mut dst));
                for (i, &x) in dst[..4 * lanes].iter().enumerate() {
                    let row = (i % lanes).min(rows.min(lanes) - 1);
                    assert_eq!(x, src[row * stride + i / lanes], "{} {rows} rows, {stride} apart", isa.name());
                }
            }
        }
    }

    struct Outlined(f32);
    impl Vectorized for Outlined {
        type Out = f32;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f32 {
            struct Inner(f32);
            impl Vectorized for Inner {
                type Out = f32;
                #[inline(always)]
                fn run<S: Simd>(self, s: S) -> f32 {
                    s.sum(s.fma(s.splat(self.0), s.splat(2.0), s.splat(1.0))) / S::LANES as f32
                }
            }
            s.outline(Inner(self.0))
        }
    }

    #[test]
    fn outlined_kernels_run_with_the_same_instructions() {
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            assert_eq!(isa.run(Outlined(3.0)), 7.0);
        }
    }
}
