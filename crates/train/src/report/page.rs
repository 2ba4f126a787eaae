//! The whole page, and the parts of it that are words: what the run was, how it ended, how to do it again.

use super::facts::{Facts, find, is_carried, window};
use super::html::Html;
use super::points::drawable;
use super::sections::{self, eval_label, held_out_label};
use crate::human;
use crate::log::Sample;
use crate::run_folder::RUN_CONFIG;
use serde_json::Value;

/// Most samples on the page.
const MAX_SAMPLES: usize = 12;

/// The page of a run.
pub(super) fn render(facts: &Facts) -> String {
    let piece = |fill: fn(&mut Html, &Facts)| {
        let mut html = Html::default();
        fill(&mut html, facts);
        html
    };
    let raw = |text: &'static str| {
        let mut html = Html::default();
        html.raw(text);
        html
    };
    Html::fill(
        include_str!("page.html"),
        &[
            ("style", raw(include_str!("style.css"))),
            ("script", raw(include_str!("readout.js"))),
            ("name", piece(|h, f| _ = h.text(&f.name))),
            ("about", piece(about)),
            ("status", piece(status)),
            ("headline", piece(headline)),
            ("loss", sections::loss(facts)),
            ("position", sections::position(facts)),
            ("traces", sections::traces(facts)),
            ("samples", piece(samples)),
            ("config", piece(config)),
            ("machine", piece(machine)),
            ("again", piece(again)),
        ],
    )
}

/// What was trained, when, and by which version.
fn about(html: &mut Html, facts: &Facts) {
    let mut parts = vec![];
    parts.extend(model_summary(facts));
    if let Some(run) = facts.runs.first() {
        parts.push(format!("started {} UTC", date(run.unix_secs)));
    }
    if let Some(run) = facts.runs.last() {
        parts.push(format!("hecate {}", run.version));
    }
    html.text(&parts.join(" · "));
}

