//! Problems with a known answer: every optimizer descends, and the ones that have a closed form have it.

use hecate_core::ops::{Ops, Reference};
use hecate_model::optim::prox::{Corrected, Dot, Error, Loss, Near, Problem, Retention, SquaredError, Values, solve};
use hecate_model::optim::{AnyOptimizer, Gradient, InputLayout, Shape, Stepper};
use hecate_model::{Init, Kind, ParamLayout, Params};
use serde_json::json;

type F64 = Reference<f64>;

/// Regression `x w + b` onto `y`, all tokens at once.
struct Regression {
    layout: ParamLayout,
    x: Vec<f64>,
    y: Vec<f64>,
}

const TOKENS: usize = 24;
const IN: usize = 6;
const OUT: usize = 4;

fn wave(n: usize, by: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * by % 1009) as f64 + 0.5) / 504.5 - 1.0).collect()
}

impl Regression {
    fn new() -> Self {
        let mut layout = ParamLayout::default();
        layout.add("w".into(), &[IN, OUT], Kind::Matrix, Init::Normal(0.3));
        layout.add("b".into(), &[OUT], Kind::Norm, Init::Constant(0.0));
        let (x, w) = (wave(TOKENS * IN, 7919), wave(IN * OUT, 389));
        let y = (0..TOKENS * OUT).map(|i| {
            let (row, o) = (&x[i / OUT * IN..][..IN], i % OUT);
            row.iter().enumerate().map(|(i, x)| x * w[i * OUT + o]).sum::<f64>() + 0.3
        });
        Self { layout, y: y.collect(), x }
    }

    /// Mean of half the squared errors, and its gradient in a buffer with the sums of inputs behind it.
    fn loss(&self, params: &Params<f64>) -> (f64, Vec<f64>) {
        let places = InputLayout::new(&self.layout);
        let mut buffer = vec![0.0; places.len];
        let [w, b] = [0, 1].map(|i| self.layout.specs[i].range.clone());
        let (mut loss, by) = (0.0, 1.0 / TOKENS as f64);
        for (x, y) in self.x.chunks_exact(IN).zip(self.y.chunks_exact(OUT)) {
            for o in 0..OUT {
                let z: f64 = (0..IN).map(|i| x[i] * params.data[w.start + i * OUT + o]).sum();
                let e = z + params.data[b.start + o] - y[o];
                loss += 0.5 * by * e * e;
                (0..IN).for_each(|i| buffer[w.start + i * OUT + o] += by * e * x[i]);
                buffer[b.start + o] += by * e;
            }
        }
        F64::new().add_gram(IN, &self.x, &mut buffer[places.find(&w).unwrap()]);
        (loss, buffer)
    }

    /// The loss after so many steps at a constant rate.
    fn descend(&self, optimizer: &AnyOptimizer, rate: f64, steps: usize) -> f64 {
        let mut params: Params<f64> = self.layout.init(3);
        let mut stepper = Stepper::new(optimizer.clone(), &self.layout, 3, |_| true);
        for step in 0..steps {
            let (_, buffer) = self.loss(&params);
            let inputs = optimizer.needs_inputs().then_some((&buffer[..], TOKENS));
            let gradient = Gradient { values: &buffer[..self.layout.len], inputs };
            // Orthogonal steps have a size of their own: they end where the rate does.
            let rate = rate * (1.0 - step as f64 / steps as f64);
            stepper.step(&F64::new(), &mut params, gradient, rate, |_| true);
        }
        self.loss(&params).0
    }
}

#[test]
fn every_optimizer_descends_at_some_rate() {
    let problem = Regression::new();
    let start = problem.descend(&AnyOptimizer::default(), 0.0, 0);
    for optimizer in AnyOptimizer::all() {
        let rates = [3e-3, 1e-2, 3e-2, 0.1, 0.3, 0.6, 1.0, 2.0];
        let losses = rates.map(|rate| problem.descend(&optimizer, rate, 200));
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(best < 0.02 * start, "{}: {best} from {start}; {losses:?}", optimizer.name());
    }
}

#[test]
fn dgd_as_printed_ends_half_way_and_a_small_decay_scale_does_not() {
    // One matrix without a bias, so that the end is known: W x = u = -dL/dy means W = W* / 2.
    let mut layout = ParamLayout::default();
    layout.add("w".into(), &[2, 2], Kind::Matrix, Init::Normal(1.0));
    let places = InputLayout::new(&layout);
    let target = [1.0, -2.0, 0.5, 3.0];
    for (share, end) in [(1.0, 0.5), (0.01, 1.0 / 1.01), (0.0, 1.0)] {
        let optimizer: AnyOptimizer = serde_json::from_value(json!({"name": "dgd", "decay_scale": share})).unwrap();
        let mut params: Params<f64> = layout.init(1);
        let mut stepper = Stepper::new(optimizer, &layout, 0, |_| true);
        let mut buffer = vec![0.0; places.len];
        let at = places.find(&layout.specs[0].range).unwrap();
        // Inputs whose second moment is one: the gradient is W - W*.
        buffer[at.start] = 1.0;
        buffer[at.start + 3] = 1.0;
        for _ in 0..2000 {
            (0..4).for_each(|i| buffer[i] = params.data[i] - target[i]);
            let gradient = Gradient { values: &buffer[..layout.len], inputs: Some((&buffer, 1)) };
            stepper.step(&F64::new(), &mut params, gradient, 0.1, |_| true);
        }
        assert!((0..4).all(|i| (params.data[i] - end * target[i]).abs() < 1e-9), "{share}: {:?}", &params.data[..4]);
    }
}

