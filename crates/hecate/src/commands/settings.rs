//! The settings of a rule or an optimizer, as a config file would write them.

use crate::Failure;
use crate::table::Table;
use hecate_train::run_config::RunConfig;
use hecate_train::settings::NO_WORD;
use serde::Serialize;
use serde_json::Value;

/// Words that are no longer read one by one.
const MANY: usize = 20;

/// A run's config in which a rule or an optimizer stands in its place.
type Place = fn(toml::Value) -> toml::Table;

/// Where an optimizer stands.
pub fn as_optimizer(it: toml::Value) -> toml::Table {
    toml::Table::from_iter([("optimizer".to_string(), it)])
}

/// Where a rule stands.
pub fn as_rule(it: toml::Value) -> toml::Table {
    let table = |pairs: [(&str, toml::Value); 1]| toml::Table::from_iter(pairs.map(|(key, value)| (key.into(), value)));
    let mut mixer = table([("rule", it)]);
    mixer.insert("type".into(), "memory".into());
    table([("model", table([("blocks", vec![table([("mixer", mixer.into())])].into())]).into())])
}

/// Every setting with its value, and the words that a config may have there.
pub fn table<T: Serialize>(whole: &T, place: Place) -> Result<Table, Failure> {
    let mut table = Table::new(&["setting", "default", "may be"]);
    let settings = serde_json::to_value(whole)?;
    let name = settings["name"].as_str().unwrap_or_default();
    for (key, value) in settings.as_object().into_iter().flatten().filter(|(key, _)| *key != "name") {
        let asked = [("name", name), (key, NO_WORD)].map(|(key, word)| (key.to_string(), word.into()));
        let words = RunConfig::words(place(toml::Table::from_iter(asked).into()));
        let words = if words.len() > MANY { format!("any of {} names", words.len()) } else { words.join(", ") };
        table.row([key.clone(), written(value), words]);
    }
    Ok(table)
}

/// A value as TOML has it on one line.
fn written(value: &Value) -> String {
    match value {
        Value::Null => "none".to_string(),
        Value::Array(list) => format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs = table.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| format!("{k} = {}", written(v)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        // Words, numbers and truth are written as in JSON.
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hecate_core::AnyRule;
    use hecate_model::optim::AnyOptimizer;
    use serde::de::DeserializeOwned;

    /// What is shown can be written into a config, and is the default there.
    #[test]
    fn every_default_of_every_rule_and_optimizer_is_read_as_it_is_written() {
        fn read_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(whole: &T) {
            let toml = format!("it = {}", written(&serde_json::to_value(whole).unwrap()));
            let table = hecate_train::settings::parse(&toml, "it").unwrap();
            let it = table["it"].clone();
            assert_eq!(&it.try_into::<T>().unwrap(), whole, "{toml}");
        }
        AnyRule::all().iter().for_each(read_back);
        AnyOptimizer::all().iter().for_each(read_back);
    }

    #[test]
    fn a_table_has_a_row_for_every_setting_and_the_words_of_each() {
        let shown = table(&AnyRule::named("self_modifying").unwrap(), as_rule).unwrap().plain();
        assert!(shown.contains("chunk_memory") && shown.contains("soft, raw"), "{shown}");
        let m3: AnyOptimizer = serde_json::from_value(serde_json::json!({"name": "m3"})).unwrap();
        assert!(table(&m3, as_optimizer).unwrap().plain().contains("ema, ema_v, literal"));
    }
}
