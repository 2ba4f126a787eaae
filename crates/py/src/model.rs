//! Trained models and what they have learned since: `hecate.load`.

use crate::error::{IntoPyErr, type_name};
use hecate_core::ops::Cpu;
use hecate_model::{Access, GenerationConfig, Parts, Sampler, Workspace, generate};
use hecate_train::loaded::Loaded;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long Ctrl-C may wait while text is generated.
const PATIENCE: Duration = Duration::from_millis(50);

/// Opens a trained model: a run folder, or one of its checkpoints.
///
/// A missing, truncated or foreign file is an `OSError` or a `ValueError` with its path.
#[pyfunction]
pub fn load(py: Python<'_>, path: PathBuf) -> PyResult<Model> {
    let loaded = py.detach(|| Loaded::open(&path)).map_err(IntoPyErr::into_py)?;
    Ok(Model { loaded: Arc::new(loaded) })
}

/// A trained model. Its weights never change; what it learns while it runs is in a `State`.
#[pyclass(frozen, module = "hecate")]
pub struct Model {
    loaded: Arc<Loaded>,
}

#[pymethods]
impl Model {
    /// Continues a text and returns a `Generation`; `str()` of it is the text.
    ///
    /// `prompt` is text or bytes. What is left out is taken from the model's `generation_config.json`: `max_tokens`,
    /// `temperature` (0 takes the likeliest token), `top_k` (0 keeps all), `top_p` (1 keeps all), `seed`. Generation
    /// ends behind the first text of `stop`, a text or a list of them.
    ///
    /// `state` is what the model has learned so far, a new one where it is left out. `access` says what the call may
    /// write: "learn" advances the state, "read" works on a copy, "frozen" advances everything but the memories. Two
    /// calls one after the other give the tokens of one long call. If a call fails or is interrupted, the state is as
    /// it was before.
    #[pyo3(signature = (prompt = None, *, max_tokens = None, temperature = None, top_k = None, top_p = None,
                        seed = None, stop = None, state = None, access = "learn"))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: Option<&Bound<'py, PyAny>>,
        max_tokens: Option<&Bound<'py, PyAny>>,
        temperature: Option<f64>,
        top_k: Option<&Bound<'py, PyAny>>,
        top_p: Option<f64>,
        seed: Option<&Bound<'py, PyAny>>,
        stop: Option<&Bound<'py, PyAny>>,
        state: Option<&Bound<'py, PyAny>>,
        access: &str,
    ) -> PyResult<Generation> {
        let defaults = &self.loaded.generation;
        let config = GenerationConfig {
            temperature: temperature.unwrap_or(defaults.temperature),
            top_k: count("top_k", top_k)?.unwrap_or(defaults.top_k),
            top_p: top_p.unwrap_or(defaults.top_p),
            max_tokens: count("max_tokens", max_tokens)?.unwrap_or(defaults.max_tokens),
            seed: count("seed", seed)?.unwrap_or(defaults.seed),
        };
        let request = Request {
            prompt: prompt.map_or(Ok(Vec::new()), |text| bytes_of("prompt", text))?,
            sampler: Sampler::new(&config).map_err(IntoPyErr::into_py)?,
            max_tokens: config.max_tokens,
            stop: stop.map_or(Ok(Vec::new()), stops)?,
            access: parse_access(access)?,
        };
        let state = match state {
            Some(state) => state_of(state)?.clone(),
            None => Bound::new(py, self.new_state())?,
        };
        // The state stays borrowed while the interpreter is released, so that another thread cannot use it.
        let in_use = |_| PyRuntimeError::new_err("state is in use by another call: give every thread its own fork()");
        let mut guard = state.try_borrow_mut().map_err(in_use)?;
        if guard.loaded.lineage != self.loaded.lineage {
            return Err(PyValueError::new_err("state belongs to another model: make it with new_state() of this one"));
        }
        let mut advanced = guard.state.clone();
        let (tokens, bytes, stopped) = py.detach(|| request.run(&self.loaded, &mut advanced))?;
        guard.state = advanced;
        drop(guard);
        Ok(Generation {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            tokens,
            stopped,
            state: state.unbind(),
        })
    }

    /// The state before the first token.
    fn new_state(&self) -> State {
        State { state: self.loaded.model.new_state(), loaded: self.loaded.clone() }
    }

    /// The model's `config.json` as a dict.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = serde_json::to_string(self.loaded.model.config()).expect("a config is plain data");
        py.import("json")?.call_method1("loads", (text,))
    }

    fn __repr__(&self) -> String {
        let config = self.loaded.model.config();
        format!("<hecate.Model: width {}, context {}, vocab {}>", config.width, config.context, config.vocab)
    }
}

/// What one sequence has learned: memories, windows, position. Apart from the weights, and a file of its own.
#[pyclass(module = "hecate")]
pub struct State {
    state: hecate_model::State<f32>,
    loaded: Arc<Loaded>,
}

