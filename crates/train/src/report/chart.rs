//! Line charts as inline SVG that fit any width: curves are stretched, text and strokes are not.
//!
//! Axes and labels lie at percentages of the chart, the curves in an inner drawing of [`SIDE`] units a side. Colours
//! and dashes are classes of the style sheet, so that both colour schemes and print share one drawing.

use super::html::Html;
use super::points::{Points, decimate, drawable};
use super::scale::{Axis, Kind};

/// Most points of a line.
pub(super) const MAX_POINTS: usize = 1500;
/// Side of the drawing that holds the curves. Coordinates are whole numbers, so no path can hold anything else.
const SIDE: f64 = 10_000.0;
/// Farthest coordinate outside of the drawing.
const FAR: f64 = 1e6;

const COLORS: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];
const DASHES: [&str; 5] = ["d0", "d1", "d2", "d3", "d4"];

/// Colour and dash of a series. Both change from one to the next, so that colour is never the only difference.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    color: &'static str,
    dash: &'static str,
}

impl Style {
    /// The colour of text, without dashes: for the only line of a chart.
    pub const INK: Style = Style { color: "ink", dash: "d0" };

    /// The style of the `i`-th series.
    pub fn nth(i: usize) -> Self {
        Self { color: COLORS[i % COLORS.len()], dash: DASHES[i % DASHES.len()] }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A line.
    Line,
    /// A thin, pale line behind the others.
    Faint,
    /// Dots, joined by a line.
    Dots,
}

/// A line of a chart. Without a name it is left out of the legend and of what is read out.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub name: String,
    pub style: Style,
    pub look: Look,
    pub points: Points,
}

impl Series {
    /// A series of at most `max` points.
    pub fn new(name: &str, style: Style, look: Look, points: &[(f64, f64)], max: usize) -> Self {
        Self { name: name.into(), style, look, points: decimate(points, max.min(MAX_POINTS)) }
    }
}

/// An axis before it knows its numbers.
#[derive(Clone, Debug)]
pub(super) struct AxisSpec {
    pub label: &'static str,
    pub kind: Kind,
    /// Numbers that the axis must hold; where `None`, all of the series.
    pub range: Option<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// Unique on the page.
    pub id: usize,
    pub title: String,
    pub tall: bool,
    pub x: AxisSpec,
    pub y: AxisSpec,
    pub series: Vec<Series>,
    /// Vertical lines: place and label.
    pub marks: Vec<(f64, String)>,
    /// What one sees.
    pub note: Html,
}

impl Chart {
    /// The chart as a `<figure>`; where it has nothing to draw, a sentence in its place.
    pub fn render(&self) -> Html {
        let mut html = Html::default();
        let id = format!("chart-{}", self.id);
        html.raw("<figure class=\"chart\">\n<h3").attribute("id", &format!("{id}-title")).raw(">");
        html.text(&self.title).raw("</h3>\n");
        let numbers = || self.series.iter().flat_map(|s| s.points.iter().copied());
        if numbers().any(|p| drawable(p.0) && drawable(p.1)) {
            let both = |r: (f64, f64)| vec![r.0, r.1].into_iter();
            let ys = self.y.range.map_or_else(|| numbers().map(|p| p.1).collect::<Vec<_>>().into_iter(), both);
            let xs = self.x.range.map_or_else(|| numbers().map(|p| p.0).collect::<Vec<_>>().into_iter(), both);
            let x_pad = if self.x.kind == Kind::Linear { 0.0 } else { 0.02 };
            let (x, y) = (Axis::over(self.x.kind, xs, x_pad), Axis::over(self.y.kind, ys, 0.05));
            self.legend(&mut html);
            if !self.title.eq_ignore_ascii_case(self.y.label) {
                html.element("<p class=\"y-title\" aria-hidden=\"true\">", self.y.label, "</p>\n");
            }
            self.drawing(&mut html, &id, &x, &y);
            html.element("<p class=\"x-title\" aria-hidden=\"true\">", self.x.label, "</p>\n");
        } else {
            html.raw(
                "<p class=\"nothing\">Nothing to draw: the log holds no finite number of this kind.</p>\n</figure>\n",
            );
            return html;
        }
        html.raw("<figcaption>").push(&self.note).raw("</figcaption>\n</figure>\n");
        html
    }

