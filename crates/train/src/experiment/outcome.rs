//! What an experiment gives: a table, verdicts, a figure.

use super::figure::Figure;
use crate::report::rounded;
use serde::{Serialize, Serializer};

/// One entry of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number without chance in it.
    Number(f64),
    /// The same number under every seed: shown as mean, lowest and highest.
    Seeds(Vec<f64>),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_string())
    }
}
impl From<f64> for Cell {
    fn from(x: f64) -> Self {
        Cell::Number(x)
    }
}
impl From<usize> for Cell {
    fn from(x: usize) -> Self {
        Cell::Number(x as f64)
    }
}
impl From<&[f64]> for Cell {
    fn from(seeds: &[f64]) -> Self {
        Cell::Seeds(seeds.to_vec())
    }
}

/// Mean of some numbers.
pub(super) fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}
/// The lowest of some numbers; NaN where one of them is none.
pub(super) fn lowest(x: &[f64]) -> f64 {
    x.iter().copied().fold(f64::INFINITY, |a, b| if a.is_nan() || a <= b { a } else { b })
}
/// The highest of some numbers; NaN where one of them is none.
pub(super) fn highest(x: &[f64]) -> f64 {
    x.iter().copied().fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || a >= b { a } else { b })
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |x: f64| if x.is_finite() { rounded(x, 3) } else { "overflow".to_string() };
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Number(x) => f.write_str(&show(*x)),
            Cell::Seeds(all) => {
                let [low, high] = [show(lowest(all)), show(highest(all))];
                if low == high { f.write_str(&low) } else { write!(f, "{} ({low} to {high})", show(mean(all))) }
            }
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Spread<'a> {
            mean: f64,
            low: f64,
            high: f64,
            seeds: &'a [f64],
        }
        match self {
            Cell::Text(text) => serializer.serialize_str(text),
            // JSON has no number for what overflowed.
            Cell::Number(x) if !x.is_finite() => serializer.serialize_str("overflow"),
            Cell::Number(x) => serializer.serialize_f64(*x),
            Cell::Seeds(all) => {
                Spread { mean: mean(all), low: lowest(all), high: highest(all), seeds: all }.serialize(serializer)
            }
        }
    }
}

/// A table of numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, as long as `columns`.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|c| c.to_string()).collect(), rows: Vec::new() }
    }
    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
        debug_assert_eq!(self.rows[self.rows.len() - 1].len(), self.columns.len());
    }
}

/// Something that must come out, and whether it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Must {
    /// What must hold.
    pub claim: String,
    /// Whether it did, as measured.
    pub holds: bool,
    /// The numbers behind the verdict.
    pub measured: String,
}

impl Must {
    /// A verdict.
    pub(super) fn new(claim: impl Into<String>, holds: bool, measured: impl Into<String>) -> Self {
        Self { claim: claim.into(), holds, measured: measured.into() }
    }
    /// `holds` or `does not hold`.
    pub fn verdict(&self) -> &'static str {
        if self.holds { "holds" } else { "does not hold" }
    }
}

/// What was found, without the frame.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The numbers.
    pub table: Table,
    /// What had to come out.
    pub musts: Vec<Must>,
    /// What one needs to know to read them: choices, departures, reasons for a smaller size.
    pub caption: String,
    /// The picture.
    #[serde(skip)]
    pub figure: Figure,
}

/// An experiment that was run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// What it asks.
    pub asks: &'static str,
    /// Where the claim comes from.
    pub source: &'static str,
    /// How it was asked.
    pub protocol: &'static str,
    /// Seeds; 1 where nothing is left to chance.
    pub seeds: usize,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
    /// How long it took.
    pub seconds: f64,
}

impl Outcome {
    /// The figure as a file.
    pub fn svg(&self) -> String {
        self.finding.figure.svg(self.asks, &self.finding.caption)
    }
    /// Whether everything that must hold did.
    pub fn holds(&self) -> bool {
        self.finding.musts.iter().all(|m| m.holds)
    }
}
