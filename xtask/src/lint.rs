//! `cargo xtask lint`: what style asks for and no compiler checks. It reads lines as rustfmt leaves them.

use crate::repo::{has_extension, root, texts, tracked_outputs, verdict};
use crate::{Result, no_arguments};
use std::path::Path;

/// A file has one subject.
const FILE_LINES: usize = 600;
/// A function has one idea: about sixty lines, and never more than this.
const FUNCTION_LINES: usize = 75;
/// Where `unsafe` may stand, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/core/src/simd/", "vector instructions"),
    ("crates/core/src/kernels/", "kernels written with them"),
    ("crates/core/src/kernels.rs", "kernels written with them"),
    ("crates/model/tests/allocations.rs", "an allocator that counts"),
];
/// Words that say that something is not done, taken apart so that this file does not hold them.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("db", "g!("),
];

/// Checks the whole repository.
///
/// # Errors
/// With everything that was found.
pub fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let mut problems = Vec::new();
    let files = texts(|f| has_extension(f, &["rs", "py", "pyi", "md", "toml", "yml"]) || f == Path::new(".ci/run"))?;
    for (file, text) in &files {
        let mut found = leftovers(text);
        if has_extension(file, &["rs"]) {
            found.extend(long_file(text));
            found.extend(long_functions(text));
            found.extend(unsafe_code(file, text));
        }
        if file.ends_with("Cargo.toml") && text.contains("[package]") && !text.contains("[lints]\nworkspace = true") {
            found.push((1, "the lints of the workspace are not taken over".to_string()));
        }
        problems.extend(found.into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.display())));
    }
    if let [first, ..] = &tracked_outputs()?[..] {
        problems
            .push(format!("{}: an output that .gitignore names is tracked, see `git ls-files -ci`", first.display()));
    }
    verdict(&problems, &format!("{} files of {} are as they should be.", files.len(), root().display()))
}

/// A line, from 1, and what is wrong there.
type Found = Vec<(usize, String)>;

fn leftovers(text: &str) -> Found {
    let lines = text.lines().enumerate();
    let found = |(at, line): (usize, &str)| {
        LEFTOVERS.iter().find(|word| line.contains(**word)).map(|word| (at + 1, format!("`{word}` left over")))
    };
    lines.filter_map(found).collect()
}

fn long_file(text: &str) -> Option<(usize, String)> {
    let count = text.lines().count();
    (count > FILE_LINES).then(|| (FILE_LINES + 1, format!("{count} lines, at most {FILE_LINES}: split by subject")))
}

/// Functions above the limit: from the line with `fn` to the closing brace below it.
fn long_functions(text: &str) -> Found {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Found::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        // Its closing brace, or the semicolon of a declaration without a body.
        let ends = |rest: &str| rest == "}" || rest.starts_with(')') && rest.ends_with(';');
        if line.ends_with(['}', ';']) {
            continue;
        }
        let end = lines[at..].iter().position(|l| l.strip_prefix(indent).is_some_and(ends));
        let length = end.map_or(0, |n| n + 1);
        if length > FUNCTION_LINES {
            found.push((at + 1, format!("a function of {length} lines, at most {FUNCTION_LINES}")));
        }
    }
    found
}

fn is_function(line: &str) -> bool {
    let mut rest = line.trim_start();
    for word in ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.starts_with("fn ")
}

/// `unsafe` outside its folders, and inside them without a sentence that says why it is sound.
fn unsafe_code(file: &Path, text: &str) -> Found {
    let allowed = UNSAFE.iter().any(|(place, _)| file.to_string_lossy().starts_with(place));
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Found::new();
    for (at, line) in lines.iter().enumerate() {
        let code = without_comment(line);
        let forms = ["unsafe {", "unsafe fn ", "unsafe impl", "unsafe extern", "allow(unsafe_code)"];
        if !forms.iter().any(|form| code.contains(form)) || code.contains('"') {
            continue;
        }
        if !allowed {
            found.push((at + 1, "unsafe code outside the folders that may have it".to_string()));
        } else if (code.contains("unsafe {") || code.contains("unsafe impl")) && !explained(&lines[..at]) {
            found.push((at + 1, "no `// SAFETY:` sentence directly above".to_string()));
        }
    }
    found
}

