//! Processes of a cluster, by `/proc`: who works in a data directory, how much memory one holds, signals.

use rustix::process::{Pid, kill_process};
use std::fs;
use std::path::Path;

pub use rustix::process::Signal;

/// Sends a signal; a process that is gone already is no error.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether the process exists and is not a zombie.
#[must_use]
pub fn alive(pid: i32) -> bool {
    // The state follows the command's name, which is in brackets and may hold anything.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|s| s.rsplit_once(')').map(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

/// Processes whose working directory is `dir`: the postmaster of a data directory and all its children.
#[must_use]
pub fn with_cwd(dir: &Path) -> Vec<i32> {
    pids().filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir) && alive(*pid)).collect()
}

/// Direct children of a process.
#[must_use]
pub fn children(parent: i32) -> Vec<i32> {
    pids().filter(|pid| alive(*pid) && status(*pid, "PPid:").is_some_and(|p| p == parent as u64)).collect()
}

/// Resident memory of a process in KiB; 0 when it is gone.
#[must_use]
pub fn rss_kb(pid: i32) -> u64 {
    status(pid, "VmRSS:").unwrap_or(0)
}

fn status(pid: i32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
