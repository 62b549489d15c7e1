//! Where tenants are read from: what is wrong with a source costs its tenants, and nobody else.

use super::{client, database, roomy, state, stranger, wait_refused, wait_state};
use rte_testkit::{assert_equal, wait_until};

#[test]
fn tenants_of_a_table_that_can_no_longer_be_read_are_not_served() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let databases = ["w", "r"].map(|name| database(&cluster, name));
    drop(databases);
    landlord.run(
        "CREATE TABLE firms (firm text PRIMARY KEY, host varchar(99)); INSERT INTO firms VALUES ('w', 'w.example')",
    );
    landlord.run("SELECT rte.watch_tenants('firms', 'firm', 'host', NULL); SELECT rte.register_tenant('r')");
    let (mut watched, mut registered) = (client(&cluster, "w.example"), client(&cluster, "r"));
    // The table itself may be renamed and moved.
    landlord.run("CREATE SCHEMA s; ALTER TABLE firms RENAME TO companies; ALTER TABLE companies SET SCHEMA s");
    watched.ping();
    landlord.run("ALTER TABLE s.companies RENAME host TO domain");
    assert_eq!(watched.wait_closed().code, Some(4404));
    wait_until("a line in the log", || {
        cluster
            .log()
            .contains("the tenants of table s.companies are not served: it has no column \"host\" any more")
            .then_some(())
    });
    registered.ping();
    landlord.run("SELECT rte.watch_tenants('s.companies', 'firm', 'domain', NULL)");
    wait_until("the tenant is back", || watched.try_join().ok());
    landlord.run("DROP TABLE s.companies");
    assert_eq!(watched.wait_closed().code, Some(4404));
    registered.ping();
    assert_eq!(landlord.texts("SELECT name FROM rte.tenants"), ["r"]);
}

#[test]
fn of_two_that_claim_the_same_the_first_is_served_and_the_other_shows_why_not() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    landlord.run("CREATE TABLE tenants (name text, domain text, database text)");
    landlord.run("INSERT INTO tenants VALUES ('a', 'a.example', 'da'), ('b', 'A.example', 'db'), ('c', NULL, 'da'), (NULL, NULL, NULL)");
    landlord.run("SELECT rte.watch_tenants('tenants'); SELECT rte.register_tenant('r', NULL, 'dr')");
    landlord.run("INSERT INTO tenants VALUES ('r', NULL, 'other'), ('postgres', NULL, 'x'), ('t', NULL, 'template1')");
    let expected = [
        ("a", "database missing"),
        ("b", "name or domain taken"),
        ("c", "database taken"),
        ("postgres", "the name is reserved: it is that of the landlord database"),
        ("t", "the database is reserved: a template that is in use cannot be copied"),
    ];
    for (name, wanted) in expected {
        assert_eq!(state(&mut landlord, name), wanted, "{name}");
    }
    assert_eq!(
        landlord.texts("SELECT state FROM rte.tenants WHERE name = 'r' ORDER BY source = 'registered'"),
        ["name or domain taken", "database missing"]
    );
    wait_until("a line in the log", || {
        cluster.log().contains("tenant \"b\" (public.tenants) is not served: name or domain taken").then_some(())
    });
    wait_refused(&mut stranger(&cluster, "b"), 4404, "UNKNOWN_TENANT");
    wait_refused(&mut stranger(&cluster, "a.example"), 1013, "TENANT_NOT_READY");
}

#[test]
fn a_locked_source_holds_up_nobody() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    landlord.table("t", "id int PRIMARY KEY, v text");
    landlord.run("CREATE TABLE tenants (name text, domain text, database text); SELECT rte.watch_tenants('tenants')");
    drop(database(&cluster, "a"));
    landlord.run("INSERT INTO tenants VALUES ('a')");
    let mut tenant = client(&cluster, "a");
    let mut own = cluster.subscriber("own", &["t"]);
    let mut locker = cluster.sql();
    locker.run("BEGIN; LOCK TABLE tenants IN ACCESS EXCLUSIVE MODE");
    landlord.run("SELECT rte.register_tenant('b')");
    landlord.run("INSERT INTO t VALUES (1, 'x')");
    assert_equal(&mut landlord, &mut own);
    tenant.ping();
    locker.run("COMMIT");
    wait_refused(&mut stranger(&cluster, "b"), 1013, "TENANT_NOT_READY");
    wait_state(&mut landlord, "a", "serving");
}

#[test]
fn databases_beyond_the_bound_are_refused_and_their_writers_lose_nothing_unnoticed() {
    let cluster = roomy().conf("rte.max_databases", "2").ready();
    let mut landlord = cluster.sql();
    drop(database(&cluster, "first"));
    landlord.run("SELECT rte.register_tenant('first')");
    let mut first = client(&cluster, "first");
    let mut second = database(&cluster, "second");
    second.run("INSERT INTO t VALUES (1, 'written without a place')");
    landlord.run("SELECT rte.register_tenant('second')");
    wait_refused(&mut stranger(&cluster, "second"), 1013, "TENANT_NOT_READY");
    wait_until("a line in the log", || cluster.log().contains("Raise rte.max_databases").then_some(()));
    first.ping();
    // A place becomes free when a database is dropped.
    landlord.run("SELECT rte.unregister_tenant('first')");
    assert_eq!(first.wait_closed().code, Some(4404));
    wait_until("the database is let go", || landlord.batch_execute("DROP DATABASE first").ok());
    let mut client = client(&cluster, "second");
    assert_equal(&mut second, &mut client);
    second.run("INSERT INTO t VALUES (2, 'x')");
    assert_equal(&mut second, &mut client);
}
