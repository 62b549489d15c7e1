//! More tenants than workers.

use super::{database, stranger};
use rte_testkit::{Client, Cluster, Step, patience, within};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Number of tenants: `RTE_TENANTS`, 40 without it.
fn tenants() -> usize {
    std::env::var("RTE_TENANTS").ok().and_then(|s| s.parse().ok()).unwrap_or(40)
}

/// Most time that a client may want for its next step: a few rounds of turns.
fn bound(tenants: usize) -> Duration {
    patience() + Duration::from_secs(tenants as u64)
}

/// Takes frames until `found`; comes back when told to, with a pause that grows, as the contract says.
fn patiently(client: &mut Client, welcomes: &AtomicU32, limit: Duration, mut found: impl FnMut(&Client) -> bool) {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(100);
    while !found(client) {
        assert!(Instant::now() < end, "{}: waited {limit:?} in vain, errors {:?}", client.options.name, client.errors);
        match client.step(Duration::from_millis(50)) {
            Step::Closed(closed) => {
                assert!(matches!(closed.code, None | Some(1001 | 1012 | 1013)), "{}: {closed:?}", client.options.name);
                within(pause, || None::<()>);
                match client.try_join() {
                    Ok(()) => {
                        welcomes.fetch_add(1, Ordering::Relaxed);
                        pause = Duration::from_millis(100);
                    }
                    Err(_) => pause = (pause * 2).min(Duration::from_secs(1)),
                }
            }
            _ => pause = Duration::from_millis(100),
        }
    }
}

#[test]
fn two_hundred_tenants_take_turns_on_sixteen_workers() {
    let _alone = rte_testkit::alone();
    let count = tenants();
    let cluster = Cluster::builder().conf("max_worker_processes", "16").ready();
    let mut landlord = cluster.sql();
    drop(database(&cluster, "small"));
    for n in 0..count {
        let create = format!("CREATE DATABASE t{n} TEMPLATE small STRATEGY file_copy");
        within(patience(), || landlord.batch_execute(&create).ok()).expect("a database");
        landlord.run(&format!("SELECT rte.register_tenant('t{n}')"));
    }
    let began = Instant::now();
    let (first, welcomes): (AtomicUsize, Vec<AtomicU32>) =
        (AtomicUsize::new(0), (0..count).map(|_| 0.into()).collect());
    let limit = bound(count);
    let (all_first, all_later) = std::thread::scope(|scope| {
        let (cluster, first, welcomes) = (&cluster, &first, &welcomes);
        let clients: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn(move || {
                    let mut client = stranger(cluster, &format!("t{n}"));
                    client.copy.ask("t", "t", None);
                    let row = |c: &Client, key: &str| c.copy.all_live() && c.sub("t").row(&[key]).is_some();
                    patiently(&mut client, &welcomes[n], limit, |c| row(c, "0"));
                    first.fetch_add(1, Ordering::Relaxed);
                    patiently(&mut client, &welcomes[n], 2 * limit, |c| row(c, "1"));
                    let resumed = client.copy.counts.refused_resumes == 0 && client.copy.counts.resyncs.is_empty();
                    assert!(resumed, "{}: {:?}", client.options.name, client.copy.counts);
                })
            })
            .collect();
        let all = within(limit, || (first.load(Ordering::Relaxed) == count).then_some(()));
        assert!(all.is_some(), "{} of {count} were served", first.load(Ordering::Relaxed));
        let all_first = began.elapsed();
        for n in 0..count {
            cluster.sql_in(&format!("t{n}")).run("INSERT INTO t VALUES (1, 'later')");
        }
        for client in clients {
            client.join().expect("a client that was served");
        }
        (all_first, began.elapsed())
    });
    let welcomes: Vec<u32> = welcomes.iter().map(|w| w.load(Ordering::Relaxed)).collect();
    let (least, most) = (welcomes.iter().min(), welcomes.iter().max());
    println!("{count} tenants: all had a snapshot after {all_first:?}, a later change after {all_later:?}");
    println!("welcomes: least {least:?}, most {most:?}");
    let log = cluster.log();
    assert!(log.contains("tenants wait for a worker: tenants take turns"), "{log}");
    let said = log.matches("tenants take turns").count() as u64;
    assert!(said <= 1 + began.elapsed().as_secs() / 60, "the log is told once a minute: {said}");
    assert!(!log.contains("terminating connection because of crash"));
}
