//! Figures of experiments: one SVG that needs nothing else, with panels side by side and the caption below.
//!
//! Axes, ticks and escaping are those of a run's report. A figure has its own page colour, so that it can be read on
//! any background, and a fixed width, so that it can stand in a document.

use super::outcome::{highest, lowest, mean};
use crate::report::{Axis, Html, Kind, drawable};

/// Width of the drawing.
const WIDTH: f64 = 960.0;
/// Free space around everything.
const MARGIN: f64 = 24.0;
/// Height of the inside of a line panel.
const HEIGHT: f64 = 250.0;
/// Distance of the dots of two groups in a row of a row panel.
const DOT: f64 = 8.0;
/// Line height of running text.
const LINE: f64 = 18.0;
/// Width of a letter of running text, in the middle of what fonts have.
const LETTER: f64 = 6.9;

const COLORS: [&str; 7] = ["#0068a8", "#c65102", "#008560", "#a8478a", "#9a6b00", "#6f7680", "#1d1f23"];
const DASHES: [&str; 5] = ["", "7 4", "2 3", "10 3 2 3", "5 2"];
const STYLE: &str = "text{font:13px system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1d1f23}\
    .title{font-size:17px;font-weight:600}.panel{font-size:14px;font-weight:600}.soft{fill:#5b6068}\
    .tick{font-size:12px;fill:#5b6068}.grid{stroke:#ebe9e5}.base{stroke:#b9b6b0}.line{fill:none;stroke-width:2;\
    stroke-linejoin:round}.seed{opacity:.35}";

/// An axis before it knows its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    label: &'static str,
    kind: Kind,
}

impl Scale {
    /// Evenly spaced numbers.
    pub fn linear(label: &'static str) -> Self {
        Self { label, kind: Kind::Linear }
    }
    /// Numbers by their logarithm; what is not positive is left out.
    pub fn log(label: &'static str) -> Self {
        Self { label, kind: Kind::Log }
    }
    /// Powers of two.
    pub fn doubling(label: &'static str) -> Self {
        Self { label, kind: Kind::PowersOfTwo }
    }
}

/// A line: at each x the numbers of all seeds. The line is their mean, the band from the lowest to the highest.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    name: String,
    points: Vec<(f64, Vec<f64>)>,
}

impl Series {
    pub fn new(name: impl Into<String>, points: Vec<(f64, Vec<f64>)>) -> Self {
        Self { name: name.into(), points }
    }
}

/// A part of a figure.
#[derive(Clone, Debug)]
enum Body {
    Lines {
        x: Scale,
        y: Scale,
        series: Vec<Series>,
    },
    /// Named rows of dots along one axis, one colour per group.
    Rows {
        x: Scale,
        groups: Vec<String>,
        rows: Vec<(String, Vec<Vec<f64>>)>,
    },
}

/// One drawing of a figure.
#[derive(Clone, Debug)]
struct Panel {
    title: String,
    body: Body,
}

/// The picture of an experiment.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    panels: Vec<Panel>,
}

impl Figure {
    /// Adds a panel of lines.
    pub(crate) fn lines(mut self, title: impl Into<String>, x: Scale, y: Scale, series: Vec<Series>) -> Self {
        self.panels.push(Panel { title: title.into(), body: Body::Lines { x, y, series } });
        self
    }

    /// Adds a panel of rows: each has a name, and for each group the numbers of all seeds.
    pub(crate) fn rows(
        mut self,
        title: impl Into<String>,
        x: Scale,
        groups: &[&str],
        rows: Vec<(String, Vec<Vec<f64>>)>,
    ) -> Self {
        let groups = groups.iter().map(|g| g.to_string()).collect();
        self.panels.push(Panel { title: title.into(), body: Body::Rows { x, groups, rows } });
        self
    }

