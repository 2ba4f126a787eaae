//! The parts of the page that show curves: the loss, the held-out text by position, the insides of the memories.

use super::chart::{AxisSpec, Chart, Look, MAX_POINTS, Series, Style};
use super::facts::{Facts, is_carried};
use super::html::Html;
use super::page::grouped;
use super::points::{Points, drawable, smooth};
use super::scale::Kind;
use crate::human;
use crate::log::{Eval, Step};
use std::collections::BTreeMap;

/// Share of the steps on either side of a step that its running mean takes in.
const SMOOTHING: f64 = 1.0 / 60.0;
/// Most points of a line that is one of many.
const FEW_POINTS: usize = 600;

/// What a measurement is called on the page.
pub(super) fn eval_label(facts: &Facts, name: &str) -> String {
    match name {
        "learn" | "held_out" if facts.has_memory() => "memory writing".into(),
        "learn" | "held_out" => "state carried".into(),
        "frozen" => "memory frozen".into(),
        "read" => "memory writing into a copy".into(),
        other => other.into(),
    }
}

/// `what` with the measurement's label, where a label tells anything: without a memory there is only one kind.
pub(super) fn held_out_label(facts: &Facts, what: &str, name: &str) -> String {
    let only = !facts.has_memory() && is_carried(name);
    if only { what.into() } else { format!("{what}, {}", eval_label(facts, name)) }
}

fn tokens_axis() -> AxisSpec {
    AxisSpec { label: "tokens", kind: Kind::Linear, range: None }
}

/// One value of every step against tokens.
fn by_tokens(steps: &[Step], value: impl Fn(&Step) -> Option<f64>) -> Points {
    steps.iter().filter_map(|s| Some((s.tokens as f64, value(s)?))).collect()
}

fn not_drawable(points: &[(f64, f64)]) -> usize {
    points.iter().filter(|p| !drawable(p.1)).count()
}

/// Steps on either side that a running mean takes in; 0 where there are too few to smooth.
fn half_window(points: &[(f64, f64)]) -> usize {
    (points.len() as f64 * SMOOTHING) as usize
}

/// The loss, the learning rate and the gradient.
pub(super) fn loss(facts: &Facts) -> Html {
    let mut html = Html::default();
    html.push(&loss_chart(facts).render()).raw("<div class=\"pair\">\n");
    let rate = by_tokens(&facts.steps, |s| Some(s.lr));
    let norm = by_tokens(&facts.steps, |s| Some(s.grad_norm));
    html.push(&rate_chart(facts, &rate).render()).push(&norm_chart(facts, &norm).render());
    html.raw("</div>\n");
    html
}

fn loss_chart(facts: &Facts) -> Chart {
    let raw = by_tokens(&facts.steps, |s| Some(s.bits_per_byte));
    let half = half_window(&raw);
    let mean = smooth(&raw, half, MAX_POINTS);
    let mut series = vec![];
    let mut note = Html::default();
    if half > 0 {
        series.push(Series::new("training, each step", Style::INK, Look::Faint, &raw, MAX_POINTS));
        series.push(Series::new("training, running mean", Style::INK, Look::Line, &mean, MAX_POINTS));
    } else {
        series.push(Series::new("training, each step", Style::INK, Look::Line, &raw, MAX_POINTS));
    }
    for (i, name) in facts.eval_names().into_iter().enumerate() {
        let evals = facts.evals.iter().filter(|e| e.name == name);
        let points: Points = evals.map(|e| (facts.tokens_at(e.step), e.bits_per_byte)).collect();
        let label = held_out_label(facts, "held-out", name);
        series.push(Series::new(&label, Style::nth(i), Look::Dots, &points, MAX_POINTS));
    }
    let ends = [mean.iter().find(|p| drawable(p.1)), mean.iter().rfind(|p| drawable(p.1))];
    match ends {
        [Some(first), Some(last)] if first.0 < last.0 => {
            note.text(&format!("In training the loss went from {:.3} to {:.3} bits per byte", first.1, last.1));
            note.text(&format!(" over {} tokens.", human::count(last.0)));
        }
        [Some(only), _] => _ = note.text(&format!("The loss of the only step is {:.3} bits per byte.", only.1)),
        _ => {}
    }
    if half > 0 {
        note.text(&format!(
            " The thin line is every step, the thick one its mean over {} steps.",
            grouped(2 * half as u64 + 1)
        ));
    }
    let range = loss_range(&raw, &mean, facts);
    if range.is_some() {
        let highest = raw.iter().map(|p| p.1).filter(|&y| drawable(y)).fold(0.0, f64::max);
        note.text(&format!(
            " The first steps, up to {highest:.2}, lie above the upper edge, so that the rest is seen."
        ));
    }
    gaps(&mut note, not_drawable(&raw));
    let x = AxisSpec { range: raw.last().map(|p| (0.0, p.0)), ..tokens_axis() };
    let y = AxisSpec { label: "bits per byte", kind: Kind::Linear, range };
    Chart { id: 1, title: "Loss".into(), tall: true, x, y, series, marks: vec![], note }
}