#[pymethods]
impl State {
    /// Writes the state to a file, whole or not at all. The file names the model that it belongs to.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.loaded.save_state(&self.state, &path)).map_err(IntoPyErr::into_py)
    }

    /// Goes to the state in a file that `save` wrote for the same model, and returns itself. Where the file is refused,
    /// the state is as it was before.
    fn load<'py>(slf: Bound<'py, Self>, path: PathBuf) -> PyResult<Bound<'py, Self>> {
        let loaded = slf.try_borrow()?.loaded.clone();
        let state = slf.py().detach(|| loaded.state(&path, false)).map_err(IntoPyErr::into_py)?;
        slf.try_borrow_mut()?.state = state;
        Ok(slf)
    }

    /// A copy that goes its own way.
    fn fork(&self) -> State {
        State { state: self.state.clone(), loaded: self.loaded.clone() }
    }

    /// sha256 of position and values: equal exactly when two states are equal bit for bit.
    fn hash(&self) -> String {
        self.state.hash()
    }

    /// Number of tokens that it has taken.
    #[getter]
    fn tokens(&self) -> u64 {
        self.state.position
    }

    fn __repr__(&self) -> String {
        format!("<hecate.State: {} tokens, {}>", self.state.position, &self.state.hash()[..12])
    }
}

/// What `Model.generate` returns.
#[pyclass(frozen, get_all, module = "hecate")]
pub struct Generation {
    /// The text without the prompt; bytes that are no UTF-8 are U+FFFD.
    text: String,
    /// The same as bytes.
    bytes: Vec<u8>,
    /// The tokens drawn.
    tokens: Vec<u32>,
    /// Why it ended: "stop" or "max_tokens".
    stopped: &'static str,
    /// The state after the call: the one that was given, or the new one.
    state: Py<State>,
}

#[pymethods]
impl Generation {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("<hecate.Generation: {} tokens, ended by {}>", self.tokens.len(), self.stopped)
    }
}

/// A checked call of [`Model::generate`].
struct Request {
    prompt: Vec<u8>,
    sampler: Sampler,
    max_tokens: usize,
    stop: Vec<Vec<u8>>,
    access: Access,
}

impl Request {
    /// Tokens, bytes, and why it ended. Every now and then it asks Python whether Ctrl-C was pressed.
    fn run(
        mut self,
        loaded: &Loaded,
        state: &mut hecate_model::State<f32>,
    ) -> PyResult<(Vec<u32>, Vec<u8>, &'static str)> {
        let (mut tokens, mut bytes, mut stopped) = (Vec::new(), Vec::new(), "max_tokens");
        let (mut failed, mut asked) = (Ok(()), Instant::now());
        let mut each = |token| {
            tokens.push(token);
            failed = loaded.tokenizer.decode_into(token, &mut bytes).map_err(IntoPyErr::into_py);
            if failed.is_ok() && asked.elapsed() > PATIENCE {
                failed = Python::attach(|py| py.check_signals());
                asked = Instant::now();
            }
            if self.stop.iter().any(|stop| bytes.ends_with(stop)) {
                stopped = "stop";
            }
            if failed.is_err() || stopped == "stop" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (model, params, prompt) = (&loaded.model, &loaded.params, loaded.tokenizer.encode(&self.prompt));
        let (ops, mut ws) = (Cpu::inference(), Workspace::default());
        let (sampler, access, n) = (&mut self.sampler, &self.access, self.max_tokens);
        generate(&ops, model, params, state, &prompt, sampler, n, access, &mut ws, &mut each)
            .map_err(IntoPyErr::into_py)?;
        failed?;
        Ok((tokens, bytes, stopped))
    }
}

fn parse_access(access: &str) -> PyResult<Access> {
    match access {
        "learn" => Ok(Access::Learn),
        "read" => Ok(Access::Read),
        "frozen" => Ok(Access::Frozen(Parts::all())),
        _ => Err(PyValueError::new_err(format!("access is `{access}`, expected one of learn, read, frozen"))),
    }
}

fn state_of<'a, 'py>(object: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, State>> {
    object.cast::<State>().map_err(|_| {
        let kind = type_name(object);
        PyTypeError::new_err(format!("state is of type {kind}, expected a hecate.State: new_state() makes one"))
    })
}

/// An integer from 0 up.
fn count<T: for<'a, 'py> FromPyObject<'a, 'py>>(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    let bad = || PyValueError::new_err(format!("{name} is {value}, expected an integer from 0 up"));
    value.extract().map(Some).map_err(|_| bad())
}

/// Text or bytes.
fn bytes_of(place: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if object.is_instance_of::<PyString>() {
        return Ok(object.extract::<String>()?.into_bytes());
    }
    let bytes = object.cast::<PyBytes>().map(|bytes| bytes.as_bytes().to_vec());
    bytes.map_err(|_| {
        let kind = type_name(object);
        PyTypeError::new_err(format!("{place} is of type {kind}, expected str or bytes"))
    })
}

/// One text to stop at, or several.
fn stops(object: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    let stops = match object.cast::<PyList>() {
        Ok(list) => list.iter().map(|text| bytes_of("stop", &text)).collect::<PyResult<Vec<_>>>()?,
        Err(_) => vec![bytes_of("stop", object)?],
    };
    if stops.iter().any(Vec::is_empty) {
        return Err(PyValueError::new_err("stop holds an empty text, which every text ends with"));
    }
    Ok(stops)
}
