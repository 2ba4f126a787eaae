//! One memory over a sequence: its reads, and their exact gradient.

use crate::arrays::{self, Precision, Real};
use crate::associative::{dims, is_double};
use crate::call::{Call, dict, optional_dict, rule_with_inputs, tensor_dict};
use crate::error::{IntoPyErr, zeros};
use crate::rules;
use hecate_core::scan::{
    Run, ScanShape, Write, backward_f32, first_non_finite, forward_f32, reference_backward, reference_forward,
};
use hecate_core::{AnyRule, Error, KernelChoice, Result, Scalar, seeded_start};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Runs a memory over a sequence: every token is written, then read. Returns `(y, state)`.
///
/// `rule` is a name (see `hecate.rules()`) or a dict as in a config file. `inputs` holds one array per input of the
/// rule: `k` and `q` `[T, dk]`, `v` `[T, dv]`, gates `[T]`; or all of them with `[B, H]` in front. They are final
/// values: nothing is normalised or squashed here. `state` is a dict by tensor name, `[dv, dk]` or `[B, H, dv, dk]`,
/// and `pos` counts the tokens that it has taken. Tensors that are left out, all of them with None, are as the rule
/// starts; where a model learns that, they must be given, and `start` draws them.
///
/// float64 arrays run the reference, float32 arrays the kernel called `kernel`: "auto", "reference" or a name of
/// `hecate.rules()`. `y` is `[T, dv]` or `[B, H, T, dv]`. The arguments are not changed. Where the memory ceases to be
/// finite, `FloatingPointError` names the head and the token.
#[pyfunction]
#[pyo3(signature = (rule, inputs, state = None, kernel = "auto"))]
pub fn forward<'py>(
    py: Python<'py>,
    rule: &Bound<'py, PyAny>,
    inputs: &Bound<'py, PyAny>,
    state: Option<&Bound<'py, PyAny>>,
    kernel: &str,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyDict>)> {
    let (inputs, state) = (dict("inputs", inputs)?, optional_dict("state", state)?);
    let rule = rule_with_inputs(rule, inputs)?;
    match precision(&rule, inputs)? {
        Precision::F32 => forward_as::<f32>(py, Call::new(rule, inputs, state)?, state, kernel),
        Precision::F64 => forward_as::<f64>(py, Call::new(rule, inputs, state)?, state, kernel),
    }
}

/// The gradient of `sum(dy * y) + sum(dstate * end state)` by every input, and by the state at the start.
///
/// Arguments as of `forward`; `dy` is shaped like `y`, `dstate` is a dict like `state` with the gradient of the state
/// at the end (zero where it is left out). Returns a dict of arrays by input name, and under "state" a dict by tensor
/// name.
#[pyfunction]
#[pyo3(signature = (rule, inputs, dy, state = None, dstate = None, kernel = "auto"))]
pub fn vjp<'py>(
    py: Python<'py>,
    rule: &Bound<'py, PyAny>,
    inputs: &Bound<'py, PyAny>,
    dy: &Bound<'py, PyAny>,
    state: Option<&Bound<'py, PyAny>>,
    dstate: Option<&Bound<'py, PyAny>>,
    kernel: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let (inputs, state) = (dict("inputs", inputs)?, optional_dict("state", state)?);
    let dstate = optional_dict("dstate", dstate)?;
    let rule = rule_with_inputs(rule, inputs)?;
    match precision(&rule, inputs)? {
        Precision::F32 => vjp_as::<f32>(py, Call::new(rule, inputs, state)?, dy, state, dstate, kernel),
        Precision::F64 => vjp_as::<f64>(py, Call::new(rule, inputs, state)?, dy, state, dstate, kernel),
    }
}

/// The state before the first token, as `forward` takes it: learned tensors drawn from `seed` at the size that a model
/// starts them from, the others as the rule says.
///
/// With `heads`, arrays have `[batch, heads]` in front; every head draws its own, and sequences of a batch start alike.
/// `dtype` is "float64" or "float32".
#[pyfunction]
#[pyo3(signature = (rule, key_width, value_width, *, heads = None, batch = 1, seed = 0, dtype = "float64"))]
pub fn start<'py>(
    py: Python<'py>,
    rule: &Bound<'py, PyAny>,
    key_width: usize,
    value_width: usize,
    heads: Option<usize>,
    batch: usize,
    seed: u64,
    dtype: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let (rule, d) = (rules::parse(rule)?, dims(key_width, value_width)?);
    rule.check(d).map_err(IntoPyErr::into_py)?;
    let lead = heads.map_or(vec![], |heads| vec![batch, heads]);
    let one = seeded_start(&rule, d, heads.unwrap_or(1), seed);
    let state = one.repeat(if heads.is_some() { batch } else { 1 });
    let (tensors, count) = (rule.state(d), lead.iter().product());
    if is_double(dtype)? {
        tensor_dict(py, &tensors, &lead, count, &state, Some(0))
    } else {
        let state: Vec<f32> = state.into_iter().map(|x| x as f32).collect();
        tensor_dict(py, &tensors, &lead, count, &state, Some(0))
    }
}

/// The number type of the whole call is that of its first input.
fn precision(rule: &AnyRule, inputs: &Bound<'_, PyDict>) -> PyResult<Precision> {
    let name = rule.inputs()[0].name;
    arrays::precision(&format!("inputs['{name}']"), &inputs.get_item(name)?.expect("names were checked"))
}

