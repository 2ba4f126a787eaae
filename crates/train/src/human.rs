//! Numbers for people: counts, bytes and durations in a few characters.

/// `950`, `1.20 k`, `4.80 M`, `3.10 G`.
pub fn count(x: f64) -> String {
    scaled(x, 1000.0, &["", " k", " M", " G", " T"])
}

/// `950 B`, `1.20 KiB`, `4.80 MiB`.
pub fn bytes(x: u64) -> String {
    scaled(x as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// `0.8 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 04 h`; `?` where it is not known.
pub fn secs(x: f64) -> String {
    if !x.is_finite() || x < 0.0 {
        return "?".to_string();
    }
    if x < 9.95 {
        return format!("{x:.1} s");
    }
    let s = x.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3600 % 24),
    }
}

/// Three significant digits above the base, whole numbers below it.
fn scaled(x: f64, base: f64, units: &[&str]) -> String {
    let (mut x, mut unit) = (x, 0);
    // 999.5 of a unit would round to four digits.
    while x.abs() >= base - 0.5 && unit + 1 < units.len() {
        x /= base;
        unit += 1;
    }
    let digits = match x.abs() {
        _ if unit == 0 => 0,
        a if a < 9.995 => 2,
        a if a < 99.95 => 1,
        _ => 0,
    };
    format!("{x:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits_and_a_unit() {
        let shown: Vec<_> = [0.0, 7.0, 999.0, 1000.0, 12_345.0, 999_999.0, 4.8e6, 3.1e15].map(count).into();
        assert_eq!(shown, ["0", "7", "999", "1.00 k", "12.3 k", "1.00 M", "4.80 M", "3100 T"]);
    }

    #[test]
    fn bytes_are_counted_in_powers_of_two() {
        let shown: Vec<_> = [0, 1023, 1024, 1_204_997, 3 << 30].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.15 MiB", "3.00 GiB"]);
    }

    #[test]
    fn durations_keep_two_units() {
        let shown: Vec<_> = [0.04, 9.96, 59.4, 59.6, 200.0, 7500.0, 273_700.0, f64::NAN].map(secs).into();
        assert_eq!(shown, ["0.0 s", "10 s", "59 s", "1 min 00 s", "3 min 20 s", "2 h 05 min", "3 d 04 h", "?"]);
    }
}
