//! The trajectories of the oracle, which two of the tensors take only every fourth step of.

use crate::problem::{Problem, cases};
use hecate_core::Scalar;
use hecate_core::ops::{Cpu, Ops, Reference};
use hecate_model::Params;
use hecate_model::optim::{AnyOptimizer, Stepper};
use std::collections::BTreeMap;

/// Both sides are float64 and do some hundred operations a step on numbers of order one.
const TOLERANCE: f64 = 1e-10;

/// Largest difference over the largest golden value, at least one.
fn off<F: Scalar>(got: &[F], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
    // A NaN is infinitely far away.
    let far = |(g, w): (&F, &f64)| if g.is_finite() { (g.value() - w).abs() / scale } else { f64::INFINITY };
    got.iter().zip(want).map(far).fold(0.0, f64::max)
}

/// Takes a case's steps on `ops` and gives the difference from every golden array, by its name.
fn differences<O: Ops>(
    ops: &O,
    problem: &Problem,
    optimizer: &AnyOptimizer,
    arrays: &BTreeMap<String, (Vec<usize>, Vec<f64>)>,
) -> BTreeMap<String, f64> {
    let (mut stepper, mut params): (Stepper<O::F>, Params<O::F>) = (problem.stepper(optimizer), problem.start());
    for (name, (_, values)) in arrays.iter().filter_map(|(k, a)| Some((k.strip_prefix("start.")?, a))) {
        let own = stepper.values_mut(name).unwrap_or_else(|| panic!("there is no state `{name}`"));
        own.iter_mut().zip(values).for_each(|(x, &v)| *x = O::F::from_f64(v));
    }
    let mut all = BTreeMap::new();
    for t in 0..problem.steps() {
        problem.step(ops, &mut stepper, &mut params, t);
        for spec in &problem.layout.specs {
            let name = format!("{}.{}", t + 1, spec.name);
            if let Some((_, want)) = arrays.get(&name) {
                all.insert(name, off(&params.data[spec.range.clone()], want));
            }
        }
    }
    for tensor in stepper.state_tensors() {
        let name = format!("end.{}", tensor.name);
        let (shape, want) = arrays.get(&name).unwrap_or_else(|| panic!("the golden file has no `{name}`"));
        assert_eq!(&tensor.shape, shape, "{name}");
        all.insert(name, off(stepper.values(tensor), want));
    }
    let starts = arrays.keys().filter(|k| k.starts_with("start.")).count();
    assert_eq!(all.len() + starts, arrays.len(), "every golden array is compared");
    all
}

#[test]
fn every_optimizer_takes_its_golden_trajectory() {
    let problem = Problem::load();
    for optimizer in AnyOptimizer::all() {
        let all = cases(optimizer.name());
        let default = all.iter().find(|(case, ..)| case == "default").expect("one case is the name alone");
        assert_eq!(default.2, optimizer);
        for (case, arrays, settings) in &all {
            settings.check().unwrap();
            for (name, off) in differences(&Reference::<f64>::new(), &problem, settings, arrays) {
                assert!(off <= TOLERANCE, "{}, {case}: `{name}` is off by {off:e}", optimizer.name());
            }
        }
    }
}

/// What single precision loses in twenty steps: the reference too.
#[test]
fn kernels_lose_no_more_than_the_reference_in_single_precision() {
    let problem = Problem::load();
    for (optimizer, (case, arrays, settings)) in
        AnyOptimizer::all().iter().flat_map(|o| cases(o.name()).into_iter().map(move |c| (o.name(), c)))
    {
        let (kernels, reference) = (
            differences(&Cpu::training(), &problem, &settings, &arrays),
            differences(&Reference::<f32>::new(), &problem, &settings, &arrays),
        );
        for (name, off) in kernels {
            let bound = 1e-5_f64.max(4.0 * reference[&name]);
            assert!(
                off <= bound,
                "{optimizer}, {case}: `{name}` is off by {off:e}, the reference by {:e}",
                reference[&name]
            );
        }
    }
}
