//! One fast-weight layer and a small head, with its exact gradient: what parity is learned with.
//!
//! A bit chooses an embedding; from it come key and query (unit length), value and gates. The memory reads after each
//! token, and a perceptron turns the read into two logits. The memory's start is learned. Since a token is one of two,
//! everything before the memory is computed once per symbol.

use super::super::dgd::Candidate;
use hecate_core::{Dims, Input, Number, Scalar};
use std::ops::Range;

/// Sizes: width of the memory, of the hidden layer of the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub width: usize,
    pub hidden: usize,
}

/// Where the parameters lie in one flat list.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub embedding: Range<usize>,
    /// Projections to key, value, query.
    pub projections: [Range<usize>; 3],
    /// Weights and, last, the bias of `retain` and `rate`.
    pub gates: [Range<usize>; 2],
    pub start: Range<usize>,
    pub head1: Range<usize>,
    pub bias1: Range<usize>,
    pub head2: Range<usize>,
    pub bias2: Range<usize>,
    pub len: usize,
}

impl Places {
    pub fn new(s: Sizes) -> Self {
        let mut len = 0;
        let mut take = |n: usize| {
            len += n;
            len - n..len
        };
        let (d, h) = (s.width, s.hidden);
        let mut places = Self {
            embedding: take(2 * d),
            projections: [(); 3].map(|()| take(d * d)),
            gates: [(); 2].map(|()| take(d + 1)),
            start: take(d * d),
            head1: take(h * d),
            bias1: take(h),
            head2: take(2 * h),
            bias2: take(2),
            len: 0,
        };
        places.len = len;
        places
    }
}

/// `W x`, `[rows, columns]`.
fn apply<F: Scalar>(w: &[F], x: &[F]) -> Vec<F> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(&w, &x)| w * x).sum()).collect()
}

/// Transpose of [`apply`]: adds into `dw` and `dx`.
fn apply_backward<F: Scalar>(w: &[F], x: &[F], dy: &[F], dw: &mut [F], dx: &mut [F]) {
    let n = x.len();
    for (r, &dy) in dy.iter().enumerate() {
        for c in 0..n {
            dw[r * n + c] += dy * x[c];
            dx[c] += dy * w[r * n + c];
        }
    }
}

fn norm<F: Scalar>(x: &[F]) -> F {
    (x.iter().map(|&x| x * x).sum::<F>() + F::from_f64(1e-6)).sqrt()
}

/// What one symbol brings to the memory: the raw projections, then key, value, query, `retain`, `rate`.
struct Symbol<F> {
    raw: [Vec<F>; 3],
    final_: [Vec<F>; 5],
}

/// The index into [`Symbol::final_`] of an input of the rule.
fn slot(input: &Input) -> usize {
    ["k", "v", "q", "retain", "rate"].iter().position(|&n| n == input.name).expect("a rule of k, v, q, retain, rate")
}

/// The model over one rule.
pub(super) struct Parity<'a> {
    pub rule: &'a Candidate,
    pub sizes: Sizes,
    /// `retain` is 1, and nothing learns it.
    pub keeps_all: bool,
}

