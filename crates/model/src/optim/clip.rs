//! The length of a gradient, and its bound.

/// Global norm of a gradient, summed in one fixed order in double precision.
pub fn global_norm(grads: &[f32]) -> f64 {
    // Eight running sums, so that the additions do not wait for each other; their order never changes.
    let mut sums = [0.0_f64; 8];
    let chunks = grads.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    for chunk in chunks {
        for (s, &g) in sums.iter_mut().zip(chunk) {
            *s += f64::from(g) * f64::from(g);
        }
    }
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// Scales a gradient down to `max_norm` if it is longer, and gives the norm that it had. 0 leaves it as it is.
pub fn clip(grads: &mut [f32], max_norm: f64) -> f64 {
    let norm = global_norm(grads);
    if max_norm > 0.0 && norm > max_norm {
        let scale = (max_norm / norm) as f32;
        grads.iter_mut().for_each(|g| *g *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_scales_to_the_norm_and_reports_the_old_one() {
        let mut g: Vec<f32> = (0..19).map(|i| i as f32 - 9.0).collect();
        let norm = g.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        assert!((clip(&mut g, 0.0) - norm).abs() < 1e-9);
        assert!((clip(&mut g, 1.0) - norm).abs() < 1e-9);
        assert!((global_norm(&g) - 1.0).abs() < 1e-6);
        assert!((clip(&mut g, 2.0) - 1.0).abs() < 1e-6, "short gradients stay as they are");
    }
}