fn forward_as<'py, F: Scan>(
    py: Python<'py>,
    call: Call<F>,
    state: Option<&Bound<'py, PyDict>>,
    kernel: &str,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyDict>)> {
    let start = call.state(state)?;
    let mut state = start.clone();
    let mut y = zeros("y", Some(call.y_len()))?;
    py.detach(|| run(&call, kernel, &start, &mut state, &mut y, None)).map_err(IntoPyErr::into_py)?;
    Ok((arrays::write(py, &call.y_shape(), y).into_any(), call.end_state(py, &state)?))
}

fn vjp_as<'py, F: Scan>(
    py: Python<'py>,
    call: Call<F>,
    dy: &Bound<'py, PyAny>,
    state: Option<&Bound<'py, PyDict>>,
    dstate: Option<&Bound<'py, PyDict>>,
    kernel: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let start = call.state(state)?;
    let mut state = start.clone();
    let mut dstate = call.gradient(dstate)?;
    let dy = call.cotangent(dy)?;
    let s = call.shape;
    let mut y = zeros("y", Some(call.y_len()))?;
    let mut saved = zeros("checkpoints", state.len().checked_mul(s.checkpoints()))?;
    let like = |x: &Vec<F>| zeros("gradients", Some(x.len()));
    let mut dinputs = call.inputs.iter().map(like).collect::<PyResult<Vec<_>>>()?;
    py.detach(|| {
        let mut dx: Vec<&mut [F]> = dinputs.iter_mut().map(Vec::as_mut_slice).collect();
        run(&call, kernel, &start, &mut state, &mut y, Some(&mut saved))?;
        F::backward(&call.rule, s, &call.slices(), &saved, &dy, &mut dx, &mut dstate, kernel)
    })
    .map_err(IntoPyErr::into_py)?;
    let gradients = call.input_dict(py, dinputs)?;
    gradients.set_item("state", call.state_dict(py, &dstate)?)?;
    Ok(gradients)
}

/// The forward pass from `start`, with `state` equal to it on entry; what it gives is finite, or an error says where it
/// ceased to be.
fn run<F: Scan>(
    call: &Call<F>,
    kernel: &str,
    start: &[F],
    state: &mut [F],
    y: &mut [F],
    saved: Option<&mut [F]>,
) -> Result<()> {
    let (rule, inputs) = (&call.rule, call.slices());
    F::forward(rule, call.shape, &inputs, state, y, saved, kernel)?;
    if call.shape.tokens == 0 || state.iter().chain(y.iter()).all(|&x| Scalar::is_finite(x)) {
        return Ok(());
    }
    first_non_finite(rule, call.shape, &inputs, start)?;
    let reason = "its results are not finite where those of the reference are".to_string();
    Err(Error::Kernel { rule: rule.name(), kernel: kernel.to_string(), reason })
}

/// How a number type runs a scan; see `hecate_core::scan` for the layouts.
trait Scan: Real {
    fn forward(
        rule: &AnyRule,
        shape: ScanShape,
        inputs: &[&[Self]],
        state: &mut [Self],
        y: &mut [Self],
        saved: Option<&mut [Self]>,
        kernel: &str,
    ) -> Result<()>;

    /// Transpose of [`Scan::forward`].
    fn backward(
        rule: &AnyRule,
        shape: ScanShape,
        inputs: &[&[Self]],
        saved: &[Self],
        dy: &[Self],
        dinputs: &mut [&mut [Self]],
        dstate: &mut [Self],
        kernel: &str,
    ) -> Result<()>;
}

impl Scan for f32 {
    fn forward(
        rule: &AnyRule,
        shape: ScanShape,
        inputs: &[&[Self]],
        state: &mut [Self],
        y: &mut [Self],
        saved: Option<&mut [Self]>,
        kernel: &str,
    ) -> Result<()> {
        forward_f32(rule, shape, on_all_threads(kernel), inputs, state, y, saved, Write::Yes)
    }

    fn backward(
        rule: &AnyRule,
        shape: ScanShape,
        inputs: &[&[Self]],
        saved: &[Self],
        dy: &[Self],
        dinputs: &mut [&mut [Self]],
        dstate: &mut [Self],
        kernel: &str,
    ) -> Result<()> {
        backward_f32(rule, shape, on_all_threads(kernel), inputs, saved, dy, dinputs, dstate)
    }
}

fn on_all_threads(kernel: &str) -> Run<'_> {
    Run { kernel: KernelChoice::Named(kernel), parallel: true, ..Run::default() }
}

impl Scan for f64 {
    fn forward(
        rule: &AnyRule,
        shape: ScanShape,
        inputs: &[&[Self]],
        state: &mut [Self],
        y: &mut [Self],
        saved: Option<&mut [Self]>,
        kernel: &str,
    ) -> Result<()> {
        only_reference(rule, kernel)?;
        reference_forward(rule, shape, inputs, state, y, saved, Write::Yes);
        Ok(())
    }

    fn backward(
        rule: &AnyRule,
        shape: ScanShape,
        inputs: &[&[Self]],
        saved: &[Self],
        dy: &[Self],
        dinputs: &mut [&mut [Self]],
        dstate: &mut [Self],
        kernel: &str,
    ) -> Result<()> {
        only_reference(rule, kernel)?;
        reference_backward(rule, shape, inputs, saved, dy, dinputs, dstate);
        Ok(())
    }
}

fn only_reference(rule: &AnyRule, kernel: &str) -> Result<()> {
    if ["auto", "reference"].contains(&kernel) {
        return Ok(());
    }
    let reason = "float64 runs the reference: expected auto or reference, or float32 arrays".to_string();
    Err(Error::Kernel { rule: rule.name(), kernel: kernel.to_string(), reason })
}