fn without_comment(line: &str) -> &str {
    &line[..line.find("//").unwrap_or(line.len())]
}

/// True if the comment above holds the sentence; attributes and the beginning of the same statement may lie between.
fn explained(above: &[&str]) -> bool {
    let mut lines = above.iter().rev().map(|line| line.trim()).peekable();
    while lines.next_if(|line| line.starts_with("#[") || is_unfinished(line)).is_some() {}
    lines.take_while(|line| line.starts_with("//")).any(|line| line.starts_with("// SAFETY: "))
}

fn is_unfinished(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("//") && !line.ends_with([';', '{', '}', ','])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(found: &Found) -> Vec<usize> {
        found.iter().map(|f| f.0).collect()
    }

    #[test]
    fn leftovers_are_found() {
        let text = format!("fine\n// {}: later\n{}x);\n", LEFTOVERS[0], LEFTOVERS[5]);
        assert_eq!(lines(&leftovers(&text)), [2, 3]);
    }

    #[test]
    fn a_file_may_have_so_many_lines_and_no_more() {
        assert!(long_file(&"x\n".repeat(FILE_LINES)).is_none());
        assert!(long_file(&"x\n".repeat(FILE_LINES + 1)).is_some());
    }

    #[test]
    fn a_function_is_measured_to_its_own_brace() {
        let function = |n: usize| format!("    pub fn f(\n    ) {{\n{}    }}\n", "        x();\n".repeat(n));
        let short = function(FUNCTION_LINES - 3);
        assert!(long_functions(&short.repeat(3)).is_empty());
        let long = function(FUNCTION_LINES - 2);
        assert_eq!(lines(&long_functions(&(short + &long))), [FUNCTION_LINES + 1]);
    }

    #[test]
    fn declarations_and_one_line_functions_do_not_run_on() {
        let rest = "x\n".repeat(FUNCTION_LINES);
        for head in ["fn f();\n", "fn f() {}\n", "fn f(\n    a: u8,\n);\n"] {
            assert!(long_functions(&format!("{head}{rest}}}\n")).is_empty(), "{head}");
        }
    }

    #[test]
    fn unsafe_code_stays_in_its_folders() {
        let text = "// SAFETY: fine.\nunsafe { f() }\n";
        assert!(unsafe_code(Path::new("crates/core/src/simd/x86.rs"), text).is_empty());
        assert_eq!(lines(&unsafe_code(Path::new("crates/core/src/scan.rs"), text)), [2]);
        assert_eq!(lines(&unsafe_code(Path::new("crates/py/src/lib.rs"), "#![allow(unsafe_code)]\n")), [1]);
        assert!(unsafe_code(Path::new("a.rs"), "// unsafe { } is a word here\n").is_empty());
    }

    #[test]
    fn unsafe_code_says_why_it_is_sound() {
        let found = |text: &str| lines(&unsafe_code(Path::new("crates/core/src/simd/x.rs"), text));
        assert!(found("// SAFETY: a reason\n// on two lines.\n#[inline]\nunsafe impl A for B {}\n").is_empty());
        assert!(found("// SAFETY: a reason.\nlet x =\n    unsafe { f() };\n").is_empty());
        assert_eq!(found("// No reason.\nunsafe { f() }\n"), [2]);
        assert_eq!(found("// SAFETY: for the first.\nunsafe { f() };\nunsafe { g() };\n"), [3]);
        assert_eq!(found("unsafe { f() };\n"), [1]);
        assert!(found("pub unsafe fn f() {\n").is_empty());
    }
}
