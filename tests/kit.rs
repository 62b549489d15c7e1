//! The kit itself, on a Postgres without the extension.

use rte_testkit::{Cluster, Shutdown, canonical, expected_rows, with_cwd};

fn plain() -> Cluster {
    Cluster::builder().without_preload().start()
}

#[test]
fn a_cluster_starts_stops_and_leaves_nothing() {
    let mut cluster = plain();
    for how in [Shutdown::Fast, Shutdown::Smart, Shutdown::Immediate] {
        assert_eq!(cluster.sql().number("SELECT 1"), 1);
        cluster.restart(how);
    }
    cluster.kill();
    cluster.start();
    let (dir, data) = (cluster.dir().to_owned(), cluster.data());
    assert!(!with_cwd(&data).is_empty());
    drop(cluster);
    assert!(!dir.exists());
    assert!(with_cwd(&data).is_empty());
}

#[test]
fn the_oracle_encodes_as_the_contract_says() {
    let cluster = plain();
    let mut sql = cluster.sql();
    sql.run(
        "CREATE DOMAIN big AS bigint;
         CREATE TABLE t (id big, n numeric, b bytea, f float8, j json, a bigint[], \"odd \"\"name\" timestamptz);
         INSERT INTO t VALUES (9007199254740993, 'NaN', '\\x00ff', '-Infinity', '{\"a\":1.0, \"a\":2}',
                               '{1,NULL}', '2026-01-01 12:00+05:30')",
    );
    let columns = ["id", "n", "b", "f", "j", "a", "odd \"name"].map(str::to_owned);
    let expected =
        r#"["9007199254740993","NaN","AP8=","-Infinity",{"a":1,"a":2},["1",null],"2026-01-01T06:30:00+00:00"]"#;
    assert_eq!(expected_rows(&mut sql, "t", &columns), [&*canonical(expected)]);
}

#[test]
fn two_clusters_do_not_meet() {
    let (one, two) = (plain(), plain());
    assert_ne!(one.rte_port, two.rte_port);
    one.sql().run("CREATE TABLE only_here ()");
    assert!(two.sql().fails("SELECT FROM only_here").0 == "42P01");
}
