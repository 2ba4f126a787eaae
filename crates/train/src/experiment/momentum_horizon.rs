//! How far back a momentum looks, and where delta gradient descent comes to rest.

use super::draw::{distance2, dot, normals, rng, scaled};
use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::Experiment;
use hecate_core::ops::Reference;
use hecate_model::optim::methods::{AnyOptimizer, Dgd, Momentum};
use hecate_model::optim::{Gradient, InputLayout, Stepper};
use hecate_model::{Init, Kind, ParamLayout, Params};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "momentum_horizon",
    asks: "How many gradients make up a momentum, and where does delta gradient descent rest?",
    source: "[NestedLearning v1 sec.4.3]",
    protocol: "Every gradient of 600 steps along an axis of its own, so that the momentum of the last step tells the \
               share of each, for decays 0.5 to 0.99: how many of the newest make up half of it, and 99 %. Then a \
               regression y = W* x, 8 numbers to 4, from zero, 2,000 steps of 32 normal x at rate 0.1, by DGD with \
               decay_scale 0, 0.01, 0.1 and 1: the part of W* that W ends at, and the mean squared error over the last \
               tenth.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()))
    },
};

/// What is run.
struct Setup {
    decays: Vec<f64>,
    gradients: usize,
    /// Of delta gradient descent; the first has none, the last is as printed.
    scales: Vec<f64>,
    inputs: usize,
    outputs: usize,
    batch: usize,
    steps: usize,
    rate: f64,
    seeds: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            decays: vec![0.5, 0.8, 0.9, 0.95, 0.99],
            gradients: 600,
            scales: vec![0.0, 0.01, 0.1, 1.0],
            inputs: 8,
            outputs: 4,
            batch: 32,
            steps: 2000,
            rate: 0.1,
            seeds: super::SEEDS,
        }
    }
}

/// A regression by delta gradient descent.
#[derive(Clone, Debug)]
struct Rest {
    /// `<W, W*> / |W*|^2` and what of W is not along W*, over `|W*|`, at the end.
    part: f64,
    aside: f64,
    /// Mean squared error by step.
    error: Vec<f64>,
}

struct Measured {
    /// By decay: what the newest so many gradients carry together.
    carried: Vec<Vec<f64>>,
    /// By scale, by seed.
    rest: Vec<Vec<Rest>>,
}

/// How many of the newest make up a share.
fn needed(carried: &[f64], share: f64) -> usize {
    carried.iter().position(|c| *c >= share).map_or(carried.len(), |i| i) + 1
}

impl Setup {
    /// What the newest one, two, .. gradients of all carry.
    fn carried(&self, decay: f64) -> Vec<f64> {
        let (mut layout, n) = (ParamLayout::default(), self.gradients);
        let place = layout.add("x".into(), &[n], Kind::Norm, Init::Constant(0.0));
        let mut params: Params<f64> = layout.init(0);
        let settings = Momentum { momentum: decay, ..Momentum::default() };
        let mut stepper = Stepper::new(AnyOptimizer::Momentum(settings), &layout, 0, |_| true);
        for t in 0..n {
            let mut gradient = vec![0.0; layout.len];
            gradient[place.start + t] = 1.0;
            let by = Gradient { values: &gradient, inputs: None };
            stepper.step(&Reference::new(), &mut params, by, 1.0, |_| true);
        }
        let m = stepper.values_mut("m.x").expect("its momentum");
        let total: f64 = m.iter().sum();
        let mut sum = 0.0;
        let add = |m: &f64| {
            sum += m / total;
            sum
        };
        m.iter().rev().map(add).collect()
    }

    /// The regression under one seed.
    fn rest(&self, decay_scale: f64, seed: usize) -> Rest {
        let (mut draw, mut layout) = (rng("momentum_horizon", seed), ParamLayout::default());
        let shape = [self.inputs, self.outputs];
        let place = layout.add("w".into(), &shape, Kind::Matrix, Init::Constant(0.0));
        let truth = normals(&mut draw, self.inputs * self.outputs);
        let mut params: Params<f64> = layout.init(0);
        let settings = Dgd { decay_scale, ..Dgd::default() };
        let mut stepper = Stepper::new(AnyOptimizer::Dgd(settings), &layout, 0, |_| true);
        let inputs = InputLayout::new(&layout);
        let squares = inputs.find(&place).expect("a matrix has inputs");
        let mut error = Vec::new();
        for _ in 0..self.steps {
            let mut values = vec![0.0; inputs.len];
            let mut total = 0.0;
            for _ in 0..self.batch {
                let x = normals(&mut draw, self.inputs);
                let off = |o: usize| -> f64 {
                    let column = |i: usize| params.data[place.start + i * self.outputs + o] - truth[i * self.outputs + o];
                    (0..self.inputs).map(|i| x[i] * column(i)).sum()
                };
                let off: Vec<f64> = (0..self.outputs).map(off).collect();
                total += dot(&off, &off);
                for (i, xi) in x.iter().enumerate() {
                    let row = place.start + i * self.outputs;
                    off.iter().enumerate().for_each(|(o, d)| values[row + o] += xi * d / self.batch as f64);
                    let row = squares.start + i * self.inputs;
                    x.iter().enumerate().for_each(|(j, xj)| values[row + j] += xi * xj);
                }
            }
            error.push(total / (self.batch * self.outputs) as f64);
            let by = Gradient { values: &values, inputs: Some((&values, self.batch)) };
            stepper.step(&Reference::new(), &mut params, by, self.rate, |_| true);
        }
        let w = &params.data[place];
        let part = dot(w, &truth) / dot(&truth, &truth);
        let aside = (distance2(w, &scaled(&truth, part)) / dot(&truth, &truth)).sqrt();
        Rest { part, aside, error }
    }

