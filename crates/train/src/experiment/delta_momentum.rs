//! Whether a momentum that forgets along its gradient goes round a bend faster.

use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table};
use super::Experiment;
use hecate_core::ops::Reference;
use hecate_model::optim::methods::{AnyOptimizer, DeltaMomentum};
use hecate_model::optim::{Gradient, Stepper};
use hecate_model::{Init, Kind, ParamLayout, Params};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "delta_momentum",
    asks: "Is a momentum that forgets along the gradient faster than one that does not?",
    source: "[NestedLearning v1 eq.53]",
    protocol: "The function r² + k (r - t + a sin(w r))² of two numbers, from (-3.5, 2) down to below 1e-6 with a momentum \
               shorter than 1e-3, for six k, a, w. Steps needed at the best of 6 rates from 1e-4 to 0.03 and 3 momenta \
               (0.9, 0.95, 0.99), without forgetting and at the best of `forget` = 1e-4, 1e-3, 0.01. Nothing is drawn.",
    random: false,
    run: |_| {
        let setup = Setup::default();
        Ok(setup.finding(&setup.measure()))
    },
};

/// One function.
#[derive(Clone, Copy, Debug)]
struct Valley {
    k: f64,
    a: f64,
    w: f64,
}

impl Valley {
    fn value(self, [r, t]: [f64; 2]) -> f64 {
        let off = r - t + self.a * (self.w * r).sin();
        r * r + self.k * off * off
    }
    fn gradient(self, [r, t]: [f64; 2]) -> [f64; 2] {
        let off = r - t + self.a * (self.w * r).sin();
        let slope = 1.0 + self.a * self.w * (self.w * r).cos();
        [2.0 * r + 2.0 * self.k * off * slope, -2.0 * self.k * off]
    }
    fn name(self) -> String {
        format!("k {}, a {}, w {}", self.k, self.a, self.w)
    }
}

/// What is run.
struct Setup {
    valleys: Vec<Valley>,
    rates: Vec<f64>,
    momenta: Vec<f64>,
    forget: Vec<f64>,
    most_steps: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let all = [(10.0, 0.0, 1.0), (10.0, 0.1, 8.0), (10.0, 0.3, 5.0), (10.0, 0.5, 3.0), (5.0, 0.2, 8.0), (30.0, 0.1, 10.0)];
        Self {
            valleys: all.map(|(k, a, w)| Valley { k, a, w }).to_vec(),
            rates: vec![1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
            momenta: vec![0.9, 0.95, 0.99],
            forget: vec![1e-4, 1e-3, 1e-2],
            most_steps: 3000,
        }
    }
}

/// The best run of a grid: steps, and the settings that took them.
#[derive(Clone, Debug)]
struct Best {
    steps: f64,
    rate: f64,
    momentum: f64,
    forget: f64,
    /// The function by step.
    path: Vec<f64>,
}

/// One function: without forgetting, with the best of all `forget`, and the steps at each.
struct Measured {
    plain: Best,
    delta: Best,
    each: Vec<f64>,
}

impl Setup {
    /// The function by step until it ends; `None` where it does not.
    fn descend(&self, valley: Valley, rate: f64, momentum: f64, forget: f64) -> Option<Vec<f64>> {
        let mut layout = ParamLayout::default();
        let place = layout.add("x".into(), &[2], Kind::Norm, Init::Row(vec![-3.5, 2.0]));
        let mut params: Params<f64> = layout.init(0);
        let settings = DeltaMomentum { momentum, forget, ..DeltaMomentum::default() };
        let mut stepper = Stepper::new(AnyOptimizer::DeltaMomentum(settings), &layout, 0, |_| true);
        let (mut path, mut gradient) = (Vec::new(), vec![0.0; layout.len]);
        for _ in 0..self.most_steps {
            let at = [params.data[place.start], params.data[place.start + 1]];
            path.push(valley.value(at));
            gradient[place.clone()].copy_from_slice(&valley.gradient(at));
            let by = Gradient { values: &gradient, inputs: None };
            stepper.step(&Reference::new(), &mut params, by, rate, |_| true);
            let at = [params.data[place.start], params.data[place.start + 1]];
            let moved = stepper.values_mut("m.x").expect("its momentum").iter().map(|m| m * m).sum::<f64>().sqrt();
            let value = valley.value(at);
            if !value.is_finite() || value > 1e12 {
                return None;
            }
            if value < 1e-6 && moved < 1e-3 {
                path.push(value);
                return Some(path);
            }
        }
        None
    }

