//! Queries that golden vectors make by a projection of unit length.

/// Length of a query before it is one.
pub fn length(z: &[f64]) -> f64 {
    (z.iter().map(|z| z * z).sum::<f64>() + 1e-6).sqrt()
}

/// Back through the queries of the `sr_*` vectors, which are no part of the rule: `x Wq` at unit length. Adds into `dx`,
/// gives the gradient of Wq.
pub fn query_backward((x, wq, raw): (&[f64], &[f64], &[f64]), dq: &[f64], dx: &mut [f64]) -> Vec<f64> {
    let mut dwq = vec![0.0; 16];
    for (((x, z), dq), dx) in
        x.chunks_exact(4).zip(raw.chunks_exact(4)).zip(dq.chunks_exact(4)).zip(dx.chunks_exact_mut(4))
    {
        let (n, along) = (length(z), z.iter().zip(dq).map(|(z, d)| z * d).sum::<f64>());
        for j in 0..4 {
            let dz = dq[j] / n - z[j] * along / (n * n * n);
            for i in 0..4 {
                dx[i] += wq[4 * i + j] * dz;
                dwq[4 * i + j] += x[i] * dz;
            }
        }
    }
    dwq
}
