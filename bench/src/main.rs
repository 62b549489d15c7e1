//! Measures whagons_rte against what else is there, in one run and in turns, on servers of its own.
//!
//! `make bench ARGS="--help"`. What is measured and how to read it: docs/BENCHMARKS.md.

mod clock;
mod contestant;
mod crowd;
mod load;
mod machine;
mod options;
mod peer;
mod plan;
mod process;
mod ramp;
mod report;
mod results;
mod rig;
mod scenario;
mod stats;
mod websocket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use options::{Command, Options, Profile, bench_dir, target_dir};
use plan::Scenario;
use results::{Found, Run};

fn main() -> ExitCode {
    clock::now();
    match Command::from_args() {
        Command::List => {
            plan::load().iter().for_each(|s| println!("{:12} {}", s.name, s.measures));
            ExitCode::SUCCESS
        }
        Command::Report(files) => match report::write(&files) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("error: {why}");
                ExitCode::FAILURE
            }
        },
        Command::Serve(name, arguments) => {
            match name.as_str() {
                "rust-notify" => peer::serve_rust_notify(),
                "limit" => scenario::serve_limit(&arguments),
                other => panic!("there is nothing to serve {other:?} with"),
            }
            ExitCode::SUCCESS
        }
        Command::Run(options) => run(&options),
    }
}

fn run(options: &Options) -> ExitCode {
    let all = plan::load();
    if let Some(unknown) = options.only.iter().find(|name| all.iter().all(|s| s.name != **name)) {
        eprintln!("error: there is no scenario {unknown:?}; --list names them");
        return ExitCode::FAILURE;
    }
    process::raise_descriptors();
    let wanted = |s: &&Scenario| if options.only.is_empty() { !s.on_demand } else { options.only.contains(&s.name) };
    if let Err(problem) = all.iter().filter(wanted).try_for_each(|s| scenario::check(s, options)) {
        eprintln!("error: {problem}");
        return ExitCode::FAILURE;
    }
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let place =
        if options.profile == Profile::Publish { bench_dir().join("results") } else { target_dir().join("bench") };
    let out = options.out.clone().unwrap_or_else(|| place.join(format!("{started}.json")));
    let mut run = Run {
        started,
        command: command(),
        commit: machine::commit(),
        profile: options.profile.name().into(),
        machine: machine::describe(),
        scenarios: Vec::new(),
    };
    let mut failed = false;
    for scenario in all.iter().filter(wanted) {
        failed |= !measure(scenario, options, &mut run, &out);
    }
    report::print(&run, &all);
    say(&format!("results are in {}", out.display()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a scenario and writes down what it has found; one that fails does not take the others with it.
fn measure(scenario: &Scenario, options: &Options, run: &mut Run, out: &Path) -> bool {
    let sizes = serde_json::to_value(scenario.table(options)).unwrap_or_default();
    let mut found = Found { name: scenario.name.clone(), plan: sizes, ..Found::default() };
    say(&format!("scenario {}", scenario.name));
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| scenario::run(scenario, options, &mut found)));
    found.seconds = start.elapsed().as_secs_f64();
    let problem = match result {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some("it panicked; what it said is above".into()),
    };
    if let Some(problem) = &problem {
        found.note(format!("not measured to the end: {problem}"));
    }
    say(&format!("scenario {}: {:.0} s", scenario.name, found.seconds));
    run.scenarios.push(found);
    run.write(out);
    problem.is_none()
}

/// How somebody else gets the same: without the place of the results.
fn command() -> String {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|a| a == "--out") {
        arguments.drain(at..(at + 2).min(arguments.len()));
    }
    let version = machine::major_version().map(|v| format!(" PG={v}")).unwrap_or_default();
    let arguments = if arguments.is_empty() { String::new() } else { format!(" ARGS=\"{}\"", arguments.join(" ")) };
    format!("make bench{version}{arguments}")
}

/// A line for whoever waits. On stderr: stdout is for the tables.
pub fn say(text: &str) {
    eprintln!("[{:6.1} s] {text}", clock::now() as f64 / 1e6);
}