    fn legend(&self, html: &mut Html) {
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if named.len() < 2 {
            return;
        }
        html.raw("<ul class=\"legend\">\n");
        for series in named {
            html.raw("<li><svg width=\"30\" height=\"10\" aria-hidden=\"true\">");
            html.raw("<path class=\"").raw(series.class()).raw(" ").raw(series.style.color).raw(" ");
            html.raw(series.style.dash).raw("\" d=\"M1 5H29\"/>");
            if series.look == Look::Dots {
                html.raw("<path class=\"dots ").raw(series.style.color).raw("\" d=\"M15 5h0\"/>");
            }
            html.raw("</svg>").text(&series.name).raw("</li>\n");
        }
        html.raw("</ul>\n");
    }

    fn drawing(&self, html: &mut Html, id: &str, x: &Axis, y: &Axis) {
        html.raw("<div class=\"plot")
            .raw(if self.tall { " tall" } else { "" })
            .raw("\"><svg class=\"axes\" role=\"img\"");
        html.attribute("aria-labelledby", &format!("{id}-title"));
        html.attribute("aria-describedby", &format!("{id}-description"));
        html.attribute("data-x", &x.description()).attribute("data-y", &y.description());
        html.attribute("data-x-label", self.x.label).raw(">\n<desc");
        html.attribute("id", &format!("{id}-description")).raw(">").text(&self.description()).raw("</desc>\n");
        grid(html, x, y);
        self.marks(html, x);
        html.raw("<svg class=\"curves\" width=\"100%\" height=\"100%\" viewBox=\"0 0 10000 10000\" ");
        html.raw("preserveAspectRatio=\"none\">\n");
        for series in &self.series {
            series.path(html, x, y);
        }
        html.raw("</svg>\n");
        // Dots lie in a drawing of their own that does not cut them at its edge.
        html.raw("<svg class=\"spots\" width=\"100%\" height=\"100%\" viewBox=\"0 0 10000 10000\" ");
        html.raw("preserveAspectRatio=\"none\" aria-hidden=\"true\">\n");
        for series in &self.series {
            series.dots(html, x, y);
        }
        html.raw("</svg>\n</svg></div>\n");
    }

    fn marks(&self, html: &mut Html, x: &Axis) {
        let visible = |at: &f64| (0.0..=1.0).contains(at);
        let marks = self.marks.iter().filter_map(|(at, label)| Some((x.place(*at).filter(visible)?, label)));
        let marks: Vec<(f64, &String)> = marks.collect();
        for (at, _) in &marks {
            let place = percent(*at);
            html.raw("<line class=\"mark\" y1=\"0\" y2=\"100%\"").attribute("x1", &place).attribute("x2", &place);
            html.raw("/>\n");
        }
        // The labels come after all lines, so that none is crossed out by one.
        for (i, (at, label)) in marks.into_iter().enumerate() {
            // Near the right edge a label stands on the left; each is one line below the one before.
            let (anchor, dx) = if at > 0.75 { ("end", "-5") } else { ("start", "5") };
            html.raw("<text class=\"mark\"").attribute("x", &percent(at)).attribute("dx", dx);
            html.attribute("y", &(13 + 15 * (i % 3)).to_string()).attribute("text-anchor", anchor);
            html.raw(">").text(label).raw("</text>\n");
        }
    }

    /// What a person who cannot see the chart is told.
    fn description(&self) -> String {
        let mut parts = vec![format!("{} against {}.", self.y.label, self.x.label)];
        for series in self.series.iter().filter(|s| !s.name.is_empty()) {
            let ys: Vec<f64> = series.points.iter().map(|p| p.1).filter(|&y| drawable(y)).collect();
            if let (Some(&first), Some(&last)) = (ys.first(), ys.last()) {
                let low = ys.iter().copied().fold(f64::INFINITY, f64::min);
                let high = ys.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let [first, last, low, high] = [first, last, low, high].map(brief);
                parts.push(format!("{}: from {first} to {last}, lowest {low}, highest {high}.", series.name));
            }
        }
        parts.join(" ")
    }
}

