//! Every citation in the sources and documents names a paper and a version that docs/papers.toml knows.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files whose text may cite.
const EXTENSIONS: [&str; 3] = ["rs", "md", "py"];
/// Folders that hold no text of ours.
const SKIPPED: [&str; 5] = ["target", "runs", "node_modules", "__pycache__", "venv"];

/// The form itself, as documents name it.
const FORMS: [&str; 2] = ["Key vN eq.M", "Key vN sec.M"];

/// One paper of docs/papers.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paper {
    title: String,
    arxiv: String,
    versions: Vec<u32>,
}

type Papers = BTreeMap<String, Paper>;

/// Checks the whole repository.
pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    if let Some(arg) = args.first() {
        return Err(format!("cite takes no arguments, got `{arg}`"));
    }
    let path = root.join("docs/papers.toml");
    let papers = parse_papers(&read(&path)?).map_err(|e| format!("{}: {e}", path.display()))?;
    let (mut count, mut errors) = (0, Vec::new());
    for file in files(root)? {
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        for (line, citation) in citations(&read(&file)?) {
            count += 1;
            if let Err(reason) = judge(&papers, &citation) {
                errors.push(format!("{name}:{line}: [{citation}]: {reason}"));
            }
        }
    }
    if errors.is_empty() {
        println!("cite: {count} citations, {} papers", papers.len());
        return Ok(());
    }
    Err(errors.join("\n"))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn parse_papers(text: &str) -> Result<Papers, String> {
    let papers: Papers = toml::from_str(text).map_err(|e| e.to_string())?;
    for (key, paper) in &papers {
        let dot = paper.arxiv.find('.') == Some(4);
        let id = dot && paper.arxiv.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !id || paper.title.is_empty() || paper.versions.is_empty() {
            return Err(format!("`{key}` needs a title, an arXiv id such as 2501.00663, and its versions"));
        }
    }
    Ok(papers)
}

/// Text files below `folder`, in order; hidden folders and build outputs are left out.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() || name.starts_with('.') || SKIPPED.contains(&&name[..]) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e == *x)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What stands in brackets and looks like a citation, with its line from 1: it has a version or a place, so that a
/// citation with one part misspelt is still seen. A link's text is none, nor is a list of strings in code.
fn citations(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let mut rest = line;
        while let Some(open) = rest.find('[') {
            rest = &rest[open + 1..];
            let Some(close) = rest.find(['[', ']']) else { break };
            let (inside, after) = (&rest[..close], &rest[close..]);
            rest = after;
            let cites = |word: &str| is_version(word) || is_place(word);
            let bracketed = after.starts_with(']') && !after.starts_with("](") && !inside.contains('"');
            if bracketed && !FORMS.contains(&inside) && inside.split(' ').any(cites) {
                found.push((i + 1, inside.to_string()));
            }
        }
    }
    found
}

/// `v1`, `v12`.
fn is_version(word: &str) -> bool {
    word.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `eq.13`, `sec.4.4`, `sec.A.1`.
fn is_place(word: &str) -> bool {
    let after = ["eq.", "sec."].iter().find_map(|kind| word.strip_prefix(kind));
    after.is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)))
}

/// Whether a citation is `Key vN eq.M` or `Key vN sec.M` with a known key and version.
fn judge(papers: &Papers, citation: &str) -> Result<(), String> {
    let words: Vec<&str> = citation.split(' ').collect();
    let form = || "expected `Key vN eq.M` or `Key vN sec.M`".to_string();
    let [key, version, place] = words[..] else { return Err(form()) };
    if !is_version(version) || !is_place(place) {
        return Err(form());
    }
    let Some(paper) = papers.get(key) else {
        let known: Vec<&str> = papers.keys().map(|k| &k[..]).collect();
        return Err(format!("unknown paper `{key}`, expected one of {}", known.join(", ")));
    };
    let number = version[1..].parse().map_err(|_| form())?;
    if !paper.versions.contains(&number) {
        return Err(format!("unknown version {version} of arXiv {}, known are {:?}", paper.arxiv, paper.versions));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn papers() -> Papers {
        parse_papers("[Titans]\ntitle = \"Titans\"\narxiv = \"2501.00663\"\nversions = [1]").unwrap()
    }

    #[test]
    fn citations_are_found_with_their_lines_and_other_brackets_are_not() {
        // Round brackets here, so that this file cites nothing itself.
        let text = "//! W' = W (Titans v1 eq.13), (Titans v1 sec.4.4)\nx(i) (`Type`) (T, D) (Key vN eq.M)\n\
                    a(b(Titans v9 eq.1))\n(Titans eq.13) (Gated Delta v1 eq.2)";
        let text = text.replace('(', "[").replace(')', "]") + "\n[see v1 eq.2](link)";
        let found: Vec<_> = citations(&text).into_iter().map(|(line, c)| format!("{line} {c}")).collect();
        let mut want = vec!["1 Titans v1 eq.13", "1 Titans v1 sec.4.4", "3 Titans v9 eq.1"];
        want.extend(["4 Titans eq.13", "4 Gated Delta v1 eq.2"]);
        assert_eq!(found, want);
    }

    #[test]
    fn unknown_papers_versions_and_forms_are_refused() {
        assert_eq!(judge(&papers(), "Titans v1 eq.13"), Ok(()));
        assert_eq!(judge(&papers(), "Titans v1 sec.4.4"), Ok(()));
        for (citation, reason) in [
            ("Titan v1 eq.13", "unknown paper `Titan`"),
            ("Titans v2 eq.13", "unknown version v2"),
            ("Titans eq.13", "expected"),
            ("Titans v1", "expected"),
            ("Gated Delta v1 eq.2", "expected"),
            ("Titans v1 eq.", "expected"),
        ] {
            let error = judge(&papers(), citation).unwrap_err();
            assert!(error.contains(reason), "{citation}: {error}");
        }
    }

    #[test]
    fn a_paper_without_title_id_or_version_is_refused() {
        assert!(parse_papers("[A]\ntitle = \"\"\narxiv = \"2501.00663\"\nversions = [1]").is_err());
        assert!(parse_papers("[A]\ntitle = \"a\"\narxiv = \"250100663\"\nversions = [1]").is_err());
        assert!(parse_papers("[A]\ntitle = \"a\"\narxiv = \"2501.00663\"\nversions = []").is_err());
        assert!(parse_papers("[A]\ntitle = \"a\"\narxiv = \"2501.00663\"\nversions = [1]\nyear = 1").is_err());
    }
}
