//! A scenario's table: a row for each contestant in each case, a column for each metric that was measured.

use super::Part;
use crate::contestant::label;
use crate::plan::Metric;
use crate::results::{Found, Series, grouped};
use crate::stats::Spread;

/// The rounds of a metric, or of its ratio to another contestant's, round by round: what slows the machine for a while
/// slows both.
pub fn rounds(found: &Found, metric: &Metric, contestant: &str, case: &str) -> Option<Vec<f64>> {
    let of = metric.of.as_deref().unwrap_or(&metric.name);
    let mine = found.rounds(contestant, case, of)?;
    match &metric.against {
        None => Some(mine.to_vec()),
        Some(base) => Some(mine.iter().zip(found.rounds(base, case, of)?).map(|(mine, base)| mine / base).collect()),
    }
}

/// As many digits as the metric has, and commas in large numbers.
pub fn figure(value: f64, digits: usize) -> String {
    if digits > 0 || value.abs() < 10_000.0 { format!("{value:.digits$}") } else { grouped(value.round() as u64) }
}

fn cell(rounds: &[f64], digits: usize) -> String {
    let spread = Spread::of(rounds.iter().copied());
    let figure = |value| figure(value, digits);
    match rounds.len() {
        0 => "–".into(),
        1 => figure(spread.median),
        _ => format!("{} ({}–{})", figure(spread.median), figure(spread.min), figure(spread.max)),
    }
}

/// The cases in the order in which they were measured.
pub fn cases(found: &Found) -> Vec<&str> {
    distinct(found, |s| &s.case)
}

pub fn contestants(found: &Found) -> Vec<&str> {
    distinct(found, |s| &s.contestant)
}

fn distinct(found: &Found, name: impl Fn(&Series) -> &String) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for series in &found.series {
        // Borrowed from what was found, which outlives this.
        let name = found.series.iter().map(&name).find(|n| *n == name(series)).map_or("", String::as_str);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The table as Markdown, and the notes below it.
pub fn of(part: &Part) -> String {
    let found = part.found;
    let measured = |m: &&Metric| found.series.iter().any(|s| s.metric == *m.of.as_ref().unwrap_or(&m.name));
    let columns: Vec<&Metric> = part.scenario.metrics.iter().filter(measured).collect();
    let mut text = format!("|  |  | {} |\n", columns.iter().map(|m| m.label.as_str()).collect::<Vec<_>>().join(" | "));
    text += &format!("|---|---|{}\n", "---:|".repeat(columns.len()));
    for case in cases(found) {
        for contestant in contestants(found) {
            let cells: Vec<Option<Vec<f64>>> = columns.iter().map(|m| rounds(found, m, contestant, case)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let cells: Vec<String> =
                cells.iter().zip(&columns).map(|(r, m)| cell(r.as_deref().unwrap_or_default(), m.digits)).collect();
            text += &format!("| {case} | {} | {} |\n", label(contestant), cells.join(" | "));
        }
    }
    if !found.notes.is_empty() {
        text += "\n";
        found.notes.iter().for_each(|note| text += &format!("- {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Case;

    #[test]
    fn a_ratio_is_made_round_by_round() {
        let (mut found, case) = (Found::default(), Case::clients(8));
        for (mine, bare) in [(50.0, 100.0), (90.0, 100.0), (80.0, 200.0)] {
            found.record("bare", &case, "tps", bare);
            found.record("trigger", &case, "tps", mine);
        }
        let metric = Metric {
            name: "ratio".into(),
            label: "part of bare".into(),
            digits: 2,
            against: Some("bare".into()),
            of: Some("tps".into()),
            higher_is_better: true,
        };
        assert_eq!(rounds(&found, &metric, "trigger", "8 clients"), Some(vec![0.5, 0.9, 0.4]));
        assert_eq!(rounds(&found, &metric, "nobody", "8 clients"), None);
        assert_eq!(cell(&[0.5, 0.9, 0.4], 2), "0.50 (0.40–0.90)");
        assert_eq!(cell(&[1_234_567.0], 0), "1,234,567");
    }
}
