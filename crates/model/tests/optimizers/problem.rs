//! The problem that all golden trajectories are about, and a walk through it.

use hecate_core::Scalar;
use hecate_core::ops::{Ops, Reference};
use hecate_model::optim::{AnyOptimizer, Gradient, InputLayout, Stepper};
use hecate_model::{Init, Kind, ParamLayout, ParamSpec, Params};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Steps between two of the slow tensors.
const PERIOD: usize = 4;
/// The tensors that are due only every [`PERIOD`] steps.
const SLOW: [&str; 2] = ["tall", "scale"];

/// One array of a golden file: shape and numbers.
pub type Array = (Vec<usize>, Vec<f64>);

/// The arrays and the metadata of a golden file.
pub fn load(name: &str) -> Option<(BTreeMap<String, Array>, HashMap<String, String>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.safetensors"));
    let bytes = std::fs::read(file).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("golden files are whole");
    let tensors = SafeTensors::deserialize(&bytes).expect("golden files are whole").tensors();
    let number = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("chunks of eight bytes"));
    let array = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.shape().to_vec(), view.data().chunks_exact(8).map(number).collect()))
    };
    Some((tensors.into_iter().map(array).collect(), header.metadata().clone().unwrap_or_default()))
}

/// Start, gradients, inputs and rates.
pub struct Problem {
    pub layout: ParamLayout,
    pub start: Params<f64>,
    /// By step, laid out like the parameters.
    gradients: Vec<Vec<f64>>,
    /// By step, sums of `x x^T` in a buffer of [`InputLayout`].
    inputs: Vec<Vec<f64>>,
    /// Tokens of a sum.
    tokens: usize,
    pub rates: Vec<f64>,
}

fn kind(name: &str) -> Kind {
    let all = [Kind::Matrix, Kind::Embedding, Kind::Norm, Kind::Gate, Kind::Conv, Kind::Start];
    all.into_iter().find(|k| k.name() == name).expect("a kind of tensor")
}

impl Problem {
    pub fn load() -> Self {
        let (arrays, kinds) = load("problem").expect("the problem is committed");
        let mut layout = ParamLayout::default();
        // In alphabetical order, so that runs are the same.
        for (name, text) in kinds.iter().collect::<BTreeMap<_, _>>() {
            layout.add(name.clone(), &arrays[&format!("p.{name}")].0, kind(text), Init::Constant(0.0));
        }
        let mut start: Params<f64> = layout.init(0);
        let rates = arrays["rates"].1.clone();
        let places = InputLayout::new(&layout);
        let mut gradients = vec![vec![0.0; layout.len]; rates.len()];
        let mut inputs = vec![vec![0.0; places.len]; rates.len()];
        let mut tokens = 0;
        for spec in &layout.specs {
            start.data[spec.range.clone()].copy_from_slice(&arrays[&format!("p.{}", spec.name)].1);
            let (g, n) = (&arrays[&format!("g.{}", spec.name)].1, spec.range.len());
            for (t, gradient) in gradients.iter_mut().enumerate() {
                gradient[spec.range.clone()].copy_from_slice(&g[t * n..(t + 1) * n]);
            }
            let Some(at) = places.find(&spec.range) else { continue };
            let (shape, x) = &arrays[&format!("x.{}", spec.name)];
            tokens = shape[1];
            for (t, sums) in inputs.iter_mut().enumerate() {
                let x = &x[t * shape[1] * shape[2]..][..shape[1] * shape[2]];
                Reference::new().add_gram(shape[2], x, &mut sums[at.clone()]);
            }
        }
        Self { layout, start, gradients, inputs, tokens, rates }
    }

    pub fn steps(&self) -> usize {
        self.rates.len()
    }

    pub fn stepper<F: Scalar>(&self, optimizer: &AnyOptimizer) -> Stepper<F> {
        Stepper::new(optimizer.clone(), &self.layout, 7, |_| true)
    }

    /// The start in another precision.
    pub fn start<F: Scalar>(&self) -> Params<F> {
        let mut params: Params<F> = self.layout.init(0);
        params.data.iter_mut().zip(self.start.data.iter()).for_each(|(p, &x)| *p = F::from_f64(x));
        params
    }

    /// The gradient of a tensor at step `t`, in single precision.
    pub fn gradient(&self, t: usize, name: &str) -> Vec<f32> {
        let spec = self.layout.specs.iter().find(|s| s.name == name).expect("a tensor of the problem");
        self.gradients[t][spec.range.clone()].iter().map(|&x| x as f32).collect()
    }

    /// Step `t`, from 0, in which slow tensors are due or not.
    pub fn step<O: Ops>(&self, ops: &O, stepper: &mut Stepper<O::F>, params: &mut Params<O::F>, t: usize) {
        let slow = |spec: &ParamSpec| SLOW.contains(&spec.name.as_str());
        self.step_due(ops, stepper, params, t, |spec| !slow(spec) || (t + 1).is_multiple_of(PERIOD));
    }

    /// Step `t`, from 0, of the tensors that `due` picks.
    pub fn step_due<O: Ops>(
        &self,
        ops: &O,
        stepper: &mut Stepper<O::F>,
        params: &mut Params<O::F>,
        t: usize,
        due: impl Fn(&ParamSpec) -> bool,
    ) {
        let lift = |x: &[f64]| x.iter().map(|&x| O::F::from_f64(x)).collect::<Vec<O::F>>();
        let (values, inputs) = (lift(&self.gradients[t]), lift(&self.inputs[t]));
        let inputs = stepper.optimizer().needs_inputs().then_some((&inputs[..], self.tokens));
        stepper.step(ops, params, Gradient { values: &values, inputs }, self.rates[t], due);
    }

    /// All steps.
    pub fn walk<O: Ops>(&self, ops: &O, optimizer: &AnyOptimizer) -> (Stepper<O::F>, Params<O::F>) {
        let (mut stepper, mut params) = (self.stepper(optimizer), self.start());
        (0..self.steps()).for_each(|t| self.step(ops, &mut stepper, &mut params, t));
        (stepper, params)
    }
}

/// The cases of an optimizer's golden file: name, arrays, settings.
pub fn cases(name: &str) -> Vec<(String, BTreeMap<String, Array>, AnyOptimizer)> {
    let (arrays, settings) = load(name).unwrap_or_else(|| panic!("{name} has no golden file: see oracle/README.md"));
    let case = |(case, text): (&String, &String)| {
        let optimizer = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}, {case}: {e}"));
        let prefix = format!("{case}.");
        let own = arrays.iter().filter_map(|(k, a)| Some((k.strip_prefix(&prefix)?.to_string(), a.clone())));
        (case.clone(), own.collect(), optimizer)
    };
    settings.iter().collect::<BTreeMap<_, _>>().into_iter().map(case).collect()
}