    /// The whole file.
    pub fn svg(&self, title: &str, caption: &str) -> String {
        let mut body = Html::default();
        let mut y = MARGIN;
        y = paragraph(&mut body, "title", title, MARGIN, y, WIDTH - 2.0 * MARGIN, 8.6, 23.0) + 10.0;
        for pair in self.panels.chunks(2) {
            let width = (WIDTH - 2.0 * MARGIN - 30.0 * (pair.len() - 1) as f64) / pair.len() as f64;
            let left = |i: usize| MARGIN + i as f64 * (width + 30.0);
            // Drawings side by side begin at the same height, whatever is above them.
            let heads = pair.iter().enumerate().map(|(i, panel)| panel.head(&mut body, left(i), y, width));
            let top = heads.fold(y, f64::max);
            let ends = pair.iter().enumerate().map(|(i, panel)| panel.draw(&mut body, left(i), top, width));
            let bottom = ends.fold(top, f64::max);
            y = bottom + 14.0;
        }
        let caption = caption.replace('`', "");
        y = paragraph(&mut body, "soft", &caption, MARGIN, y, WIDTH - 2.0 * MARGIN, LETTER, LINE) + MARGIN;
        let mut svg = Html::default();
        svg.raw("<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\"");
        svg.attribute("viewBox", &format!("0 0 {WIDTH} {y:.0}")).attribute("width", &WIDTH.to_string());
        svg.attribute("height", &format!("{y:.0}")).raw(">\n").element("<title>", title, "</title>\n");
        svg.raw("<style>").raw(STYLE).raw("</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
        svg.push(&body).raw("</svg>\n");
        svg.into_string()
    }
}

impl Panel {
    /// Title and legend, from a place on; gives where they end.
    fn head(&self, svg: &mut Html, left: f64, top: f64, width: f64) -> f64 {
        let y = paragraph(svg, "panel", &self.title, left, top, width, 7.4, 19.0);
        match &self.body {
            Body::Lines { series, .. } => {
                let names: Vec<&str> = series.iter().map(|s| &s.name[..]).collect();
                legend(svg, &names, true, left, y, width)
            }
            Body::Rows { groups, .. } => {
                let names: Vec<&str> = groups.iter().map(|g| &g[..]).collect();
                legend(svg, &names, false, left, y, width)
            }
        }
    }

