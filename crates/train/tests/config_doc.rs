//! `docs/config.md` names every key of a config, and the default of each.

use hecate_model::GenerationConfig;
use hecate_model::config::{
    AttentionConfig, BlockConfig, CmsConfig, CmsLevel, Consolidation, LevelConfig, MacConfig, MagConfig, MalConfig,
    MemoryConfig, MlpConfig, ModelConfig, Replay, SurpriseGate,
};
use hecate_model::optim::Schedule;
use hecate_train::run_config::{DataConfig, RunConfig, TrainConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Key and default, by section.
type Sections = BTreeMap<String, Vec<(String, String)>>;

fn sections() -> Sections {
    let text = include_str!("../../../docs/config.md");
    let (mut sections, mut title) = (Sections::new(), String::new());
    for line in text.lines() {
        if let Some(new) = line.strip_prefix("## ") {
            title = new.to_string();
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [key, default, _] = cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'))
        {
            sections.entry(title.clone()).or_default().push((key.to_string(), default.to_string()));
        }
    }
    sections
}

/// The keys that reading `T` knows.
fn known<T: DeserializeOwned>() -> Vec<String> {
    let message = serde_json::from_value::<T>(json!({"?": 0})).err().expect("this is no key").to_string();
    let list = message.split_once("expected ").expect("what is known").1;
    list.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// Holds a section against a type; `needed` are the keys without which it cannot be read.
fn check<T: DeserializeOwned + Serialize + PartialEq>(sections: &mut Sections, title: &str, needed: Value) {
    let rows = sections.remove(title).unwrap_or_else(|| panic!("docs/config.md has no section `{title}`"));
    assert_eq!(rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>(), known::<T>(), "{title}");
    let needed: Map<String, Value> = needed.as_object().expect("a table").clone();
    let read = |table: &Map<String, Value>| serde_json::from_value::<T>(table.clone().into());
    let start = read(&needed).unwrap_or_else(|e| panic!("{title}: {e}"));
    for (key, default) in rows {
        let mut table = needed.clone();
        match default.as_str() {
            "needed" => {
                assert!(table.remove(&key).is_some(), "{title}: `{key}` is not needed");
                assert!(read(&table).is_err(), "{title}: `{key}` is not needed");
            }
            "none" => {
                let value = &serde_json::to_value(&start).expect("a table")[&key];
                let plain = value.is_number() || value.is_string() || value.is_boolean();
                assert!(!plain && !needed.contains_key(&key), "{title}: `{key}` has the default {value}, or is needed");
            }
            value => {
                // Words, numbers and truth are written as in JSON.
                let value = value.strip_prefix('`').and_then(|v| v.strip_suffix('`')).expect("a value in backticks");
                table.insert(key.clone(), serde_json::from_str(value).expect("a value"));
                assert!(read(&table).unwrap() == start, "{title}: the default of `{key}` is not {value}");
            }
        }
    }
}

#[test]
fn every_key_of_a_config_is_documented_with_its_default() {
    let mut all = sections();
    let none = || json!({});
    check::<RunConfig>(&mut all, "The top", none());
    check::<DataConfig>(&mut all, "`[data]`", none());
    check::<TrainConfig>(&mut all, "`[train]`", none());
    check::<Schedule>(&mut all, "`[schedule]`", none());
    check::<GenerationConfig>(&mut all, "`[sample]`", none());
    check::<ModelConfig>(&mut all, "`[model]`", none());
    check::<BlockConfig>(&mut all, "`[[model.blocks]]`", json!({"mixer": {"type": "none"}}));
    check::<AttentionConfig>(&mut all, "mixer `attention`", none());
    check::<MemoryConfig>(&mut all, "mixer `memory`", none());
    check::<LevelConfig>(&mut all, "a level of a memory", none());
    check::<MagConfig>(&mut all, "mixer `mag`", none());
    check::<MalConfig>(&mut all, "mixer `mal`", none());
    check::<MacConfig>(&mut all, "mixer `mac`", none());
    check::<MlpConfig>(&mut all, "channel `mlp`", none());
    check::<CmsConfig>(&mut all, "channel `cms`", none());
    check::<CmsLevel>(&mut all, "a level of `cms`", none());
    check::<Consolidation>(&mut all, "`consolidation`", json!({"keep": 0.9}));
    check::<Replay>(&mut all, "`replay`", none());
    check::<SurpriseGate>(&mut all, "`gate`", json!({"signal": "norm", "threshold": 0.1}));
    assert!(all.is_empty(), "docs/config.md describes what is no part of a config: {:?}", all.keys());
}

/// The test above would see a wrong default, a missing key and one too many.
#[test]
fn a_document_that_is_wrong_is_seen() {
    let section = |rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(key, default)| (key.to_string(), default.to_string())).collect();
        Sections::from([("x".to_string(), rows)])
    };
    let holds = |rows: &[(&str, &str)]| {
        let mut sections = section(rows);
        std::panic::catch_unwind(move || check::<Schedule>(&mut sections, "x", json!({}))).is_ok()
    };
    let right = [("peak", "`0.003`"), ("warmup_steps", "`100`"), ("floor", "`0.05`")];
    assert!(holds(&right));
    assert!(!holds(&[right[0], right[1], ("floor", "`0.1`")]));
    assert!(!holds(&[right[0], right[1], ("floor", "needed")]));
    assert!(!holds(&[right[0], right[1], ("floor", "none")]));
    assert!(!holds(&right[..2]));
    assert!(!holds(&[right[0], right[1], right[2], ("ceiling", "`1.0`")]));
}