    /// The fastest of the grid at these `forget`.
    fn best(&self, valley: Valley, forget: &[f64]) -> Best {
        let mut best = Best { steps: f64::INFINITY, rate: 0.0, momentum: 0.0, forget: 0.0, path: Vec::new() };
        for &rate in &self.rates {
            for &momentum in &self.momenta {
                for &forget in forget {
                    let Some(path) = self.descend(valley, rate, momentum, forget) else { continue };
                    let steps = (path.len() - 1) as f64;
                    if steps < best.steps {
                        best = Best { steps, rate, momentum, forget, path };
                    }
                }
            }
        }
        best
    }

    fn measure(&self) -> Vec<Measured> {
        let one = |&valley: &Valley| {
            let all: Vec<Best> = self.forget.iter().map(|&f| self.best(valley, &[f])).collect();
            let each = all.iter().map(|b| b.steps).collect();
            let delta = all.into_iter().min_by(|a, b| a.steps.total_cmp(&b.steps)).expect("some `forget`");
            Measured { plain: self.best(valley, &[0.0]), delta, each }
        };
        self.valleys.iter().map(one).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let shown = |m: &Measured| format!("{} against {}", m.delta.steps, m.plain.steps);
        let sharpest = &m[2];
        let middle = self.forget.len() / 2;
        let never = m.iter().all(|m| m.each[middle] <= m.plain.steps);
        vec![
            Must::new(
                "where it is tuned it never needs more steps",
                m.iter().all(|m| m.delta.steps <= m.plain.steps),
                m.iter().map(shown).collect::<Vec<_>>().join(", "),
            ),
            Must::new(
                format!("at {} it needs less than three quarters of them", self.valleys[2].name()),
                sharpest.delta.steps < 0.75 * sharpest.plain.steps,
                shown(sharpest),
            ),
            Must::new(
                format!("one `forget` for all: {} never needs more", self.forget[middle]),
                never,
                m.iter().map(|m| format!("{} against {}", m.each[middle], m.plain.steps)).collect::<Vec<_>>().join(", "),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let mut table = Table::new(&["function", "momentum", "delta momentum", "rate", "momentum of it", "forget"]);
        table.columns.extend(self.forget.iter().map(|f| format!("steps at forget {f}")));
        for (valley, m) in self.valleys.iter().zip(m) {
            let numbers = [m.plain.steps, m.delta.steps, m.delta.rate, m.delta.momentum, m.delta.forget];
            let cells = numbers.iter().chain(&m.each).map(|&x| Cell::from(x));
            table.row([Cell::Text(valley.name())].into_iter().chain(cells));
        }
        let points = |b: &Best| b.path.iter().enumerate().map(|(t, &v)| (t as f64, vec![v])).collect();
        let panel = |figure: Figure, i: usize| {
            let series = vec![Series::new("momentum", points(&m[i].plain)), Series::new("delta momentum", points(&m[i].delta))];
            figure.lines(self.valleys[i].name(), Scale::linear("steps"), Scale::log("function"), series)
        };
        let figure = panel(panel(Figure::default(), 2), 5);
        let caption = "Best of the grid each. The factor of a number is momentum - forget g², not below -1: where the \
                       gradient is large, on the walls of the valley, the momentum across it is forgotten, and a larger \
                       rate is stable. Where the best rate is the same with and without, nothing is gained.";
        Finding { table, musts: self.musts(m), caption: caption.into(), figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_must_can_fail() {
        let tiny = || Setup { rates: vec![1e-2], momenta: vec![0.9], most_steps: 400, ..Setup::default() };
        let musts = tiny().musts(&tiny().measure());
        assert!(musts[1].holds, "{musts:?}");
        let wrong = Setup { forget: vec![0.5], ..tiny() };
        let musts = wrong.musts(&wrong.measure());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }

    #[test]
    fn the_gradient_is_that_of_the_function() {
        let valley = Valley { k: 10.0, a: 0.3, w: 5.0 };
        let (at, step) = ([-1.3, 0.7], 1e-6);
        for i in 0..2 {
            let moved = |by: f64| valley.value(std::array::from_fn(|j| at[j] + if i == j { by } else { 0.0 }));
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope - valley.gradient(at)[i]).abs() < 1e-6);
        }
    }
}
