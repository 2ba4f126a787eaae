//! A classifier as a file, and its configuration as text.

use crate::atomic;
use crate::error::{Error, Result};
use hecate_model::classifier::{ClassifierConfig, Learner};
use std::path::Path;

/// The configuration that a JSON text holds.
///
/// # Errors
/// [`Error::Config`] naming the key.
pub fn config_from_json(text: &str) -> Result<ClassifierConfig> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let (key, reason) = (e.path().to_string(), e.into_inner().to_string());
        // Positions in a text that nobody wrote tell nothing.
        let reason = reason.split(" at line ").next().unwrap_or_default().to_string();
        Error::Config { origin: "the classifier's config".into(), reason: format!("`{key}`: {reason}") }
    })
}

/// Writes a learner with the caller's note to a file, whole or not at all.
///
/// # Errors
/// As [`atomic::write()`].
pub fn save(learner: &Learner, note: &str, path: &Path) -> Result<()> {
    atomic::write(path, &learner.to_bytes(note)?)
}

/// Reads [`save`] back: the learner goes on as if it had never stopped.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read, [`Error::Unsuitable`] with the path where it is no classifier of this build.
pub fn load(path: &Path) -> Result<(Learner, String)> {
    let unsuitable = |e: hecate_model::Error| Error::unsuitable(path, format!("cannot be used: {e}"));
    Learner::from_bytes(atomic::read(path)?).map_err(unsuitable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hecate_model::classifier::Heads;

    #[test]
    fn a_wrong_key_or_value_of_a_config_is_named() {
        assert_eq!(config_from_json("{}").unwrap(), ClassifierConfig::default());
        for (text, words) in [
            (r#"{"learning": {"rate": "fast"}}"#, ["learning.rate", "invalid type"]),
            (r#"{"learning": {"rat": 1}}"#, ["learning.rat", "expected one of"]),
            (r#"{"learning": {"decay_towards": "one"}}"#, ["decay_towards", "`task_start`"]),
            (r#"{"heads": {"type": "share"}}"#, ["heads", "`per_task`"]),
        ] {
            let line = config_from_json(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }

    #[test]
    fn a_classifier_is_read_as_it_was_written_and_a_foreign_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (path, heads) = (dir.path().join("a.safetensors"), Heads::Shared { classes: 2, tasks: 1 });
        let config = ClassifierConfig { features: 3, heads, width: 16, ..ClassifierConfig::default() };
        let mut learner = Learner::new(&config, 3).unwrap();
        learner.learn(&[0.0, 1.0, 2.0, 2.0, 1.0, 0.0], &[0, 1], 0, 2).unwrap();
        save(&learner, "note", &path).unwrap();
        let (again, note) = load(&path).unwrap();
        assert_eq!((again.to_bytes("").unwrap(), note.as_str()), (learner.to_bytes("").unwrap(), "note"));
        std::fs::write(&path, b"something else").unwrap();
        let line = load(&path).err().unwrap().to_string();
        assert!(line.contains("a.safetensors") && !line.contains('\n'), "{line}");
        assert!(matches!(load(&dir.path().join("none")), Err(Error::Io { .. })));
    }
}
