//! A plain perceptron over images, with the gradients and the inputs that optimizers ask for.

use crate::digits::{CLASSES, Digit, PIXELS};
use hecate_core::Scalar;
use hecate_core::ops::{Cpu, LinearShape, Ops};
use hecate_model::optim::{Gradient, InputLayout};
use hecate_model::{Init, Kind, ParamLayout, Params};
use std::ops::Range;

/// `softmax(silu(silu(x W1 + b1) W2 + b2) W3 + b3)`.
pub(super) struct Net {
    pub layout: ParamLayout,
    inputs: InputLayout,
    layers: Vec<Layer>,
    ops: Cpu,
}

struct Layer {
    inner: usize,
    outer: usize,
    w: Range<usize>,
    b: Range<usize>,
}

/// What a step goes by: the mean over the images.
pub(super) struct Gathered {
    /// The gradient, and behind it sums of `x x^T` where they were asked for.
    values: Vec<f32>,
    inputs: bool,
    images: usize,
}

impl Gathered {
    pub fn gradient(&self) -> Gradient<'_, f32> {
        Gradient { values: &self.values, inputs: self.inputs.then_some((&self.values, self.images)) }
    }
}

impl Net {
    /// Hidden layers are matrices; the last one is a head, which optimizers of matrices leave to AdamW.
    pub fn new(hidden: usize) -> Self {
        let (mut layout, sizes) = (ParamLayout::default(), [PIXELS, hidden, hidden, CLASSES]);
        let mut layers = Vec::new();
        for (i, pair) in sizes.windows(2).enumerate() {
            let (inner, outer) = (pair[0], pair[1]);
            let kind = if i == 2 { Kind::Embedding } else { Kind::Matrix };
            let init = Init::Normal((2.0 / inner as f64).sqrt());
            let w = layout.add(format!("layers.{i}.weight"), &[inner, outer], kind, init);
            let b = layout.add(format!("layers.{i}.bias"), &[outer], Kind::Norm, Init::Constant(0.0));
            layers.push(Layer { inner, outer, w, b });
        }
        let inputs = InputLayout::new(&layout);
        Self { layout, inputs, layers, ops: Cpu::training() }
    }

    pub fn ops(&self) -> &Cpu {
        &self.ops
    }

    /// What every layer is given, and what it gives before SiLU: at last the logits.
    fn forward(&self, p: &Params<f32>, images: &[Digit]) -> [Vec<Vec<f32>>; 2] {
        // White is -0.5, so that pixels are about zero in the mean.
        let mut x: Vec<f32> = images.iter().flat_map(|d| d.pixels.map(|x| x - 0.5)).collect();
        let (mut given, mut sums) = (Vec::new(), Vec::new());
        for l in &self.layers {
            let mut y = vec![0.0; images.len() * l.outer];
            self.ops.linear_forward(l.shape(images.len()), &x, &p.data[l.w.clone()], &mut y);
            for row in y.chunks_mut(l.outer) {
                row.iter_mut().zip(&p.data[l.b.clone()]).for_each(|(y, b)| *y += b);
            }
            given.push(x);
            x = y.iter().map(|y| y.silu()).collect();
            sums.push(y);
        }
        [given, sums]
    }

    /// Mean cross-entropy in nats; infinite where a number overflowed.
    pub fn loss(&self, p: &Params<f32>, images: &[Digit]) -> f64 {
        let [_, mut sums] = self.forward(p, images);
        let logits = sums.pop().expect("logits");
        let each = logits.chunks(CLASSES).zip(images).map(|(l, d)| softmax(l).1 - f64::from(l[d.label]));
        let loss = each.sum::<f64>() / images.len() as f64;
        if loss.is_finite() { loss } else { f64::INFINITY }
    }

    /// The gradient of the mean cross-entropy; with `inputs` also the sums of what goes into matrices.
    pub fn gradient(&self, p: &Params<f32>, images: &[Digit], inputs: bool) -> Gathered {
        let [given, sums] = self.forward(p, images);
        let mut values = vec![0.0; if inputs { self.inputs.len } else { self.layout.len }];
        let mut dy: Vec<f32> = Vec::new();
        for (l, d) in sums[self.layers.len() - 1].chunks(CLASSES).zip(images) {
            let share = |(c, p): (usize, f64)| (p - f64::from(c == d.label)) as f32 / images.len() as f32;
            dy.extend(softmax(l).0.into_iter().enumerate().map(share));
        }
        for (i, l) in self.layers.iter().enumerate().rev() {
            for row in dy.chunks(l.outer) {
                values[l.b.clone()].iter_mut().zip(row).for_each(|(b, d)| *b += d);
            }
            let (x, mut dx) = (&given[i], vec![0.0; images.len() * l.inner]);
            let dw = &mut values[l.w.clone()];
            self.ops.linear_backward(l.shape(images.len()), x, &p.data[l.w.clone()], &dy, Some(&mut dx), Some(dw));
            if let Some(at) = self.inputs.find(&l.w).filter(|_| inputs) {
                let square = LinearShape { rows: images.len(), inner: l.inner, outer: l.inner };
                self.ops.linear_backward(square, x, &[], x, None, Some(&mut values[at]));
            }
            if i > 0 {
                dx.iter_mut().zip(&sums[i - 1]).for_each(|(d, z)| *d *= z.silu_slope());
            }
            dy = dx;
        }
        Gathered { values, inputs, images: images.len() }
    }
}

impl Layer {
    fn shape(&self, rows: usize) -> LinearShape {
        LinearShape { rows, inner: self.inner, outer: self.outer }
    }
}

/// Probabilities, and the logarithm of their sum before it was made one.
fn softmax(logits: &[f32]) -> (Vec<f64>, f64) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let each: Vec<f64> = logits.iter().map(|l| f64::from(l - top).exp()).collect();
    let total: f64 = each.iter().sum();
    (each.iter().map(|e| e / total).collect(), f64::from(top) + total.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digits;

    #[test]
    fn the_gradient_is_that_of_the_loss_and_inputs_are_sums_of_squares() {
        let (net, images) = (Net::new(6), &digits::all()[..8]);
        let p: Params<f32> = net.layout.init(1);
        let gathered = net.gradient(&p, images, true);
        for spec in &net.layout.specs {
            // The number of each tensor that matters most, so that single precision can see it.
            let g = &gathered.values[spec.range.clone()];
            let at = spec.range.start + (0..g.len()).max_by(|&a, &b| g[a].abs().total_cmp(&g[b].abs())).unwrap();
            let moved = |by: f32| {
                let mut p = p.clone();
                p.data[at] += by;
                net.loss(&p, images)
            };
            let slope = (moved(2e-3) - moved(-2e-3)) / 4e-3;
            let g = f64::from(gathered.values[at]);
            assert!((slope - g).abs() < 0.02 * g.abs(), "{}: {slope} {g}", spec.name);
        }
        let at = net.inputs.find(&net.layers[0].w).unwrap();
        let squares: f32 = images.iter().map(|d| (d.pixels[3] - 0.5).powi(2)).sum();
        assert!((gathered.values[at.start + 3 * PIXELS + 3] - squares).abs() < 1e-4);
    }
}
