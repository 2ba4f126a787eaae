//! What one call of a memory brings, checked against what its rule lists.

use crate::arrays::{self, Real, Values, shape_text};
use crate::error::{IntoPyErr, type_name, zeros};
use crate::rules;
use hecate_core::scan::ScanShape;
use hecate_core::{AnyRule, Dims, Input, Start, StateTensor, Width};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::borrow::Cow;

/// Key of the number of tokens that a state has taken.
const POS: &str = "pos";

/// A rule with inputs that fit it.
pub struct Call<F> {
    /// The rule.
    pub rule: AnyRule,
    /// Extent and widths.
    pub shape: ScanShape,
    /// One buffer `[heads, tokens, width]` per input, in the rule's order.
    pub inputs: Vec<Vec<F>>,
    list: Vec<Input>,
    tensors: Vec<StateTensor>,
    /// `[]` or `[B, H]`: the axes before the tokens.
    lead: Vec<usize>,
    /// The array that decided on the number type.
    first: String,
}

/// A buffer `[heads, state_len]` as a dict of arrays by tensor name, with the axes `lead` in front, and with `pos`
/// where it is a state.
///
/// # Errors
/// `MemoryError`.
pub fn tensor_dict<'py, F: Real>(
    py: Python<'py>,
    tensors: &[StateTensor],
    lead: &[usize],
    heads: usize,
    state: &[F],
    pos: Option<u64>,
) -> PyResult<Bound<'py, PyDict>> {
    let (len, dict) = (tensors.iter().map(StateTensor::len).sum::<usize>(), PyDict::new(py));
    let mut offset = 0;
    for tensor in tensors {
        let mut data = Vec::with_capacity(heads * tensor.len());
        for h in 0..heads {
            data.extend_from_slice(&state[h * len + offset..][..tensor.len()]);
        }
        let shape = [lead, &tensor.shape].concat();
        dict.set_item(&*tensor.name, arrays::write(py, &shape, data))?;
        offset += tensor.len();
    }
    if let Some(pos) = pos {
        dict.set_item(POS, pos)?;
    }
    Ok(dict)
}

