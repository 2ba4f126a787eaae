//! `cargo xtask readme`: the README's commands, run as written.
//!
//! Every block fenced as `sh` is one script, run by bash in a copy of the repository as a fresh clone would have it,
//! one block after the other, so that a later block finds what an earlier one made. Other fences are not run. A block
//! below the comment `<!-- xtask: skip, REASON -->` is reported as skipped.

use crate::repo::{files, root, target};
use crate::{Result, no_arguments};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const README: &str = "README.md";
const SKIP: &str = "<!-- xtask: skip";

/// A block of commands.
#[derive(Debug, PartialEq)]
struct Block {
    /// Line of its fence, from 1.
    line: usize,
    code: String,
    /// Why it is not run.
    skip: Option<String>,
}

/// Runs every block.
///
/// # Errors
/// At the first block that fails; for a README without blocks, or with a comment that skips nothing.
pub fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let text = fs::read_to_string(root().join(README)).map_err(|e| format!("cannot read {README}: {e}"))?;
    let blocks = blocks(&text).map_err(|e| format!("{README}:{e}"))?;
    if blocks.is_empty() {
        return Err(format!("{README} has no block fenced as sh").into());
    }
    let folder = target().join("readme");
    let checkout = folder.join("checkout");
    copy_repository(&checkout)?;
    let mut skipped = 0;
    for block in &blocks {
        if let Some(reason) = &block.skip {
            println!("\n-- {README}:{}: skipped, {reason}", block.line);
            skipped += 1;
            continue;
        }
        println!("\n-- {README}:{}\n{}", block.line, block.code.trim_end());
        let start = Instant::now();
        // The copy is built where it stays from run to run, so that only what changed is compiled anew.
        let status = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block.code])
            .current_dir(&checkout)
            .env("CARGO_TARGET_DIR", folder.join("target"))
            .status()
            .map_err(|e| format!("cannot run bash: {e}"))?;
        if !status.success() {
            return Err(format!("{README}:{}: {status}", block.line).into());
        }
        println!("-- {README}:{}: fine, {} s", block.line, start.elapsed().as_secs());
    }
    println!("\n{} blocks ran, {skipped} skipped.", blocks.len() - skipped);
    Ok(())
}

/// Copies every file of the repository, with its time, so that cargo sees what has not changed.
fn copy_repository(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    for file in files()? {
        let (from, to) = (root().join(&file), to.join(&file));
        fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
        fs::copy(&from, &to)?;
        fs::File::options().write(true).open(&to)?.set_modified(fs::metadata(&from)?.modified()?)?;
    }
    Ok(())
}

/// The blocks fenced as `sh`.
fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut skip: Option<(usize, String)> = None;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let (line, indent) = (line.trim_start(), line.len() - line.trim_start().len());
        if let Some(rest) = line.strip_prefix(SKIP) {
            skip = Some((number + 1, reason(rest).map_err(|e| format!("{}: {e}", number + 1))?));
            continue;
        }
        let fence = &line[..line.len() - line.trim_start_matches('`').len()];
        if fence.len() < 3 {
            let unused = skip.as_ref().filter(|_| !line.is_empty());
            if let Some((at, _)) = unused {
                return Err(format!("{at}: the comment skips nothing: no sh block follows").into());
            }
            continue;
        }
        let (is_sh, mut code, mut closed) = (line[fence.len()..].trim() == "sh", String::new(), false);
        for (_, line) in lines.by_ref() {
            if line.trim() == fence {
                closed = true;
                break;
            }
            let own = line.len() - line.trim_start().len();
            code = code + &line[indent.min(own)..] + "\n";
        }
        if !closed {
            return Err(format!("{}: the fence is not closed", number + 1).into());
        }
        match (is_sh, skip.take()) {
            (true, skip) => blocks.push(Block { line: number + 1, code, skip: skip.map(|s| s.1) }),
            (false, Some((at, _))) => {
                return Err(format!("{at}: the comment skips nothing: no sh block follows").into());
            }
            (false, None) => {}
        }
    }
    match skip {
        Some((at, _)) => Err(format!("{at}: the comment skips nothing: no sh block follows").into()),
        None => Ok(blocks),
    }
}

/// The reason in what follows [`SKIP`].
fn reason(rest: &str) -> Result<String> {
    let reason = rest.trim_end().strip_suffix("-->").and_then(|r| r.trim().strip_prefix(',')).map(str::trim);
    match reason {
        Some(reason) if !reason.is_empty() => Ok(reason.to_string()),
        _ => Err(format!("expected `{SKIP}, REASON -->`").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_fenced_as_sh_are_taken() {
        let text = "a\n```sh\ncargo test\ncargo run\n```\n```console\n$ no\n```\n```\nno\n```\n```text\nno\n```\n";
        let want = [Block { line: 2, code: "cargo test\ncargo run\n".to_string(), skip: None }];
        assert_eq!(blocks(text).unwrap(), want);
    }

    #[test]
    fn a_fence_inside_a_longer_one_is_text() {
        let text = "````text\n```sh\nno\n```\n````\n```sh\nyes\n```\n";
        let found = blocks(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].code.as_str()), (6, "yes\n"));
    }

    #[test]
    fn an_indented_block_loses_its_indent_only() {
        let text = "1. first\n\n   ```sh\n   if true; then\n     echo\n   fi\n\n   ```\n";
        assert_eq!(blocks(text).unwrap()[0].code, "if true; then\n  echo\nfi\n\n");
    }

    #[test]
    fn a_block_below_a_skip_comment_carries_the_reason() {
        let text = "<!-- xtask: skip, takes an hour -->\n\n```sh\nslow\n```\n```sh\nquick\n```\n";
        let found = blocks(text).unwrap();
        assert_eq!(found[0].skip.as_deref(), Some("takes an hour"));
        assert_eq!(found[1].skip, None);
    }

    #[test]
    fn comments_that_skip_nothing_and_open_fences_are_refused_by_line() {
        let error = |text: &str| blocks(text).unwrap_err().to_string();
        for follows in ["text\n", "```text\n```\n", ""] {
            let text = format!("\n<!-- xtask: skip, why -->\n{follows}");
            assert_eq!(error(&text), "2: the comment skips nothing: no sh block follows");
        }
        assert_eq!(error("<!-- xtask: skip -->\n"), "1: expected `<!-- xtask: skip, REASON -->`");
        assert_eq!(error("<!-- xtask: skip, -->\n"), "1: expected `<!-- xtask: skip, REASON -->`");
        assert_eq!(error("\n\n```sh\nx\n"), "3: the fence is not closed");
    }
}
