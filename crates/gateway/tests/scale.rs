//! What thousands of connections cost, and how soon they are back. Not tests: run them by hand, in release, on a quiet machine:
//! `cargo test --release -p rte-gateway --test scale -- --ignored --nocapture --test-threads 1`.

mod support;

use serde_json::json;
use std::time::{Duration, Instant};
use support::{Gateway, crowd};

/// The program as a crowd of clients, which has its own bound of open files.
#[test]
#[ignore = "started by the measurements"]
fn crowd() {
    crowd::run();
}

fn gateway(port: u16) -> Gateway {
    Gateway::with(|c| {
        c.port = port;
        // The defaults of the settings.
        (c.max_connections, c.max_connections_per_address) = (20_000, 20_000);
        (c.heartbeat_ms, c.hello_timeout_ms) = (25_000, 10_000);
        c.client_queue_bytes = 16 << 20;
        (c.max_handshakes_per_second, c.max_messages_per_second, c.max_failed_tokens) = (2_000, 1_000, 100);
    })
}

/// Waits until a figure is so large, on a machine that may be busy.
fn until(gateway: &Gateway, name: &str, wanted: u64) {
    let start = Instant::now();
    while gateway.figure(name) < wanted {
        assert!(start.elapsed() < Duration::from_secs(120), "{name} is {}, not {wanted}", gateway.figure(name));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// kB that a file of /proc says.
fn kilobytes(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("line");
    line.trim().trim_end_matches("kB").trim().parse().expect("number")
}

/// Processor time of the gateway's threads: in it, and in the kernel for it, in milliseconds.
fn processor() -> (u64, u64) {
    let mut sum = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").expect("tasks").flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (name, rest) = stat.rsplit_once(") ").expect("stat");
        if name.contains("(rte ") {
            let fields: Vec<&str> = rest.split(' ').collect();
            let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks") * 10;
            (sum.0, sum.1) = (sum.0 + ticks(11), sum.1 + ticks(12));
        }
    }
    sum
}

#[test]
#[ignore = "a measurement"]
fn idle_connections() {
    const CLIENTS: u64 = 10_000;
    let gateway = gateway(0);
    let mut feeder = gateway.feeder();
    // What the first ones cost is the process'.
    let mut first = crowd::process(gateway.port, 100, 1);
    feeder.let_in(100);
    let memory = |_| {
        let slab = kilobytes("/proc/meminfo", "Slab:");
        (kilobytes("/proc/self/status", "RssAnon:"), slab)
    };
    let before = memory(());
    let mut process = crowd::process(gateway.port, CLIENTS as usize, 1);
    let took = feeder.let_in(CLIENTS as usize);
    until(&gateway, "sessions", CLIENTS + 100);
    let after = memory(());
    println!("{CLIENTS} connections let in after {took:?}");
    println!("user memory: {} bytes each", (after.0 - before.0) * 1024 / CLIENTS);
    println!(
        "kernel memory (slabs of both ends, halved): {} bytes each",
        after.1.saturating_sub(before.1) * 512 / CLIENTS
    );
    let commits = gateway.figure("commits_total");
    for n in 0..200 {
        feeder.tick(100 + n, 1, n as i64);
    }
    until(&gateway, "commits_total", commits + 200 * (CLIENTS + 100));
    // Sweeps give back what is not used.
    std::thread::sleep(Duration::from_secs(3));
    println!("after 200 ticks: {} bytes each", (memory(()).0 - before.0) * 1024 / CLIENTS);
    let (before, start) = (processor(), Instant::now());
    std::thread::sleep(Duration::from_secs(30));
    let (after, seconds) = (processor(), start.elapsed().as_secs_f64());
    let percent = |a: u64, b: u64| (b - a) as f64 / 10.0 / seconds;
    println!(
        "idle: {:.2} % of a core and {:.2} % in the kernel",
        percent(before.0, after.0),
        percent(before.1, after.1)
    );
    drop(gateway);
    let _ = (process.wait(), first.wait());
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_delivery() {
    const CLIENTS: u64 = 1_000;
    let gateway = gateway(0);
    let mut feeder = gateway.feeder();
    let mut process = crowd::process(gateway.port, CLIENTS as usize, 1);
    feeder.let_in(CLIENTS as usize);
    until(&gateway, "sessions", CLIENTS);
    let text = "x".repeat(200);
    for (name, ticks, per_tick, pause) in [
        ("light load, 1 change a tick", 400, 1, 20),
        ("16 changes a tick", 400, 16, 20),
        ("as fast as it goes", 4_000, 1, 0),
    ] {
        let wanted = gateway.figure("deliveries_total") + ticks * per_tick * CLIENTS;
        let (before, start) = (processor(), Instant::now());
        let writes = gateway.figure("writes_total");
        for n in 0..ticks {
            let changes: Vec<_> = (0..per_tick).map(|m| json!({"op": "insert", "row": [n * 100 + m, text]})).collect();
            feeder.changes(&[(1, json!(changes))]);
            feeder.commit(1_000 + n);
            std::thread::sleep(Duration::from_millis(pause));
        }
        until(&gateway, "deliveries_total", wanted);
        let (after, seconds) = (processor(), start.elapsed().as_secs_f64());
        let deliveries = (ticks * per_tick * CLIENTS) as f64;
        let per_million = |ms: u64| ms as f64 / 1000.0 / (deliveries / 1e6);
        println!(
            "{name}: {:.0}/s, CPU s per million: {:.2} in the gateway, {:.2} in the kernel; {} writes",
            deliveries / seconds,
            per_million(after.0 - before.0),
            per_million(after.1 - before.1),
            gateway.figure("writes_total") - writes,
        );
    }
    drop(gateway);
    let _ = process.wait();
}

#[test]
#[ignore = "a measurement"]
fn a_herd_comes_back() {
    const CLIENTS: usize = 1_000;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("port").port();
    let mut process = None;
    for _ in 0..4 {
        let gateway = gateway(free);
        let start = Instant::now();
        let mut feeder = gateway.feeder();
        let _ = process.get_or_insert_with(|| crowd::process(free, CLIENTS, 4));
        let took = feeder.let_in(CLIENTS);
        until(&gateway, "commits_total", CLIENTS as u64);
        let refused = gateway.figure("refused_total") + gateway.figure("rate_limited_total");
        println!(
            "{CLIENTS} are live {:?} after the gateway's start ({took:?} from the first hello), {refused} refused",
            start.elapsed()
        );
        drop(gateway);
    }
    let _ = process.expect("crowd").wait();
}