impl Parity<'_> {
    fn dims(&self) -> Dims {
        Dims::new(self.sizes.width, self.sizes.width)
    }

    fn symbol<F: Scalar>(&self, at: &Places, p: &[F], bit: usize) -> Symbol<F> {
        let d = self.sizes.width;
        let x = &p[at.embedding.clone()][bit * d..][..d];
        let raw = at.projections.clone().map(|r| apply(&p[r], x));
        let unit = |x: &[F]| {
            let n = norm(x);
            x.iter().map(|&x| x / n).collect::<Vec<F>>()
        };
        let gate = |r: &Range<usize>| {
            let w = &p[r.clone()];
            let sum = w[..d].iter().zip(x).map(|(&w, &x)| w * x).sum::<F>() + w[d];
            vec![sum.sigmoid()]
        };
        let retain = if self.keeps_all { vec![F::one()] } else { gate(&at.gates[0]) };
        let final_ = [unit(&raw[0]), raw[1].clone(), unit(&raw[2]), retain, gate(&at.gates[1])];
        Symbol { raw, final_ }
    }

    /// Transpose of [`Parity::symbol`]; `df` is the gradient of what it gave.
    fn symbol_backward<F: Scalar>(
        &self,
        at: &Places,
        p: &[F],
        bit: usize,
        s: &Symbol<F>,
        df: &[Vec<F>; 5],
        g: &mut [F],
    ) {
        let d = self.sizes.width;
        let x = p[at.embedding.clone()][bit * d..][..d].to_vec();
        let mut dx = vec![F::zero(); d];
        for (i, df) in df.iter().enumerate().take(3) {
            let mut draw = df.clone();
            // The value alone keeps its length.
            if i != 1 {
                let n = norm(&s.raw[i]);
                let along = df.iter().zip(&s.final_[i]).map(|(&d, &y)| d * y).sum::<F>();
                draw.iter_mut().zip(&s.final_[i]).for_each(|(d, &y)| *d = (*d - along * y) / n);
            }
            let r = at.projections[i].clone();
            apply_backward(&p[r.clone()], &x, &draw, &mut g[r], &mut dx);
        }
        for (i, r) in at.gates.iter().enumerate().filter(|(i, _)| *i == 1 || !self.keeps_all) {
            let y = s.final_[3 + i][0];
            let dz = df[3 + i][0] * y * (F::one() - y);
            for c in 0..d {
                g[r.start + c] += dz * x[c];
                dx[c] += dz * p[r.start + c];
            }
            g[r.start + d] += dz;
        }
        g[at.embedding.clone()][bit * d..][..d].iter_mut().zip(&dx).for_each(|(g, &d)| *g += d);
    }

    fn head<F: Scalar>(&self, at: &Places, p: &[F], y: &[F]) -> (Vec<F>, [F; 2]) {
        let mut hidden = apply(&p[at.head1.clone()], y);
        hidden.iter_mut().zip(&p[at.bias1.clone()]).for_each(|(h, &b)| *h = (*h + b).tanh());
        let z = apply(&p[at.head2.clone()], &hidden);
        let b = &p[at.bias2.clone()];
        (hidden, [z[0] + b[0], z[1] + b[1]])
    }

    /// The share of strings that are labelled right at every position, and of positions that are.
    pub fn accuracy(&self, p: &[f64], strings: &[Vec<bool>]) -> (f64, f64) {
        let at = Places::new(self.sizes);
        let symbols = [0, 1].map(|bit| self.symbol(&at, p, bit));
        let inputs = self.rule.inputs();
        let (mut whole, mut right, mut all) = (0, 0, 0);
        for string in strings {
            let (mut state, mut odd, mut wrong) = (p[at.start.clone()].to_vec(), false, 0);
            let mut y = vec![0.0; self.sizes.width];
            for (t, &bit) in string.iter().enumerate() {
                let x: Vec<&[f64]> = inputs.iter().map(|i| &symbols[usize::from(bit)].final_[slot(i)][..]).collect();
                self.rule.over().step(self.dims(), t as u64, &x, &mut state, &mut y);
                odd ^= bit;
                let (_, z) = self.head(&at, p, &y);
                wrong += usize::from((z[1] > z[0]) != odd);
            }
            whole += usize::from(wrong == 0);
            right += string.len() - wrong;
            all += string.len();
        }
        (whole as f64 / strings.len() as f64, right as f64 / all as f64)
    }

    /// Mean cross-entropy over all positions of all strings; adds its gradient into `g`.
    pub fn loss<F: Number>(&self, p: &[F], strings: &[Vec<bool>], g: &mut [F]) -> F {
        let at = Places::new(self.sizes);
        let symbols = [0, 1].map(|bit| self.symbol(&at, p, bit));
        let mut dsymbols = [0, 1].map(|_| [0, 1, 2, 3, 4].map(|i| vec![F::zero(); symbols[0].final_[i].len()]));
        let weight = F::from_f64(1.0 / strings.iter().map(Vec::len).sum::<usize>() as f64);
        let mut loss = F::zero();
        for string in strings {
            loss += self.string(&at, p, string, weight, &symbols, &mut dsymbols, g);
        }
        for bit in 0..2 {
            self.symbol_backward(&at, p, bit, &symbols[bit], &dsymbols[bit], g);
        }
        loss
    }

    /// One string, forward and backward.
    fn string<F: Number>(
        &self,
        at: &Places,
        p: &[F],
        string: &[bool],
        weight: F,
        symbols: &[Symbol<F>; 2],
        dsymbols: &mut [[Vec<F>; 5]; 2],
        g: &mut [F],
    ) -> F {
        let (dims, inputs) = (self.dims(), self.rule.inputs());
        let token = |bit: bool| {
            inputs.iter().map(|i| &symbols[usize::from(bit)].final_[slot(i)][..]).collect::<Vec<_>>()
        };
        let mut states = vec![p[at.start.clone()].to_vec()];
        let mut dreads = Vec::new();
        let (mut odd, mut loss) = (false, F::zero());
        for (t, &bit) in string.iter().enumerate() {
            let (mut state, mut y) = (states[t].clone(), vec![F::zero(); self.sizes.width]);
            self.rule.over().step(dims, t as u64, &token(bit), &mut state, &mut y);
            states.push(state);
            odd ^= bit;
            let (l, dy) = self.label(at, p, &y, odd, weight, g);
            loss += l;
            dreads.push(dy);
        }
        let mut dstate = vec![F::zero(); states[0].len()];
        for (t, &bit) in string.iter().enumerate().rev() {
            let d = &mut dsymbols[usize::from(bit)];
            let mut dx: Vec<Vec<F>> = inputs.iter().map(|i| vec![F::zero(); i.width.of(dims)]).collect();
            let mut parts: Vec<&mut [F]> = dx.iter_mut().map(|x| &mut x[..]).collect();
            self.rule.over().step_backward(dims, t as u64, &token(bit), &states[t], &dreads[t], &mut parts, &mut dstate);
            for (i, dx) in inputs.iter().zip(&dx) {
                d[slot(i)].iter_mut().zip(dx).for_each(|(d, &x)| *d += x);
            }
        }
        g[at.start.clone()].iter_mut().zip(&dstate).for_each(|(g, &d)| *g += d);
        loss
    }

    /// Cross-entropy of one position, times `weight`, and the gradient of the read; adds into the head's gradient.
    fn label<F: Scalar>(&self, at: &Places, p: &[F], y: &[F], odd: bool, weight: F, g: &mut [F]) -> (F, Vec<F>) {
        let (hidden, z) = self.head(at, p, y);
        let sign = if odd { F::one() } else { -F::one() };
        let margin = sign * (z[1] - z[0]);
        let loss = weight * (-margin).softplus();
        let d = -(weight * sign * (-margin).sigmoid());
        let dz = [-d, d];
        let mut dh = vec![F::zero(); hidden.len()];
        apply_backward(&p[at.head2.clone()], &hidden, &dz, &mut g[at.head2.clone()], &mut dh);
        g[at.bias2.clone()].iter_mut().zip(dz).for_each(|(g, d)| *g += d);
        dh.iter_mut().zip(&hidden).for_each(|(d, &h)| *d *= F::one() - h * h);
        let mut dy = vec![F::zero(); y.len()];
        apply_backward(&p[at.head1.clone()], y, &dh, &mut g[at.head1.clone()], &mut dy);
        g[at.bias1.clone()].iter_mut().zip(&dh).for_each(|(g, &d)| *g += d);
        (loss, dy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dgd::Dgd;
    use super::*;
    use hecate_core::{AnyRule, Dual};
    use hecate_model::rng::Rng;

    fn check(rule: &Candidate, keeps_all: bool) {
        let model = Parity { rule, sizes: Sizes { width: 4, hidden: 3 }, keeps_all };
        let n = Places::new(model.sizes).len;
        let mut draw = Rng::new(3, "gradient");
        let (p, along): (Vec<f64>, Vec<f64>) = (0..n).map(|_| (draw.normal(), draw.normal())).unzip();
        let strings: Vec<Vec<bool>> = [5, 3].map(|n| (0..n).map(|i| i % 3 != 1).collect()).into();
        let dual: Vec<Dual<f64>> = p.iter().zip(&along).map(|(&p, &a)| Dual::new(p, a)).collect();
        let exact = model.loss(&dual, &strings, &mut vec![Dual::from_f64(0.0); n]).eps;
        let mut g = vec![0.0; n];
        model.loss(&p, &strings, &mut g);
        let terms: Vec<f64> = g.iter().zip(&along).map(|(g, a)| g * a).collect();
        let (got, scale) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
        assert!((got - exact).abs() < 1e-12 * scale, "{rule:?}: {got} {exact}");
    }

    #[test]
    fn the_gradient_of_the_whole_model_is_exact() {
        let registered = |name| Candidate::Registered(AnyRule::named(name).expect("the rule is registered"));
        check(&Candidate::Dgd(Dgd {}), false);
        check(&Candidate::Dgd(Dgd {}), true);
        check(&registered("decay_delta"), false);
        check(&registered("delta"), true);
    }
}