/// The argument `place` as a dict.
///
/// # Errors
/// `TypeError` for anything else.
pub fn dict<'a, 'py>(place: &str, object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyDict>> {
    object.cast::<PyDict>().map_err(|_| {
        let kind = type_name(object);
        PyTypeError::new_err(format!("{place} is of type {kind}, expected a dict of arrays by name"))
    })
}

/// As [`dict`], for an argument that may be `None`.
///
/// # Errors
/// As [`dict`].
pub fn optional_dict<'a, 'py>(
    place: &str,
    object: Option<&'a Bound<'py, PyAny>>,
) -> PyResult<Option<&'a Bound<'py, PyDict>>> {
    object.map(|object| dict(place, object)).transpose()
}

/// The rule that `rule` stands for, once `inputs` have exactly the names that it lists.
///
/// # Errors
/// `ValueError` with the known rules, keys or inputs, `TypeError` for other types.
pub fn rule_with_inputs(rule: &Bound<'_, PyAny>, inputs: &Bound<'_, PyDict>) -> PyResult<AnyRule> {
    let rule = rules::parse(rule)?;
    let list = rule.inputs();
    let names: Vec<&str> = list.iter().map(|i| i.name).collect();
    let takes = format!("rule `{}` takes {}", rule.name(), names.join(", "));
    for key in inputs.keys() {
        let name = name_of("inputs", &key)?;
        if !names.contains(&name.as_str()) {
            return Err(PyValueError::new_err(format!("inputs: unknown name `{name}`; {takes}")));
        }
    }
    for name in names {
        if !inputs.contains(name)? {
            return Err(PyValueError::new_err(format!("inputs: `{name}` is missing; {takes}")));
        }
    }
    Ok(rule)
}

impl<F: Real> Call<F> {
    /// Copies the inputs and finds the extent of the call in them; `pos` comes from the state.
    ///
    /// # Errors
    /// `TypeError` for a wrong number type, `ValueError` for a wrong shape, each naming the input.
    pub fn new(rule: AnyRule, inputs: &Bound<'_, PyDict>, state: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let list = rule.inputs();
        let first = format!("inputs['{}']", list[0].name);
        let mut values = Vec::with_capacity(list.len());
        for input in &list {
            let place = format!("inputs['{}']", input.name);
            let array = inputs.get_item(input.name)?.expect("names were checked");
            values.push(arrays::read::<F>(&place, &array, &first)?);
        }
        let (lead, tokens) = extent(&list, &values)?;
        let widest = |width| Some(values[list.iter().position(|i| i.width == width)?].shape[lead.len() + 1]);
        let dk = widest(Width::Key).or(widest(Width::Value)).unwrap_or(1);
        let dims = Dims::new(dk, widest(Width::Value).unwrap_or(dk));
        for (input, values) in list.iter().zip(&values) {
            check_input(input, values, &lead, tokens, dims)?;
        }
        if dims.dk == 0 || dims.dv == 0 {
            return Err(PyValueError::new_err(format!("inputs: widths {} and {} must not be 0", dims.dk, dims.dv)));
        }
        rule.check(dims).map_err(IntoPyErr::into_py)?;
        let shape = ScanShape { heads: lead.iter().product(), tokens, dims, pos: position(state)? };
        let tensors = rule.state(dims);
        let inputs = values.into_iter().map(|v| v.data).collect();
        Ok(Self { rule, shape, inputs, list, tensors, lead, first })
    }

    /// The inputs as slices.
    pub fn slices(&self) -> Vec<&[F]> {
        self.inputs.iter().map(Vec::as_slice).collect()
    }

    /// Shape of the reads: `[T, dv]` or `[B, H, T, dv]`.
    pub fn y_shape(&self) -> Vec<usize> {
        [&self.lead[..], &[self.shape.tokens, self.shape.dims.dv]].concat()
    }

    /// Number of reads.
    pub fn y_len(&self) -> usize {
        self.y_shape().iter().product()
    }

    /// Copies an array shaped like the reads.
    ///
    /// # Errors
    /// As [`arrays::read`], and `ValueError` for another shape.
    pub fn cotangent(&self, dy: &Bound<'_, PyAny>) -> PyResult<Vec<F>> {
        let values = arrays::read::<F>("dy", dy, &self.first)?;
        expect_shape("dy", &values, &self.y_shape(), "as the reads have")?;
        Ok(values.data)
    }

    /// The buffer `[heads, state_len]` of a dict of state tensors. Those that it leaves out are as the rule starts:
    /// zeros, a multiple of the identity, or what the tensor holds that they start like.
    ///
    /// # Errors
    /// As [`Call::gradient`], and `ValueError` where a tensor is left out that a model learns the start of.
    pub fn state(&self, dict: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<F>> {
        let (mut state, given) = self.gathered("state", dict)?;
        let len = self.rule.state_len(self.shape.dims);
        let mut offsets: Vec<usize> = Vec::with_capacity(self.tensors.len());
        for (i, tensor) in self.tensors.iter().enumerate() {
            let offset = self.tensors[..i].iter().map(StateTensor::len).sum();
            offsets.push(offset);
            if given.contains(&tensor.name) {
                continue;
            }
            for state in state.chunks_exact_mut(len.max(1)) {
                let (before, own) = state.split_at_mut(offset);
                match tensor.start {
                    Start::Zero => {}
                    Start::Identity(scale) => {
                        let own = own[..tensor.len()].iter_mut().step_by(tensor.shape[0] + 1);
                        own.for_each(|x| *x = F::from_f64(scale));
                    }
                    Start::Same(j) => own[..tensor.len()].copy_from_slice(&before[offsets[j]..][..tensor.len()]),
                    Start::Learned { .. } | Start::UnitColumns => return Err(self.learned(&tensor.name)),
                }
            }
        }
        Ok(state)
    }

    fn learned(&self, tensor: &str) -> PyErr {
        let (rule, d) = (self.rule.name(), self.shape.dims);
        PyValueError::new_err(format!(
            "state: `{tensor}` is missing, and rule `{rule}` starts it from learned values: give it, \
             or start from hecate.memory.start('{rule}', {}, {})",
            d.dk, d.dv
        ))
    }

    /// The buffer `[heads, state_len]` of a dict of gradients by state tensor; those that it leaves out are zero.
    ///
    /// # Errors
    /// `ValueError` for an unknown tensor or another shape, `TypeError` for a wrong number type.
    pub fn gradient(&self, dict: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<F>> {
        Ok(self.gathered("dstate", dict)?.0)
    }

    /// The tensors of a dict in their places, zeros elsewhere, and which those were.
    fn gathered(&self, place: &str, dict: Option<&Bound<'_, PyDict>>) -> PyResult<(Vec<F>, Vec<Cow<'static, str>>)> {
        let len = self.rule.state_len(self.shape.dims);
        let mut state = zeros(place, self.shape.heads.checked_mul(len))?;
        let mut given = Vec::new();
        let Some(dict) = dict else { return Ok((state, given)) };
        let is_state = place == "state";
        for (key, array) in dict.iter() {
            let name = name_of(place, &key)?;
            if is_state && name == POS {
                continue;
            }
            let (offset, tensor) = self.tensor(place, &name)?;
            let place = format!("{place}['{name}']");
            let values = arrays::read::<F>(&place, &array, &self.first)?;
            let expected = [&self.lead[..], &tensor.shape].concat();
            expect_shape(&place, &values, &expected, "for these inputs")?;
            for (h, values) in values.data.chunks_exact(tensor.len().max(1)).enumerate() {
                state[h * len + offset..][..tensor.len()].copy_from_slice(values);
            }
            given.push(tensor.name.clone());
        }
        Ok((state, given))
    }

    /// A buffer `[heads, state_len]` as a dict by tensor name.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn state_dict<'py>(&self, py: Python<'py>, state: &[F]) -> PyResult<Bound<'py, PyDict>> {
        tensor_dict(py, &self.tensors, &self.lead, self.shape.heads, state, None)
    }

    /// The state at the end of the call: its tensors and the number of tokens taken.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn end_state<'py>(&self, py: Python<'py>, state: &[F]) -> PyResult<Bound<'py, PyDict>> {
        let pos = self.shape.pos + self.shape.tokens as u64;
        tensor_dict(py, &self.tensors, &self.lead, self.shape.heads, state, Some(pos))
    }

    /// Buffers shaped like the inputs, as a dict of arrays by input name.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn input_dict<'py>(&self, py: Python<'py>, buffers: Vec<Vec<F>>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (input, data) in self.list.iter().zip(buffers) {
            let shape = input_shape(input, &self.lead, self.shape.tokens, self.shape.dims);
            dict.set_item(input.name, arrays::write(py, &shape, data))?;
        }
        Ok(dict)
    }

    fn tensor(&self, place: &str, name: &str) -> PyResult<(usize, &StateTensor)> {
        let mut offset = 0;
        for tensor in &self.tensors {
            if tensor.name == name {
                return Ok((offset, tensor));
            }
            offset += tensor.len();
        }
        let known: Vec<&str> = self.tensors.iter().map(|t| &*t.name).collect();
        let (rule, known) = (self.rule.name(), known.join(", "));
        Err(PyValueError::new_err(format!("{place}: unknown tensor `{name}`; the state of rule `{rule}` has {known}")))
    }
}

