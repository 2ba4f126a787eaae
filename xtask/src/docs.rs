//! `cargo xtask docs`: generated tables in the documents, between two comments that stand alone on their lines,
//! `<!-- generated: NAME -->` and `<!-- end -->`.

use crate::Result;
use crate::repo::{has_extension, hecate, root, texts};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Name of each generated part, the document in which it must appear, and the arguments of `hecate` that print it.
const GENERATED: &[(&str, &str, &[&str])] = &[
    ("rules", "README.md", &["rules", "--markdown"]),
    ("optimizers", "docs/optimizers.md", &["optimizers", "--markdown"]),
];

/// What stands between the comments, by name.
type Parts = BTreeMap<&'static str, String>;

/// Writes the generated parts of every document; with `--check` only says which are not current.
///
/// # Errors
/// With `--check`, where one is not current; for a comment without its end, an unknown name or a missing part.
pub fn run(arguments: &[String]) -> Result<()> {
    let check = match arguments {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => return Err(format!("expected nothing or --check, got {}", arguments.join(" ")).into()),
    };
    let documents = texts(|file| has_extension(file, &["md"]))?;
    for (name, home, _) in GENERATED {
        let text = documents.iter().find(|(file, _)| file == Path::new(home)).map_or("", |(_, text)| text);
        if !text.lines().any(|line| line == begin(name)) {
            return Err(format!("{home} has no line `{}`", begin(name)).into());
        }
    }
    let program = hecate()?;
    let parts =
        GENERATED.iter().map(|&(name, _, args)| Ok((name, print(&program, args)?))).collect::<Result<Parts>>()?;
    let mut stale = Vec::new();
    for (file, text) in documents {
        let new = replace(&text, &parts).map_err(|e| format!("{}:{e}", file.display()))?;
        if new != text {
            stale.push(file.display().to_string());
            if !check {
                std::fs::write(root().join(&file), new)?;
                println!("wrote {}", file.display());
            }
        }
    }
    match (check, stale.is_empty()) {
        (true, false) => Err(format!("not current, run `cargo xtask docs`: {}", stale.join(", ")).into()),
        _ => {
            println!("Generated tables are current.");
            Ok(())
        }
    }
}

fn begin(name: &str) -> String {
    format!("<!-- generated: {name} -->")
}

/// What `hecate` prints.
fn print(program: &Path, arguments: &[&str]) -> Result<String> {
    println!("$ hecate {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("hecate {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The document with every generated part replaced.
fn replace(text: &str, parts: &Parts) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut open = None;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let number = number + 1;
        let bare = line.trim_end();
        if let Some(name) = bare.strip_prefix("<!-- generated: ").and_then(|rest| rest.strip_suffix(" -->")) {
            if let Some(first) = open {
                return Err(format!("{number}: the part begun in line {first} has no `<!-- end -->`").into());
            }
            let part = parts.get(name).ok_or_else(|| {
                let known: Vec<&str> = parts.keys().copied().collect();
                format!("{number}: unknown generated part `{name}`, expected one of {}", known.join(", "))
            })?;
            open = Some(number);
            out += line;
            out += part.trim_end();
            out.push('\n');
        } else if bare == "<!-- end -->" {
            if open.take().is_none() {
                return Err(format!("{number}: `<!-- end -->` without a beginning").into());
            }
            out += line;
        } else if open.is_none() {
            out += line;
        }
    }
    match open {
        Some(first) => Err(format!("{first}: the part begun here has no `<!-- end -->`").into()),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts::from([("rules", "| a |\n| b |\n\n".to_string())])
    }

    #[test]
    fn what_stands_between_the_comments_is_replaced_and_nothing_else() {
        let text = "x\n<!-- generated: rules -->\nold\nolder\n<!-- end -->\ny without newline";
        let want = "x\n<!-- generated: rules -->\n| a |\n| b |\n<!-- end -->\ny without newline";
        assert_eq!(replace(text, &parts()).unwrap(), want);
        assert_eq!(replace(want, &parts()).unwrap(), want);
    }

    #[test]
    fn every_part_of_a_document_is_replaced() {
        let one = "<!-- generated: rules -->\n<!-- end -->\n";
        let new = replace(&one.repeat(2), &parts()).unwrap();
        assert_eq!(new.matches("| a |").count(), 2);
    }

    #[test]
    fn a_comment_inside_a_sentence_is_left_alone() {
        let text = "Tables stand between `<!-- generated: rules -->` and `<!-- end -->`.\n";
        assert_eq!(replace(text, &parts()).unwrap(), text);
    }

    #[test]
    fn broken_comments_are_refused_by_line() {
        let error = |text: &str| replace(text, &parts()).unwrap_err().to_string();
        assert_eq!(error("a\n<!-- generated: rules -->\n"), "2: the part begun here has no `<!-- end -->`");
        assert_eq!(error("<!-- end -->\n"), "1: `<!-- end -->` without a beginning");
        assert_eq!(error("\n\n<!-- generated: rule -->\n"), "3: unknown generated part `rule`, expected one of rules");
        let nested = "<!-- generated: rules -->\n<!-- generated: rules -->\n<!-- end -->\n";
        assert_eq!(error(nested), "2: the part begun in line 1 has no `<!-- end -->`");
    }
}
