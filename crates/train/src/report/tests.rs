//! The page of made-up runs: what it must hold, and what must never get into it.

use super::*;
use crate::checkpoint::Checkpoints;
use crate::log::{End, Eval, LogWriter, PositionBin, Record, Run, Sample, Step};
use crate::run_folder::{LOG, MODEL_CONFIG, RUN_CONFIG, WEIGHTS};
use hecate_model::tensorfile::{Encoding, Tensor};
use serde_json::{Value, json};
use std::fs;

/// What a run may call things to break a page.
const HOSTILE: &str = "</pre><script>alert(1)</script><!-- \"'&{{style}} \0\u{1b}[31m";

fn model(memory: bool) -> Value {
    let attention = json!({"heads": 4, "window": 64});
    let mag = json!({"type": "mag", "attention": attention, "memory": {"rule": "titans", "heads": 4}});
    let plain = json!({"type": "attention", "heads": 4, "window": 64});
    let mixer = if memory { mag } else { plain };
    json!({"model_type": "hecate", "width": 128, "context": 256, "blocks": [{"repeat": 4, "mixer": mixer}]})
}

fn run(step: u64, memory: bool) -> Record {
    let config = json!({"train": {"steps": 1000, "clip": 1.0}, "model": model(memory)});
    let machine = json!({"cpu": "a CPU", "memory_bytes": 1 << 30, "instruction_sets": ["avx2", "portable"]});
    Record::Run(Run { step, version: "0.1.0".into(), unix_secs: 951_782_400, config, machine })
}

fn step(step: u64, blocks: usize) -> Record {
    let s = step as f64;
    let kinds = ["retain", "rate", "memory_norm"];
    let traces = (0..blocks).flat_map(|b| kinds.map(|k| (format!("blocks.{b}.{k}"), 0.5 + (s + b as f64).sin() / 4.0)));
    Record::Step(Step {
        step,
        tokens: 2048 * step,
        loss: 1.5,
        bits_per_byte: 2.0 + 6.0 * (-s / 20.0).exp() + (s * 1.7).sin() / 20.0,
        grad_norm: 1.0 + (s * 0.3).cos() / 2.0,
        lr: 1e-3 * (s / 100.0).min(1.0),
        tokens_per_sec: 26_000.0,
        share_of_peak: Some(0.42),
        secs: 0.08,
        traces: traces.collect(),
    })
}

fn eval(step: u64, name: &str, bits_per_byte: f64) -> Record {
    let bin = |end: u64| PositionBin { end, bytes: 10 * end, bits_per_byte: bits_per_byte + 3.0 / end as f64 };
    let by_position = (0..10).map(|i| bin(1 << i)).collect();
    Record::Eval(Eval { step, name: name.into(), bytes: 1000, bits_per_byte, by_position, secs: 1.0 })
}

fn finished() -> Vec<Record> {
    let mut records = vec![run(0, true)];
    records.extend((1..=300).map(|s| step(s, 12)));
    records.extend([eval(300, "learn", 2.125), eval(300, "frozen", 2.375), eval(300, "shuffled", 2.5)]);
    records.push(Record::Sample(Sample { step: 300, prompt: "Call".into(), text: " me Ishmael".into() }));
    records.push(Record::End(End { step: 300, reason: "finished".into(), secs: 40.0 }));
    records
}

/// A run folder named `name` with a log, and the page made from it.
fn page_in(dir: &Path, name: &str, records: &[Record]) -> String {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    let _ = fs::remove_file(folder.join(LOG));
    let mut log = LogWriter::create(&folder.join(LOG)).unwrap();
    records.iter().for_each(|r| log.write(r).unwrap());
    write(&folder).unwrap();
    fs::read_to_string(folder.join(REPORT)).unwrap()
}

fn page(records: &[Record]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let page = page_in(dir.path(), "titans-1", records);
    assert_sound(&page);
    page
}

