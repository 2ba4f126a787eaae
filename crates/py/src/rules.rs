//! The registry, as Python sees it.

use crate::error::{IntoPyErr, type_name};
use hecate_core::rules::KernelInfo;
use hecate_core::{AnyRule, ChunkForm, Dims, Input, Start, StateTensor, Width, gate_defaults};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

/// Every registered memory rule as a dict: what it computes, what it takes, what it keeps, how it runs.
///
/// `dk` and `dv`, the widths of keys and values, fix the sizes of inputs and state tensors and which kernels are
/// available.
#[pyfunction]
#[pyo3(signature = (dk = 64, dv = 64))]
pub fn rules(py: Python<'_>, dk: usize, dv: usize) -> PyResult<Vec<Rule<'_>>> {
    AnyRule::all().iter().map(|rule| Rule::of(py, rule, Dims::new(dk, dv))).collect()
}

/// The rule that a name or a dict as in a config file stands for.
///
/// # Errors
/// `ValueError` with the known names or keys, `TypeError` for anything but a name or a dict.
pub fn parse(rule: &Bound<'_, PyAny>) -> PyResult<AnyRule> {
    if rule.is_instance_of::<PyString>() {
        return AnyRule::named(&rule.extract::<String>()?).map_err(IntoPyErr::into_py);
    }
    if !rule.is_instance_of::<PyDict>() {
        let kind = type_name(rule);
        return Err(PyTypeError::new_err(format!("rule is of type {kind}, expected a name or a dict with `name`")));
    }
    let json: String = rule.py().import("json")?.call_method1("dumps", (rule,))?.extract()?;
    serde_json::from_str(&json).map_err(|e| PyValueError::new_err(format!("rule: {}", without_position(&e))))
}

/// The message of an error without its place in a text that the caller never saw.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_string()
}

/// A row of [`rules`].
#[derive(IntoPyObject)]
pub struct Rule<'py> {
    name: &'static str,
    equation: &'static str,
    source: &'static str,
    structure: &'static str,
    features: &'static str,
    bias: &'static str,
    retention: &'static str,
    algorithm: &'static str,
    chunk: &'static str,
    inputs: Vec<RuleInput>,
    state: Vec<RuleState<'py>>,
    kernels: Vec<RuleKernel>,
}

/// An input of a rule.
#[derive(IntoPyObject)]
struct RuleInput {
    name: &'static str,
    kind: &'static str,
    width: usize,
    /// `None` for keys and values; the value that a gate starts from, the mean where its channels differ.
    default: Option<f64>,
    about: &'static str,
}

/// A state tensor of a rule.
#[derive(IntoPyObject)]
struct RuleState<'py> {
    name: String,
    shape: Bound<'py, PyTuple>,
    start: &'static str,
}

/// A kernel of a rule.
#[derive(IntoPyObject)]
struct RuleKernel {
    name: &'static str,
    about: &'static str,
    canonical: bool,
    available: bool,
}

impl<'py> Rule<'py> {
    fn of(py: Python<'py>, rule: &AnyRule, d: Dims) -> PyResult<Self> {
        let about = rule.about();
        let state = |t: StateTensor| {
            let start = match t.start {
                Start::Zero => "zero",
                Start::Learned { .. } | Start::UnitColumns => "learned",
                Start::Identity(_) => "identity",
                Start::Same(_) => "same",
            };
            Ok(RuleState { name: t.name.into_owned(), shape: PyTuple::new(py, t.shape)?, start })
        };
        Ok(Rule {
            name: rule.name(),
            equation: about.equation,
            source: about.source,
            structure: about.structure,
            features: about.features,
            bias: about.bias,
            retention: about.retention,
            algorithm: about.algorithm,
            chunk: match about.chunk {
                ChunkForm::Exact => "exact",
                ChunkForm::Frozen => "frozen",
                ChunkForm::Sequential => "sequential",
            },
            inputs: rule.inputs().iter().zip(gate_defaults(rule, d)).map(|(i, x)| RuleInput::of(i, x, d)).collect(),
            state: rule.state(d).into_iter().map(state).collect::<PyResult<_>>()?,
            kernels: rule.kernels(d).into_iter().map(RuleKernel::of).collect(),
        })
    }
}

impl RuleInput {
    fn of(input: &Input, default: Option<f64>, d: Dims) -> Self {
        let kind = match input.width {
            Width::One => "scalar",
            Width::Key => "key",
            Width::Value => "value",
            Width::Fixed(_) => "fixed",
        };
        RuleInput { name: input.name, kind, width: input.width.of(d), default, about: input.about }
    }
}

impl RuleKernel {
    fn of(kernel: KernelInfo) -> Self {
        let KernelInfo { name, about, canonical, available } = kernel;
        RuleKernel { name, about, canonical, available }
    }
}
