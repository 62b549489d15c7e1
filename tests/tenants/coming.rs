//! Tenants come by a commit, and go by one.

use super::{client, database, fill, roomy, state, stranger, wait_refused, wait_state};
use rte_testkit::{Cluster, assert_equal, wait_until};
use std::time::{Duration, Instant};

const TENANTS: &str = "CREATE TABLE public.tenants (name text PRIMARY KEY, domain text, database text)";

/// How long until a client of the tenant is welcome.
fn time_to_serve(cluster: &Cluster, tenant: &str, commit: impl FnOnce()) -> Duration {
    let mut probe = stranger(cluster, tenant);
    wait_refused(&mut probe, 4404, "UNKNOWN_TENANT");
    commit();
    let began = Instant::now();
    wait_until("a welcome", || probe.try_join().ok());
    began.elapsed()
}

#[test]
fn a_new_tenant_is_served_within_a_second_of_its_rows_commit() {
    let _alone = rte_testkit::alone();
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    landlord.run(&format!("{TENANTS}; SELECT rte.watch_tenants('tenants')"));
    for name in ["one", "two", "three", "four"] {
        drop(database(&cluster, name));
    }
    let registered =
        time_to_serve(&cluster, "one", || landlord.run("SELECT rte.register_tenant('one', 'one.example')"));
    let watched = time_to_serve(&cluster, "two", || landlord.run("INSERT INTO tenants VALUES ('two', NULL, NULL)"));
    let by_domain = time_to_serve(&cluster, "THREE.example", || {
        landlord.run("INSERT INTO tenants VALUES ('3', 'three.Example', 'three')");
    });
    landlord.run("BEGIN; INSERT INTO tenants VALUES ('four'); PREPARE TRANSACTION 'p'");
    let prepared = time_to_serve(&cluster, "four", || landlord.run("COMMIT PREPARED 'p'"));
    println!("registered {registered:?}, watched {watched:?}, by domain {by_domain:?}, prepared {prepared:?}");
    for time in [registered, watched, by_domain, prepared] {
        assert!(time < Duration::from_secs(1), "{time:?}");
    }
    for name in ["one", "two", "3", "four"] {
        let database = if name == "3" { "three" } else { name };
        let mut client = client(&cluster, name);
        let mut sql = cluster.sql_in(database);
        sql.run("UPDATE t SET v = v || '!'");
        assert_equal(&mut sql, &mut client);
        assert_eq!(client.welcome.as_ref().and_then(|w| w["tenant"].as_str()), Some(name));
    }
}

#[test]
fn a_database_that_is_created_later_comes_up_by_itself_and_gets_its_extension() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    landlord.run("SELECT rte.register_tenant('late')");
    wait_state(&mut landlord, "late", "database missing");
    let mut early = stranger(&cluster, "late");
    wait_refused(&mut early, 1013, "TENANT_NOT_READY");
    landlord.run("CREATE DATABASE late");
    // Without any client.
    wait_state(&mut landlord, "late", "ready");
    let mut sql = cluster.sql_in("late");
    assert_eq!(sql.texts("SELECT extname FROM pg_extension WHERE extname = 'whagons_rte'"), ["whagons_rte"]);
    sql.run("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO web_anon");
    sql.table("kit_barrier", "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
    fill(&mut sql, "late");
    let mut client = client(&cluster, "late");
    assert_equal(&mut sql, &mut client);
    let log = cluster.log();
    assert_eq!(log.matches("tenant \"late\" waits: database \"late\" is not there").count(), 1, "said once\n{log}");
}

/// `POST /api/tenants/reload`
fn reload(cluster: &Cluster, header: &str) -> u16 {
    let port = cluster.rte_port;
    let text =
        format!("POST /api/tenants/reload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\nContent-Length: 0\r\n\r\n");
    rte_testkit::request(port, &text).expect("an answer").status
}