/// A range without the fall of the first steps, where that fall would flatten all that follows.
fn loss_range(raw: &[(f64, f64)], mean: &[(f64, f64)], facts: &Facts) -> Option<(f64, f64)> {
    let number = |p: &(f64, f64)| Some(p.1).filter(|&y| drawable(y));
    let evals = facts.evals.iter().map(|e| e.bits_per_byte).filter(|&y| drawable(y));
    let late = raw.iter().skip(raw.len() / 20).filter_map(number).chain(evals.clone());
    let high = late.fold(f64::NEG_INFINITY, f64::max);
    let low = raw.iter().chain(mean).filter_map(number).chain(evals).fold(f64::INFINITY, f64::min);
    let top = raw.iter().filter_map(number).fold(f64::NEG_INFINITY, f64::max);
    (low < high && top > high + 0.25 * (high - low)).then_some((low, high))
}

fn rate_chart(facts: &Facts, points: &[(f64, f64)]) -> Chart {
    let mut note = Html::default();
    let highest = points.iter().map(|p| p.1).filter(|&y| drawable(y)).fold(0.0, f64::max);
    let warmup = facts.config()["schedule"]["warmup_steps"].as_u64();
    note.text(&format!("The highest rate is {}", super::chart::brief(highest)));
    if let Some(warmup) = warmup {
        note.text(&format!(", after a warm-up of {warmup} steps"));
    }
    note.text(".");
    gaps(&mut note, not_drawable(points));
    let y = AxisSpec { label: "learning rate", kind: Kind::Linear, range: None };
    let series = vec![Series::new("learning rate", Style::INK, Look::Line, points, MAX_POINTS)];
    Chart { id: 2, title: "Learning rate".into(), tall: false, x: from_zero(points), y, series, marks: vec![], note }
}

fn norm_chart(facts: &Facts, points: &[(f64, f64)]) -> Chart {
    let numbers = || points.iter().map(|p| p.1).filter(|&y| drawable(y));
    let (low, high) = numbers().fold((f64::INFINITY, 0.0_f64), |(l, h), y| (l.min(y), h.max(y)));
    let kind = if low > 0.0 && high > 10.0 * low { Kind::Log } else { Kind::Linear };
    let mut note = Html::default();
    note.text("Length of the whole gradient before it is clipped");
    if let Some(clip) = facts.config()["train"]["clip"].as_f64().filter(|&c| c > 0.0) {
        let clipped = numbers().filter(|&y| y > clip).count();
        note.text(&format!(
            " to {clip}, which {} of {} steps needed",
            grouped(clipped as u64),
            grouped(points.len() as u64)
        ));
    }
    note.text(".");
    gaps(&mut note, not_drawable(points));
    let y = AxisSpec { label: "gradient norm", kind, range: None };
    let half = half_window(points);
    let mut series =
        vec![Series::new("gradient norm", Style::INK, Look::Line, &smooth(points, half, MAX_POINTS), MAX_POINTS)];
    if half > 0 {
        series.insert(0, Series::new("", Style::INK, Look::Faint, points, MAX_POINTS));
    }
    Chart { id: 3, title: "Gradient norm".into(), tall: false, x: from_zero(points), y, series, marks: vec![], note }
}

