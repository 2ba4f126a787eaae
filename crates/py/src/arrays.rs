//! NumPy arrays to buffers and back.
//!
//! Every array is copied before the interpreter is released, so that no Python thread can change a number under a
//! computation. The copy is one pass over memory, where a scan makes `d` of them.

use crate::error::type_name;
use numpy::ndarray::{ArrayD, IxDyn};
use numpy::{Element, IntoPyArray, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray};
use numpy::{PyArrayDescr, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

/// Which of the two number types an array holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `float32`: kernels.
    F32,
    /// `float64`: the reference.
    F64,
}

/// A number type that Python and the core share.
pub trait Real: Element + hecate_core::Number + numpy::ndarray::NdFloat {
    /// Its [`Precision`].
    const PRECISION: Precision;
}
impl Real for f32 {
    const PRECISION: Precision = Precision::F32;
}
impl Real for f64 {
    const PRECISION: Precision = Precision::F64;
}

/// The values of an array in C order, with its shape.
pub struct Values<F> {
    /// Slowest axis first.
    pub shape: Vec<usize>,
    /// Row-major.
    pub data: Vec<F>,
}

/// The number type of the array called `place`.
///
/// # Errors
/// `TypeError` for anything but an array of one of the two.
pub fn precision(place: &str, object: &Bound<'_, PyAny>) -> PyResult<Precision> {
    let array = untyped(place, object)?;
    let dtype = array.dtype();
    match (dtype.kind(), dtype.itemsize()) {
        (b'f', 4) => Ok(Precision::F32),
        (b'f', 8) => Ok(Precision::F64),
        _ => Err(PyTypeError::new_err(format!(
            "{place} holds {dtype}, expected float32 or float64: convert it with .astype(numpy.float32)"
        ))),
    }
}

/// Copies an array of `F` out of Python: any strides, any byte order, any alignment.
///
/// # Errors
/// `TypeError` for anything but an array of `F`; `first` names the array that decided on `F`.
pub fn read<F: Real>(place: &str, object: &Bound<'_, PyAny>, first: &str) -> PyResult<Values<F>> {
    if precision(place, object)? != F::PRECISION {
        let (got, expected) = (untyped(place, object)?.dtype(), F::get_dtype(object.py()));
        return Err(PyTypeError::new_err(format!(
            "{place} holds {got}, but {first} holds {expected}: give all arrays one type, \
             float64 for the reference or float32 for the kernels"
        )));
    }
    let shape = untyped(place, object)?.shape().to_vec();
    let plain = object.cast::<PyArrayDyn<F>>().ok().filter(|array| array.is_c_contiguous());
    let plain = plain.and_then(|array| Some(array.try_readonly().ok()?.as_slice().ok()?.to_vec()));
    let data = match plain {
        Some(data) => data,
        None => in_order::<F>(object)?.cast::<PyArrayDyn<F>>()?.readonly().as_slice()?.to_vec(),
    };
    Ok(Values { shape, data })
}

/// A fresh copy as NumPy makes it: native byte order, C order, aligned.
fn in_order<'py, F: Real>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let dtype: Bound<'py, PyArrayDescr> = F::get_dtype(py);
    object.call_method("astype", (dtype,), Some(&[("order", "C")].into_py_dict(py)?))
}

fn untyped<'a, 'py>(place: &str, object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    object.cast::<PyUntypedArray>().map_err(|_| {
        let kind = type_name(object);
        PyTypeError::new_err(format!(
            "{place} is of type {kind}, expected a NumPy array: convert it with numpy.asarray(x, dtype=numpy.float32)"
        ))
    })
}

/// Hands a buffer to Python as an array of `shape`, without a copy.
///
/// # Panics
/// If the buffer does not fit the shape, which would be a bug of the caller.
pub fn write<'py, F: Real>(py: Python<'py>, shape: &[usize], data: Vec<F>) -> Bound<'py, PyArrayDyn<F>> {
    ArrayD::from_shape_vec(IxDyn(shape), data).expect("the buffer was made for this shape").into_pyarray(py)
}

/// A shape as Python prints it.
pub fn shape_text(shape: &[usize]) -> String {
    match shape {
        [n] => format!("({n},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}
