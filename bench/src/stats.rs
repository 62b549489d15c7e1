//! Medians, spreads, and whether something grows.

/// The middle of an unsorted list, and its ends.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => f64::NAN,
            n if n % 2 == 0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        let end = |v: Option<&f64>| v.copied().unwrap_or(f64::NAN);
        Self { median, min: end(values.first()), max: end(values.last()) }
    }
}

/// What a figure does over time.
#[derive(Debug, Clone, Copy)]
pub struct Trend {
    /// The median of its values.
    pub level: f64,
    /// What it would have grown by over the whole time, by the median of the slopes between all pairs of points: a few
    /// points that stand out do not count.
    pub growth: f64,
}

impl Trend {
    /// `points` are times and values.
    pub fn of(points: &[[f64; 2]]) -> Self {
        let slopes = points.iter().enumerate().flat_map(|(n, [t, v])| {
            points[n + 1..].iter().filter(move |[u, _]| u > t).map(move |[u, w]| (w - v) / (u - t))
        });
        let slope = Spread::of(slopes).median;
        let span = points.last().map_or(0.0, |l| l[0]) - points.first().map_or(0.0, |f| f[0]);
        Self { level: Spread::of(points.iter().map(|p| p[1])).median, growth: slope * span }
    }

    /// Flat is what grows by no more than this part of its level, or by no more than this much.
    pub fn is_flat(&self, part: f64, amount: f64) -> bool {
        self.growth <= (part * self.level).max(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_a_middle_and_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 10.0));
    }

    #[test]
    fn what_grows_is_told_from_what_has_peaks() {
        let points = |f: fn(f64) -> f64| (0..100).map(|n| [f64::from(n), f(f64::from(n))]).collect::<Vec<_>>();
        let leak = Trend::of(&points(|t| 100.0 + t));
        assert!((leak.growth - 99.0).abs() < 1e-6 && !leak.is_flat(0.1, 5.0));
        let peaks = Trend::of(&points(|t| if t % 10.0 == 0.0 { 900.0 } else { 100.0 }));
        assert!(peaks.is_flat(0.1, 5.0));
        assert!(Trend::of(&points(|t| 100.0 - t)).is_flat(0.1, 5.0));
    }
}