    /// The drawing below; gives where it ends.
    fn draw(&self, svg: &mut Html, left: f64, top: f64, width: f64) -> f64 {
        match &self.body {
            Body::Lines { x, y, series } => lines(svg, *x, *y, series, left, top, width),
            Body::Rows { x, rows, .. } => dots(svg, *x, rows, left, top, width),
        }
    }
}

fn lines(svg: &mut Html, sx: Scale, sy: Scale, series: &[Series], left: f64, top: f64, width: f64) -> f64 {
    let all = || series.iter().flat_map(|s| &s.points);
    let x = Axis::over(sx.kind, all().map(|p| p.0), 0.02);
    let y = Axis::over(sy.kind, all().flat_map(|p| p.1.iter().copied()), 0.05);
    text(svg, "soft", sy.label, left, top + 12.0, "start");
    let widest = y.ticks.iter().map(|t| t.1.chars().count()).max().unwrap_or(0) as f64;
    let (l, t) = (left + 14.0 + 6.6 * widest, top + 24.0);
    let (w, h) = (width - (l - left) - 8.0, HEIGHT);
    for (at, label) in &y.ticks {
        let py = t + h * (1.0 - at);
        rule(svg, "grid", (l, py), (l + w, py));
        text(svg, "tick", label, l - 8.0, py + 4.0, "end");
    }
    x_axis(svg, &x, sx.label, (l, t), (w, h));
    let place = |px: f64, py: f64| Some((l + w * x.place(px)?, t + h * (1.0 - y.place(py)?)));
    for (i, s) in series.iter().enumerate() {
        band(svg, s, COLORS[i % COLORS.len()], &place);
    }
    for (i, s) in series.iter().enumerate() {
        line(svg, s, i, &place);
    }
    t + h + 44.0
}

/// The stretch between the lowest and the highest of all seeds.
fn band(svg: &mut Html, s: &Series, color: &'static str, place: &dyn Fn(f64, f64) -> Option<(f64, f64)>) {
    if s.points.iter().all(|p| p.1.len() < 2) {
        return;
    }
    let edge = |of: fn(&[f64]) -> f64| s.points.iter().filter_map(move |p| place(p.0, of(&p.1))).collect::<Vec<_>>();
    let (low, high) = (edge(lowest), edge(highest));
    if low.len() != high.len() || low.is_empty() {
        return;
    }
    let corners = low.iter().chain(high.iter().rev()).map(|(x, y)| format!("{x:.1},{y:.1}"));
    svg.raw("<polygon opacity=\".15\"").attribute("fill", color);
    svg.attribute("points", &corners.collect::<Vec<_>>().join(" ")).raw("/>\n");
}

fn line(svg: &mut Html, s: &Series, i: usize, place: &dyn Fn(f64, f64) -> Option<(f64, f64)>) {
    let color = COLORS[i % COLORS.len()];
    let places: Vec<_> = s.points.iter().map(|p| place(p.0, mean(&p.1))).collect();
    let mut data = String::new();
    let mut joined = false;
    for at in &places {
        if let Some((x, y)) = at {
            data += &format!("{}{x:.1} {y:.1}", if joined { 'L' } else { 'M' });
        }
        joined = at.is_some();
    }
    svg.raw("<path class=\"line\"").attribute("stroke", color).attribute("stroke-dasharray", DASHES[i % DASHES.len()]);
    svg.attribute("d", &data).raw("/>\n");
    // Dots on every point of a long line would hide it.
    if places.len() <= 40 {
        for (x, y) in places.into_iter().flatten() {
            dot(svg, "", (x, y), 3.0, color);
        }
    }
}

fn dots(svg: &mut Html, sx: Scale, rows: &[(String, Vec<Vec<f64>>)], left: f64, top: f64, width: f64) -> f64 {
    let numbers = rows.iter().flat_map(|r| r.1.iter().flatten().copied());
    let x = Axis::over(sx.kind, numbers, 0.04);
    let longest = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0) as f64;
    let names = (LETTER * longest + 16.0).min(0.5 * width);
    let (l, t) = (left + names, top + 8.0);
    let groups = rows.iter().map(|r| r.1.len()).max().unwrap_or(1) as f64;
    let step = 18.0 + DOT * (groups - 1.0).max(1.0);
    let (w, h) = (width - names - 8.0, step * rows.len() as f64);
    x_axis(svg, &x, sx.label, (l, t), (w, h));
    for (r, (name, groups)) in rows.iter().enumerate() {
        let middle = t + step * (r as f64 + 0.5);
        rule(svg, "grid", (l, middle), (l + w, middle));
        text(svg, "", name, l - 10.0, middle + 4.5, "end");
        for (g, numbers) in groups.iter().enumerate() {
            // Groups of one row lie a little apart, so that equal numbers can be told.
            let py = middle + DOT * (g as f64 - 0.5 * (groups.len() - 1) as f64);
            let color = COLORS[g % COLORS.len()];
            for px in numbers.iter().filter_map(|&n| x.place(n)).filter(|_| numbers.len() > 1) {
                dot(svg, "seed", (l + w * px, py), 3.0, color);
            }
            let centre = mean(numbers);
            match x.place(centre).filter(|_| drawable(centre)) {
                Some(px) => dot(svg, "", (l + w * px, py), 4.5, color),
                None => text(svg, "tick", "overflow", l + w, py + 4.0, "end"),
            }
        }
    }
    t + h + 44.0
}

/// Ticks and label of a horizontal axis below a drawing of that corner and size.
fn x_axis(svg: &mut Html, x: &Axis, label: &str, (l, t): (f64, f64), (w, h): (f64, f64)) {
    let widest = x.ticks.iter().map(|t| t.1.chars().count()).max().unwrap_or(1) as f64;
    let every = (1.0 + x.ticks.len() as f64 * (6.6 * widest + 12.0) / w) as usize;
    for (i, (at, name)) in x.ticks.iter().enumerate() {
        let px = l + w * at;
        rule(svg, "grid", (px, t), (px, t + h));
        if i % every == 0 {
            text(svg, "tick", name, px, t + h + 17.0, "middle");
        }
    }
    rule(svg, "base", (l, t + h), (l + w, t + h));
    text(svg, "soft", label, l + 0.5 * w, t + h + 36.0, "middle");
}

