//! `key=value` arguments on top of a configuration.
//!
//! Keys are dotted paths (`train.steps=200`); a number picks an element of a list (`model.blocks.0.heads=4`).
//! Values are TOML (`true`, `1e-3`, `[1, 8]`, `"text"`), and a bare word is text (`mixer=mag`). Which keys exist is
//! not known here: [`crate::settings::into`] refuses those that the configuration does not have.

use crate::error::{Error, Result};
use toml::{Table, Value};

/// Applies `key=value` to `table`. Missing tables on the way are made.
///
/// # Errors
/// [`Error::Override`] for an argument without `=`, an empty or malformed key or value, or a path through something
/// that is neither a table nor a list.
pub fn apply(table: &mut Table, argument: &str) -> Result<()> {
    let refuse = |reason: String| Error::Override { argument: argument.to_string(), reason };
    let (key, text) = argument.split_once('=').ok_or_else(|| refuse("expected key=value".to_string()))?;
    let path: Vec<&str> = key.trim().split('.').collect();
    let is_word = |s: &&str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !path.iter().all(is_word) {
        return Err(refuse(format!("`{key}` is no key, expected words joined by dots")));
    }
    let value = parse_value(text.trim()).map_err(refuse)?;
    let (last, parents) = path.split_last().expect("splitting gives at least one part");
    set(table, parents, last, value).map_err(refuse)
}

/// Applies all of `arguments`, the last one wins.
///
/// # Errors
/// As [`apply`], for the first argument that does not fit.
pub fn apply_all<S: AsRef<str>>(table: &mut Table, arguments: &[S]) -> Result<()> {
    arguments.iter().try_for_each(|a| apply(table, a.as_ref()))
}

fn set(table: &mut Table, parents: &[&str], last: &str, value: Value) -> Result<(), String> {
    let Some((first, rest)) = parents.split_first() else {
        table.insert(last.to_string(), value);
        return Ok(());
    };
    let mut place = table.entry(first.to_string()).or_insert_with(|| Value::Table(Table::new()));
    let mut walked = first.to_string();
    for part in rest {
        place = child(place, part, &walked)?;
        walked = format!("{walked}.{part}");
    }
    *child(place, last, &walked)? = value;
    Ok(())
}

/// The element `part` of `place`; made where a table does not have it.
fn child<'a>(place: &'a mut Value, part: &str, walked: &str) -> Result<&'a mut Value, String> {
    match place {
        Value::Table(t) => Ok(t.entry(part.to_string()).or_insert_with(|| Value::Table(Table::new()))),
        Value::Array(list) => {
            let len = list.len();
            let at = part.parse::<usize>().ok().and_then(|i| list.get_mut(i));
            at.ok_or_else(|| format!("`{walked}` is a list of {len}, expected a number below {len} and not `{part}`"))
        }
        other => Err(format!("`{walked}` is {} and has no key `{part}`", other.type_str())),
    }
}

fn parse_value(text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Err("the value is missing; an empty text is written \"\"".to_string());
    }
    let text_value = || Ok(Value::String(text.to_string()));
    if text.contains('\n') {
        return text_value();
    }
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) => Ok(table.remove("value").expect("it was just written")),
        // What opens a bracket or a quotation was meant as TOML; taking it for text would hide the mistake.
        Err(e) if text.starts_with(['[', '{', '"', '\'']) => Err(format!("the value is not TOML: {}", e.message())),
        Err(_) if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
            // Numbers that people write and TOML does not know: `.5`, `1.`.
            text.parse::<f64>().map_or_else(|_| text_value(), |x| Ok(Value::Float(x)))
        }
        Err(_) => text_value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        toml::from_str(
            "seed = 1\nrule = \"titans\"\n[train]\nsteps = 5\n[[blocks]]\nheads = 1\n[[blocks]]\nheads = 2\n",
        )
        .unwrap()
    }

    fn after(argument: &str) -> Table {
        let mut t = table();
        apply(&mut t, argument).unwrap();
        t
    }

    fn refused(argument: &str) -> String {
        let mut t = table();
        let line = apply(&mut t, argument).unwrap_err().to_string();
        assert_eq!(t, table(), "a refused argument changes nothing");
        line
    }

    #[test]
    fn values_are_toml_and_bare_words_are_text() {
        for (text, value) in [
            ("3", Value::Integer(3)),
            ("-0.5", Value::Float(-0.5)),
            ("1e-3", Value::Float(1e-3)),
            (".5", Value::Float(0.5)),
            ("true", Value::Boolean(true)),
            ("mag", Value::String("mag".into())),
            ("\"3\"", Value::String("3".into())),
            ("a b", Value::String("a b".into())),
            ("/data/x.txt", Value::String("/data/x.txt".into())),
            ("3-way", Value::String("3-way".into())),
            ("x=y", Value::String("x=y".into())),
            ("1\nevil = 2", Value::String("1\nevil = 2".into())),
            ("[1, 8]", Value::Array(vec![Value::Integer(1), Value::Integer(8)])),
            (
                "{ name = \"delta\" }",
                Value::Table([("name".to_string(), Value::String("delta".into()))].into_iter().collect()),
            ),
        ] {
            assert_eq!(after(&format!("train.x={text}"))["train"]["x"], value, "{text}");
        }
    }

    #[test]
    fn paths_lead_through_tables_and_lists() {
        assert_eq!(after("seed=2")["seed"], Value::Integer(2));
        assert_eq!(after("train.steps = 9")["train"]["steps"], Value::Integer(9));
        assert_eq!(after("blocks.1.heads=4")["blocks"][1]["heads"], Value::Integer(4));
        assert_eq!(after("blocks.0.rule.name=delta")["blocks"][0]["rule"]["name"].as_str(), Some("delta"));
        assert_eq!(after("new.deep.key=1")["new"]["deep"]["key"], Value::Integer(1));
    }

    #[test]
    fn the_last_of_several_wins() {
        let mut t = table();
        apply_all(&mut t, &["seed=3", "seed=4"]).unwrap();
        assert_eq!(t["seed"], Value::Integer(4));
        assert!(apply_all(&mut t, &["seed=5", "oops"]).is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        assert!(refused("train.steps").contains("expected key=value"));
        assert!(refused("train..steps=1").contains("is no key"));
        assert!(refused("=1").contains("is no key"));
        assert!(refused("seed=").contains("the value is missing"));
        assert!(refused("seed=[1, 2").contains("the value is not TOML"));
        assert!(refused("seed.x=1").contains("`seed` is integer and has no key `x`"));
        assert!(refused("blocks.2.heads=1").contains("`blocks` is a list of 2, expected a number below 2 and not `2`"));
        assert!(refused("blocks.first.heads=1").contains("not `first`"));
    }
}
