//! Starting, stopping and idling leave nothing behind.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use rte_testkit::{Client, Cluster, Shutdown, Signal, assert_equal, kill, wait_until};

/// Sockets and lock files in the cluster's directory and its data directory.
fn leftovers(cluster: &Cluster) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let dirs = [cluster.dir().to_owned(), cluster.data()];
    let entries = dirs.iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten());
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_socket()) || e.file_name() == "postmaster.pid")
        .map(|e| e.path())
        .collect()
}

fn listens(cluster: &Cluster) -> bool {
    TcpStream::connect(("127.0.0.1", cluster.rte_port)).is_ok()
}

#[test]
fn a_stopped_server_leaves_no_process_port_or_socket() {
    let mut cluster = Cluster::ready();
    cluster.sql().table("t", "id int PRIMARY KEY");
    for how in [Shutdown::Fast, Shutdown::Smart, Shutdown::Immediate] {
        let mut client = cluster.subscriber("c", &["t"]);
        assert!(listens(&cluster));
        cluster.stop(how);
        // An immediate shutdown waits for nobody, so its last process may end a moment later.
        wait_until("no process is left", || cluster.processes().is_empty().then_some(()));
        wait_until("nobody listens", || (!listens(&cluster)).then_some(()));
        if how != Shutdown::Immediate {
            assert_eq!(leftovers(&cluster), Vec::<PathBuf>::new(), "{how:?}");
            let closed = client.wait_closed();
            assert!(matches!(closed.code, Some(1001 | 1012)), "{how:?}: {closed:?}");
        }
        cluster.start();
        cluster.wait_healthy();
    }
    cluster.kill();
    wait_until("the gateway dies with its parent", || (!listens(&cluster)).then_some(()));
    cluster.start();
    cluster.wait_healthy();
    let log = cluster.log();
    assert!(!log.contains("PANIC") && !log.contains("panicked"), "{log}");
}

#[test]
fn the_gateway_dies_with_the_launcher() {
    let cluster = Cluster::ready();
    let (launcher, gateway) = (cluster.worker("launcher"), cluster.worker("gateway"));
    kill(launcher, Signal::KILL);
    wait_until("the old gateway is gone", || (!rte_testkit::alive(gateway)).then_some(()));
    wait_until("a new one serves", || cluster.healthy().then_some(()));
    assert_ne!(cluster.worker("gateway"), gateway);
}

#[test]
fn start_up_works_in_any_order() {
    let mut cluster = Cluster::builder().conf("rte.landlord_database", "later").start();
    assert!(!cluster.healthy(), "there is no database to serve yet");
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE web_anon NOLOGIN");
    sql.run("CREATE DATABASE later");
    let mut later = cluster.sql_in("later");
    later.prepare_database();
    cluster.wait_healthy();
    later.table("t", "id int PRIMARY KEY");
    let mut client = cluster.subscriber("c", &["t"]);
    later.run("INSERT INTO t VALUES (1)");
    assert_equal(&mut later, &mut client);
    // The database may even go and come again.
    client.leave();
    drop(later);
    sql.run("DROP DATABASE later WITH (FORCE)");
    sql.run("CREATE DATABASE later");
    let mut later = cluster.sql_in("later");
    later.prepare_database();
    later.table("t", "id int PRIMARY KEY");
    wait_until("a client is welcome", || Client::new(cluster.rte_port, "probe").try_join().ok());
    let mut client = cluster.subscriber("c", &["t"]);
    later.run("INSERT INTO t VALUES (2)");
    assert_equal(&mut later, &mut client);
    drop(later);
    drop(sql);
    cluster.restart(Shutdown::Fast);
    cluster.wait_healthy();
}

#[test]
fn the_extension_may_come_after_the_start_and_go_again() {
    let cluster = Cluster::builder().start();
    let mut sql = cluster.sql();
    for _ in 0..3 {
        sql.prepare_database();
        cluster.wait_healthy();
        sql.table("t", "id int PRIMARY KEY");
        wait_until("a client is welcome", || Client::new(cluster.rte_port, "probe").try_join().ok());
        let mut client = cluster.subscriber("c", &["t"]);
        sql.run("INSERT INTO t VALUES (1)");
        assert_equal(&mut sql, &mut client);
        sql.run("DROP EXTENSION whagons_rte CASCADE; DROP TABLE t, kit_barrier");
    }
}

#[test]
fn a_role_that_comes_later_is_let_in_later() {
    let cluster = Cluster::builder().conf("rte.anon_role", "visitor").ready();
    let mut client = Client::new(cluster.rte_port, "c");
    assert!(client.try_join().is_err());
    cluster.sql().run("CREATE ROLE visitor; GRANT SELECT ON kit_barrier TO visitor");
    wait_until("the role is known", || client.try_join().ok());
    cluster.conf("rte.anon_role", "");
    cluster.reload();
    wait_until("nobody is let in", || Client::new(cluster.rte_port, "c").try_join().err());
}

#[test]
fn a_port_in_use_is_said_clearly_and_taken_when_free() {
    let mut cluster = Cluster::builder().create();
    let squatter = TcpListener::bind(("127.0.0.1", cluster.rte_port)).expect("the port");
    cluster.start();
    cluster.sql().prepare_database();
    let port = cluster.rte_port.to_string();
    wait_until("a line that names the port", || {
        let log = cluster.log();
        let said = log.lines().any(|l| l.contains(&port) && l.contains("in use"));
        said.then_some(())
    });
    cluster.sql().table("t", "id int PRIMARY KEY");
    cluster.sql().run("INSERT INTO t VALUES (1)");
    drop(squatter);
    cluster.wait_healthy();
    let _ = cluster.subscriber("c", &["t"]);
}

#[test]
fn the_log_says_what_listens_and_which_database_is_active() {
    let cluster = Cluster::ready();
    let log = cluster.log();
    let address = format!("127.0.0.1:{}", cluster.rte_port);
    assert!(log.lines().any(|l| l.contains("listens on") && l.contains(&address)), "{log}");
    wait_until("a line about the database", || {
        cluster.log().lines().any(|l| l.contains("whagons_rte") && l.contains("\"postgres\"")).then_some(())
    });
}

#[test]
fn settings_that_a_reload_changes_apply() {
    let cluster = Cluster::ready();
    cluster.conf("rte.max_subscriptions", "3");
    cluster.reload();
    wait_until("the new limit", || {
        let client = cluster.client("c");
        let limit = client.welcome.as_ref().and_then(|w| w["limits"]["max_subscriptions"].as_u64());
        (limit == Some(3)).then_some(())
    });
}

#[test]
fn heartbeats_find_the_dead_and_keep_the_living() {
    let cluster = Cluster::builder().conf("rte.heartbeat_interval", "300ms").ready();
    let mut sql = cluster.sql();
    let mut living = cluster.subscriber("living", &[]);
    let mut dead = cluster.subscriber("dead", &[]);
    let commits = living.copy.counts.commits;
    living.wait_for("a bare commit at every heartbeat", |c| c.copy.counts.commits > commits + 6);
    wait_until("the view forgets who does not answer", || {
        living.step(std::time::Duration::from_millis(10));
        (sql.number("SELECT count(*) FROM rte.connections") == 1).then_some(())
    });
    assert!(matches!(dead.wait_closed().code, Some(4408) | None));
    dead.come_back();
    assert_equal(&mut sql, &mut dead);
    dead.assert_clean();
}
