//! What a delivery takes of the allocator: nothing.

mod support;

use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use support::{Feeder, Gateway, crowd};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TICKS: u64 = 200;

/// Allocations of the process while so many ticks go to all clients, each by itself.
fn allocations(gateway: &Gateway, feeder: &mut Feeder, clients: u64, first: u64) -> u64 {
    let commits = gateway.figure("commits_total");
    let text = "x".repeat(200);
    let before = ALLOCATOR.stats().allocations;
    for n in 0..TICKS {
        feeder.changes(&[(1, json!([{"op": "insert", "row": [n, text]}]))]);
        feeder.commit(first + n);
    }
    // What asks allocates too, but so often that it does not depend on the clients.
    while gateway.figure("commits_total") < commits + TICKS * clients {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    (ALLOCATOR.stats().allocations - before) as u64
}

#[test]
fn a_delivery_allocates_nothing() {
    let gateway = Gateway::with(|c| (c.max_connections, c.max_connections_per_address) = (2_000, 2_000));
    let mut feeder = gateway.feeder();
    let mut before = None;
    let (mut all, mut drains) = (0, Vec::new());
    for more in [10, 990] {
        let streams = (0..more).map(|_| crowd::connect(gateway.port).expect("connect")).collect();
        feeder.let_in(more as usize);
        drains.push(std::thread::spawn(move || crowd::drain(streams)));
        all += more;
        // Queues get their room.
        allocations(&gateway, &mut feeder, all, 10 * all);
        let count = allocations(&gateway, &mut feeder, all, 10 * all + TICKS);
        let each = count as f64 / (TICKS * all) as f64;
        println!("{all} connections: {count} allocations in {TICKS} ticks, {each:.4} per delivery");
        if let Some((few, fewer)) = before.replace((all, count)) {
            let more = count.saturating_sub(fewer) as f64 / (TICKS * (all - few)) as f64;
            assert!(more < 0.02, "{more} allocations for each further delivery");
        }
    }
    drop(gateway);
    for drain in drains {
        drain.join().expect("drain");
    }
}