fn from_zero(points: &[(f64, f64)]) -> AxisSpec {
    AxisSpec { range: points.last().map(|p| (0.0, p.0)), ..tokens_axis() }
}

fn gaps(note: &mut Html, count: usize) {
    if count > 0 {
        note.text(&format!(" {} values were not finite; the line has gaps there.", grouped(count as u64)));
    }
}

/// Bits per byte of held-out text against the position in it.
pub(super) fn position(facts: &Facts) -> Html {
    let mut html = Html::default();
    html.raw("<h2 id=\"position\">");
    html.raw(if facts.has_memory() { "With the memory writing, and frozen" } else { "By position" }).raw("</h2>\n");
    let names = facts.eval_names();
    let last = |(i, name)| Some((i, facts.last_eval_by_position(name)?));
    let evals: Vec<(usize, &Eval)> = names.into_iter().enumerate().filter_map(last).collect();
    if evals.is_empty() {
        html.raw("<p class=\"nothing\">Held-out text has not been measured by position in this run yet.</p>\n");
        return html;
    }
    let series = evals
        .iter()
        .map(|(i, e)| Series::new(&eval_label(facts, &e.name), Style::nth(*i), Look::Dots, &middles(e), MAX_POINTS));
    let mut marks: Vec<(f64, String)> =
        facts.windows().iter().take(3).map(|&w| (w as f64, format!("window {w}"))).collect();
    let context = facts.model["context"].as_u64();
    marks.extend(context.map(|c| (c as f64, format!("training length {c}"))));
    let x = AxisSpec { label: "position in the text, in bytes", kind: Kind::PowersOfTwo, range: None };
    let y = AxisSpec { label: "bits per byte", kind: Kind::Linear, range: None };
    let series = series.collect();
    let title = "Bits per byte against position".into();
    let note = position_note(facts, &evals);
    html.push(&Chart { id: 4, title, tall: true, x, y, series, marks, note }.render());
    html.push(&position_table(facts, &evals));
    html
}

/// The middle of each bin on a logarithmic axis; positions count from 1.
fn middles(eval: &Eval) -> Points {
    let mut from = 0;
    let mut middle = |end: u64| ((std::mem::replace(&mut from, end) + 1) as f64 * end as f64).sqrt();
    eval.by_position.iter().map(|bin| (middle(bin.end), bin.bits_per_byte)).collect()
}

/// Mean over the positions after `from`, by the bytes scored.
fn beyond(eval: &Eval, from: u64) -> Option<f64> {
    let starts = std::iter::once(0).chain(eval.by_position.iter().map(|b| b.end));
    let bins = starts.zip(&eval.by_position).filter(|(start, b)| *start >= from && drawable(b.bits_per_byte));
    let (bits, bytes) =
        bins.fold((0.0, 0.0), |(s, n), (_, b)| (s + b.bits_per_byte * b.bytes as f64, n + b.bytes as f64));
    (bytes > 0.0).then(|| bits / bytes)
}