/// What the colours mean; nothing where there is one. Gives where it ends.
fn legend(svg: &mut Html, names: &[&str], lines: bool, left: f64, top: f64, width: f64) -> f64 {
    if names.len() < 2 {
        return top + 4.0;
    }
    let (mut x, mut y) = (left, top);
    for (i, name) in names.iter().enumerate() {
        let need = 34.0 + 7.4 * name.chars().count() as f64 + 14.0;
        if x > left && x + need > left + width {
            (x, y) = (left, y + LINE);
        }
        let color = COLORS[i % COLORS.len()];
        if lines {
            svg.raw("<path class=\"line\"").attribute("stroke", color);
            svg.attribute("stroke-dasharray", DASHES[i % DASHES.len()]);
            svg.attribute("d", &format!("M{x:.1} {:.1}h26", y + 10.0)).raw("/>\n");
        } else {
            dot(svg, "", (x + 18.0, y + 10.0), 4.5, color);
        }
        text(svg, "", name, x + 32.0, y + 14.5, "start");
        x += need;
    }
    y + LINE + 8.0
}

fn dot(svg: &mut Html, class: &'static str, (x, y): (f64, f64), radius: f64, color: &'static str) {
    svg.raw("<circle").attribute("class", class).attribute("cx", &format!("{x:.1}"));
    svg.attribute("cy", &format!("{y:.1}")).attribute("r", &radius.to_string()).attribute("fill", color).raw("/>\n");
}

fn rule(svg: &mut Html, class: &'static str, from: (f64, f64), to: (f64, f64)) {
    svg.raw("<line").attribute("class", class).attribute("x1", &format!("{:.1}", from.0));
    svg.attribute("y1", &format!("{:.1}", from.1)).attribute("x2", &format!("{:.1}", to.0));
    svg.attribute("y2", &format!("{:.1}", to.1)).raw("/>\n");
}

fn text(svg: &mut Html, class: &'static str, words: &str, x: f64, y: f64, anchor: &'static str) {
    svg.raw("<text").attribute("class", class).attribute("x", &format!("{x:.1}")).attribute("y", &format!("{y:.1}"));
    svg.attribute("text-anchor", anchor).raw(">").text(words).raw("</text>\n");
}

/// Words in lines no longer than `width`; gives where they end.
fn paragraph(
    svg: &mut Html,
    class: &'static str,
    words: &str,
    x: f64,
    top: f64,
    width: f64,
    letter: f64,
    line: f64,
) -> f64 {
    let most = (width / letter) as usize;
    let mut y = top;
    let mut row = String::new();
    for word in words.split_whitespace() {
        if !row.is_empty() && row.chars().count() + 1 + word.chars().count() > most {
            y += line;
            text(svg, class, &std::mem::take(&mut row), x, y, "start");
        }
        if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    y += line;
    text(svg, class, &row, x, y, "start");
    y + 0.4 * line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_closed_escaped_and_holds_no_number_that_is_none() {
        let points = vec![(1.0, vec![1.0, 2.0]), (2.0, vec![f64::INFINITY, 1.0]), (4.0, vec![3.0, 5.0])];
        let figure = Figure::default()
            .lines("a < b", Scale::doubling("n"), Scale::log("error"), vec![Series::new("one & two", points)])
            .rows("rows", Scale::linear("x"), &["a", "b"], vec![("r".into(), vec![vec![1.0, 2.0], vec![f64::NAN]])]);
        let svg = figure.svg("Does a < b?", &"words ".repeat(100));
        assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("overflow"), "a mean that is no number is said to be none");
    }

    #[test]
    fn an_empty_figure_is_a_page_with_words() {
        assert!(Figure::default().svg("Nothing?", "Nothing.").contains("Nothing."));
    }
}