/// Values of an attribute, in order.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(start.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// What holds for every page: nothing from elsewhere, one script, whole numbers in each path, numbers in each place.
fn assert_sound(page: &str) {
    for word in ["http", "src=", "href=", "url(", "@import", "NaN", "{{"] {
        assert!(!page.contains(word), "the page holds {word}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    for path in attributes(page, "d") {
        assert!(is_path(path), "{path}");
    }
    for name in ["x", "y", "x1", "x2", "y1", "y2"] {
        for value in attributes(page, name) {
            let number: f64 = value.strip_suffix('%').unwrap_or(value).parse().unwrap();
            assert!((-10.0..=110.0).contains(&number), "{name}={value}");
        }
    }
    for axis in attributes(page, "data-x").into_iter().chain(attributes(page, "data-y")) {
        let ends: Vec<f64> = axis.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
        assert!(ends.len() == 2 && ends[0] < ends[1] && ends[1] - ends[0] < f64::INFINITY, "{axis}");
    }
    for tag in ["figure", "section", "svg", "div", "pre", "dl", "ul", "li", "text", "p", "table", "details", "article"]
    {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}> is opened and closed as often");
    }
}

/// `M` or `L` with two whole numbers, or `h` or `H` with one, again and again, beginning with `M`.
fn is_path(path: &str) -> bool {
    let letters = path.find(|c: char| c.is_ascii_alphabetic()) == Some(0) && path.starts_with('M');
    let parts = path.split_inclusive(|c: char| c.is_ascii_alphabetic()).skip(1);
    let numbers: Vec<&str> = parts.map(|p| p.trim_end_matches(|c: char| c.is_ascii_alphabetic())).collect();
    let commands: Vec<char> = path.chars().filter(char::is_ascii_alphabetic).collect();
    let fits = |(c, n): (&char, &&str)| {
        let count = n.split(' ').filter(|n| n.parse::<i64>().is_ok()).count();
        count == n.split(' ').count() && count == if matches!(c, 'M' | 'L') { 2 } else { 1 }
    };
    letters && commands.len() == numbers.len() && commands.iter().zip(&numbers).all(fits)
}

fn names(page: &str) -> Vec<&str> {
    attributes(page, "data-name")
}

#[test]
fn the_check_of_paths_can_fail() {
    assert!(is_path("M1 2L-3 4M5 6h0") && is_path("M1 5H29"));
    for wrong in ["", "L1 2", "M1", "M1 NaN", "M1 2L3", "M1 2.5", "M1 inf", "M1 2h"] {
        assert!(!is_path(wrong), "{wrong}");
    }
}

