//! Slices seen as vectors, and the form in which kernels over slices are written.
#![allow(unsafe_code)]

use crate::simd::Simd;

/// Declares a function over slices whose text is compiled once per instruction set.
///
/// `kernel! { fn name(s: S, x: &'a [f32], ..) { .. } }` becomes `fn name(isa: Isa, x: &[f32], ..)`; inside, `s` is a
/// value of the [`Simd`] type `S`.
macro_rules! kernel {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($s:ident: S, $($arg:ident: $T:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name<'a>(isa: $crate::simd::Isa, $($arg: $T),*) {
            struct Kernel<'a> {
                $($arg: $T,)*
                lifetime: std::marker::PhantomData<&'a ()>,
            }
            impl<'a> $crate::simd::Vectorized for Kernel<'a> {
                type Out = ();
                #[inline(always)]
                fn run<S: $crate::simd::Simd>(self, $s: S) {
                    let Self { $($arg,)* lifetime: _ } = self;
                    $body
                }
            }
            isa.run(Kernel { $($arg,)* lifetime: std::marker::PhantomData })
        }
    )*};
}
pub(crate) use kernel;

/// The vector at `at`, zeros behind the end of the slice.
#[inline(always)]
pub(crate) fn get<S: Simd>(s: S, x: &[f32], at: usize) -> S::V {
    let n = x.len().saturating_sub(at);
    let p = x.as_ptr().wrapping_add(at);
    // SAFETY: n values lie from `at` on.
    unsafe { if n >= S::LANES { s.load(p) } else { s.load_first(p, n) } }
}

/// Writes the vector at `at`, as far as the slice goes.
#[inline(always)]
pub(crate) fn put<S: Simd>(s: S, y: &mut [f32], at: usize, v: S::V) {
    let n = y.len().saturating_sub(at);
    let p = y.as_mut_ptr().wrapping_add(at);
    // SAFETY: n values lie from `at` on.
    unsafe { if n >= S::LANES { s.store(p, v) } else { s.store_first(p, n, v) } }
}

/// Adds to the vector at `at`, as far as the slice goes.
#[inline(always)]
pub(crate) fn add_to<S: Simd>(s: S, y: &mut [f32], at: usize, v: S::V) {
    put(s, y, at, s.add(get(s, y, at), v));
}

/// `sum_i a_i b_i`: lane by lane in rising order, then the lanes as a tree. The order depends on the length alone.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut sum = s.splat(0.0);
    for at in (0..a.len()).step_by(S::LANES) {
        sum = s.fma(get(s, a, at), get(s, b, at), sum);
    }
    s.sum(sum)
}

/// `x sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, s.sigmoid(x))
}

/// The derivative of [`silu`], `p (1 + x (1 - p))` with `p = sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    silu_slope_from(s, x, s.sigmoid(x))
}

/// The same where the sigmoid `p` of `x` is at hand.
#[inline(always)]
pub(crate) fn silu_slope_from<S: Simd>(s: S, x: S::V, p: S::V) -> S::V {
    let one = s.splat(1.0);
    s.mul(p, s.fma(x, s.sub(one, p), one))
}
