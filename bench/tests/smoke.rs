//! The runner does what it says, from the command line to the results' file. Needs no Node and no Debian.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(arguments: &[&str], out: &Path) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_rte-bench")).args(arguments).arg("--out").arg(out).output();
    let output = output.expect("the runner");
    let text = std::fs::read_to_string(out).unwrap_or_else(|_| "null".into());
    let _ = std::fs::remove_file(out);
    (output, serde_json::from_str(&text).expect("results are JSON"))
}

/// All rounds of a metric of a contestant.
fn values(results: &Value, scenario: &str, contestant: &str, metric: &str) -> Vec<f64> {
    let scenarios = results["scenarios"].as_array().into_iter().flatten();
    let series = scenarios.filter(|s| s["name"] == scenario).flat_map(|s| s["series"].as_array().into_iter().flatten());
    let mine = series.filter(|s| s["contestant"] == contestant && s["metric"] == metric);
    mine.flat_map(|s| s["rounds"].as_array().into_iter().flatten()).filter_map(Value::as_f64).collect()
}

#[test]
fn quick_runs_measure_and_write_down_what_they_found() {
    let out = std::env::temp_dir().join(format!("rte-bench-smoke-{}.json", std::process::id()));
    let arguments = ["--quick", "--only", "latency,snapshot,limits", "--contestants", "trigger,rust"];
    let (output, results) = run(&arguments, &out);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for (scenario, contestant, metric, count) in [
        ("latency", "trigger", "p50", 2),
        ("latency", "rust", "p50", 2),
        ("snapshot", "trigger", "rows", 2),
        ("snapshot", "copy", "rows", 2),
        ("limits", "epoll", "per_s", 4),
    ] {
        let found = values(&results, scenario, contestant, metric);
        assert_eq!(found.len(), count, "{scenario}, {contestant}: {metric}\n{said}");
        assert!(found.iter().all(|v| *v >= 0.0 && v.is_finite()), "{scenario}, {contestant}: {found:?}");
    }
    assert!(values(&results, "latency", "node", "p50").is_empty(), "who was not asked for did not take part");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("| 1 client | whagons_rte, trigger |"), "{table}");
    assert!(results["machine"]["server"].as_str().is_some_and(|s| s.contains("PostgreSQL")));
}

#[test]
fn a_scenario_that_does_not_exist_is_refused() {
    let out = std::env::temp_dir().join(format!("rte-bench-refused-{}.json", std::process::id()));
    let (output, results) = run(&["--only", "speed"], &out);
    assert!(!output.status.success() && results.is_null());
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"speed\""));
}
