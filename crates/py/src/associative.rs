//! Associative memories without a model around them.

use crate::arrays::{self, Real, shape_text};
use crate::call::{name_of, tensor_dict};
use crate::error::IntoPyErr;
use crate::rules;
use hecate_core::{Dims, Width};
use numpy::PyUntypedArray;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What names the number type of a memory in messages.
const OWNER: &str = "the memory (its dtype)";

/// A memory over one of the two number types.
#[derive(Clone)]
enum Either<S, D> {
    Single(S),
    Double(D),
}

/// Runs an expression on the memory, whatever its number type.
macro_rules! with {
    ($any:expr, $memory:ident => $body:expr) => {
        match $any {
            Either::Single($memory) => $body,
            Either::Double($memory) => $body,
        }
    };
}

/// A memory of any rule: write pairs, read keys.
///
/// `rule` is a name (see `hecate.rules()`) or a dict as in a config file. Tensors that a model would learn the start of
/// are drawn from `seed`. `dtype` is "float64" or "float32", and arrays must be of it.
#[pyclass(module = "hecate")]
pub struct AssociativeMemory {
    memory: Either<hecate_core::AssociativeMemory<f32>, hecate_core::AssociativeMemory<f64>>,
}

#[pymethods]
impl AssociativeMemory {
    #[new]
    #[pyo3(signature = (rule, key_width, value_width, *, seed = 0, dtype = "float64"))]
    fn new(rule: &Bound<'_, PyAny>, key_width: usize, value_width: usize, seed: u64, dtype: &str) -> PyResult<Self> {
        let (rule, dims) = (rules::parse(rule)?, dims(key_width, value_width)?);
        let memory = if is_double(dtype)? {
            hecate_core::AssociativeMemory::new(rule, dims, seed).map(Either::Double)
        } else {
            hecate_core::AssociativeMemory::new(rule, dims, seed).map(Either::Single)
        };
        Ok(Self { memory: memory.map_err(IntoPyErr::into_py)? })
    }

    /// Writes pairs one after the other: `keys` `[n, key_width]` and `values` `[n, value_width]`, or one of each.
    ///
    /// What the rule takes besides is given by name, for all pairs or for each: `rate=0.5`, `rate=array_of_n`. Gates that
    /// are left out have the values that the rule starts from. All are final values: nothing is normalised here.
    #[pyo3(signature = (keys, values, **gates))]
    fn write(
        &mut self,
        keys: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
        gates: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        with!(&mut self.memory, memory => write(memory, keys, values, gates))
    }

    /// What the memory answers to `queries` `[n, key_width]`, or to one: `[n, value_width]`, or one.
    fn read<'py>(&self, py: Python<'py>, queries: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        with!(&self.memory, memory => read(py, queries, memory.dims(), |q| memory.read(q)))
    }

    /// A copy of the state: arrays by tensor name, and the number of pairs written as `pos`, as
    /// `hecate.memory.forward` takes it.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        with!(&self.memory, memory => {
            let held: Vec<_> = memory.state().iter().flat_map(|(_, x)| x.to_vec()).collect();
            tensor_dict(py, &memory.rule().state(memory.dims()), &[], 1, &held, Some(memory.position()))
        })
    }

    /// Pairs written since it was made or reset.
    #[getter]
    fn written(&self) -> u64 {
        with!(&self.memory, memory => memory.position())
    }

    /// Empty again, as it was made.
    fn reset(&mut self) {
        with!(&mut self.memory, memory => memory.reset());
    }

    /// A memory of its own with the same content.
    fn copy(&self) -> Self {
        Self { memory: self.memory.clone() }
    }
}

/// A memory without parameters: it keeps the pairs themselves, the last `window` of them or all, and answers with the
/// mean of their values under weights proportional to `exp(sharpness * query @ key)`.
///
/// `sharpness` is the root of the key's width where it is left out: that of attention, for keys of unit length. An
/// empty memory answers with zeros.
#[pyclass(module = "hecate")]
pub struct PairMemory {
    memory: Either<hecate_core::PairMemory<f32>, hecate_core::PairMemory<f64>>,
}

#[pymethods]
impl PairMemory {
    #[new]
    #[pyo3(signature = (key_width, value_width, *, window = None, sharpness = None, dtype = "float64"))]
    fn new(
        key_width: usize,
        value_width: usize,
        window: Option<usize>,
        sharpness: Option<f64>,
        dtype: &str,
    ) -> PyResult<Self> {
        let dims = Dims::new(key_width, value_width);
        let sharpness = sharpness.unwrap_or((key_width as f64).sqrt());
        let memory = if is_double(dtype)? {
            hecate_core::PairMemory::new(dims, sharpness, window).map(Either::Double)
        } else {
            hecate_core::PairMemory::new(dims, sharpness, window).map(Either::Single)
        };
        Ok(Self { memory: memory.map_err(IntoPyErr::into_py)? })
    }

