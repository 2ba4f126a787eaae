//! Reading a configuration, and saying in one line what is wrong with it.
//!
//! Configuration types use `deny_unknown_fields`. What serde then reports is turned into a line that names the key
//! by its whole path, lists what is known in its place, and points out the nearest.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::fs;
use std::path::Path;
use toml::{Table, Value};

/// No honest configuration is larger.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a TOML file as a table.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Unsuitable`] where it is no text file of a sensible size,
/// [`Error::Config`] with line and column where it is not TOML.
pub fn read_file(path: &Path) -> Result<Table> {
    let meta = fs::metadata(path).map_err(Error::io("read", path))?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(Error::unsuitable(path, format!("is no configuration file: a file of at most {MAX_BYTES} bytes")));
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::unsuitable(path, "is no configuration file: not UTF-8"))?;
    parse(&text, &path.display().to_string())
}

/// Parses TOML; `origin` is named in errors.
///
/// # Errors
/// [`Error::Config`] with line and column.
pub fn parse(text: &str, origin: &str) -> Result<Table> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let origin = match e.span() {
            Some(span) => {
                let before = &text[..text.floor_char_boundary(span.start)];
                let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |i| i + 1));
                format!("{origin}:{line}:{}", before[start..].chars().count() + 1)
            }
            None => origin.to_string(),
        };
        Error::Config { origin, reason: one_line(e.message()) }
    })
}

/// Turns a table into a configuration; `origin` is named in errors.
///
/// # Errors
/// [`Error::Config`]: the key with its whole path, what is wrong, what is known, and the nearest known word.
pub fn into<T: DeserializeOwned>(table: Table, origin: &str) -> Result<T> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|e| {
        let path = e.path().to_string();
        let reason = explain(&path, e.inner().message());
        Error::Config { origin: origin.to_string(), reason }
    })
}

/// The line for serde's `message` about the value at `path`, which is `.` at the top.
pub fn explain(path: &str, message: &str) -> String {
    let message = plain_types(&one_line(message));
    let Some(unknown) = Unknown::parse(&message) else {
        return match path {
            "." => message,
            _ => format!("`{path}`: {message}"),
        };
    };
    let (noun, plural) = match unknown.what.as_str() {
        "field" => ("key", "keys"),
        "variant" => ("value", "values"),
        other => (other, "names"),
    };
    // For a key, serde may or may not count the key itself as part of the path.
    let parent = match path.strip_suffix(&unknown.got).map(|p| p.trim_end_matches('.')) {
        Some(parent) if unknown.what == "field" => parent,
        _ if path == "." => "",
        _ => path,
    };
    let place = match (noun, parent) {
        ("key", "") => String::new(),
        ("key", parent) => format!(" in `{parent}`"),
        (_, "") => String::new(),
        (_, parent) => format!(" for `{parent}`"),
    };
    let hint = nearest(&unknown.got, &unknown.known).map_or_else(String::new, |n| format!(", did you mean `{n}`?"));
    let known = match unknown.known.as_slice() {
        [] => format!("no {plural} are known here"),
        known => format!("known {plural}: {}", known.join(", ")),
    };
    let separator = if hint.is_empty() { "; " } else { " " };
    format!("unknown {noun} `{}`{place}{hint}{separator}{known}", unknown.got)
}

/// What stands where [`words`] asks for one: the name of nothing.
pub const NO_WORD: &str = "?";

/// The words that may stand where `table` has [`NO_WORD`], in the order in which reading another one would list them; none
/// where that is not one of several words.
pub fn words<T: DeserializeOwned>(table: Table) -> Vec<String> {
    let Err(e) = serde_path_to_error::deserialize::<_, T>(Value::Table(table)) else { return Vec::new() };
    let message = one_line(e.inner().message());
    let unknown = message.find("unknown ").and_then(|at| Unknown::parse(&message[at..]));
    unknown.filter(|u| u.got == NO_WORD).map_or_else(Vec::new, |u| u.known)
}

/// A message of the form ``unknown WHAT `GOT`, expected ...``, as serde and the core crate write it.
struct Unknown {
    what: String,
    got: String,
    known: Vec<String>,
}

impl Unknown {
    fn parse(message: &str) -> Option<Self> {
        let (what, rest) = message.strip_prefix("unknown ")?.split_once(" `")?;
        let (got, rest) = rest.split_once("`, ")?;
        let known = match rest.strip_prefix("expected ") {
            Some(list) => {
                let list = list.strip_prefix("one of ").unwrap_or(list);
                let words = list.split(", ").flat_map(|w| w.split(" or "));
                words.map(|w| w.trim().trim_matches('`').to_string()).filter(|w| !w.is_empty()).collect()
            }
            None => vec![],
        };
        Some(Self { what: what.to_string(), got: got.to_string(), known })
    }
}

/// The known word that `got` was probably meant to be.
pub fn nearest<'a>(got: &str, known: &'a [String]) -> Option<&'a str> {
    let got = got.to_lowercase().replace('-', "_");
    // A third of the letters may differ, swapped neighbours counting once; short words allow one difference.
    let allowed = (got.chars().count() / 3).max(1);
    let distance = |word: &str| strsim::damerau_levenshtein(&got, &word.to_lowercase());
    let best = known.iter().map(|w| (distance(w), w.as_str())).min_by_key(|&(d, _)| d)?;
    (best.0 <= allowed && best.0 < best.1.chars().count()).then_some(best.1)
}

