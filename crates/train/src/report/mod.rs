//! `report.html`: what happened in a run, as one page that loads nothing from elsewhere.
//!
//! The page is complete without its script, which only shows values under the pointer. It is made from what lies in
//! the run folder alone: the same files give the same bytes. Runs that are unfinished, resumed, empty or very long are
//! fine; numbers that are not finite leave gaps in the lines.
//!
//! **Invariant:** text of a run reaches the page only through `Html::text` and `Html::attribute`, which
//! escape it.

mod chart;
mod facts;
mod html;
mod page;
mod points;
mod scale;
mod sections;
#[cfg(test)]
mod tests;

pub(crate) use chart::rounded;
pub(crate) use html::Html;
pub(crate) use points::drawable;
pub(crate) use scale::{Axis, Kind};

use crate::atomic;
use crate::error::Result;
use crate::run_folder::REPORT;
use facts::Facts;
use std::path::Path;

/// Writes the report of a run into its folder, in place of an older one.
///
/// `log.jsonl` must be there. `config.json`, `run.toml` and weights or a checkpoint are read where they exist and give
/// the model's shape, the command's config and the number of parameters.
///
/// # Errors
/// [`crate::Error::Io`] where a file cannot be read or the page not be written, [`crate::Error::Log`] with a line
/// that is no record, [`crate::Error::Unsuitable`] where another file is not what it should be.
pub fn write(run_folder: &Path) -> Result<()> {
    let facts = Facts::read(run_folder)?;
    atomic::write(&run_folder.join(REPORT), page::render(&facts).as_bytes())
}
