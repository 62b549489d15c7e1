//! The gateway gives up what it does not need, says so, and goes on serving.

use std::fs;

use rte_testkit::{Cluster, Signal, alive, assert_equal, kill, rss_kb, wait_until};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;

/// A field of `/proc/<pid>/status`.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
    line.trim().to_owned()
}

/// The soft and hard limit of a process.
fn limit(pid: i32, name: &str) -> (String, String) {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).expect(name).split_whitespace();
    let mut values = line.map(str::to_owned);
    (values.next().expect("soft"), values.next().expect("hard"))
}

/// The last line of the log that says what the sandbox is.
fn line(cluster: &Cluster) -> String {
    wait_until("the line", || {
        cluster.log().lines().rev().find(|l| l.contains("whagons_rte gateway sandbox:")).map(str::to_owned)
    })
}

fn kernel_has(what: &str) -> bool {
    match what {
        "seccomp" => fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").is_ok_and(|a| a.contains("errno")),
        // Without a list of what is active, the line itself is asked for it.
        _ => fs::read_to_string("/sys/kernel/security/lsm").map_or(true, |lsm| lsm.contains(what)),
    }
}

#[test]
fn the_gateway_gives_up_files_connections_and_programs() {
    let cluster = Cluster::ready();
    let gateway = cluster.worker("gateway");
    let line = line(&cluster);
    println!("{line}");
    assert!(line.contains("no new privileges") && line.contains("memory 2048 MB"), "{line}");
    assert_eq!(status(gateway, "NoNewPrivs"), "1");
    assert_eq!(limit(gateway, "Max data size"), ((2048_u64 << 20).to_string(), (2048_u64 << 20).to_string()));
    assert_eq!(limit(gateway, "Max core file size").1, "0");
    assert_eq!(limit(gateway, "Max file size").1, "0");
    assert_eq!(limit(gateway, "Max processes").1, "0");
    if !kernel_has("seccomp") {
        assert!(cluster.log().contains("WARNING:  whagons_rte gateway sandbox could not be had whole"));
        return;
    }
    let tasks = fs::read_dir(format!("/proc/{gateway}/task")).expect("tasks");
    let threads: Vec<i32> = tasks.flatten().filter_map(|t| t.file_name().to_str()?.parse().ok()).collect();
    assert!(threads.len() >= 5, "main, log, acceptor and two for I/O: {threads:?}");
    for thread in &threads {
        let of_thread = |field| status(*thread, field);
        assert_eq!((of_thread("Seccomp"), of_thread("NoNewPrivs")), ("2".into(), "1".into()), "thread {thread}");
    }
    // What it tried to do, as the kernel answered.
    for attempt in [
        "open a file (EPERM)",
        "list a directory (EPERM)",
        "connect to the server's socket (EPERM)",
        "connect to a port (EPERM)",
        "make a socket (EPERM)",
        "start a process (EPERM)",
        "run a program (EPERM)",
        "signal the launcher (EPERM)",
    ] {
        assert!(line.contains(attempt), "{attempt}: {line}");
    }
    assert!(line.contains("system calls filtered"), "{line}");
    if kernel_has("landlock") {
        assert!(line.contains("file system refused (Landlock ABI "), "{line}");
        assert!(!cluster.log().contains("gateway sandbox could not be had"), "{}", cluster.log());
    }
    assert!(!cluster.log().contains("gateway sandbox has holes"), "{}", cluster.log());
}

#[test]
fn nothing_of_the_servers_is_open_in_the_gateway() {
    let cluster = Cluster::ready();
    let gateway = cluster.worker("gateway");
    let mut seen = 0;
    for entry in fs::read_dir(format!("/proc/{gateway}/fd")).expect("descriptors").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        let own =
            ["socket:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"].iter().any(|kind| target.starts_with(kind));
        // What it reads its own memory from.
        let status = target == format!("/proc/{gateway}/status");
        assert!(own || status || target == "/dev/null", "{target}");
        seen += 1;
    }
    assert!(seen > 5, "{seen} descriptors");
}

#[test]
fn a_sandboxed_gateway_serves_and_is_replaced_like_any_other() {
    let cluster = Cluster::builder().conf("rte.gateway_sandbox", "required").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 5000) i");
    let mut client = cluster.subscriber("c", &["t"]);
    assert_equal(&mut sql, &mut client);
    for signal in [Signal::TERM, Signal::KILL, Signal::SEGV] {
        let gateway = cluster.worker("gateway");
        // One that was stopped goes on in the system call that it was stopped in.
        kill(gateway, Signal::STOP);
        sql.run("UPDATE t SET v = repeat('y', 900) WHERE id % 3 = 0");
        kill(gateway, Signal::CONT);
        assert_equal(&mut sql, &mut client);
        kill(gateway, signal);
        client.wait_closed();
        wait_until("another gateway", || {
            (cluster.worker("gateway") != gateway && !alive(gateway) && cluster.healthy()).then_some(())
        });
        client.resume();
        sql.run("UPDATE t SET v = repeat('z', 1100) WHERE id % 7 = 0");
        assert_equal(&mut sql, &mut client);
    }
    let sockets = fs::read_dir(cluster.data().join("pg_stat_tmp")).expect("directory").flatten();
    let sockets = sockets.filter(|e| e.file_name().to_string_lossy().starts_with("rte_gateway.")).count();
    assert_eq!(sockets, 1, "the launcher removes the sockets of gateways that are gone");
    // The settings of the sandbox take another gateway.
    let gateway = cluster.worker("gateway");
    cluster.conf("rte.gateway_sandbox", "off");
    cluster.reload();
    client.wait_closed();
    wait_until("another gateway", || (cluster.worker("gateway") != gateway && cluster.healthy()).then_some(()));
    assert_eq!(status(cluster.worker("gateway"), "Seccomp"), "0");
    client.resume();
    assert_equal(&mut sql, &mut client);
}