fn position_note(facts: &Facts, evals: &[(usize, &Eval)]) -> Html {
    let mut note = Html::default();
    note.text("Held-out text in pieces that each start from an empty state: how well a byte is predicted when so many");
    note.text(" bytes were read before it. ");
    let find = |wanted: fn(&str) -> bool| evals.iter().find(|(_, e)| wanted(&e.name)).map(|(_, e)| *e);
    let (carried, frozen) = (find(is_carried), find(|name| name == "frozen"));
    if let Some(&window) = facts.windows().last() {
        let means = (carried.and_then(|e| beyond(e, window)), frozen.and_then(|e| beyond(e, window)));
        match means {
            (Some(with), Some(without)) => {
                let verb = if with <= without { "saves" } else { "costs" };
                note.text(&format!("Beyond the attention window of {window}, a memory that writes {verb} "));
                note.text(&format!(
                    "{:.3} bits per byte ({with:.3} against {without:.3} frozen). ",
                    (with - without).abs()
                ));
                note.text(
                    "A model leans on the memory it was trained with: what a memory is worth shows only against a ",
                );
                note.text("model trained without one. ");
            }
            (Some(with), None) => {
                note.text(&format!("Beyond the attention window of {window} the mean is {with:.3} bits per byte. "));
            }
            _ => {}
        }
        if let Some(reach) = facts.stacked_reach().filter(|&r| r >= window) {
            note.text(&format!("The windows of all blocks together can reach at most {reach} bytes back. "));
        }
    }
    let steps: Vec<u64> = evals.iter().map(|(_, e)| e.step).collect();
    if let Some(step) = steps.first().filter(|first| steps.iter().all(|s| s == *first)) {
        note.text(&format!("Measured after step {}.", grouped(*step)));
    } else {
        let each = evals.iter().map(|(_, e)| format!("{} after step {}", eval_label(facts, &e.name), grouped(e.step)));
        note.text(&format!("Measured at different times: {}.", each.collect::<Vec<_>>().join(", ")));
    }
    gaps(&mut note, evals.iter().map(|(_, e)| not_drawable(&middles(e))).sum());
    note
}

