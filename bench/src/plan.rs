//! Scenarios as files: what is measured, in which sizes, which columns and plots come of it, and which goals it is held
//! against. A scenario's code reads its own sizes from here; what it measures it records by the names of `metric`s.

use std::fs;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::options::{Options, Profile, bench_dir};

/// A file of bench/scenarios.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// Place among the others in a run and in the report.
    pub order: u32,
    pub title: String,
    /// What is measured, in a sentence or two.
    pub measures: String,
    /// Which code of src/scenario runs it.
    pub kind: String,
    /// Runs only if it is asked for by name, because it takes long.
    #[serde(default)]
    pub on_demand: bool,
    /// The sizes, and what other profiles have in their place.
    plan: Table,
    #[serde(default)]
    publish: Table,
    #[serde(default)]
    quick: Table,
    #[serde(default, rename = "metric")]
    pub metrics: Vec<Metric>,
    #[serde(default, rename = "goal")]
    pub goals: Vec<Goal>,
    #[serde(default, rename = "plot")]
    pub plots: Vec<Plot>,
}

/// A column.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    pub name: String,
    pub label: String,
    #[serde(default)]
    pub digits: usize,
    /// Not measured itself: the metric `of` divided by the same of this contestant, round by round.
    pub against: Option<String>,
    pub of: Option<String>,
    #[serde(default)]
    pub higher_is_better: bool,
}

/// What a median is held against.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    pub metric: String,
    pub contestants: Vec<String>,
    /// Cases that it holds for; all where there is none.
    #[serde(default)]
    pub cases: Vec<String>,
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
    /// Best of these contestants' medians, which must not be better.
    #[serde(default)]
    pub not_worse_than: Vec<String>,
    /// The highest of the contestant's cases is at most so many times the lowest.
    pub flat: Option<f64>,
}

/// A picture of one metric over the cases, or over time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// Of docs/images/bench-<file>.svg.
    pub file: String,
    pub metric: String,
    pub title: String,
    pub x: String,
    pub y: String,
    #[serde(default)]
    pub log_x: bool,
    #[serde(default)]
    pub log_y: bool,
    /// Points that were recorded over time, in place of medians over cases.
    #[serde(default)]
    pub curve: bool,
    /// Only cases whose name begins so.
    #[serde(default)]
    pub cases: String,
}

/// All scenarios, in their order.
pub fn load() -> Vec<Scenario> {
    let directory = bench_dir().join("scenarios");
    let files = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut all: Vec<Scenario> = files
        .filter_map(|file| {
            let path = file.ok()?.path();
            (path.extension()? == "toml").then_some(path)
        })
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let mut scenario: Scenario = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            scenario
        })
        .collect();
    all.sort_by_key(|s| s.order);
    all
}

impl Scenario {
    /// The sizes for these options, as the scenario's code wants them.
    ///
    /// # Errors
    /// What is missing or unknown.
    pub fn sizes<T: DeserializeOwned>(&self, options: &Options) -> Result<T, String> {
        Value::Table(self.table(options)).try_into().map_err(|e: toml::de::Error| format!("{}: {e}", self.name))
    }

    /// The same, as it is written down with the results.
    pub fn table(&self, options: &Options) -> Table {
        let mut table = self.plan.clone();
        let over = match options.profile {
            Profile::Full => Table::new(),
            Profile::Publish => self.publish.clone(),
            Profile::Quick => self.quick.clone(),
        };
        table.extend(over);
        for (name, asked) in [("seconds", options.seconds), ("rounds", options.rounds)] {
            if let (true, Some(asked)) = (table.contains_key(name), asked) {
                table.insert(name.into(), Value::Integer(asked as i64));
            }
        }
        if let (Some(Value::Array(all)), Some(asked)) = (table.get_mut("contestants"), &options.contestants) {
            let base = self.metrics.iter().filter_map(|m| m.against.as_deref());
            let kept: Vec<&str> = asked.iter().map(String::as_str).chain(base).collect();
            all.retain(|c| c.as_str().is_some_and(|c| kept.contains(&c)));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_sizes_that_its_code_takes_in_every_profile() {
        let all = load();
        assert!(all.len() >= 10, "{} scenarios", all.len());
        for scenario in &all {
            for profile in [Profile::Full, Profile::Publish, Profile::Quick] {
                let options = Options { profile, ..Options::default() };
                crate::scenario::check(scenario, &options).unwrap_or_else(|e| panic!("{profile:?}: {e}"));
            }
        }
    }

    #[test]
    fn columns_plots_and_goals_speak_of_metrics_that_there_are() {
        for scenario in load() {
            let known: Vec<&str> = scenario.metrics.iter().map(|m| m.name.as_str()).collect();
            let goals = scenario.goals.iter().map(|g| &g.metric);
            let of = scenario.metrics.iter().filter_map(|m| m.of.as_ref());
            for name in goals.chain(of).chain(scenario.plots.iter().filter(|p| !p.curve).map(|p| &p.metric)) {
                assert!(known.contains(&name.as_str()), "{}: there is no metric {name}", scenario.name);
            }
        }
    }

    #[test]
    fn what_the_command_line_says_counts_over_the_file() {
        let all = load();
        let latency = all.iter().find(|s| s.name == "latency").expect("latency");
        let options = Options { seconds: Some(77), contestants: Some(vec!["trigger".into()]), ..Options::default() };
        let table = latency.table(&options);
        assert_eq!(table["seconds"].as_integer(), Some(77));
        assert_eq!(table["contestants"].as_array().map(Vec::len), Some(1));
    }
}
