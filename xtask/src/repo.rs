//! The repository: its files, and programs run in it.

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Where builds go.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The files of the repository, relative to its root: those that git tracks or would track.
///
/// # Errors
/// Where git is missing or this is no repository.
pub fn files() -> Result<Vec<PathBuf>> {
    let mut files = git_files(&["--cached", "--others"])?;
    // A file that was deleted but not yet committed is still listed.
    files.retain(|file| root().join(file).is_file());
    Ok(files)
}

/// The files that git tracks although `.gitignore` names them: outputs that were added by mistake.
///
/// # Errors
/// As [`files`].
pub fn tracked_outputs() -> Result<Vec<PathBuf>> {
    git_files(&["--cached", "--ignored"])
}

fn git_files(which: &[&str]) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--exclude-standard"])
        .args(which)
        .current_dir(root())
        .output()
        .map_err(|e| format!("cannot run git: {e}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    let names = String::from_utf8(output.stdout)?;
    let mut files: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// The text of every repository file that `wanted` picks; files that are no text are left out.
///
/// # Errors
/// As [`files`].
pub fn texts(wanted: impl Fn(&Path) -> bool) -> Result<Vec<(PathBuf, String)>> {
    let picked = files()?.into_iter().filter(|file| wanted(file));
    Ok(picked.filter_map(|file| std::fs::read_to_string(root().join(&file)).ok().map(|text| (file, text))).collect())
}

/// True for a file with one of the extensions.
pub fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e))
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    command
}

/// Builds `hecate` as `cargo test --workspace` does, and says where it lies.
///
/// Features of dependencies are settled for what is built together: for this package alone, and again where no test is
/// among the targets, they come out different, and after the tests nearly everything would be compiled once more.
///
/// # Errors
/// Where it cannot be built.
pub fn hecate() -> Result<PathBuf> {
    run(cargo().args(["build", "--quiet", "--workspace", "--bin", "hecate", "--test", "commands"]))?;
    Ok(target().join("debug").join(format!("hecate{}", std::env::consts::EXE_SUFFIX)))
}

/// Prints a command and runs it.
///
/// # Errors
/// Where it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let status = command.status().map_err(|e| format!("cannot run {shown}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}").into()) }
}

fn show(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// One error that lists all problems, or none.
///
/// # Errors
/// Where there is a problem.
pub fn verdict(problems: &[String], fine: &str) -> Result<()> {
    if problems.is_empty() {
        println!("{fine}");
        return Ok(());
    }
    Err(format!("{} found:\n  {}", problems.len(), problems.join("\n  ")).into())
}
