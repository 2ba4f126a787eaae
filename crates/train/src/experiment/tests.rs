//! The list of experiments, walked.

use super::{ALL, FILES};
use std::collections::BTreeSet;

#[test]
fn every_file_of_an_experiment_has_a_line_in_the_list() {
    let frame = ["mod", "dgd", "draw", "figure", "memory", "outcome", "residual", "sequences", "tests"];
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/experiment")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.trim_end_matches(".rs");
        assert!(frame.contains(&name) || FILES.contains(&name), "{file} has no line in experiments!");
    }
}

#[test]
fn experiments_are_named_as_their_files_and_say_what_they_are() {
    let names: BTreeSet<&str> = ALL.iter().map(|e| e.name).collect();
    assert_eq!(names, FILES.iter().copied().collect());
    for e in ALL {
        assert!(e.asks.ends_with('?') && e.protocol.ends_with('.') && e.source.starts_with('['), "{}", e.name);
    }
}
