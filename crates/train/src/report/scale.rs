//! Axes: from numbers to places, with ticks at round numbers.

use super::points::drawable;

/// How numbers lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Evenly.
    Linear,
    /// By their logarithm, with ticks at powers of ten and what lies between them.
    Log,
    /// By their logarithm, with ticks at powers of two.
    PowersOfTwo,
}

/// An axis over a range of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    kind: Kind,
    /// Ends, after the logarithm where there is one; `low < high`.
    low: f64,
    high: f64,
    /// Place in `[0, 1]` and label.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that holds `numbers`, with a share `pad` of its length left free at either end. Numbers that cannot
    /// be drawn are ignored; an axis of nothing is one from 0 to 1 (1 to 10 where logarithmic).
    pub fn over(kind: Kind, numbers: impl Iterator<Item = f64>, pad: f64) -> Self {
        let mapped = numbers.filter_map(|x| map(kind, x));
        let (low, high) = mapped.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // A single number gets room around it, in proportion to its size.
        let room = if high - low > 1e-9 * low.abs().max(high.abs()) {
            pad * (high - low)
        } else if kind == Kind::Linear {
            (0.1 * high.abs()).max(if high == 0.0 { 0.5 } else { 0.0 })
        } else {
            0.5
        };
        // Small positive numbers are seen against zero, and nothing is padded below it.
        let from_zero = kind == Kind::Linear && low >= 0.0 && low - room < 0.25 * high;
        let low = if from_zero { 0.0 } else { low - room };
        let mut axis = Self { kind, low, high: high + room, ticks: vec![] };
        axis.ticks = axis.round_ticks();
        axis
    }

    /// Where a number lies: 0 at the low end, 1 at the high end; `None` where it cannot lie on the axis.
    pub fn place(&self, x: f64) -> Option<f64> {
        map(self.kind, x).map(|x| (x - self.low) / (self.high - self.low))
    }

    /// The kind's name and the ends (after the logarithm), as the page's script reads them.
    pub fn description(&self) -> String {
        let kind = if self.kind == Kind::Linear { "linear" } else { "log" };
        format!("{kind} {:e} {:e}", self.low, self.high)
    }

    fn round_ticks(&self) -> Vec<(f64, String)> {
        let decades = self.high - self.low;
        match self.kind {
            Kind::PowersOfTwo => self.power_ticks(2.0, &[1.0], 12.0),
            Kind::Log if decades > 3.0 => self.power_ticks(10.0, &[1.0], 7.0),
            Kind::Log if decades > 1.2 => self.power_ticks(10.0, &[1.0, 2.0, 5.0], 7.0),
            Kind::Log => self.even_ticks(10_f64.powf(self.low), 10_f64.powf(self.high)),
            Kind::Linear => self.even_ticks(self.low, self.high),
        }
    }

    /// Ticks at multiples of 1, 2 or 5 times a power of ten.
    fn even_ticks(&self, low: f64, high: f64) -> Vec<(f64, String)> {
        let raw = (high - low) / 6.0;
        let ten = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * ten).into_iter().find(|&s| s >= 0.99 * raw).unwrap_or(10.0 * ten);
        let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        let multiples = (0..=20).map(|i| (first + i as f64) * step).take_while(|&x| x <= (last + 0.5) * step);
        multiples.filter_map(|x| Some((self.place(x)?, label(x, step, high.abs().max(low.abs()))))).collect()
    }

    /// Ticks at powers of `base` times `steps`, about `most` of them.
    fn power_ticks(&self, base: f64, steps: &[f64], most: f64) -> Vec<(f64, String)> {
        let unit = base.log10();
        let (first, last) = ((self.low / unit).floor() as i32, (self.high / unit).ceil() as i32);
        let stride = (f64::from(last - first) / most).ceil().max(1.0) as i32;
        let powers = (first..=last).filter(|p| p.rem_euclid(stride) == 0).map(|p| base.powi(p));
        let numbers = powers.flat_map(|p| steps.iter().map(move |s| s * p));
        let places = numbers.filter_map(|x| Some((self.place(x)?, x)));
        let inside = places.filter(|(at, _)| (-1e-9..=1.0 + 1e-9).contains(at));
        // Powers of two are known by their digits.
        let named = |x: f64| if base == 2.0 && (1.0..1e6).contains(&x) { x.to_string() } else { label(x, x, x) };
        inside.map(|(at, x)| (at, named(x))).collect()
    }
}