const SHAPE: Shape = Shape { rows: 3, columns: 2 };

fn problem<'a>(start: &'a [f64], gradient: &'a [f64], keys: &'a [f64]) -> Problem<'a, F64> {
    let side = hecate_model::optim::prox::Side::Left;
    Problem { ops: &REFERENCE, shape: SHAPE, rate: 0.3, start, gradient, keys: Some((side, keys)) }
}

static REFERENCE: std::sync::LazyLock<F64> = std::sync::LazyLock::new(Reference::new);

#[test]
fn gradient_descent_and_delta_gradient_descent_are_instances_of_the_general_one() {
    let (start, gradient, x) = (wave(6, 7919), wave(6, 7907), wave(12, 389));
    let mut keys = vec![0.0; 9];
    REFERENCE.add_gram(3, &x, &mut keys);
    let (at, near) = (problem(&start, &gradient, &keys), Near { centre: &start, sparsity: 0.0 });
    let descent = solve(&at, &Dot, &Error, &near, 1);
    assert!(descent.iter().zip(&start).zip(&gradient).all(|((w, s), g)| (w - (s - 0.3 * g)).abs() < 1e-15));
    // The minimiser has no slope: share C W + g + (W - W_t) / rate = 0.
    let slope = |w: &[f64], share: f64, values: &dyn Values<F64>| {
        let (mut through, mut cross) = (vec![0.0; 6], vec![0.0; 6]);
        at.through_keys(w, &mut through);
        values.values(&at, &mut cross);
        let terms = (0..6).map(|i| share * through[i] - cross[i] + (w[i] - start[i]) / 0.3);
        terms.fold(0.0_f64, |m, x| m.max(x.abs()))
    };
    for share in [0.1, 1.0] {
        let dgd = solve(&at, &SquaredError { share }, &Error, &near, 400);
        assert!(slope(&dgd, share, &Error) < 1e-12);
        let damped = solve(&at, &SquaredError { share }, &Corrected { share }, &near, 400);
        assert!(slope(&damped, share, &Corrected { share }) < 1e-12);
        assert!(slope(&damped, share, &Error) > 1e-3, "the two values differ");
    }
}

/// Parts of the caller's own: a smooth absolute error, values from outside, and a box that the weights stay in.
struct Smooth;
struct Given(Vec<f64>);
struct Box(f64);

impl Loss<F64> for Smooth {
    fn curvature(&self, _at: &Problem<'_, F64>) -> f64 {
        1.0
    }
    fn gradient(&self, _at: &Problem<'_, F64>, values: &[f64], w: &[f64], out: &mut [f64]) {
        (0..w.len()).for_each(|i| out[i] = (w[i] - values[i]).tanh());
    }
}

impl Values<F64> for Given {
    fn values(&self, _at: &Problem<'_, F64>, out: &mut [f64]) {
        out.copy_from_slice(&self.0);
    }
}

impl Retention<F64> for Box {
    fn descend(&self, _at: &Problem<'_, F64>, curvature: f64, gradient: &[f64], w: &mut [f64]) {
        w.iter_mut().zip(gradient).for_each(|(w, g)| *w = (*w - g / curvature).clamp(-self.0, self.0));
    }
}

#[test]
fn losses_values_and_retentions_may_be_the_callers_own() {
    let (start, none) = (vec![0.0; 6], vec![0.0; 9]);
    let at = problem(&start, &start, &none);
    let values = Given(vec![0.2, -0.3, 5.0, -5.0, 0.0, 0.7]);
    let end = solve(&at, &Smooth, &values, &Box(0.5), 200);
    let want = [0.2, -0.3, 0.5, -0.5, 0.0, 0.5];
    assert!(end.iter().zip(want).all(|(e, w)| (e - w).abs() < 1e-9), "{end:?}");
}

/// The worst that a bilinear loss without a lower bound can meet: the same direction in every vector at every step.
#[test]
fn deep_momentum_stays_bounded_under_gradients_that_never_change() {
    let mut layout = ParamLayout::default();
    layout.add("w".into(), &[12, 8], Kind::Matrix, Init::Normal(0.3));
    layout.add("b".into(), &[40], Kind::Norm, Init::Constant(0.0));
    for learn in [0.5, 0.899] {
        let settings = json!({"name": "deep_momentum", "learn": learn});
        let optimizer: AnyOptimizer = serde_json::from_value(settings).unwrap();
        optimizer.check().unwrap();
        let mut params: Params<f64> = layout.init(1);
        let mut stepper = Stepper::new(optimizer, &layout, 0, |_| true);
        let values = vec![1e3; layout.len];
        for _ in 0..5000 {
            let gradient = Gradient { values: &values, inputs: None };
            stepper.step(&F64::new(), &mut params, gradient, 0.0, |_| true);
        }
        for name in ["first.w", "second.w", "first.b", "second.b"] {
            let largest = stepper.values_mut(name).unwrap().iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            assert!(largest < 10.0, "learn {learn}: {name} holds {largest}");
        }
    }
}
