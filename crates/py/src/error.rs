//! The one mapping from the errors of the Rust crates to Python's exceptions.

use pyo3::exceptions::{
    PyFileNotFoundError, PyFloatingPointError, PyMemoryError, PyOSError, PyPermissionError, PyValueError,
};
use pyo3::prelude::*;
use std::io::ErrorKind;

/// An error that has a Python exception.
pub trait IntoPyErr {
    /// The exception, with the error's own sentence.
    fn into_py(self) -> PyErr;
}

impl IntoPyErr for hecate_core::Error {
    fn into_py(self) -> PyErr {
        match self {
            hecate_core::Error::NonFinite { .. } => PyFloatingPointError::new_err(self.to_string()),
            _ => PyValueError::new_err(self.to_string()),
        }
    }
}

impl IntoPyErr for hecate_model::Error {
    fn into_py(self) -> PyErr {
        use hecate_model::Error;
        match self {
            Error::NonFinite { .. } | Error::Core { source: hecate_core::Error::NonFinite { .. }, .. } => {
                PyFloatingPointError::new_err(self.to_string())
            }
            _ => PyValueError::new_err(self.to_string()),
        }
    }
}

impl IntoPyErr for hecate_train::Error {
    fn into_py(self) -> PyErr {
        match self {
            hecate_train::Error::Model(error) => error.into_py(),
            hecate_train::Error::Core(error) => error.into_py(),
            hecate_train::Error::Io { ref source, .. } => match source.kind() {
                ErrorKind::NotFound => PyFileNotFoundError::new_err(self.to_string()),
                ErrorKind::PermissionDenied => PyPermissionError::new_err(self.to_string()),
                _ => PyOSError::new_err(self.to_string()),
            },
            _ => PyValueError::new_err(self.to_string()),
        }
    }
}

/// `count` zeros, or `MemoryError` where a size that Python asked for does not fit.
pub fn zeros<F: Clone + Default>(what: &str, count: Option<usize>) -> Result<Vec<F>, PyErr> {
    let mut data = Vec::new();
    let fits = count.filter(|&n| data.try_reserve_exact(n).is_ok());
    let Some(n) = fits else {
        let size = count.map_or("too many".to_string(), |n| n.to_string());
        return Err(PyMemoryError::new_err(format!("{what}: no memory for {size} values")));
    };
    data.resize(n, F::default());
    Ok(data)
}

/// The name of an object's type, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or("unknown".to_string(), |name| name.to_string())
}