fn map(kind: Kind, x: f64) -> Option<f64> {
    match kind {
        Kind::Linear => drawable(x).then_some(x),
        Kind::Log | Kind::PowersOfTwo => (drawable(x) && x > 1.0 / 1e100).then(|| x.log10()),
    }
}

/// A tick's label: as many decimals as the step has, and a unit that fits the largest number of the axis.
fn label(x: f64, step: f64, largest: f64) -> String {
    if x.abs() < 1e-9 * step {
        return "0".into();
    }
    if !(1e-4..1e15).contains(&largest) {
        let digits = (x.abs().log10().floor() - step.log10().floor()).clamp(0.0, 9.0) as usize;
        return format!("{x:.digits$e}").replace('-', "−");
    }
    let units = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k"), (0.0, "")];
    let (from, unit) = *units.iter().find(|u| largest >= u.0).unwrap_or(&(0.0, ""));
    let divisor = if from == 1e4 { 1e3 } else { from.max(1.0) };
    let mut decimals = (-(step / divisor).log10().floor()).clamp(0.0, 9.0) as usize;
    // 1.5 k from a step of 0.5 k needs one decimal; a step such as 2.5 would need one more.
    while decimals < 9 && !is_whole(step / divisor * 10_f64.powi(decimals as i32)) {
        decimals += 1;
    }
    format!("{:.decimals$}{unit}", x / divisor).replace('-', "−")
}

fn is_whole(x: f64) -> bool {
    (x - x.round()).abs() < 1e-6 * x.abs().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(kind: Kind, low: f64, high: f64) -> Vec<String> {
        let axis = Axis::over(kind, [low, high].into_iter(), 0.0);
        assert!(axis.ticks.iter().all(|(at, _)| (-1e-6..=1.0 + 1e-6).contains(at)), "{:?}", axis.ticks);
        axis.ticks.into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_are_round_numbers_with_one_unit() {
        assert_eq!(labels(Kind::Linear, 0.0, 2_048_000.0), ["0", "0.5 M", "1.0 M", "1.5 M", "2.0 M"]);
        assert_eq!(labels(Kind::Linear, 0.0, 0.003), ["0", "0.0005", "0.0010", "0.0015", "0.0020", "0.0025", "0.0030"]);
        assert_eq!(labels(Kind::Linear, 0.9712, 0.9871), ["0.975", "0.980", "0.985"]);
        assert_eq!(labels(Kind::Linear, -3.0, 3.0), ["−3", "−2", "−1", "0", "1", "2", "3"]);
        assert_eq!(labels(Kind::Linear, 1.8e-6, 2e-6), ["1.80e−6", "1.85e−6", "1.90e−6", "1.95e−6", "2.00e−6"]);
        assert_eq!(
            labels(Kind::PowersOfTwo, 64.0, 65536.0),
            ["64", "128", "256", "512", "1024", "2048", "4096", "8192", "16384", "32768", "65536"]
        );
        assert_eq!(labels(Kind::PowersOfTwo, 1.0, 256.0), ["1", "2", "4", "8", "16", "32", "64", "128", "256"]);
        assert_eq!(labels(Kind::Log, 0.1, 20.0), ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]);
        assert_eq!(labels(Kind::Log, 2.0, 8.0), ["2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(labels(Kind::Log, 1.0, 1e6).len(), 7);
    }

    #[test]
    fn every_axis_has_a_length_whatever_it_holds() {
        for kind in [Kind::Linear, Kind::Log, Kind::PowersOfTwo] {
            let cases: [&[f64]; 9] = [
                &[],
                &[0.0],
                &[5.0],
                &[-5.0],
                &[f64::NAN],
                &[1e99, -1e99],
                &[1e-300, 1.0],
                &[2.0; 3],
                &[f64::INFINITY],
            ];
            for numbers in cases {
                let axis = Axis::over(kind, numbers.iter().copied(), 0.05);
                assert!(axis.low.is_finite() && axis.low < axis.high && axis.high.is_finite(), "{kind:?} {numbers:?}");
                assert!(axis.ticks.iter().all(|t| t.0.is_finite()), "{kind:?} {numbers:?}");
                assert!(axis.place(f64::NAN).is_none() && axis.place(f64::INFINITY).is_none());
            }
        }
        assert!(Axis::over(Kind::Log, [1.0].into_iter(), 0.0).place(0.0).is_none());
    }
}
