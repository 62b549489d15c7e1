//! What a run has found, as it is written to its JSON file and read for the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One run: the machine it ran on, and what was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Seconds since 1970, UTC.
    pub started: u64,
    pub command: String,
    /// Of the tree that was measured; with a plus sign where it had changes.
    pub commit: String,
    pub profile: String,
    /// Processor, kernel, versions.
    pub machine: BTreeMap<String, String>,
    pub scenarios: Vec<Found>,
}

/// What a scenario has found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Found {
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Its sizes.
    pub plan: serde_json::Value,
    pub series: Vec<Series>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
    /// What a reader has to know: contestants that could not take part, clients that were closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A metric of a contestant in a case, one value a round.
#[derive(Debug, Serialize, Deserialize)]
pub struct Series {
    pub contestant: String,
    pub case: String,
    /// The case as a number, for plots.
    pub x: f64,
    pub metric: String,
    pub rounds: Vec<f64>,
}

/// A metric over time.
#[derive(Debug, Serialize, Deserialize)]
pub struct Curve {
    pub contestant: String,
    pub metric: String,
    /// Seconds and value.
    pub points: Vec<[f64; 2]>,
}

/// A case: its name, and its number for plots.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub name: String,
    pub x: f64,
}

impl Case {
    pub fn new(name: impl Into<String>, x: f64) -> Self {
        Self { name: name.into(), x }
    }

    pub fn clients(count: u64) -> Self {
        Self::new(if count == 1 { "1 client".into() } else { format!("{} clients", grouped(count)) }, count as f64)
    }
}

/// `12,345`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Found {
    /// Keeps a round's value.
    pub fn record(&mut self, contestant: &str, case: &Case, metric: &str, value: f64) {
        let same = |s: &&mut Series| s.contestant == contestant && s.case == case.name && s.metric == metric;
        match self.series.iter_mut().find(same) {
            Some(series) => series.rounds.push(value),
            None => self.series.push(Series {
                contestant: contestant.into(),
                case: case.name.clone(),
                x: case.x,
                metric: metric.into(),
                rounds: vec![value],
            }),
        }
    }

    /// Keeps a point of a curve.
    pub fn point(&mut self, contestant: &str, metric: &str, at: f64, value: f64) {
        match self.curves.iter_mut().find(|c| c.contestant == contestant && c.metric == metric) {
            Some(curve) => curve.points.push([at, value]),
            None => self.curves.push(Curve {
                contestant: contestant.into(),
                metric: metric.into(),
                points: vec![[at, value]],
            }),
        }
    }

    /// Keeps a remark, once.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            crate::say(&format!("{}: {text}", self.name));
            self.notes.push(text);
        }
    }

    pub fn rounds(&self, contestant: &str, case: &str, metric: &str) -> Option<&[f64]> {
        let found = self.series.iter().find(|s| s.contestant == contestant && s.case == case && s.metric == metric);
        found.map(|s| s.rounds.as_slice())
    }
}

impl Run {
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Writes what has been found so far.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn write(&self, path: &Path) {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).expect("a directory for the results");
        }
        let text = serde_json::to_string_pretty(self).expect("results are JSON");
        fs::write(path, text + "\n").expect("the results' file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_one_case_stay_together() {
        let (mut found, case) = (Found::default(), Case::clients(1000));
        found.record("a", &case, "p50", 1.0);
        found.record("b", &case, "p50", 2.0);
        found.record("a", &case, "p50", 3.0);
        assert_eq!(case.name, "1,000 clients");
        assert_eq!(found.rounds("a", &case.name, "p50"), Some(&[1.0, 3.0][..]));
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("rte-bench-run-{}.json", std::process::id()));
        let mut run = Run { commit: "abc".into(), ..Run::default() };
        let mut found = Found { name: "x".into(), ..Found::default() };
        found.point("a", "memory", 1.5, 2.0);
        run.scenarios.push(found);
        run.write(&path);
        let read = Run::read(&path).expect("a run");
        std::fs::remove_file(&path).expect("the file");
        assert_eq!((read.commit.as_str(), read.scenarios[0].curves[0].points[0]), ("abc", [1.5, 2.0]));
    }
}
