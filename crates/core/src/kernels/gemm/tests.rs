use super::*;

/// Small pseudo-random numbers, the same on every run.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The order of the module text, one value after the other, with the instruction set's own multiply-add.
struct InOrder<'a>(MatRef<'a>, MatRef<'a>, &'a mut [f32], Start);
impl Vectorized for InOrder<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(a, b, c, start) = self;
        for i in 0..a.rows {
            for j in 0..b.cols {
                let mut sum = s.splat(if start == Start::Zero { 0.0 } else { c[i * b.cols + j] });
                for k in 0..a.cols {
                    let x = s.splat(a.data[i * a.row_stride + k * a.col_stride]);
                    sum = s.fma(x, s.splat(b.data[k * b.row_stride + j * b.col_stride]), sum);
                }
                c[i * b.cols + j] = s.max_lane(sum);
            }
        }
    }
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

const SIZES: [[usize; 3]; 20] = [
    [1, 1, 1],
    [1, 65, 7],
    [1, 300, 64],
    [2, 129, 33],
    [3, 64, 64],
    [4, 31, 100],
    [5, 17, 16],
    [8, 50, 300],
    [11, 64, 270],
    [13, 33, 700],
    [16, 48, 64],
    [17, 96, 200],
    [64, 64, 64],
    [63, 65, 64],
    [100, 257, 129],
    [515, 40, 30],
    [30, 530, 520],
    [7, 9, 0],
    [0, 5, 5],
    [5, 0, 5],
];

#[test]
fn every_path_sums_in_the_documented_order_bit_for_bit() {
    for isa in isas() {
        for [m, n, k] in SIZES {
            let (x, y, c) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            for (a_t, b_t, start) in [
                (false, false, Start::Zero),
                (false, true, Start::Zero),
                (true, false, Start::Current),
                (true, true, Start::Current),
                (false, false, Start::Current),
            ] {
                let a = if a_t { MatRef::new(&x, k, m).transposed() } else { MatRef::new(&x, m, k) };
                let b = if b_t { MatRef::new(&y, n, k).transposed() } else { MatRef::new(&y, k, n) };
                let (mut got, mut want) = (c.clone(), c.clone());
                product(isa, false, a, b, MatMut::new(&mut got, m, n), start);
                isa.run(InOrder(a, b, &mut want, start));
                assert!(got == want, "{} {m}x{n}x{k} {a_t} {b_t} {start:?}", isa.name());
            }
        }
    }
}

#[test]
fn strides_leave_gaps_untouched() {
    for isa in isas() {
        for [m, n, k] in [[5, 19, 6], [40, 70, 300]] {
            let (x, y) = (numbers(2 * m * 3 * k, 1), numbers(k * 2 * (n + 3), 2));
            let a = MatRef::strided(&x, m, k, 3 * k, 2);
            let b = MatRef::strided(&y, k, n, 2 * (n + 3), 2);
            let mut got = vec![9.0; m * (n + 5)];
            product(isa, false, a, b, MatMut::strided(&mut got, m, n, n + 5), Start::Zero);
            let mut want = vec![0.0; m * n];
            isa.run(InOrder(a, b, &mut want, Start::Zero));
            for i in 0..m {
                assert_eq!(got[i * (n + 5)..][..n], want[i * n..][..n]);
                assert_eq!(got[i * (n + 5) + n..][..5], [9.0; 5]);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (300, 200, 150);
    let (x, y) = (numbers(m * k, 1), numbers(k * n, 2));
    let (a, b) = (MatRef::new(&x, m, k), MatRef::new(&y, k, n));
    for isa in isas() {
        let mut want = vec![0.0; m * n];
        product(isa, false, a, b, MatMut::new(&mut want, m, n), Start::Zero);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut got = vec![0.0; m * n];
            pool.install(|| product(isa, true, a, b, MatMut::new(&mut got, m, n), Start::Zero));
            assert!(got == want, "{} with {threads} threads", isa.name());
        }
    }
}

#[test]
#[should_panic(expected = "do not fit")]
fn matrices_that_do_not_fit_are_refused() {
    let x = [0.0; 12];
    product(
        Isa::Portable,
        false,
        MatRef::new(&x, 3, 4),
        MatRef::new(&x, 3, 4),
        MatMut::new(&mut [0.0; 12], 3, 4),
        Start::Zero,
    );
}

#[test]
#[should_panic(expected = "past its data")]
fn a_matrix_longer_than_its_data_is_refused() {
    MatRef::new(&[0.0; 11], 3, 4);
}
