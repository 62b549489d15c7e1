//! A copy can be compared with what the server has at exactly its cursor, while writers go on; what differs is found by
//! parts, and only those are sent again.

mod partial;
mod scene;

use rte_testkit::{Ask, Client, Cluster, Dice, Signal, canonical};
use rte_testkit::{kill, rounds, seed, token_of, wait_until};
use scene::{Writers, crowd, parts, scene, verify};
use serde_json::json;
use std::time::Instant;

#[test]
fn copies_equal_the_server_at_their_cursor_under_load() {
    let seed = seed("verify");
    let (cluster, _sql) = scene(Cluster::builder());
    let clients = crowd(&cluster);
    let writers = Writers::start(&cluster, 3, seed);
    let began = Instant::now();
    let threads = clients.into_iter().map(|mut client| {
        std::thread::spawn(move || {
            let (mut longest, mut refused) = (0, 0);
            let columns = client.sub("s").columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
            for round in 0..rounds(12) {
                let some = columns.iter().skip(round % columns.len()).take(2).cloned().collect::<Vec<_>>();
                let ask = Ask {
                    parts: [0, 1, 16, 4096][round % 4],
                    columns: (round % 3 == 2).then_some(some),
                    want: Vec::new(),
                };
                let asked = Instant::now();
                let (verdict, again) = verify(&mut client, "s", &ask);
                longest = longest.max(asked.elapsed().as_millis());
                refused += again;
                assert!(verdict.is_equal(), "{}: {ask:?} {verdict:?}", client.options.name);
            }
            println!("{}: longest {longest} ms, {refused} refused", client.options.name);
            client.assert_clean();
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|t| t.join().expect("a client"));
    let (done, took) = (writers.done(), began.elapsed());
    writers.stop();
    println!("{:.0} transactions a second meanwhile", done as f64 / took.as_secs_f64());
    assert!(done > 100, "the writers went on");
    assert_no_exports(&cluster);
}

fn assert_no_exports(cluster: &Cluster) {
    wait_until("no exported snapshot", || {
        let exported = std::fs::read_dir(cluster.data().join("pg_snapshots")).expect("pg_snapshots").count();
        (exported == 0).then_some(())
    });
}

/// Alters some rows of a copy: one gets another value, one is lost, one is made up. Gives their keys.
fn corrupt(client: &mut Client, dice: &mut Dice) -> Vec<Box<str>> {
    let sub = client.copy.subscriptions.get_mut("s").expect("s");
    let mut keys: Vec<Box<str>> = sub.rows.keys().cloned().collect();
    keys.sort();
    let altered = keys[dice.usize(..keys.len())].clone();
    let lost = keys[dice.usize(..keys.len())].clone();
    let at = sub.at("note");
    let mut made_up = sub.rows[&altered].clone();
    sub.rows.get_mut(&altered).expect("row")[at] = canonical("\"corrupt\"");
    sub.rows.remove(&lost);
    let new: Box<str> = format!("[{}]", 1_000_000 + dice.i32(0..1000)).into();
    let key = sub.at("id");
    made_up[key] = new[1..new.len() - 1].into();
    sub.rows.insert(new.clone(), made_up);
    vec![altered, lost, new]
}

#[test]
fn what_was_altered_in_a_copy_is_found_by_its_parts_and_only_those_are_sent_again() {
    let seed = seed("repair");
    let mut dice = Dice::with_seed(seed);
    let (cluster, mut sql) = scene(Cluster::builder());
    let mut clients = crowd(&cluster);
    // While nothing else happens exactly the altered parts differ.
    for client in &mut clients {
        let keys = corrupt(client, &mut dice);
        let (verdict, _) = verify(client, "s", &parts(64));
        let mut expected: Vec<u32> = keys.iter().map(|key| rte_core::integrity::part_of(key.as_bytes(), 64)).collect();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(verdict.differing(), expected, "{}", client.options.name);
        let ask = Ask { parts: 64, want: expected.clone(), columns: None };
        let (repaired, _) = verify(client, "s", &ask);
        assert_eq!(repaired.differing(), expected);
        let rows: u64 = expected.iter().map(|part| repaired.server_parts[*part as usize].1).sum();
        assert_eq!(repaired.repair_rows as u64, rows, "all rows of the wanted parts, and no others");
        let (verdict, _) = verify(client, "s", &parts(64));
        assert!(verdict.is_equal(), "{verdict:?}");
    }
    // And while writers go on the repair holds, whatever has changed in the parts meanwhile.
    let writers = Writers::start(&cluster, 3, seed);
    for _ in 0..rounds(3) {
        for client in &mut clients {
            corrupt(client, &mut dice);
            let (verdict, _) = verify(client, "s", &parts(64));
            // A writer may have put an altered row right, or removed it.
            let want = verdict.differing();
            if !want.is_empty() {
                verify(client, "s", &Ask { parts: 64, want, columns: None });
            }
            let (verdict, _) = verify(client, "s", &parts(64));
            assert!(verdict.is_equal(), "{}: {verdict:?}", client.options.name);
        }
    }
    writers.stop();
    let mark = sql.barrier();
    clients.remove(0);
    for client in &mut clients {
        client.subscribe_barrier();
        client.wait_barrier(mark);
        assert!(verify(client, "s", &parts(0)).0.is_equal());
        client.assert_clean();
    }
}

#[test]
fn the_bytes_of_a_repair_are_those_of_its_parts() {
    let (cluster, _sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.wait_live();
    let mut sizes = Vec::new();
    for want in [1, 8, 64] {
        let (verdict, _) = verify(&mut client, "s", &Ask { parts: 64, want: (0..want).collect(), columns: None });
        assert!(verdict.is_equal());
        println!("{want} of 64 parts: {} rows, {} bytes", verdict.repair_rows, verdict.repair_bytes);
        sizes.push((f64::from(want), verdict.repair_bytes as f64));
    }
    let whole = sizes[2].1;
    for (want, bytes) in sizes {
        let share = bytes / whole * 64.0;
        assert!((want * 0.5..want * 1.7).contains(&share), "{want} parts are {share:.1} of 64 of the bytes");
    }
    assert!(verify(&mut client, "s", &parts(64)).0.is_equal(), "a repair of what was right changes nothing");
}

#[test]
fn every_type_of_value_has_the_same_hash_on_both_sides() {
    let (cluster, mut sql) = scene(Cluster::builder());
    sql.run(
        r#"CREATE TYPE mood AS ENUM ('glad', 'sad "ly"');
           CREATE TYPE money_of AS (amount numeric(12,2), currency text);
           CREATE TABLE v (a int8, b text, f8 float8, f4 float4, n numeric, y bytea, m mood, c money_of, xs int8[],
               j json, jb jsonb, ts timestamptz, i interval, r int4range, u uuid, PRIMARY KEY (b, a));
           GRANT SELECT ON v TO web_anon;
           INSERT INTO v VALUES
             (1, E'a"\\b\t\u00e9\U0001F600\u2028', 0.1, 0.1, 12345678901234567890.00100, '\xdeadbeef', 'sad "ly"',
              (1.50, 'EUR'), '{1,null,9007199254740993}', '{"b":1, "a" : 2,"b":[1E2, -0, 1e400, 9007199254740993]}',
              '{"z": 1.10, "é": "\u0001", "a": {}}', '2026-01-02 03:04:05.6+02', '1 year 2 mons', '[1,5)', gen_random_uuid()),
             (-1, 'x', 'NaN', '-Infinity', 'NaN', '', 'glad', NULL, '{}', '"\ud800 lone \u000A"', 'null', 'infinity', '0', 'empty',
              NULL),
             (0, '', 1e21, 1e-7, 0.0, NULL, NULL, (NULL, NULL), NULL, '[[[{"x":{"y":[]}}]], 123456789012345678]', '[1e-7]',
              '-infinity', NULL, NULL, NULL),
             (2, 'z', -0.0, 5e-45, -1, NULL, NULL, NULL, '{{1,2},{3,4}}', ' true ', '"\\\/"', '0044-03-15 BC', NULL, NULL, NULL)"#,
    );
    sql.register("v");
    let mut client = cluster.client("c");
    client.subscribe("s", "v");
    client.wait_live();
    let (verdict, _) = verify(&mut client, "s", &parts(4));
    assert!(verdict.is_equal(), "{verdict:?}");
    assert_eq!(verdict.server.1, 4);
    // The same rows, told as changes.
    sql.run("UPDATE v SET j = j, f8 = f8 * 2, xs = array_fill(7, '{2}'), c = (2, 'x'); UPDATE v SET a = a + 10");
    let mark = sql.barrier();
    client.subscribe_barrier();
    client.wait_barrier(mark);
    let columns = client.sub("s").columns.iter().map(|c| c.name.clone());
    let asks: Vec<Ask> = columns.map(|c| Ask { columns: Some(vec![c]), ..Ask::default() }).collect();
    for ask in asks {
        assert!(verify(&mut client, "s", &ask).0.is_equal(), "{ask:?}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused_and_costs_nothing_else() {
    let (cluster, mut sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.wait_live();
    let refused = |client: &mut Client, id: &str, ask: Ask, code: &str| {
        let failure = client.verify(id, &ask).expect_err("refused");
        assert_eq!((failure.code.as_str(), failure.id.as_deref()), (code, Some(id)), "{ask:?} {failure:?}");
    };
    refused(&mut client, "nobody", parts(0), "UNKNOWN_SUBSCRIPTION");
    refused(&mut client, "s", parts(4097), "BAD_MESSAGE");
    refused(&mut client, "s", Ask { parts: 4, want: vec![4], columns: None }, "BAD_MESSAGE");
    refused(&mut client, "s", Ask { parts: 2, want: vec![0, 1, 0], columns: None }, "BAD_MESSAGE");
    refused(&mut client, "s", Ask { columns: Some(vec![]), ..Ask::default() }, "BAD_MESSAGE");
    refused(&mut client, "s", Ask { columns: Some(vec!["secret".into()]), ..Ask::default() }, "UNKNOWN_COLUMN");
    client.send(&json!({"type": "verify", "id": "s", "parts": 0}));
    assert_eq!(client.wait_error("BAD_MESSAGE").id.as_deref(), Some("s"));

    // One at a time: the second is refused, and the first is answered. Not before the second is there: its ticks wait.
    let feeder = cluster.worker("feeder");
    kill(feeder, Signal::STOP);
    client.ask_to_verify("s", &parts(4));
    client.send(&json!({"type": "verify", "id": "s"}));
    assert_eq!(client.wait_error("TOO_MANY_REQUESTS").id.as_deref(), Some("s"));
    kill(feeder, Signal::CONT);
    client.wait_for("the first verdict", |c| c.copy.verdicts.len() == 1);
    assert!(client.copy.verdicts.pop().expect("verdict").is_equal());

    // While a snapshot is awaited.
    sql.run("CREATE TABLE locked (id int PRIMARY KEY); GRANT SELECT ON locked TO web_anon");
    sql.register("locked");
    let mut locker = cluster.sql();
    locker.run("BEGIN; LOCK TABLE locked");
    client.subscribe("l", "locked");
    client.wait_for("subscribed", |c| c.sub("l").shape.is_some());
    refused(&mut client, "l", parts(0), "NOT_READY");
    locker.run("COMMIT");
    client.wait_live();
    assert!(verify(&mut client, "l", &parts(0)).0.is_equal());
    // A table that is locked for its redefinition.
    locker.run("BEGIN; LOCK TABLE locked");
    refused(&mut client, "l", parts(0), "NOT_READY");
    locker.run("COMMIT");
    assert!(verify(&mut client, "l", &parts(0)).0.is_equal());
    client.assert_clean();
}

#[test]
fn a_resumed_copy_can_be_compared_too() {
    let (cluster, mut sql) = scene(Cluster::builder());
    let mut client = cluster.client("c");
    client.subscribe("s", "t");
    client.subscribe_barrier();
    client.wait_live();
    client.leave();
    sql.run("UPDATE t SET n = n + 1 WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0");
    let mark = sql.barrier();
    client.resume();
    client.wait_barrier(mark);
    assert_eq!(client.copy.counts.resumed, 2);
    assert!(verify(&mut client, "s", &parts(16)).0.is_equal());
    client.assert_clean();
}

/// Compares again and again while somebody is killed, then once more in peace.
fn meddle(victim: impl Fn(&Cluster)) {
    let seed = seed("verify kills");
    let (cluster, _sql) = scene(Cluster::builder());
    let mut clients = crowd(&cluster);
    let writers = Writers::start(&cluster, 2, seed);
    for _ in 0..rounds(3) {
        for client in &mut clients {
            client.carry_on("live", |c| c.copy.all_live());
            client.ask_to_verify("s", &Ask { parts: 8, want: vec![0, 5], columns: None });
        }
        victim(&cluster);
        for client in &mut clients {
            // Whoever was interrupted is told so, by an error or the end of the connection.
            client.carry_on("an end", |c| c.copy.verification.is_none() && c.copy.all_live());
            for verdict in std::mem::take(&mut client.copy.verdicts) {
                assert!(verdict.is_equal(), "{}: {verdict:?}", client.options.name);
            }
            for failure in std::mem::take(&mut client.errors) {
                assert_eq!(failure.code, "NOT_READY", "{failure:?}");
            }
        }
    }
    let done = writers.done();
    wait_until("the writers go on", || (writers.done() > done + 20).then_some(()));
    for client in &mut clients {
        // A connection may turn out to be lost only now.
        let verdict = wait_until("a verdict", || {
            client.carry_on("live", |c| c.copy.all_live());
            client.ask_to_verify("s", &parts(8));
            client.carry_on("an end", |c| c.copy.verification.is_none() && c.copy.all_live());
            client.copy.verdicts.pop()
        });
        assert!(verdict.is_equal(), "{}: {verdict:?}", client.options.name);
    }
    writers.stop();
    assert_no_exports(&cluster);
}

#[test]
fn a_query_worker_that_is_ended_in_the_middle_leaves_nothing_behind() {
    meddle(|cluster| {
        let mut sql = wait_until("a session", || cluster.try_sql("postgres").ok());
        wait_until("a query worker", || {
            let ended = sql.number(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'whagons_rte query worker'",
            );
            (ended > 0).then_some(())
        });
    });
}

#[test]
fn a_killed_gateway_leaves_no_verification_behind() {
    meddle(|cluster| kill(cluster.worker("gateway"), Signal::KILL));
}

#[test]
fn a_feeder_that_ends_leaves_no_verification_behind() {
    meddle(|cluster| kill(cluster.worker("feeder"), Signal::TERM));
}

#[test]
fn clients_that_go_in_the_middle_hold_up_nobody() {
    let seed = seed("verify goers");
    let (cluster, _sql) = scene(Cluster::builder());
    let writers = Writers::start(&cluster, 2, seed);
    let mut watcher = cluster.subscriber("watcher", &["t"]);
    for _ in 0..rounds(5) {
        for mut client in crowd(&cluster) {
            client.ask_to_verify("s", &Ask { parts: 8, want: vec![0, 5], columns: None });
            client.leave();
        }
        let commits = watcher.copy.counts.commits;
        watcher.wait_for("commits", |c| c.copy.counts.commits > commits + 5);
    }
    assert!(verify(&mut watcher, "t", &parts(8)).0.is_equal());
    writers.stop();
    watcher.assert_clean();
    assert_no_exports(&cluster);
}

#[test]
fn a_snapshot_under_load_holds_no_row_that_came_and_went_between_two_ticks() {
    let seed = seed("verify joins");
    let (cluster, mut sql) = scene(Cluster::builder());
    let writers = Writers::start(&cluster, 3, seed);
    let token = token_of(&json!({"role": "mate", "name": "bob"}));
    let clients = (0..rounds(25)).map(|n| {
        let mut client = cluster.client_with(&format!("asked {n}"), &token);
        client.subscribe("s", "t");
        client.wait_live();
        client
    });
    let mut clients: Vec<Client> = clients.collect();
    writers.stop();
    let mark = sql.barrier();
    for client in &mut clients {
        client.subscribe_barrier();
        client.wait_barrier(mark);
        let (verdict, _) = verify(client, "s", &parts(0));
        assert!(verdict.is_equal(), "{}: {verdict:?}", client.options.name);
        client.assert_clean();
    }
    assert_no_exports(&cluster);
}
