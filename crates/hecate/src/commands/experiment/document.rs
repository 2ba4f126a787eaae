//! The document of all experiments, and one part of it brought up to date.
//!
//! It begins with a table of all verdicts; a section per experiment follows. Both are in the order of the list.

use super::{Shown, cost, run_line, table};
use crate::Failure;
use crate::table::Table;
use hecate_train::experiment::ALL;
use hecate_train::machine::Machine;
use std::path::Path;

const HEAD: &str = "# Experiments\n\nWhat memories can do and where formulas fail, as measured, whatever came out. Written \
                    by `hecate experiment all --markdown`, and one at a time by `hecate experiment NAME --update FILE`; \
                    seeds and time of each stand with it. Numbers are means over seeds, with the lowest and the highest; a \
                    verdict is on the numbers of that run.\n\n";

/// What the document says of one experiment.
struct Part {
    /// Lines of the table of verdicts.
    verdicts: Vec<String>,
    section: String,
}

/// Everything as one document, with figures where `--out` put them, relative to the folder above.
pub fn document(all: &[Shown]) -> String {
    let machine = Machine::look_up();
    let cpu = machine.cpu.as_deref().unwrap_or(machine.arch);
    assemble(all.iter().map(|shown| part(shown, cpu)))
}

/// A document that this command wrote.
pub fn read(file: &Path) -> Result<String, Failure> {
    let old = std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    if !old.starts_with("# Experiments\n") {
        let write = "`hecate experiment all --markdown` writes one";
        return Err(format!("{} does not begin as a document of experiments: {write}", file.display()).into());
    }
    Ok(old)
}

/// `old` with the parts of these experiments in place of what it says of them.
pub fn updated(old: &str, all: &[Shown]) -> String {
    let machine = Machine::look_up();
    let cpu = machine.cpu.as_deref().unwrap_or(machine.arch);
    let fresh = |name: &str| all.iter().find(|s| s.outcome.name == name).map(|shown| part(shown, cpu));
    assemble(ALL.iter().filter_map(|e| fresh(e.name).or_else(|| found(old, e.name))))
}

fn assemble(parts: impl Iterator<Item = Part>) -> String {
    // The head of the table alone.
    let mut text = HEAD.to_string() + &Table::new(&["experiment", "must", "outcome", "measured"]).markdown();
    let mut sections = String::new();
    for Part { verdicts, section } in parts {
        verdicts.iter().for_each(|line| text += &format!("{line}\n"));
        sections += &section;
    }
    text + &sections
}

/// What a document says of an experiment.
fn found(text: &str, name: &str) -> Option<Part> {
    let row = format!("| [{name}](#{name}) |");
    let verdicts = text.lines().filter(|line| line.starts_with(&row)).map(String::from).collect();
    let at = text.find(&format!("\n## {name}\n"))?;
    let end = text[at + 1..].find("\n## ").map_or(text.len(), |next| at + 1 + next);
    Some(Part { verdicts, section: text[at..end].to_string() })
}

fn part(shown: &Shown, cpu: &str) -> Part {
    let o = &shown.outcome;
    let mut verdicts = Table::new(&["experiment", "must", "outcome", "measured"]);
    let link = format!("[{0}](#{0})", o.name);
    for m in &o.finding.musts {
        verdicts.row([link.clone(), m.claim.clone(), m.verdict().to_string(), m.measured.clone()]);
    }
    // Behind the names of the columns and the line below them.
    let verdicts = verdicts.markdown().lines().skip(2).map(String::from).collect();
    Part { verdicts, section: section(shown, cpu) }
}

fn section(shown: &Shown, cpu: &str) -> String {
    let o = &shown.outcome;
    let folder = shown.figure.parent().and_then(Path::file_name).map_or("".into(), |f| f.to_string_lossy());
    let cost = format!("{}, {} of {cpu}", run_line(o), cost(shown));
    format!(
        "\n## {}\n\n{} {}\n\n{} {cost}.\n\n![{}]({folder}/{}.svg)\n\n{}\n{}\n",
        o.name,
        o.asks,
        o.source,
        o.protocol,
        o.asks,
        o.name,
        table(o).markdown(),
        o.finding.caption
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hecate_train::experiment::Experiment;

    fn shown(name: &str) -> Shown {
        let outcome = Experiment::named(name).unwrap().run(1).unwrap();
        Shown { figure: format!("docs/experiments/{name}.svg").into(), threads: 1, outcome }
    }

    #[test]
    fn one_part_is_replaced_and_the_others_stay() {
        let all = [shown("capacity"), shown("overwriting")];
        let whole = document(&all);
        assert!(whole.contains("](experiments/overwriting.svg)"));
        // Parts come in the order of the list, whatever was there before.
        let later = document(&all[1..]);
        assert_eq!(updated(&later, &all[..1]), whole);
        let other =
            whole.replace("## overwriting\n", "## overwriting\n\nold words").replace("capacity.svg", "kept.svg");
        let new = updated(&other, &all[1..]);
        assert!(!new.contains("old words") && new.contains("kept.svg"));
        assert_eq!(new.matches("| [overwriting](#overwriting) |").count(), all[1].outcome.finding.musts.len());
    }
}
