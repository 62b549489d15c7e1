//! What a run ran on: the machine, the versions, the tree.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::options::bench_dir;
use crate::rig;

pub fn describe() -> BTreeMap<String, String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map(|(_, m)| m.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let (build, rust) =
        (if cfg!(debug_assertions) { "debug" } else { "release" }, first(Command::new("rustc").arg("--version")));
    let facts = [
        ("processor", format!("{cores} × {}", model.unwrap_or("unknown"))),
        ("memory", format!("{:.0} GiB", kib.unwrap_or(0) as f64 / 1048576.0)),
        ("kernel", first(Command::new("uname").arg("-sr"))),
        ("server", first(Command::new(rig::postgres()).arg("--version"))),
        ("node", first(Command::new("node").arg("--version"))),
        ("rust", rust),
        ("build", build.into()),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The commit that is measured, with a plus sign where files differ from it.
pub fn commit() -> String {
    let git = |arguments: &[&str]| first(Command::new("git").args(arguments).current_dir(bench_dir()));
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    format!("{}{}", git(&["rev-parse", "--short=12", "HEAD"]), if changed { "+" } else { "" })
}

/// Of the server, as `15`.
pub fn major_version() -> Option<u32> {
    let version = first(Command::new(rig::postgres()).arg("--version"));
    version.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

fn first(command: &mut Command) -> String {
    let output = command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    output.lines().next().unwrap_or_default().trim().to_owned()
}