    fn measure(&self) -> Measured {
        Measured {
            carried: self.decays.iter().map(|&d| self.carried(d)).collect(),
            rest: self.scales.iter().map(|&s| (0..self.seeds).map(|i| self.rest(s, i)).collect()).collect(),
        }
    }

    /// Means of the last tenth of steps, by seed.
    fn last(&self, rest: &[Rest]) -> Vec<f64> {
        rest.iter().map(|r| mean(&r.error[self.steps - self.steps / 10..])).collect()
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let at = self.decays.iter().position(|&d| d == 0.9).expect("the decay of the paper");
        let [half, most] = [0.5, 0.99].map(|share| needed(&m.carried[at], share));
        let parts = |i: usize| m.rest[i].iter().map(|r| r.part).collect::<Vec<f64>>();
        let printed = m.rest.len() - 1;
        let off = |i: usize| parts(i).iter().map(|p| (p - 1.0 / (1.0 + self.scales[i])).abs()).fold(0.0, f64::max);
        let worst = (0..m.rest.len()).map(off).fold(0.0, f64::max);
        let shown = |i: usize| format!("decay_scale {} at {:.3}", self.scales[i], mean(&parts(i)));
        let errors = [&m.rest[printed], &m.rest[0]].map(|rest| self.last(rest));
        vec![
            Must::new(
                "at a decay of 0.9 the newest 7 gradients carry half and the newest 44 carry 99 %; the paper counts 6 and \
                 43, from zero",
                (half, most) == (7, 44),
                format!("{half} and {most}"),
            ),
            Must::new(
                "DGD as printed rests at half the target: W within a fiftieth of W* / 2",
                off(printed) < 0.02,
                shown(printed),
            ),
            Must::new(
                "with a decay_scale of s it rests at 1 / (1 + s), within a fiftieth",
                worst < 0.02,
                (0..m.rest.len()).map(shown).collect::<Vec<_>>().join(", "),
            ),
            Must::new(
                "so its error stays above that of gradient descent a hundredfold and more",
                lowest(&errors[0]) > 100.0 * highest(&errors[1]),
                format!("{:.3} against {:.1e}", mean(&errors[0]), mean(&errors[1])),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table::new(&["what", "at", "half", "99 %", "part of W*", "not along W*", "error at the end"]);
        for (decay, carried) in self.decays.iter().zip(&m.carried) {
            let counts = [0.5, 0.99].map(|share| Cell::from(needed(carried, share)));
            let none = [(); 3].map(|()| Cell::from(""));
            table.row([Cell::from("momentum"), Cell::from(*decay)].into_iter().chain(counts).chain(none));
        }
        for (scale, rest) in self.scales.iter().zip(&m.rest) {
            let [part, aside]: [fn(&Rest) -> f64; 2] = [|r| r.part, |r| r.aside];
            let cell = |of: fn(&Rest) -> f64| Cell::from(&rest.iter().map(of).collect::<Vec<f64>>()[..]);
            let head = [Cell::from("DGD"), Cell::from(*scale), Cell::from(""), Cell::from("")];
            table.row(head.into_iter().chain([cell(part), cell(aside), Cell::from(&self.last(rest)[..])]));
        }
        let points = |carried: &Vec<f64>| {
            carried.iter().take(100).enumerate().map(|(i, &c)| (i as f64 + 1.0, vec![c])).collect()
        };
        let named = |(d, carried): (&f64, &Vec<f64>)| Series::new(format!("{d}"), points(carried));
        // Steps lie on a line by their logarithm, so that the first ones can be seen.
        let steps: Vec<usize> = (0..).map(|i| 1.15_f64.powi(i) as usize).take_while(|&t| t <= self.steps).collect();
        let falls = |(s, rest): (&f64, &Vec<Rest>)| {
            let at = |&t: &usize| (t as f64, rest.iter().map(|r| r.error[t - 1]).collect());
            Series::new(format!("decay_scale {s}"), steps.iter().map(at).collect())
        };
        let figure = Figure::default()
            .lines(
                "What the newest gradients carry, by decay",
                Scale::linear("gradients"),
                Scale::linear("share"),
                self.decays.iter().zip(&m.carried).map(named).collect(),
            )
            .lines(
                "Error of a regression by DGD",
                Scale::log("steps"),
                Scale::log("mean squared error"),
                self.scales.iter().zip(&m.rest).map(falls).collect(),
            );
        let caption = format!(
            "The momentum and DGD are those of the list of optimizers, in double precision; the regression under {} \
             seeds. DGD rests where W x is minus the layer's own error. In a network the error of a layer is small at \
             the end, so that there its outputs are pulled to zero.",
            self.seeds
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_must_can_fail() {
        let tiny = || Setup { gradients: 100, steps: 500, seeds: 1, ..Setup::default() };
        let m = tiny().measure();
        let musts = tiny().musts(&m);
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let (mut carried, mut rest) = (m.carried, m.rest);
        carried[2] = carried[1].clone();
        let last = rest.len() - 1;
        rest[last] = rest[0].clone();
        let musts = tiny().musts(&Measured { carried, rest });
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