#[test]
fn a_gateway_without_memory_is_replaced_and_nobody_else_notices() {
    let cluster =
        Cluster::builder().conf("rte.gateway_memory_limit", "64MB").conf("rte.client_queue_size", "1GB").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text");
    let mut session = cluster.sql();
    let backend = session.number("SELECT pg_backend_pid()");
    let feeder = cluster.worker("feeder");
    let gateway = cluster.worker("gateway");
    let _client = cluster.subscriber("c", &["t"]);
    // More than it may have, in one row.
    sql.run("INSERT INTO t VALUES (1, repeat('x', 100000000))");
    wait_until("its end", || (!alive(gateway)).then_some(()));
    wait_until("the hint", || cluster.log().contains("check rte.gateway_memory_limit").then_some(()));
    wait_until("another gateway", || cluster.healthy().then_some(()));
    assert!(rss_kb(cluster.worker("gateway")) < 64 * 1024);
    assert_eq!(session.number("SELECT pg_backend_pid()"), backend);
    assert_eq!(cluster.worker("feeder"), feeder);
}

/// A figure of `/stats`.
fn figure(cluster: &Cluster, name: &str) -> Option<u64> {
    let answer = rte_testkit::get(cluster.rte_port, "/stats")?;
    serde_json::from_str::<serde_json::Value>(&answer.body).ok()?[name].as_u64()
}

/// CPU time of a process, user and system, in ticks of the kernel's.
fn cpu_ticks(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system")
}

const CLIENTS: u64 = 50;

/// The gateway's CPU ticks per million deliveries of single-row changes.
fn cost(cluster: &Cluster, changes: u64) -> f64 {
    let readers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let url = format!("ws://127.0.0.1:{}/ws", cluster.rte_port);
            let mut request = url.into_client_request().expect("request");
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("rte.v1"));
            let stream = std::net::TcpStream::connect(("127.0.0.1", cluster.rte_port)).expect("connect");
            let (mut socket, _) = tungstenite::client(request, stream).expect("upgrade");
            let hello = r#"{"type":"hello","subscriptions":[{"id":"a","table":"t"}]}"#;
            socket.send(tungstenite::Message::text(hello)).expect("hello");
            let stop = socket.get_ref().try_clone().expect("clone");
            (std::thread::spawn(move || while socket.read().is_ok() {}), stop)
        })
        .collect();
    wait_until("subscriptions", || (figure(cluster, "subscriptions") == Some(CLIENTS)).then_some(()));
    let mut sql = cluster.sql();
    // Until snapshots are through.
    let start = figure(cluster, "deliveries_total").expect("figure");
    wait_until("all are live", || {
        let before = figure(cluster, "deliveries_total")?;
        sql.run("UPDATE t SET v = v + 1 WHERE id = 1");
        rte_testkit::within(std::time::Duration::from_millis(100), || {
            (figure(cluster, "deliveries_total")? >= before + CLIENTS).then_some(())
        })
    });
    let gateway = cluster.worker("gateway");
    let (ticks, from) = (cpu_ticks(gateway), figure(cluster, "deliveries_total").expect("figure"));
    assert!(from > start);
    for _ in 0..changes {
        sql.run("UPDATE t SET v = v + 1 WHERE id = 1");
    }
    wait_until("deliveries", || (figure(cluster, "deliveries_total")? >= from + changes * CLIENTS).then_some(()));
    let cost = (cpu_ticks(gateway) - ticks) as f64 / (changes * CLIENTS) as f64 * 1e6;
    for (reader, stop) in readers {
        let _ = stop.shutdown(std::net::Shutdown::Both);
        let _ = reader.join();
    }
    cost
}

#[test]
#[ignore = "a measurement"]
fn what_the_sandbox_costs() {
    let cluster = Cluster::builder().conf("rte.max_tick_interval", "0").ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v int");
    sql.run("INSERT INTO t VALUES (1, 0)");
    let mut ratios = Vec::new();
    for round in 0..rte_testkit::rounds(5) {
        let of = |mode: &str| {
            let before = cluster.worker("gateway");
            cluster.conf("rte.gateway_sandbox", mode);
            cluster.reload();
            let filtered = if mode == "on" { "2" } else { "0" };
            wait_until("the mode", || {
                let gateway = cluster.worker("gateway");
                (gateway != before && alive(gateway) && cluster.healthy() && status(gateway, "Seccomp") == filtered)
                    .then_some(())
            });
            cost(&cluster, 3000)
        };
        let off = of("off");
        let on = of("on");
        println!("round {round}: {off:.0} ticks per million deliveries without, {on:.0} with: {:.3}", on / off);
        ratios.push(on / off);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.3}", ratios[ratios.len() / 2]);
}