#[test]
fn the_extension_is_created_only_where_that_is_wanted() {
    let cluster = roomy().conf("rte.auto_create_extension", "off").ready();
    let mut landlord = cluster.sql();
    landlord.run("CREATE DATABASE bare");
    landlord.run("CREATE DATABASE stranger");
    landlord.run("SELECT rte.register_tenant('bare')");
    let mut early = stranger(&cluster, "bare");
    wait_refused(&mut early, 1013, "TENANT_NOT_READY");
    wait_state(&mut landlord, "bare", "extension missing");
    cluster.sql_in("bare").prepare_database();
    wait_until("a welcome", || early.try_join().ok());
    early.leave();
    // Who drops it has a reason.
    cluster.conf("rte.auto_create_extension", "on");
    cluster.reload();
    wait_state(&mut landlord, "bare", "serving");
    cluster.sql_in("bare").run("DROP EXTENSION whagons_rte CASCADE; DROP TABLE kit_barrier");
    wait_refused(&mut early, 1013, "TENANT_NOT_READY");
    wait_state(&mut landlord, "bare", "extension missing");
    for header in ["X-Forwarded-For: 192.0.2.1", "Origin: https://elsewhere.example"] {
        assert_eq!(reload(&cluster, header), 403, "{header}");
    }
    assert_eq!(state(&mut landlord, "bare"), "extension missing");
    assert_eq!(reload(&cluster, "Accept: */*"), 202);
    wait_state(&mut landlord, "bare", "ready");
    // A database that is no tenant's is nobody's business.
    assert!(cluster.sql_in("stranger").texts("SELECT 1 FROM pg_extension WHERE extname = 'whagons_rte'").is_empty());
}

#[test]
fn clients_of_tenants_that_are_removed_or_renamed_are_closed() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    // Before they are tenants, whose extension others create.
    let databases = ["a", "bb", "c", "d", "e"].map(|name| database(&cluster, name));
    landlord.run(&format!("{TENANTS}; INSERT INTO tenants VALUES ('a', NULL, NULL), ('b', NULL, 'bb'), ('c', NULL, NULL), ('d', NULL, NULL)"));
    landlord.run("SELECT rte.watch_tenants('tenants'); SELECT rte.register_tenant('e')");
    let mut clients = ["a", "b", "c", "d", "e"].map(|name| client(&cluster, name));
    drop(databases);
    landlord.run("DELETE FROM tenants WHERE name = 'a'");
    assert_eq!(clients[0].wait_closed().code, Some(4404), "removed");
    landlord.run("UPDATE tenants SET name = 'new' WHERE name = 'b'");
    assert_eq!(clients[1].wait_closed().code, Some(4404), "renamed");
    landlord.run("UPDATE tenants SET database = 'a' WHERE name = 'c'");
    assert_eq!(clients[2].wait_closed().code, Some(4404), "moved");
    landlord.run("SELECT rte.unregister_tenant('e')");
    assert_eq!(clients[4].wait_closed().code, Some(4404), "unregistered");
    wait_refused(&mut clients[0], 4404, "UNKNOWN_TENANT");
    // Under its new name it is served, in the same database.
    let mut renamed = client(&cluster, "new");
    let mut sql = cluster.sql_in("bb");
    sql.run("INSERT INTO t VALUES (1, 'x')");
    assert_equal(&mut sql, &mut renamed);
    // The others did not notice; a removed tenant's database is free.
    let mut sql = cluster.sql_in("d");
    sql.run("INSERT INTO t VALUES (1, 'x')");
    assert_equal(&mut sql, &mut clients[3]);
    clients[3].assert_clean();
    wait_until("the database is let go", || landlord.batch_execute("DROP DATABASE e").ok());
    landlord.run("TRUNCATE tenants");
    assert_eq!(clients[3].wait_closed().code, Some(4404), "truncated");
    assert_eq!(state(&mut landlord, "d"), "");
}
