//! What the server's log says of a gateway's sandbox: one line of what holds, and a warning of what could not be had.

use rte_protocol::bridge::{Attempt, SandboxReport};

pub fn log(report: &SandboxReport) {
    pgrx::log!("whagons_rte gateway sandbox: {}; refused: {}", holds(report), named(report, |a| a.refused));
    if !report.missing.is_empty() {
        pgrx::warning!("whagons_rte gateway sandbox could not be had whole: no {}", report.missing.join(", no "));
    }
    if report.attempts.iter().any(|a| !a.refused) {
        pgrx::warning!("whagons_rte gateway sandbox has holes: {}", named(report, |a| !a.refused));
    }
}

fn holds(report: &SandboxReport) -> String {
    let mut parts = Vec::new();
    if report.no_new_privs {
        parts.push("no new privileges".to_owned());
    }
    if let Some(bytes) = report.memory_bytes {
        parts.push(format!("memory {} MB", bytes >> 20));
    }
    if let Some(abi) = report.landlock_abi {
        parts.push(format!("file system refused (Landlock ABI {abi})"));
    }
    if report.filtered {
        parts.push("system calls filtered".to_owned());
    }
    if parts.is_empty() { "nothing holds".to_owned() } else { parts.join(", ") }
}

fn named(report: &SandboxReport, which: impl Fn(&Attempt) -> bool) -> String {
    let names: Vec<String> = report
        .attempts
        .iter()
        .filter(|a| which(a))
        .map(|a| format!("{} ({})", a.what, a.errno.map_or_else(|| "done".to_owned(), error_name)))
        .collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn error_name(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::EAGAIN => "EAGAIN".to_owned(),
        other => format!("error {other}"),
    }
}
