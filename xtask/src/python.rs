//! `cargo xtask python`: the Python package as a user gets it: a wheel, installed into a fresh virtual environment,
//! tested there against NumPy and by scikit-learn's checks of estimators.

use crate::repo::{hecate, root, run as run_command, target};
use crate::{Result, no_arguments};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the environment gets, by major version.
const TOOLS: &[&str] = &["maturin>=1.9,<2", "numpy>=2,<3", "pytest>=8,<10", "mypy>=1,<3", "scikit-learn>=1.6,<2"];

/// Makes the model that the tests of `hecate.load` open: two steps on a short text, since any weights will do.
const TRAIN: &[&str] = &[
    "train",
    "default",
    "train.steps=2",
    "train.lanes=2",
    "model.width=32",
    "model.context=64",
    "--data",
    "LICENSE",
    "--json",
    "--out",
];

/// Builds, installs and tests the package.
///
/// # Errors
/// At the first command that fails; `PYTHON` names another interpreter than `python3`.
pub fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let (folder, package) = (target().join("python"), root().join("crates/py"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let (environment, wheels) = (folder.join("venv"), folder.join("wheels"));
    let python = std::env::var_os("PYTHON").unwrap_or("python3".into());
    run_command(Command::new(python).args(["-m", "venv"]).arg(&environment))?;
    let bin = environment.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let pip = || {
        let mut pip = Command::new(bin.join("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip
    };
    run_command(pip().args(TOOLS))?;
    run_command(
        Command::new(bin.join("maturin"))
            .args(["build", "--release", "--quiet", "--out"])
            .arg(&wheels)
            .env("VIRTUAL_ENV", &environment)
            .current_dir(&package),
    )?;
    run_command(pip().arg(only_file(&wheels)?))?;
    // The stubs say exactly what the extension module offers.
    run_command(Command::new(bin.join("python")).args(["-m", "mypy.stubtest", "hecate"]).current_dir(&folder))?;
    let model = folder.join("model");
    run_command(Command::new(hecate()?).args(TRAIN).arg(&model).current_dir(root()).stdout(Stdio::null()))?;
    run_command(
        Command::new(bin.join("python")).args(["-m", "pytest"]).env("HECATE_TEST_MODEL", &model).current_dir(&package),
    )
}

fn only_file(folder: &Path) -> Result<std::path::PathBuf> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (_, more) => Err(format!("{} should hold one wheel, not {}", folder.display(), more + 1).into()),
    }
}
