//! The Python package `hecate`: NumPy arrays in and out, everything computed by the Rust crates.
//!
//! **Invariant:** no mathematics here. This crate checks what Python hands over, copies it, releases the
//! interpreter while the other crates compute, and turns their errors into Python's.

mod arrays;
mod associative;
mod call;
mod classifier;
mod error;
mod memory;
mod model;
mod rules;

use pyo3::prelude::*;

/// The native half of the package; `hecate/__init__.py` shows it to the world.
#[pymodule]
mod _hecate {
    #[pymodule_export]
    use crate::associative::{AssociativeMemory, PairMemory};
    #[pymodule_export]
    use crate::classifier::{ClassifierLearner, classifier_preset};
    #[pymodule_export]
    use crate::memory::{forward, start, vjp};
    #[pymodule_export]
    use crate::model::{Generation, Model, State, load};
    #[pymodule_export]
    use crate::rules::rules;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