fn position_table(facts: &Facts, evals: &[(usize, &Eval)]) -> Html {
    let mut rows: BTreeMap<(u64, u64), Vec<Option<f64>>> = BTreeMap::new();
    for (column, (_, eval)) in evals.iter().enumerate() {
        let mut from = 0;
        for bin in &eval.by_position {
            let row = rows.entry((from + 1, bin.end)).or_insert_with(|| vec![None; evals.len()]);
            row[column] = Some(bin.bits_per_byte);
            from = bin.end;
        }
    }
    let mut html = Html::default();
    html.raw(
        "<details><summary>The same as a table</summary>\n<div class=\"scroll\" tabindex=\"0\">\n<table><thead><tr>",
    );
    html.raw("<th scope=\"col\">positions</th>");
    for (_, eval) in evals {
        html.element("<th scope=\"col\">", &eval_label(facts, &eval.name), "</th>");
    }
    html.raw("</tr></thead><tbody>\n");
    for ((from, to), values) in rows {
        let range = if from == to { from.to_string() } else { format!("{from}–{to}") };
        html.element("<tr><th scope=\"row\">", &range, "</th>");
        for value in values {
            let shown = value.filter(|&v| drawable(v)).map_or_else(|| "–".into(), |v| format!("{v:.3}"));
            html.element("<td>", &shown, "</td>");
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody></table></div></details>\n");
    html
}

/// Gates and norms of the memories: a chart for each kind of value, a line for each block.
pub(super) fn traces(facts: &Facts) -> Html {
    let mut html = Html::default();
    let groups = groups(&facts.steps);
    if groups.is_empty() && !facts.has_memory() {
        return html;
    }
    html.raw("<section aria-labelledby=\"traces\">\n<h2 id=\"traces\">Inside the memories</h2>\n");
    if groups.is_empty() {
        html.raw("<p class=\"nothing\">The log holds no traces of gates or memories.</p>\n</section>\n");
        return html;
    }
    html.raw("<div class=\"pair\">\n");
    for (i, (kind, lines)) in groups.iter().enumerate() {
        html.push(&trace_chart(5 + i, facts, kind, lines).render());
    }
    html.raw("</div>\n</section>\n");
    html
}

/// Names of traces by their last part, then by what stands before it; `blocks.2` comes before `blocks.10`.
fn groups(steps: &[Step]) -> Vec<(String, Vec<String>)> {
    let names: std::collections::BTreeSet<&str> =
        steps.iter().flat_map(|s| s.traces.keys().map(String::as_str)).collect();
    let mut groups: BTreeMap<(usize, &str), Vec<String>> = BTreeMap::new();
    for name in names {
        let kind = name.rsplit_once('.').map_or(name, |(_, last)| last);
        groups.entry((order(kind), kind)).or_default().push(name.to_string());
    }
    for lines in groups.values_mut() {
        lines.sort_by_key(|name| (block_number(name), name.clone()));
    }
    groups.into_iter().map(|((_, kind), lines)| (kind.to_string(), lines)).collect()
}

/// The number of `blocks.N.kind`.
fn block_number(name: &str) -> Option<u64> {
    let (prefix, _) = name.rsplit_once('.')?;
    prefix.strip_prefix("blocks.")?.parse().ok()
}

fn order(kind: &str) -> usize {
    let known = ["memory_norm", "added_norm", "written", "mean_period", "retain", "rate", "momentum"];
    known.iter().position(|k| *k == kind).unwrap_or(known.len())
}

fn trace_title(kind: &str) -> String {
    match kind {
        "memory_norm" => "Memory norm".into(),
        "added_norm" => "Added to weights".into(),
        "written" => "Tokens written".into(),
        "mean_period" => "Tokens per change".into(),
        "retain" => "Gate: retain".into(),
        "rate" => "Gate: rate".into(),
        "momentum" => "Gate: momentum".into(),
        other => other.replace('_', " "),
    }
}

fn trace_note(kind: &str) -> &'static str {
    match kind {
        "memory_norm" => {
            "Size of what the memories hold, the mean over heads and streams: growth without end would be \
                          a sign that they keep too much."
        }
        "retain" => {
            "The share of the memory that is kept from one token to the next, the mean over heads and tokens: \
                     0.99 halves it in 69 tokens, 0.9 in 7."
        }
        "added_norm" => {
            "Size of what continuum memories have added to each matrix in the first stream, since it began or was reset."
        }
        "written" => "The share of the last thousand tokens or so that each level behind a gate has learned from.",
        "mean_period" => {
            "Tokens from one change to the next of each level whose period is learned, in the first stream since it began or \
                          was reset."
        }
        "rate" => "The inner step size, the mean over heads and tokens: how strongly a token is written.",
        "momentum" => "The share of the last write that is carried into the next, the mean over heads and tokens.",
        _ => "A value that the run logged at each step.",
    }
}

fn trace_chart(id: usize, facts: &Facts, kind: &str, lines: &[String]) -> Chart {
    let (mut series, mut means, mut missing) = (vec![], vec![], 0);
    for (i, name) in lines.iter().enumerate() {
        let raw = by_tokens(&facts.steps, |s| s.traces.get(name).copied());
        missing += not_drawable(&raw);
        let label = match (block_number(name), name.rsplit_once('.')) {
            (Some(n), _) => format!("block {n}"),
            (None, Some((prefix, _))) => prefix.to_string(),
            (None, None) => name.clone(),
        };
        let half = half_window(&raw);
        if half > 0 {
            series.push(Series::new("", Style::nth(i), Look::Faint, &raw, FEW_POINTS));
        }
        means.push(Series::new(&label, Style::nth(i), Look::Line, &smooth(&raw, half, FEW_POINTS), FEW_POINTS));
    }
    series.extend(means);
    let mut note = Html::default();
    note.text(trace_note(kind));
    gaps(&mut note, missing);
    let x = AxisSpec { range: facts.steps.last().map(|s| (0.0, s.tokens as f64)), ..tokens_axis() };
    let y = AxisSpec { label: "mean", kind: Kind::Linear, range: None };
    Chart { id, title: trace_title(kind), tall: false, x, y, series, marks: vec![], note }
}