/// The kinds of values as people who write configurations know them.
fn plain_types(message: &str) -> String {
    let Some((got, expected)) = message.rsplit_once(", expected ") else { return message.to_string() };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 up",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") => "a table of keys",
        other => other,
    };
    format!("{got}, expected {expected}")
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        seed: u64,
        #[serde(default)]
        train: Train,
        #[serde(default)]
        blocks: Vec<Block>,
    }
    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Train {
        steps: u64,
        learning_rate: f64,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Block {
        mixer: Mixer,
        rule: Option<hecate_core::AnyRule>,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mixer {
        Attention,
        Memory,
        Mag,
    }

    fn reason(text: &str) -> String {
        let error = parse(text, "c.toml").and_then(|t| into::<Config>(t, "c.toml")).unwrap_err();
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line:?}");
        line
    }

    #[test]
    fn a_good_configuration_is_read() {
        let table = parse("seed = 3\n[train]\nlearning_rate = 1\n[[blocks]]\nmixer = \"mag\"", "c").unwrap();
        let config: Config = into(table, "c").unwrap();
        assert_eq!((config.seed, config.train.learning_rate, &config.blocks[0].mixer), (3, 1.0, &Mixer::Mag));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_its_neighbours_and_the_nearest() {
        assert_eq!(
            reason("[train]\nlearning_rat = 1e-3"),
            "c.toml: unknown key `learning_rat` in `train`, did you mean `learning_rate`? known keys: steps, \
             learning_rate"
        );
        assert_eq!(reason("colour = 1"), "c.toml: unknown key `colour`; known keys: seed, train, blocks");
        assert_eq!(
            reason("[[blocks]]\nmixer = \"mag\"\n[[blocks]]\nmixer = \"mag\"\nrlue = 1"),
            "c.toml: unknown key `rlue` in `blocks[1]`, did you mean `rule`? known keys: mixer, rule"
        );
    }

    #[test]
    fn an_unknown_value_lists_the_known_ones() {
        assert_eq!(
            reason("[[blocks]]\nmixer = \"memroy\""),
            "c.toml: unknown value `memroy` for `blocks[0].mixer`, did you mean `memory`? known values: attention, \
             memory, mag"
        );
        let line = reason("[[blocks]]\nmixer = \"mag\"\nrule = \"titan\"");
        assert!(
            line.starts_with("c.toml: unknown rule `titan` for `blocks[0].rule`, did you mean `titans`?"),
            "{line}"
        );
    }

    #[test]
    fn a_wrong_type_and_a_missing_key_are_named() {
        let line = reason("[train]\nsteps = \"many\"");
        assert_eq!(line, "c.toml: `train.steps`: invalid type: string \"many\", expected a whole number from 0 up");
        assert!(reason("[train]\nlearning_rate = true").ends_with("expected a number"));
        assert!(reason("train = 3").ends_with("expected a table of keys"));
        let line = reason("[[blocks]]");
        assert!(line.starts_with("c.toml: `blocks[0]`: missing field `mixer`"), "{line}");
    }

    #[test]
    fn a_syntax_error_has_line_and_column() {
        let line = reason("seed = 1\n[train\nsteps = 3");
        assert!(line.starts_with("c.toml:2:"), "{line}");
        let line = reason("\"é\" = 1 x\n");
        assert!(line.starts_with("c.toml:1:7: "), "{line}");
    }

    #[test]
    fn files_that_are_no_configuration_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        assert!(matches!(read_file(&path), Err(Error::Io { .. })));
        assert!(matches!(read_file(dir.path()), Err(Error::Unsuitable { .. })));
        fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("not UTF-8"));
        fs::write(&path, "seed = 4").unwrap();
        assert_eq!(read_file(&path).unwrap()["seed"].as_integer(), Some(4));
    }

    #[test]
    fn the_words_of_a_setting_are_those_that_reading_knows() {
        let of = |text: &str| words::<hecate_core::AnyRule>(parse(text, "c").unwrap());
        assert!(of("name = \"miras\"\nstructure = \"?\"").contains(&"gated_mlp".to_string()));
        assert!(of("name = \"?\"").contains(&"delta".to_string()));
        assert_eq!(of("name = \"self_modifying\"\ntargets = \"?\""), ["soft", "raw"]);
        for setting in ["chunk = \"?\"", "norm = \"?\"", "colour = \"?\"", "targets = \"sotf\"", "targets = \"raw\""] {
            assert!(of(&format!("name = \"self_modifying\"\n{setting}")).is_empty(), "{setting}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["titans", "delta", "q", "lr"].map(String::from);
        assert_eq!(nearest("titan", &known), Some("titans"));
        assert_eq!(nearest("Detla", &known), Some("delta"));
        assert_eq!(nearest("rl", &known), Some("lr"));
        assert_eq!(nearest("x", &known), None);
        assert_eq!(nearest("transformer", &known), None);
    }
}
