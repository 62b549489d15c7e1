//! What a run has found: JSON for machines, Markdown for people.

use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::say;

/// A goal that a number is held against.
pub struct Goal {
    pub name: String,
    pub met: bool,
    pub found: String,
}

pub struct Report {
    results: Map<String, Value>,
    tables: Vec<String>,
    goals: Vec<Goal>,
}

impl Report {
    pub fn new(options: &Options) -> Self {
        let mut results = Map::new();
        results.insert("machine".into(), machine());
        results.insert("options".into(), json!({"seconds": options.seconds, "rounds": options.rounds}));
        Self { results, tables: Vec::new(), goals: Vec::new() }
    }

    /// Keeps a scenario's numbers.
    pub fn add(&mut self, scenario: &str, numbers: Value) {
        self.results.insert(scenario.into(), numbers);
    }

    /// Keeps a table; the first row is its head.
    pub fn table(&mut self, title: &str, rows: &[Vec<String>]) {
        let mut text = format!("### {title}\n\n");
        for (n, row) in rows.iter().enumerate() {
            text += &format!("| {} |\n", row.join(" | "));
            if n == 0 {
                text += &format!("|---{}|\n", "|---:".repeat(row.len() - 1));
            }
        }
        eprintln!("\n{text}");
        self.tables.push(text);
    }

    pub fn goal(&mut self, name: impl Into<String>, met: bool, found: impl Into<String>) {
        self.goals.push(Goal { name: name.into(), met, found: found.into() });
    }

    /// Writes everything down.
    pub fn finish(mut self, options: &Options) {
        if !self.goals.is_empty() {
            let mut rows = vec![vec!["Goal".into(), "found".into(), String::new()]];
            let row = |g: &Goal| vec![g.name.clone(), g.found.clone(), if g.met { "met" } else { "**missed**" }.into()];
            rows.extend(self.goals.iter().map(row));
            self.table("Goals", &rows);
        }
        let goals = |g: &Goal| json!({"name": g.name, "met": g.met, "found": g.found});
        self.results.insert("goals".into(), self.goals.iter().map(goals).collect());
        if let Some(directory) = options.out.parent() {
            fs::create_dir_all(directory).expect("a directory for the results");
        }
        fs::write(&options.out, format!("{:#}\n", Value::Object(self.results.clone()))).expect("the results' file");
        let machine = &self.results["machine"];
        println!(
            "\nOn {}.\n",
            machine
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| format!("{k} {}", v.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(", ")
        );
        self.tables.iter().for_each(|t| println!("{t}"));
        say(&format!("results are in {}", options.out.display()));
    }
}

fn machine() -> Value {
    let first = |command: &mut Command| {
        let output = command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        output.lines().next().unwrap_or_default().trim().to_owned()
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map(|(_, m)| m.to_owned());
    let bin = std::env::var("RTE_PG_BIN").map(|d| format!("{d}/postgres")).unwrap_or("postgres".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "processor": format!("{cores} × {}", model.unwrap_or("unknown".into())),
        "kernel": first(Command::new("uname").arg("-r")),
        "server": first(Command::new(bin).arg("--version")),
        "node": first(Command::new("node").arg("--version")),
    })
}