impl Series {
    fn class(&self) -> &'static str {
        if self.look == Look::Faint { "line faint" } else { "line" }
    }

    fn path(&self, html: &mut Html, x: &Axis, y: &Axis) {
        let mut data = String::new();
        let mut joined = false;
        for at in self.points.iter().map(|&p| place(p, x, y)) {
            if let Some((px, py)) = at {
                data.push_str(&format!("{}{px} {py}", if joined { 'L' } else { 'M' }));
            }
            joined = at.is_some();
        }
        if data.is_empty() {
            return;
        }
        html.raw("<path class=\"")
            .raw(self.class())
            .raw(" ")
            .raw(self.style.color)
            .raw(" ")
            .raw(self.style.dash)
            .raw("\"");
        if !self.name.is_empty() {
            html.attribute("data-name", &self.name);
        }
        html.attribute("d", &data).raw("/>\n");
    }

    /// Every point where the series is one of dots; otherwise the points between two gaps, of which no line is seen.
    /// A dot is a stroke without length, which stays round however the drawing is stretched.
    fn dots(&self, html: &mut Html, x: &Axis, y: &Axis) {
        let places: Vec<Option<(i64, i64)>> = self.points.iter().map(|&p| place(p, x, y)).collect();
        let is_gap = |i: Option<usize>| i.and_then(|i| places.get(i)).is_none_or(Option::is_none);
        let mut data = String::new();
        for (i, &at) in places.iter().enumerate() {
            let Some((px, py)) = at.filter(|&(_, py)| (0..=SIDE as i64).contains(&py)) else { continue };
            let lonely = is_gap(i.checked_sub(1)) && is_gap(Some(i + 1));
            if self.look == Look::Dots || (self.look == Look::Line && lonely) {
                data.push_str(&format!("M{px} {py}h0"));
            }
        }
        if !data.is_empty() {
            html.raw("<path class=\"dots ").raw(self.style.color).raw("\"").attribute("d", &data).raw("/>\n");
        }
    }
}

fn grid(html: &mut Html, x: &Axis, y: &Axis) {
    for (at, label) in &y.ticks {
        let place = percent(1.0 - at);
        html.raw("<line class=\"grid\" x1=\"0\" x2=\"100%\"").attribute("y1", &place).attribute("y2", &place).raw("/>");
        html.raw("<text class=\"tick\" x=\"0\" dx=\"-8\" dy=\"0.32em\" text-anchor=\"end\"").attribute("y", &place);
        html.raw(">").text(label).raw("</text>\n");
    }
    // Where it is narrow, the style sheet leaves out every second label.
    let crowded = x.ticks.len() > 5;
    for (i, (at, label)) in x.ticks.iter().enumerate() {
        let place = percent(*at);
        html.raw("<line class=\"grid\" y1=\"0\" y2=\"100%\"").attribute("x1", &place).attribute("x2", &place).raw("/>");
        html.raw("<text class=\"tick").raw(if crowded && i % 2 == 1 { " second" } else { "" });
        html.raw("\" y=\"100%\" dy=\"1.45em\" text-anchor=\"middle\"").attribute("x", &place);
        html.raw(">").text(label).raw("</text>\n");
    }
    html.raw("<line class=\"base\" x1=\"0\" x2=\"100%\" y1=\"100%\" y2=\"100%\"/>\n");
}

/// A point's place in the drawing of the curves, y downwards; `None` where it cannot be drawn.
fn place(point: (f64, f64), x: &Axis, y: &Axis) -> Option<(i64, i64)> {
    let whole = |at: f64| (SIDE * at).round().clamp(-FAR, FAR) as i64;
    Some((whole(x.place(point.0)?), whole(1.0 - y.place(point.1)?)))
}

fn percent(at: f64) -> String {
    format!("{:.2}%", 100.0 * at)
}

/// A number in about four digits, without zeros at its end.
pub(super) fn brief(x: f64) -> String {
    rounded(x, 4)
}

/// A number in about this many digits, without zeros at its end.
pub(crate) fn rounded(x: f64, digits: usize) -> String {
    let size = x.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-4..1e6).contains(&size) {
        let text = format!("{x:.0$e}", digits - 1);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'));
    }
    let decimals = (digits as f64 - 1.0 - size.log10().floor()).clamp(0.0, 8.0) as usize;
    let text = format!("{x:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').into() }
}

#[cfg(test)]
mod tests {
    use super::brief;

    #[test]
    fn numbers_are_brief() {
        let shown = [0.0, 0.0009, 3e-5, -2.5, 0.98765, 100.0, 123_456.7, 1.5e9].map(brief);
        assert_eq!(shown, ["0", "0.0009", "3e-5", "-2.5", "0.9877", "100", "123457", "1.5e9"]);
    }
}