/// The axes before the tokens and the number of tokens, from the first input that is wider than a scalar.
fn extent<F>(list: &[Input], values: &[Values<F>]) -> PyResult<(Vec<usize>, usize)> {
    let at = list.iter().position(|i| i.width != Width::One).unwrap_or(0);
    let shape = &values[at].shape;
    let scalar = usize::from(list[at].width == Width::One);
    match shape.len() + scalar {
        2 => Ok((vec![], shape[0])),
        4 => Ok((shape[..2].to_vec(), shape[2])),
        _ => Err(PyValueError::new_err(format!(
            "inputs['{}'] has shape {}, expected [T, width] or [B, H, T, width]",
            list[at].name,
            shape_text(shape)
        ))),
    }
}

fn input_shape(input: &Input, lead: &[usize], tokens: usize, dims: Dims) -> Vec<usize> {
    let mut shape = [lead, &[tokens]].concat();
    if input.width != Width::One {
        shape.push(input.width.of(dims));
    }
    shape
}

fn check_input<F>(input: &Input, values: &Values<F>, lead: &[usize], tokens: usize, dims: Dims) -> PyResult<()> {
    let why = match input.width {
        Width::One => "one value per token".to_string(),
        Width::Key => format!("keys of width {}", dims.dk),
        Width::Value => format!("values of width {}", dims.dv),
        Width::Fixed(n) => format!("{n} values per token"),
    };
    expect_shape(&format!("inputs['{}']", input.name), values, &input_shape(input, lead, tokens, dims), &why)
}

fn expect_shape<F>(place: &str, values: &Values<F>, expected: &[usize], why: &str) -> PyResult<()> {
    if values.shape == expected {
        return Ok(());
    }
    let (got, expected) = (shape_text(&values.shape), shape_text(expected));
    Err(PyValueError::new_err(format!("{place} has shape {got}, expected {expected} ({why})")))
}

fn position(state: Option<&Bound<'_, PyDict>>) -> PyResult<u64> {
    let Some(state) = state else { return Ok(0) };
    let Some(pos) = state.get_item(POS)? else { return Ok(0) };
    pos.extract().map_err(|_| PyValueError::new_err(format!("state['{POS}'] is {pos}, expected an integer from 0 up")))
}

pub fn name_of(place: &str, key: &Bound<'_, PyAny>) -> PyResult<String> {
    key.extract().map_err(|_| PyTypeError::new_err(format!("{place}: the key {key} is no string")))
}
