//! Things with a name and settings, as config files write them: a name alone, or a table with `name`.

use serde_json::{Map, Value};

/// The name and the settings of a value that is a name or a table with `name`.
///
/// # Errors
/// What is wrong with it, for a person.
pub(crate) fn parts(what: &str, value: Value) -> Result<(String, Map<String, Value>), String> {
    match value {
        Value::String(name) => Ok((name, Map::new())),
        Value::Object(mut table) => match table.remove("name") {
            Some(Value::String(name)) => Ok((name, table)),
            _ => Err(format!("a table for a {what} needs the key `name`")),
        },
        other => Err(format!("expected the name of a {what}, or a table with `name`, not `{other}`")),
    }
}

/// `settings` with some of them changed. A key that is not there yet is added: reading the result refuses it.
pub(crate) fn changed(settings: Value, changes: Map<String, Value>) -> Value {
    let Value::Object(mut table) = settings else { return Value::Object(changes) };
    table.extend(changes);
    Value::Object(table)
}

/// A table with `name` first.
pub(crate) fn with_name(name: &str, settings: Value) -> Value {
    let mut table = Map::from_iter([("name".to_string(), Value::String(name.to_string()))]);
    if let Value::Object(settings) = settings {
        table.extend(settings);
    }
    Value::Object(table)
}
