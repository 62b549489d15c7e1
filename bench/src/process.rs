//! What a process has used, by `/proc`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rte_testkit::Cluster;

/// Seconds of processor time since its start, all threads, user and system.
pub fn cpu_seconds(pid: i32) -> f64 {
    // `schedstat` counts nanoseconds where `stat` counts hundredths, but for one thread only.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds: u64 = threads
        .filter_map(|t| fs::read_to_string(t.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1e9
}

/// Memory of its own in KiB: what it shares with others (Postgres' buffers) is not counted.
pub fn private_kib(pid: i32) -> u64 {
    field(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// Its share of resident memory in KiB: what it shares with n others counts a (n + 1)th.
pub fn pss_kib(pid: i32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Open file descriptors.
pub fn descriptors(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |fds| fds.count() as u64)
}

/// Memory that the kernel holds for sockets, in KiB: slabs, and the buffers of TCP.
pub fn kernel_socket_kib() -> u64 {
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages =
        sockets.lines().find(|l| l.starts_with("TCP:")).and_then(|l| l.rsplit_once("mem ")?.1.trim().parse().ok());
    field("/proc/meminfo", "Slab:") + pages.unwrap_or(0_u64) * 4
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Seconds of processor time of the children that a process has seen end.
pub fn reaped_cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The fields after the command's name, which is in brackets and may hold anything; times in hundredths.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().skip(13).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Of all processes of a server, those that have ended included.
pub fn server_cpu_seconds(cluster: &Cluster) -> f64 {
    let running: f64 = cluster.processes().into_iter().map(cpu_seconds).sum();
    running + reaped_cpu_seconds(cluster.postmaster())
}

/// Asks for figures again and again in a thread of its own, and keeps the highest of each.
pub struct Peaks {
    stop: Arc<AtomicBool>,
    highest: Arc<Mutex<Vec<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Peaks {
    /// `sample` gives as many figures each time.
    pub fn watch(pause: Duration, sample: impl Fn() -> Vec<u64> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let highest = Arc::new(Mutex::new(sample()));
        let (heard, theirs) = (Arc::clone(&stop), Arc::clone(&highest));
        let thread = std::thread::spawn(move || {
            while !heard.load(Ordering::SeqCst) {
                let now = sample();
                let mut highest = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                highest.iter_mut().zip(now).for_each(|(high, now)| *high = now.max(*high));
                drop(highest);
                std::thread::sleep(pause);
            }
        });
        Self { stop, highest, thread: Some(thread) }
    }

    pub fn end(mut self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        std::mem::take(&mut self.highest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Peaks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// As many open files as the system lets us have: each client is one.
pub fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = 65_536;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Root may go beyond its hard limit; what the server is started with is inherited from here.
        if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted.max(soft), wanted.max(hard)).is_err() {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_from_outside() {
        let me = std::process::id() as i32;
        assert!(private_kib(me) > 0 && pss_kib(me) > 0 && descriptors(me) > 2 && kernel_socket_kib() > 0);
    }

    #[test]
    fn a_peak_is_kept_after_it_is_over() {
        let calls = AtomicBool::new(false);
        let peaks = Peaks::watch(Duration::from_millis(1), move || {
            vec![if calls.swap(true, Ordering::SeqCst) { 3 } else { 9 }]
        });
        assert_eq!(peaks.end(), [9]);
    }
}
