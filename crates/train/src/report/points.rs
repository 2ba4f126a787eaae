//! Fewer points for the same picture, and a smoothed line.

/// Points of one line, by ascending x. A y that is not finite is a gap.
pub(super) type Points = Vec<(f64, f64)>;

/// Largest magnitude that is drawn: sums and differences of such numbers stay finite.
const DRAWABLE: f64 = 1e100;

/// Whether a number can be drawn.
pub(crate) fn drawable(x: f64) -> bool {
    x.abs() < DRAWABLE
}

/// At most `max` points: each of equal stretches of the line gives its lowest and its highest, so that no spike is
/// lost; the first and the last point stay. A stretch without any number gives one gap.
pub(super) fn decimate(points: &[(f64, f64)], max: usize) -> Points {
    let n = points.len();
    if n <= max || n < 3 {
        return points.to_vec();
    }
    let inner = &points[1..n - 1];
    let stretches = (max.max(4) - 2) / 2;
    let mut kept = vec![points[0]];
    for i in 0..stretches {
        let part = &inner[i * inner.len() / stretches..(i + 1) * inner.len() / stretches];
        let numbers = || part.iter().enumerate().filter(|(_, p)| drawable(p.1));
        let by_y = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1.1.total_cmp(&b.1.1);
        match (numbers().min_by(by_y), numbers().max_by(by_y)) {
            (Some((low, _)), Some((high, _))) => {
                kept.push(part[low.min(high)]);
                if low != high {
                    kept.push(part[low.max(high)]);
                }
            }
            _ => kept.extend(part.first()),
        }
    }
    kept.push(points[n - 1]);
    kept
}

/// Running mean over up to `half` points on either side, at no more than `max` of the points.
///
/// Near the start the window shrinks on both sides, so that the steep line there is not bent; near the end it loses
/// its right side only, so that the last noise does not look like news. The means are summed anew at each point: one
/// huge value must not leave its rounding error in all that follow.
pub(super) fn smooth(points: &[(f64, f64)], half: usize, max: usize) -> Points {
    let n = points.len();
    let count = n.min(max.max(2));
    let place = |i: usize| if count < 2 { 0 } else { i * (n - 1) / (count - 1) };
    let mean = |i: usize| {
        let (before, after) = (half.min(i), half.min(i).min(n - 1 - i));
        let numbers: Vec<f64> = points[i - before..=i + after].iter().map(|p| p.1).filter(|&y| drawable(y)).collect();
        if numbers.is_empty() { f64::NAN } else { numbers.iter().sum::<f64>() / numbers.len() as f64 }
    };
    (0..count).map(place).map(|i| (points[i].0, mean(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimation_keeps_extremes_ends_and_order() {
        let mut points: Points = (0..100_000).map(|i| (i as f64, (i % 7) as f64)).collect();
        points[31_234].1 = 1e6;
        points[70_001].1 = -1e6;
        let few = decimate(&points, 1500);
        assert!(few.len() <= 1500 && few.len() > 1000, "{}", few.len());
        for kept in [points[0], points[31_234], points[70_001], points[99_999]] {
            assert!(few.contains(&kept), "{kept:?} was lost");
        }
        assert!(few.windows(2).all(|w| w[0].0 < w[1].0));
        assert_eq!(decimate(&points[..1500], 1500), points[..1500]);
    }

    #[test]
    fn a_long_gap_stays_a_gap() {
        let points: Points = (0..9000).map(|i| (i as f64, if i / 3000 == 1 { f64::NAN } else { 1.0 })).collect();
        let few = decimate(&points, 100);
        assert!(few.len() <= 100);
        assert!(few.iter().any(|p| p.1.is_nan() && p.0 > 3000.0 && p.0 < 6000.0));
        assert!(few.iter().filter(|p| !p.1.is_nan()).count() > 40);
    }

    #[test]
    fn the_smoothed_line_is_a_running_mean_that_does_not_bend_the_start() {
        let line: Points = (0..101).map(|i| (i as f64, 3.0 * i as f64)).collect();
        let near = |(s, p): (&(f64, f64), &(f64, f64))| (s.1 - p.1).abs() < 1e-9 && s.0 == p.0;
        assert!(smooth(&line, 10, 1000).iter().zip(&line).take(91).all(near));
        assert_eq!(smooth(&line, 10, 1000)[100].1, 285.0, "the mean of the last eleven");
        let mut spike = line.clone();
        spike[50].1 = 1e30;
        spike[51].1 = f64::NAN;
        let after = smooth(&spike, 10, 1000);
        assert!((after[70].1 - 210.0).abs() < 1e-9, "the spike does not reach beyond its window: {:?}", after[70]);
        assert_eq!(smooth(&line, 10, 11).len(), 11);
        assert_eq!(smooth(&line[..1], 10, 11), line[..1]);
        assert!(smooth(&[], 10, 11).is_empty());
    }
}