#[test]
fn a_finished_run_shows_every_series() {
    let page = page(&finished());
    for name in [
        "training, each step",
        "training, running mean",
        "held-out, memory writing",
        "held-out, memory frozen",
        "held-out, shuffled",
        "memory writing",
        "memory frozen",
        "shuffled",
        "learning rate",
        "gradient norm",
    ] {
        assert_eq!(names(&page).iter().filter(|n| **n == name).count(), 1, "{name}");
    }
    let blocks: Vec<&str> = names(&page).into_iter().filter(|n| n.starts_with("block ")).take(12).collect();
    let expected: Vec<String> = (0..12).map(|b| format!("block {b}")).collect();
    assert_eq!(blocks, expected, "in the order of the blocks");
    for title in ["Memory norm", "Gate: retain", "Gate: rate"] {
        assert!(page.contains(&format!(">{title}</h3>")), "{title}");
    }
    for text in [
        "Finished after 300 of 1,000 steps.",
        "4 blocks of mag (titans, window 64), width 128",
        "started 2000-02-29 00:00 UTC",
        ">2.125<",
        "0.250 more than memory writing",
        ">614 k<",
        ">26,000<",
        ">42<",
        ">window 64</text>",
        ">training length 256</text>",
        "a memory that writes saves 0.250 bits per byte",
        "at most 252 bytes back",
        "<b class=\"prompt\">Call</b> me Ishmael</pre>",
        "avx2, portable",
        "1.00 GiB",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn text_of_the_run_cannot_become_markup() {
    let mut records = finished();
    let Record::Step(s) = &mut records[300] else { panic!("a step") };
    s.traces.insert(HOSTILE.into(), 1.0);
    s.traces.insert(format!("blocks.0.{HOSTILE}"), 1.0);
    records.push(eval(300, HOSTILE, 2.0));
    records.push(Record::Sample(Sample { step: 300, prompt: HOSTILE.into(), text: HOSTILE.into() }));
    let Record::Run(mut last) = run(300, true) else { panic!("a run") };
    last.version = HOSTILE.into();
    last.config[HOSTILE] = HOSTILE.into();
    last.machine[HOSTILE] = json!([HOSTILE]);
    records.push(Record::Run(last));
    records.push(Record::End(End { step: 300, reason: HOSTILE.into(), secs: 1.0 }));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a<b>&'\"c");
    fs::create_dir(&folder).unwrap();
    let hostile_model = json!({"blocks": [{"mixer": {"type": HOSTILE, "rule": {"name": HOSTILE}}}], "width": HOSTILE});
    fs::write(folder.join(MODEL_CONFIG), hostile_model.to_string()).unwrap();
    fs::write(folder.join(RUN_CONFIG), HOSTILE).unwrap();
    let page = page_in(dir.path(), "a<b>&'\"c", &records);
    assert_sound(&page.replace("{{style}}", ""));
    assert!(!page.contains("alert(1)</script>") && !page.contains("<!-- ") && !page.contains("a<b>"));
    let escaped = "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;!-- &quot;&#39;&amp;{{style}} \\x00\\x1b[31m";
    assert!(page.matches(escaped).count() >= 12, "{}", page.matches(escaped).count());
    assert!(page.contains("<h1>a&lt;b&gt;&amp;&#39;&quot;c</h1>"));
    assert_eq!(page.matches(":root {").count(), 3, "the style is filled in once");
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let first = page_in(dir.path(), "titans-1", &finished());
    assert_eq!(first, page_in(dir.path(), "titans-1", &finished()));
    let left: Vec<_> = fs::read_dir(dir.path().join("titans-1")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn runs_that_have_hardly_begun_have_a_page() {
    let nothing = page(&[]);
    assert!(nothing.contains("The log holds no step yet.") && nothing.contains("not measured yet"));
    assert!(nothing.contains("neither the settings of the run nor weights"));
    assert!(names(&nothing).is_empty());
    assert!(page(&[run(0, true)]).contains("The log holds no step yet."));
    let one = page(&[run(0, true), step(1, 2)]);
    assert!(one.contains("The log ends after 1 of 1,000 steps; it does not say why"));
    assert!(one.contains("The loss of the only step is") && one.contains("class=\"dots ink\""));
    assert!(names(&one).contains(&"block 1"));
    assert!(page(&[run(0, true), step(1, 2), eval(1, "learn", 3.0)]).contains("held-out, memory writing"));
}

#[test]
fn a_resumed_run_shows_each_step_once() {
    let mut records = vec![run(0, true)];
    records.extend((1..=50).map(|s| step(s, 0)));
    records.extend([eval(50, "learn", 9.5), eval(40, "learn", 4.0), eval(40, "learn", 3.5)]);
    records.push(Record::Sample(Sample { step: 50, prompt: String::new(), text: "undone".into() }));
    records.push(Record::End(End { step: 50, reason: "interrupted".into(), secs: 1.0 }));
    let stopped = page(&records);
    assert!(stopped.contains("Interrupted after 50 of 1,000 steps; it can be resumed."));
    assert!(stopped.contains("undone"));
    records.push(run(40, true));
    records.extend((41..=45).map(|s| step(s, 0)));
    let page = page(&records);
    assert!(page.contains("The log ends after 45 of 1,000 steps") && page.contains("Resumed after step 40."));
    assert!(page.contains(">3.500<") && page.contains("(after step 40)"));
    assert!(!page.contains("9.500") && !page.contains("4.000") && !page.contains("undone"));
}

#[test]
fn numbers_that_are_not_finite_leave_gaps_and_are_counted() {
    let mut records = finished();
    for (i, record) in records.iter_mut().enumerate() {
        match record {
            Record::Step(s) if (100..110).contains(&i) => {
                (s.bits_per_byte, s.grad_norm, s.lr, s.secs) = (f64::NAN, f64::INFINITY, f64::NAN, f64::NAN);
                (s.tokens_per_sec, s.share_of_peak) = (f64::NAN, None);
                s.traces.values_mut().for_each(|v| *v = f64::NAN);
            }
            Record::Step(s) if i == 150 => (s.bits_per_byte, s.grad_norm) = (1e300, 1e38),
            Record::Eval(e) => (e.bits_per_byte, e.by_position[2].bits_per_byte) = (f64::NAN, f64::NAN),
            _ => {}
        }
    }
    let page = page(&records);
    assert!(page.contains("11 values were not finite; the line has gaps there."), "one is too large to be drawn");
    assert!(page.contains("10 values were not finite; the line has gaps there."));
    let raw = page.split("data-name=\"training, each step\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(raw.matches('M').count(), 3, "two gaps make three pieces");
}

#[test]
fn a_very_long_log_becomes_a_page_of_bounded_size() {
    let mut records = vec![run(0, true)];
    records.extend((1..=30_000).map(|s| step(s, 1)));
    records.extend((1..=40).map(|s| Record::Sample(Sample { step: 750 * s, ..Sample::default() })));
    let page = page(&records);
    for path in attributes(&page, "d") {
        assert!(path.matches(['M', 'L']).count() <= 1500);
    }
    assert!(page.len() < 400_000, "{}", page.len());
    assert!(page.contains("12 of 40 samples") && page.contains("After step 30,000<"));
}

#[test]
fn a_model_without_memory_is_not_credited_with_one() {
    let mut records = vec![run(0, false)];
    records.extend((1..=30).map(|s| step(s, 0)));
    records.push(eval(30, "learn", 2.5));
    let page = page(&records);
    assert!(!page.contains("memory writing") && !page.contains("frozen") && !page.contains("Inside the memories"));
    assert!(page.contains(">Held-out</dt>") && page.contains(">By position</h2>"));
    assert!(page.contains("Beyond the attention window of 64 the mean is"));
}

#[test]
fn a_memory_that_costs_is_said_to_cost() {
    let records = [run(0, true), step(1, 0), eval(1, "learn", 2.5), eval(1, "frozen", 2.25)];
    let page = page(&records);
    assert!(page.contains("a memory that writes costs 0.250 bits per byte") && page.contains("0.250 less than"));
}

#[test]
fn commands_name_only_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("my run");
    let records = [run(0, true), step(1, 0)];
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(RUN_CONFIG), "seed = 0\n").unwrap();
    let page = page_in(dir.path(), "my run", &records);
    assert!(page.contains("hecate train --resume &#39;my run&#39;\n") && page.contains("seed = 0</pre>"));
    assert!(page.contains("hecate train &#39;my run/run.toml&#39;\n") && !page.contains("hecate eval"));

    let weights = vec![Tensor::f32("a", &[2, 3], &[0.0; 6]), Tensor::f32("b", &[4], &[0.0; 4])];
    let bytes = Encoding::new("weights", weights, &Default::default()).unwrap().to_vec();
    let checkpoints = Checkpoints::open(&folder.join("checkpoints")).unwrap();
    let mut writer = checkpoints.begin(1).unwrap();
    writer.file(WEIGHTS, &bytes).unwrap();
    writer.finish().unwrap();
    let page = page_in(dir.path(), "my run", &records);
    assert!(page.contains("hecate eval &#39;my run/checkpoints/step-1&#39; --access frozen\n"));
    assert!(page.contains("<dt>Parameters</dt><dd><span class=\"value\">10</span>"));

    fs::write(folder.join(WEIGHTS), &bytes).unwrap();
    let page = page_in(dir.path(), "my run", &records);
    assert!(page.contains("hecate generate &#39;my run&#39; --prompt &quot;Call me&quot;\n"));
}

#[test]
fn files_that_are_missing_or_broken_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let line = write(dir.path()).unwrap_err().to_string();
    assert!(line.starts_with("cannot read ") && line.contains(LOG), "{line}");
    fs::write(dir.path().join(LOG), "{}\n").unwrap();
    assert!(matches!(write(dir.path()), Err(crate::Error::Log { line: 1, .. })));
    fs::write(dir.path().join(LOG), "").unwrap();
    fs::write(dir.path().join(MODEL_CONFIG), "{").unwrap();
    let line = write(dir.path()).unwrap_err().to_string();
    assert!(line.contains(MODEL_CONFIG), "{line}");
    assert!(!dir.path().join(REPORT).exists());
}