/// Such as `4 blocks of mag (titans, window 64), width 128`.
fn model_summary(facts: &Facts) -> Option<String> {
    let mut kinds: Vec<(u64, String)> = vec![];
    for (repeat, block) in facts.blocks() {
        let mixer = &block["mixer"];
        let rule = find(mixer, "rule").and_then(|r| r.as_str().or_else(|| r["name"].as_str()));
        let details: Vec<String> =
            rule.map(str::to_string).into_iter().chain(window(block).map(|w| format!("window {w}"))).collect();
        let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
        let kind = format!("{}{details}", mixer["type"].as_str()?);
        match kinds.last_mut() {
            Some((n, last)) if *last == kind => *n += repeat,
            _ => kinds.push((repeat, kind)),
        }
    }
    let blocks = kinds.iter().map(|(n, kind)| format!("{n} {} of {kind}", if *n == 1 { "block" } else { "blocks" }));
    let mut parts: Vec<String> = blocks.collect();
    parts.extend(facts.model["width"].as_u64().map(|w| format!("width {w}")));
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// How the run ended, or that it did not.
fn status(html: &mut Html, facts: &Facts) {
    let done = facts.done();
    let of = facts.planned().filter(|&p| p != done).map_or_else(String::new, |p| format!(" of {}", grouped(p)));
    let steps = format!("{}{of} step{}", grouped(done), if done == 1 && of.is_empty() { "" } else { "s" });
    let (class, text) = match facts.end.as_ref().map(|e| e.reason.as_str()) {
        Some("finished") => ("<p class=\"status good\">", format!("Finished after {steps}.")),
        Some("interrupted") => ("<p class=\"status\">", format!("Interrupted after {steps}; it can be resumed.")),
        Some(reason) => ("<p class=\"status bad\">", format!("Stopped after {steps}: {reason}")),
        None if done == 0 => ("<p class=\"status\">", "The log holds no step yet.".into()),
        None => {
            let why = "it does not say why: the run is still going on, or was killed";
            ("<p class=\"status\">", format!("The log ends after {steps}; {why}."))
        }
    };
    html.raw(class).text(&text);
    let resumed: Vec<String> = facts.runs.iter().skip(1).map(|r| grouped(r.step)).collect();
    if !resumed.is_empty() {
        html.text(&format!(" Resumed after step {}.", resumed.join(", ")));
    }
    html.raw("</p>\n");
}

fn card(html: &mut Html, name: &str, value: &str, unit: &str, note: &str) {
    html.element("<div class=\"card\"><dt>", name, "</dt><dd><span class=\"value\">");
    html.text(value).raw("</span>");
    if !unit.is_empty() {
        html.element(" <span class=\"unit\">", unit, "</span>");
    }
    if !note.is_empty() {
        html.element("<span class=\"note\">", note, "</span>");
    }
    html.raw("</dd></div>\n");
}

fn headline(html: &mut Html, facts: &Facts) {
    held_out_cards(html, facts);
    let done = facts.done();
    let planned = facts.planned().filter(|&p| p != done).map_or_else(String::new, |p| format!("of {}", grouped(p)));
    card(html, "Steps", &grouped(done), "", &planned);
    card(html, "Tokens trained on", &human::count(facts.tokens_at(done)), "", "");
    if let Some(speed) = median(facts.steps.iter().map(|s| s.tokens_per_sec)) {
        card(html, "Speed", &grouped(speed.round() as u64), "tokens/s", "median step");
    }
    if let Some(share) = median(facts.steps.iter().filter_map(|s| s.share_of_peak)) {
        card(html, "Share of peak", &format!("{:.0}", 100.0 * share), "%", "of the peak measured here");
    }
    let secs: f64 = facts.steps.iter().map(|s| s.secs).filter(|&s| drawable(s)).sum();
    if secs > 0.0 {
        card(html, "Training time", &human::secs(secs), "", "sum of all steps");
    }
    if let Some(weights) = &facts.weights {
        card(html, "Parameters", &human::count(weights.parameters as f64), "", "");
    }
}

fn held_out_cards(html: &mut Html, facts: &Facts) {
    let names = facts.eval_names();
    if names.is_empty() {
        card(html, "Held-out", "–", "", "not measured yet");
    }
    let carried = names.iter().find(|n| is_carried(n)).and_then(|n| facts.last_eval(n));
    for eval in names.iter().filter_map(|n| facts.last_eval(n)) {
        let name = held_out_label(facts, "Held-out", &eval.name);
        let value = Some(eval.bits_per_byte).filter(|&b| drawable(b)).map_or_else(|| "–".into(), |b| format!("{b:.3}"));
        let mut note = match carried {
            Some(carried) if carried.name != eval.name && carried.step == eval.step => {
                let more = eval.bits_per_byte - carried.bits_per_byte;
                let word = if more < 0.0 { "less" } else { "more" };
                if drawable(more) {
                    format!("{:.3} {word} than {}", more.abs(), eval_label(facts, &carried.name))
                } else {
                    String::new()
                }
            }
            _ => format!("{} bytes, state carried", grouped(eval.bytes)),
        };
        if eval.step != facts.done() {
            note.push_str(&format!(" (after step {})", grouped(eval.step)));
        }
        card(html, &name, &value, "bits per byte", note.trim());
    }
}

fn samples(html: &mut Html, facts: &Facts) {
    let all = &facts.samples;
    if all.is_empty() {
        html.raw("<p class=\"nothing\">The log holds no samples.</p>\n");
        return;
    }
    let count = all.len().min(MAX_SAMPLES);
    if count < all.len() {
        html.element("<p>", &format!("{count} of {} samples, evenly spaced, the last included.", all.len()), "</p>\n");
    }
    let place = |i: usize| if count < 2 { 0 } else { i * (all.len() - 1) / (count - 1) };
    (0..count).for_each(|i| sample(html, &all[place(i)]));
}

fn sample(html: &mut Html, sample: &Sample) {
    html.element("<article class=\"sample\"><h3>After step ", &grouped(sample.step), "</h3>\n<pre tabindex=\"0\">");
    // The parser drops a line break directly after the tag, so one is given for it to drop.
    html.raw("\n");
    if !sample.prompt.is_empty() {
        html.element("<b class=\"prompt\">", &sample.prompt, "</b>");
    }
    html.text(&sample.text).raw("</pre></article>\n");
}

fn config(html: &mut Html, facts: &Facts) {
    let logged = facts.config();
    let (caption, text) = match &facts.run_config {
        Some(text) => (RUN_CONFIG, text.clone()),
        None if logged.is_null() => {
            html.raw("<p class=\"nothing\">Neither the folder nor the log holds the config of the run.</p>\n");
            return;
        }
        None => ("as logged", format!("{logged:#}")),
    };
    html.element(
        "<p>Every setting with its value, defaults included (",
        caption,
        ").</p>\n<pre tabindex=\"0\" class=\"config\">\n",
    );
    html.text(text.trim_end()).raw("</pre>\n");
}

fn machine(html: &mut Html, facts: &Facts) {
    let Some(facts) = facts.runs.last().and_then(|r| r.machine.as_object()).filter(|m| !m.is_empty()) else {
        return;
    };
    html.raw("<h3>Machine</h3>\n<dl class=\"machine\">\n");
    for (name, value) in facts {
        html.element("<div><dt>", &name.replace("_bytes", "").replace('_', " "), "</dt><dd>");
        html.text(&fact(name, value)).raw("</dd></div>\n");
    }
    html.raw("</dl>\n");
}

fn fact(name: &str, value: &Value) -> String {
    match value {
        Value::Number(n) if name.ends_with("_bytes") => n.as_u64().map_or_else(|| n.to_string(), human::bytes),
        Value::String(s) => s.clone(),
        Value::Array(list) => list.iter().map(|v| fact("", v)).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Commands that repeat, continue and use the run: those that work on what lies in its folder.
fn again(html: &mut Html, facts: &Facts) {
    let mut commands: Vec<(&'static str, Vec<String>)> = vec![];
    if facts.run_config.is_some() {
        if facts.end.as_ref().is_none_or(|e| e.reason != "finished") {
            let resume = format!("hecate train --resume {}", shell(&facts.name));
            commands.push(("Go on where it stopped", vec![resume]));
        }
        let config = shell(&format!("{}/{RUN_CONFIG}", facts.name));
        commands.push(("Train the same again, into a new folder", vec![format!("hecate train {config}")]));
    }
    if let Some(weights) = &facts.weights {
        let slash = if weights.place.is_empty() { "" } else { "/" };
        let model = shell(&format!("{}{slash}{}", facts.name, weights.place));
        let eval = |access| format!("hecate eval {model} --access {access}");
        if facts.has_memory() {
            let both = vec![eval("learn"), eval("frozen")];
            commands.push(("Measure the held-out text, the memory writing and frozen", both));
        } else {
            commands.push(("Measure the held-out text", vec![eval("learn")]));
        }
        commands.push(("Let it write", vec![format!("hecate generate {model} --prompt \"Call me\"")]));
    }
    if commands.is_empty() {
        html.raw("<p class=\"nothing\">The folder holds neither the settings of the run nor weights.</p>\n");
        return;
    }
    html.raw("<p>In the folder that holds the run:</p>\n<pre tabindex=\"0\">\n");
    for (i, (comment, lines)) in commands.into_iter().enumerate() {
        html.raw(if i > 0 { "\n" } else { "" }).element("<span class=\"comment\"># ", comment, "</span>\n");
        html.text(&lines.join("\n")).raw("\n");
    }
    html.raw("</pre>\n");
}

/// A path as a shell takes it.
fn shell(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+,=@".contains(c);
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_string() };
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The median of those that are finite; the upper one of two.
fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.filter(|&x| drawable(x)).collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

/// `1,234,567`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let comma = |(i, c): (usize, char)| {
        let point = i > 0 && (digits.len() - i).is_multiple_of(3);
        point.then_some(',').into_iter().chain(std::iter::once(c))
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

/// `2026-01-31 08:05` of seconds since 1970, in UTC and the Gregorian calendar.
fn date(unix_secs: u64) -> String {
    let (days, secs) = (unix_secs / 86_400, unix_secs % 86_400);
    // Counted from 1 March of year 0, a leap day is the last of its year, and of its 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months have 153 days in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = 400 * era + year + next;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", secs / 3600, secs / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let shown = [0, 951_782_399, 951_782_400, 951_868_800, 1_767_225_599, 4_107_542_400].map(date);
        let known = [
            "1970-01-01 00:00",
            "2000-02-28 23:59",
            "2000-02-29 00:00",
            "2000-03-01 00:00",
            "2025-12-31 23:59",
            "2100-03-01 00:00",
        ];
        assert_eq!(shown, known);
    }

    #[test]
    fn numbers_and_paths_are_written_for_people_and_shells() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(["titans-1", "a b", "it's", "-x"].map(shell), ["titans-1", "'a b'", r"'it'\''s'", "./-x"]);
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
