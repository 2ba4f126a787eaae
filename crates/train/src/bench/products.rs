//! Rows about matrix products.

use super::harness::{Case, Work};
use super::inputs::{fault, numbers};
use hecate_core::kernels::gemm::{MatMut, MatRef, Start, product};
use hecate_core::ops::Cpu;

/// Products of one call of the batch row.
const BATCH: usize = 64;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("product 2048x512x2048", [2048, 512, 2048], 1, false, false),
        case("product 2048x512x2048, right side transposed", [2048, 512, 2048], 1, false, true),
        case("product 2048x512x2048, left side transposed", [2048, 512, 2048], 1, true, false),
        case("product 512x256x768", [512, 256, 768], 1, false, false),
        case("product 256x512x768, left side transposed", [256, 512, 768], 1, true, false),
        case("64 products 64x64x64", [64, 64, 64], BATCH, false, false),
        case("64 products 64x64x64, right side transposed", [64, 64, 64], BATCH, false, true),
        case("64 products 64x64x64, left side transposed", [64, 64, 64], BATCH, true, false),
        case("product 1x256x1024", [1, 256, 1024], 1, false, false),
        case("product 1x64x256, right side transposed", [1, 64, 256], 1, false, true),
    ]
}

/// `batch` products of `[m, k]` and `[k, n]`, as `m x k x n`.
fn case(name: &str, [m, k, n]: [usize; 3], batch: usize, a_t: bool, b_t: bool) -> Case {
    Case {
        name: name.to_string(),
        formula: if batch == 1 { "2 m k n".into() } else { format!("{batch} * 2 m k n") },
        flops: 2.0 * (batch * m * k * n) as f64,
        bytes: None,
        tokens: None,
        build: Box::new(move || work([m, k, n], batch, a_t, b_t)),
    }
}

fn work([m, k, n]: [usize; 3], batch: usize, a_t: bool, b_t: bool) -> Work {
    let (a, b) = (numbers(batch * m * k, 1), numbers(batch * k * n, 2));
    let mut c = vec![0.0; batch * m * n];
    let run = move |cpu: &Cpu, a: &[f32], b: &[f32], c: &mut [f32]| {
        for i in 0..batch {
            let (a, b) = (&a[i * m * k..][..m * k], &b[i * k * n..][..k * n]);
            let a = if a_t { MatRef::new(a, k, m).transposed() } else { MatRef::new(a, m, k) };
            let b = if b_t { MatRef::new(b, n, k).transposed() } else { MatRef::new(b, k, n) };
            let c = MatMut::new(&mut c[i * m * n..][..m * n], m, n);
            product(cpu.isa(), cpu.parallel(), a, b, c, Start::Zero);
        }
    };
    let (va, vb, mut vc) = (a.clone(), b.clone(), c.clone());
    let compare = move |cpu: &Cpu| {
        run(cpu, &va, &vb, &mut vc);
        // A few hundred results spread over the whole are enough to find a wrong tile or edge.
        let step = (batch * m * n / 997).max(1);
        let pairs = (0..batch * m * n).step_by(step).map(|at| {
            let (o, i, j) = (at / (m * n), at / n % m, at % n);
            let left = |l: usize| va[o * m * k + if a_t { l * m + i } else { i * k + l }];
            let right = |l: usize| vb[o * k * n + if b_t { j * k + l } else { l * n + j }];
            let want: f64 = (0..k).map(|l| f64::from(left(l)) * f64::from(right(l))).sum();
            (vc[at], want)
        });
        fault(pairs)
    };
    Work { fault: Box::new(compare), call: Box::new(move |cpu| run(cpu, &a, &b, &mut c)) }
}
