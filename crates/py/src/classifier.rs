//! The classifier under `hecate.Classifier`: numbers and class numbers in, probabilities out. Labels are the Python half's.

use crate::arrays::{read, shape_text, write};
use crate::error::IntoPyErr;
use hecate_model::classifier::{Heads, Learned, Learner, Preset, passes_for};
use hecate_train::classifier;
use numpy::PyArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long Ctrl-C may wait while it learns.
const PATIENCE: Duration = Duration::from_millis(50);

/// A classifier with what it learns: what `hecate.Classifier` stands on.
#[pyclass(module = "hecate._hecate")]
pub struct ClassifierLearner {
    learner: Learner,
}

/// The configuration of a preset for `samples` samples a task and so many tasks to come, as JSON, and the passes over them. `classes` are those of the
/// shared head, or with `per_task` those of the first task's head.
#[pyfunction]
pub fn classifier_preset(
    preset: &str,
    features: usize,
    classes: usize,
    per_task: bool,
    samples: usize,
    tasks: usize,
) -> PyResult<(String, usize)> {
    let known = serde_json::from_value::<Preset>(preset.into());
    let known = known.map_err(|e| PyValueError::new_err(format!("preset: {e}")))?;
    let heads = match per_task {
        true => Heads::PerTask { classes: vec![classes] },
        false => Heads::Shared { classes, tasks: 1 },
    };
    let config = known.config(features, heads, samples, tasks);
    Ok((serde_json::to_string(&config).expect("a config is plain data"), passes_for(samples)))
}

/// What a call learned: mean loss of its last pass in nats, steps, samples.
fn told(learned: Learned) -> (f64, u64, usize) {
    (learned.loss, learned.steps, learned.samples)
}

#[pymethods]
impl ClassifierLearner {
    /// Before its first sample. `config` is JSON.
    #[new]
    fn new(py: Python<'_>, config: &str, seed: u64) -> PyResult<Self> {
        let config = classifier::config_from_json(config).map_err(IntoPyErr::into_py)?;
        let learner = py.detach(|| Learner::new(&config, seed)).map_err(IntoPyErr::into_py)?;
        Ok(Self { learner })
    }

    /// Learns from samples `[N, features]` and the numbers of their classes, `passes` times.
    fn learn(
        &mut self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        labels: Vec<usize>,
        task: usize,
        passes: usize,
    ) -> PyResult<(f64, u64, usize)> {
        let values = self.samples(values)?;
        let learner = &mut self.learner;
        let (result, interrupted) = py.detach(|| {
            let (mut asked, mut failed) = (Instant::now(), None);
            let result = learner.learn_while(&values, &labels, task, passes, &mut || {
                if asked.elapsed() > PATIENCE {
                    failed = Python::attach(|py| py.check_signals()).err();
                    asked = Instant::now();
                }
                failed.is_none()
            });
            (result, failed)
        });
        match interrupted {
            Some(error) => Err(error),
            None => result.map(told).map_err(IntoPyErr::into_py),
        }
    }

    /// Learns from its own predictions of samples `[N, features]`, where it is sure of them.
    #[pyo3(signature = (values, task = None))]
    fn learn_from_itself(
        &mut self,
        py: Python<'_>,
        values: &Bound<'_, PyAny>,
        task: Option<usize>,
    ) -> PyResult<(f64, u64, usize)> {
        let values = self.samples(values)?;
        let learned = py.detach(|| self.learner.learn_from_itself(&values, task));
        learned.map(told).map_err(IntoPyErr::into_py)
    }

    /// Probabilities `[N, C]`; without a task, over the classes of all heads, one head after the other.
    #[pyo3(signature = (values, task = None))]
    fn probabilities<'py>(
        &mut self,
        py: Python<'py>,
        values: &Bound<'py, PyAny>,
        task: Option<usize>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f64>>> {
        let values = self.samples(values)?;
        let n = values.len() / self.learner.classifier().config().features;
        let p = py.detach(|| self.learner.probabilities(&values, task)).map_err(IntoPyErr::into_py)?;
        Ok(write(py, &[n, p.len() / n.max(1)], p))
    }

    /// One more task with a head of so many classes, or of the shared head's.
    fn add_task(&mut self, py: Python<'_>, classes: usize) -> PyResult<()> {
        py.detach(|| self.learner.add_task(classes)).map_err(IntoPyErr::into_py)
    }

    /// Writes itself and a text of the caller's to a file, whole or not at all.
    fn save(&self, py: Python<'_>, path: PathBuf, note: &str) -> PyResult<()> {
        py.detach(|| classifier::save(&self.learner, note, &path)).map_err(IntoPyErr::into_py)
    }

    /// Reads what `save` wrote, and the text.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<(Self, String)> {
        let (learner, note) = py.detach(|| classifier::load(&path)).map_err(IntoPyErr::into_py)?;
        Ok((Self { learner }, note))
    }

    /// The bytes of the file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.learner.to_bytes("").map_err(IntoPyErr::into_py)?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Reads `to_bytes` back.
    #[staticmethod]
    fn from_bytes(bytes: &[u8]) -> PyResult<Self> {
        let (learner, _) = Learner::from_bytes(bytes.to_vec()).map_err(IntoPyErr::into_py)?;
        Ok(Self { learner })
    }

    /// Its configuration as JSON.
    #[getter]
    fn config(&self) -> String {
        serde_json::to_string(self.learner.classifier().config()).expect("a config is plain data")
    }

    /// Number of parameters.
    #[getter]
    fn parameters(&self) -> usize {
        self.learner.classifier().params().count()
    }
}

impl ClassifierLearner {
    /// The values of an array `[N, features]` of float32.
    fn samples(&self, values: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
        let (values, features) =
            (read::<f32>("X", values, "a classifier")?, self.learner.classifier().config().features);
        match values.shape[..] {
            [_, width] if width == features => Ok(values.data),
            _ => {
                let got = shape_text(&values.shape);
                Err(PyValueError::new_err(format!("X has shape {got}, expected (samples, {features})")))
            }
        }
    }
}