    /// Stores pairs: `keys` `[n, key_width]` and `values` `[n, value_width]`, or one of each.
    fn write(&mut self, keys: &Bound<'_, PyAny>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        with!(&mut self.memory, memory => {
            let (keys, values) = pairs(memory.dims(), keys, values)?;
            memory.write(&keys, &values).map_err(IntoPyErr::into_py)
        })
    }

    /// What the memory answers to `queries` `[n, key_width]`, or to one: `[n, value_width]`, or one.
    fn read<'py>(&self, py: Python<'py>, queries: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        with!(&self.memory, memory => read(py, queries, memory.dims(), |q| memory.read(q)))
    }

    /// A copy of the pairs that it holds, oldest first: `keys` and `values`.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        with!(&self.memory, memory => {
            let (dict, (keys, values)) = (PyDict::new(py), memory.pairs());
            dict.set_item("keys", arrays::write(py, &[memory.len(), memory.dims().dk], keys.to_vec()))?;
            dict.set_item("values", arrays::write(py, &[memory.len(), memory.dims().dv], values.to_vec()))?;
            Ok(dict)
        })
    }

    /// Pairs written since it was made or reset, those that have left the window included.
    #[getter]
    fn written(&self) -> u64 {
        with!(&self.memory, memory => memory.position())
    }

    /// Empty again.
    fn reset(&mut self) {
        with!(&mut self.memory, memory => memory.reset());
    }

    /// A memory of its own with the same content.
    fn copy(&self) -> Self {
        Self { memory: self.memory.clone() }
    }
}

/// Whether a number type called `dtype` is `float64`; otherwise it is `float32`.
///
/// # Errors
/// `ValueError` for any other.
pub fn is_double(dtype: &str) -> PyResult<bool> {
    match dtype {
        "float64" => Ok(true),
        "float32" => Ok(false),
        other => Err(PyValueError::new_err(format!("dtype is '{other}', expected 'float64' or 'float32'"))),
    }
}

/// Widths that are not zero.
///
/// # Errors
/// `ValueError`.
pub fn dims(key_width: usize, value_width: usize) -> PyResult<Dims> {
    if key_width == 0 || value_width == 0 {
        return Err(PyValueError::new_err(format!("widths {key_width} and {value_width} must not be 0")));
    }
    Ok(Dims::new(key_width, value_width))
}

fn write<F: Real>(
    memory: &mut hecate_core::AssociativeMemory<F>,
    keys: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
    gates: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let (keys, values) = pairs(memory.dims(), keys, values)?;
    let list = memory.rule().inputs();
    let mut given: Vec<(String, Vec<F>)> = Vec::new();
    for (name, value) in gates.iter().flat_map(|dict| dict.iter()) {
        let name = name_of("write", &name)?;
        let width = list.iter().find(|i| i.name == name).map_or(Width::One, |i| i.width).of(memory.dims());
        // A NumPy scalar counts as a number, an array must be of the memory's type.
        let data = match value.cast::<PyUntypedArray>() {
            Ok(_) => arrays::read::<F>(&name, &value, OWNER)?.data,
            Err(_) => vec![F::from_f64(value.extract::<f64>()?); width],
        };
        given.push((name, data));
    }
    let given: Vec<(&str, &[F])> = given.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    memory.write(&keys, &values, &given).map_err(IntoPyErr::into_py)
}

/// Keys and values of as many pairs.
fn pairs<F: Real>(d: Dims, keys: &Bound<'_, PyAny>, values: &Bound<'_, PyAny>) -> PyResult<(Vec<F>, Vec<F>)> {
    let (keys, n) = vectors("keys", keys, d.dk)?;
    let (values, m) = vectors("values", values, d.dv)?;
    if n != m {
        let count = |n: Option<usize>| n.map_or("one".to_string(), |n| n.to_string());
        return Err(PyValueError::new_err(format!("{} keys and {} values make no pairs", count(n), count(m))));
    }
    Ok((keys, values))
}

/// An array `[n, width]`, with `n`, or `[width]`.
fn vectors<F: Real>(place: &str, object: &Bound<'_, PyAny>, width: usize) -> PyResult<(Vec<F>, Option<usize>)> {
    let values = arrays::read::<F>(place, object, OWNER)?;
    match *values.shape {
        [w] if w == width => Ok((values.data, None)),
        [n, w] if w == width => Ok((values.data, Some(n))),
        _ => {
            let got = shape_text(&values.shape);
            Err(PyValueError::new_err(format!("{place} has shape {got}, expected ({width},) or (n, {width})")))
        }
    }
}

fn read<'py, F: Real>(
    py: Python<'py>,
    queries: &Bound<'py, PyAny>,
    d: Dims,
    answer: impl FnOnce(&[F]) -> hecate_core::Result<Vec<F>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (queries, n) = vectors::<F>("queries", queries, d.dk)?;
    let y = answer(&queries).map_err(IntoPyErr::into_py)?;
    let shape = n.map_or(vec![d.dv], |n| vec![n, d.dv]);
    Ok(arrays::write(py, &shape, y).into_any())
}
