//! Every way to change a row ends in the same copy.

use rte_testkit::{Client, Cluster, Shutdown, Sql, assert_equal};

/// A cluster with a table `t (id, v, n)` of ten rows, and a client that holds it.
fn start() -> (Cluster, Sql, Client) {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("t", "id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0");
    sql.run("INSERT INTO t SELECT i, 'v' || i, i FROM generate_series(1, 10) i");
    let client = cluster.subscriber("c", &["t"]);
    (cluster, sql, client)
}

/// Runs statements and compares; the client must get there by changes alone.
#[track_caller]
fn follows(sql: &mut Sql, client: &mut Client, statements: &str) {
    sql.run(statements);
    assert_equal(sql, client);
    client.assert_clean();
}

#[test]
fn copy_in() {
    let (cluster, mut sql, mut client) = start();
    let script = "COPY t (id, v) FROM STDIN;\n11\televen\n12\t\\N\n13\ta\\tb\n\\.\n";
    assert!(cluster.psql("postgres", &["-v", "ON_ERROR_STOP=1"], script).status.success());
    assert_equal(&mut sql, &mut client);
    assert_eq!(client.sub("t").value(&["13"], "v"), Some("\"a\\tb\""));
    let failing = "COPY t (id, v) FROM STDIN;\n14\tx\n11\tdouble\n\\.\n";
    assert!(!cluster.psql("postgres", &["-v", "ON_ERROR_STOP=1"], failing).status.success());
    follows(&mut sql, &mut client, "INSERT INTO t VALUES (15, 'after')");
}

#[test]
fn what_a_savepoint_takes_back_never_arrives() {
    let (_cluster, mut sql, mut client) = start();
    follows(
        &mut sql,
        &mut client,
        "BEGIN; INSERT INTO t VALUES (20, 'kept');
         SAVEPOINT a; INSERT INTO t VALUES (21, 'gone'); UPDATE t SET v = 'gone' WHERE id = 1;
         SAVEPOINT b; DELETE FROM t WHERE id = 2; RELEASE b; ROLLBACK TO a;
         SAVEPOINT c; UPDATE t SET v = 'kept' WHERE id = 3; RELEASE c; COMMIT",
    );
    follows(&mut sql, &mut client, "BEGIN; DELETE FROM t; ROLLBACK");
    follows(
        &mut sql,
        &mut client,
        "DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN
           INSERT INTO t VALUES (100 + i, 'loop'); IF i % 3 = 0 THEN RAISE EXCEPTION 'x'; END IF;
         EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    );
}

#[test]
fn a_prepared_transaction_arrives_when_it_commits() {
    let (mut cluster, mut sql, mut client) = start();
    sql.run("BEGIN; UPDATE t SET v = 'prepared' WHERE id = 1; INSERT INTO t VALUES (30); PREPARE TRANSACTION 'one'");
    follows(&mut sql, &mut client, "UPDATE t SET v = 'meanwhile' WHERE id = 2");
    assert_eq!(client.sub("t").value(&["1"], "v"), Some("\"v1\""));
    // Nothing wakes the feeder at this commit, so it may take the safety poll.
    follows(&mut sql, &mut client, "COMMIT PREPARED 'one'");
    sql.run("BEGIN; DELETE FROM t WHERE id = 3; PREPARE TRANSACTION 'two'");
    follows(&mut sql, &mut client, "ROLLBACK PREPARED 'two'");

    sql.run("BEGIN; UPDATE t SET v = 'over the restart' WHERE id = 4; PREPARE TRANSACTION 'three'");
    cluster.restart(Shutdown::Immediate);
    client.come_back();
    let mut sql = cluster.sql();
    follows(&mut sql, &mut client, "UPDATE t SET v = 'before it' WHERE id = 5");
    follows(&mut sql, &mut client, "COMMIT PREPARED 'three'");
    assert_eq!(client.sub("t").value(&["4"], "v"), Some("\"over the restart\""));
}

#[test]
fn a_prepared_commit_arrives_without_another_commit() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("BEGIN; UPDATE t SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'one'");
    sql.run("COMMIT PREPARED 'one'");
    client.wait_for("the prepared change", |c| c.sub("t").value(&["1"], "v") == Some("\"prepared\""));
}

#[test]
fn truncate() {
    let (_cluster, mut sql, mut client) = start();
    sql.table("parent", "id int PRIMARY KEY");
    sql.table("child", "id int PRIMARY KEY, parent int REFERENCES parent");
    sql.run("INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2)");
    for table in ["parent", "child"] {
        client.subscribe(table, table);
    }
    client.wait_live();
    follows(&mut sql, &mut client, "TRUNCATE t");
    assert!(client.sub("t").rows.is_empty());
    follows(
        &mut sql,
        &mut client,
        "BEGIN; INSERT INTO t VALUES (1, 'a'); TRUNCATE t; INSERT INTO t VALUES (2, 'b'); COMMIT",
    );
    follows(
        &mut sql,
        &mut client,
        "BEGIN; SAVEPOINT s; TRUNCATE t; ROLLBACK TO s; INSERT INTO t VALUES (3, 'c'); COMMIT",
    );
    follows(&mut sql, &mut client, "TRUNCATE parent CASCADE");
    sql.run("INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1)");
    follows(&mut sql, &mut client, "TRUNCATE t, child, parent RESTART IDENTITY");
    client.leave();
    sql.run("INSERT INTO t VALUES (9); TRUNCATE t; INSERT INTO t VALUES (10)");
    client.resume();
    assert_equal(&mut sql, &mut client);
    client.assert_clean();
}

#[test]
fn a_key_update_is_a_delete_and_an_insert() {
    let (_cluster, mut sql, mut client) = start();
    follows(&mut sql, &mut client, "UPDATE t SET id = 100, v = 'moved' WHERE id = 1");
    follows(&mut sql, &mut client, "UPDATE t SET id = id + 1000");
    follows(
        &mut sql,
        &mut client,
        "BEGIN; UPDATE t SET id = 1 WHERE id = 1002; UPDATE t SET id = 2 WHERE id = 1; COMMIT",
    );
    // Keys that move into each other's places in one statement; the rows lie in an order that allows it.
    sql.table("swap", "id int PRIMARY KEY, v text");
    sql.run("INSERT INTO swap SELECT i, 'row ' || i FROM generate_series(20, 1, -1) i");
    client.subscribe("swap", "swap");
    client.wait_live();
    follows(&mut sql, &mut client, "UPDATE swap SET id = id + 1");
    follows(
        &mut sql,
        &mut client,
        "BEGIN; UPDATE swap SET id = 0 WHERE id = 2; UPDATE swap SET id = 2 WHERE id = 3; UPDATE swap SET id = 3 WHERE id = 0; COMMIT",
    );
}

#[test]
fn a_toasted_value_that_did_not_change_is_not_sent_again() {
    let (cluster, mut sql, _) = start();
    sql.run("ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL");
    let mut client = cluster.subscriber("c", &["t"]);
    sql.run("INSERT INTO t VALUES (50, repeat('long ', 200000), 0)");
    assert_equal(&mut sql, &mut client);
    follows(&mut sql, &mut client, "UPDATE t SET n = n + 1 WHERE id = 50");
    follows(&mut sql, &mut client, "UPDATE t SET n = n + 1 WHERE id = 50");
    assert!(client.copy.counts.widest_set < 1000, "{:?}", client.copy.counts);
    assert_eq!(client.sub("t").value(&["50"], "v").map(str::len), Some(1_000_002));
    follows(&mut sql, &mut client, "UPDATE t SET id = 51 WHERE id = 50");
    follows(
        &mut sql,
        &mut client,
        "BEGIN; UPDATE t SET n = 7 WHERE id = 51; UPDATE t SET v = v || '!' WHERE id = 51; COMMIT",
    );
    follows(
        &mut sql,
        &mut client,
        "BEGIN; UPDATE t SET v = 'short' WHERE id = 51; UPDATE t SET n = 8 WHERE id = 51; COMMIT",
    );
}

#[test]
fn partitions_are_one_table() {
    let (_cluster, mut sql, mut client) = start();
    sql.run(
        "CREATE TABLE p (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
         CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');
         CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us') PARTITION BY RANGE (id);
         CREATE TABLE p_us_low PARTITION OF p_us FOR VALUES FROM (0) TO (100);
         CREATE TABLE p_us_high PARTITION OF p_us FOR VALUES FROM (100) TO (MAXVALUE)",
    );
    sql.register("p");
    sql.run("INSERT INTO p VALUES (1, 'eu', 'a'), (2, 'us', 'b')");
    client.subscribe("p", "p");
    client.wait_live();
    follows(&mut sql, &mut client, "INSERT INTO p VALUES (3, 'us', 'c'), (200, 'us', 'd'), (4, 'eu', 'e')");
    follows(&mut sql, &mut client, "INSERT INTO p_us_high VALUES (201, 'us', 'directly')");
    follows(&mut sql, &mut client, "UPDATE p SET v = upper(v)");
    follows(&mut sql, &mut client, "UPDATE p SET region = 'us' WHERE id = 1");
    follows(&mut sql, &mut client, "UPDATE p SET id = id + 100 WHERE id = 3");
    follows(&mut sql, &mut client, "DELETE FROM p WHERE id = 200");
    // A partition with another column order, with a dropped column, and with rows that it brings along.
    sql.run(
        "CREATE TABLE p_asia (v text, dropped int, region text NOT NULL, id int NOT NULL);
         ALTER TABLE p_asia DROP COLUMN dropped; INSERT INTO p_asia VALUES ('brought', 'asia', 1)",
    );
    sql.run("ALTER TABLE p ATTACH PARTITION p_asia FOR VALUES IN ('asia')");
    assert_equal(&mut sql, &mut client);
    sql.run("INSERT INTO p VALUES (2, 'asia', 'new'); UPDATE p SET v = 'changed' WHERE region = 'asia' AND id = 1");
    sql.run("INSERT INTO p_asia VALUES ('directly', 'asia', 3); UPDATE p SET region = 'asia' WHERE region = 'eu'");
    assert_equal(&mut sql, &mut client);
    sql.run("CREATE TABLE p_new PARTITION OF p FOR VALUES IN ('new'); INSERT INTO p VALUES (1, 'new', 'x')");
    assert_equal(&mut sql, &mut client);
    // The rows of one partition go: by TRUNCATE, by DETACH.
    sql.run("TRUNCATE p_us_high");
    assert_equal(&mut sql, &mut client);
    sql.run("ALTER TABLE p DETACH PARTITION p_asia");
    assert_equal(&mut sql, &mut client);
    sql.run("INSERT INTO p_asia VALUES ('no longer ours', 'asia', 9); DROP TABLE p_us; INSERT INTO p VALUES (10, 'eu', 'x')");
    assert_equal(&mut sql, &mut client);
    sql.run("TRUNCATE p");
    assert_equal(&mut sql, &mut client);
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

#[test]
fn keys_of_several_columns_and_types() {
    let (_cluster, mut sql, mut client) = start();
    sql.table("k", "v int, b text, a bigint, c uuid, d timestamptz, PRIMARY KEY (a, b, c, d)");
    sql.run(
        "INSERT INTO k SELECT i, 'b\"' || i, 9007199254740993 + i, gen_random_uuid(), now() FROM generate_series(1, 20) i",
    );
    client.subscribe("k", "k");
    client.wait_live();
    assert_eq!(client.sub("k").key, ["a", "b", "c", "d"]);
    follows(
        &mut sql,
        &mut client,
        "UPDATE k SET v = v + 1; UPDATE k SET b = b || 'x' WHERE v % 2 = 0; DELETE FROM k WHERE v < 5",
    );
    // Without a primary key, a replica identity index serves.
    sql.run("CREATE TABLE r (a int NOT NULL, v text); CREATE UNIQUE INDEX r_a ON r (a)");
    sql.run("ALTER TABLE r REPLICA IDENTITY USING INDEX r_a");
    match sql.batch_execute("SELECT rte.register_table('r')") {
        Ok(()) => {
            client.subscribe("r", "r");
            client.wait_live();
            follows(&mut sql, &mut client, "INSERT INTO r VALUES (1, 'a'); UPDATE r SET a = 2; UPDATE r SET v = 'b'");
        }
        Err(e) => assert!(e.as_db_error().is_some_and(|e| e.hint().is_some()), "refused, then with a hint: {e:?}"),
    }
}

#[test]
fn generated_columns() {
    let (_cluster, mut sql, mut client) = start();
    sql.table(
        "g",
        "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED",
    );
    client.subscribe("g", "g");
    client.wait_live();
    follows(&mut sql, &mut client, "INSERT INTO g (a) VALUES (1), (2)");
    follows(&mut sql, &mut client, "UPDATE g SET a = a + 10");
    assert_eq!(client.sub("g").value(&["1"], "twice"), Some("22"));
    if sql.number("SHOW server_version_num") >= 180_000 {
        sql.table("virt", "id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL");
        sql.run("INSERT INTO virt VALUES (1, 1)");
        client.subscribe("virt", "virt");
        client.wait_live();
        follows(&mut sql, &mut client, "UPDATE virt SET a = a + 10; INSERT INTO virt VALUES (2, 2)");
    }
}

#[test]
fn replicated_writes() {
    let (_cluster, mut sql, mut client) = start();
    sql.run("SET session_replication_role = replica");
    follows(
        &mut sql,
        &mut client,
        "INSERT INTO t VALUES (60, 'r'); UPDATE t SET v = 'r' WHERE id = 1; DELETE FROM t WHERE id = 2",
    );
    follows(&mut sql, &mut client, "TRUNCATE t");
    sql.run("SET session_replication_role = local");
    follows(&mut sql, &mut client, "INSERT INTO t VALUES (61, 'l')");
}

/// Such a row may be more than a client's queue holds; closed as too slow, it comes back and has it.
#[test]
fn a_row_of_20_megabytes() {
    let (cluster, mut sql, mut client) = start();
    let mut follow = |client: &mut Client, statement: &str| {
        sql.run(statement);
        let mark = sql.barrier();
        client.carry_on("the large row", |c| c.at_barrier(mark));
        assert_equal(&mut sql, client);
        client.assert_clean();
    };
    follow(&mut client, "INSERT INTO t SELECT 70, string_agg(md5(i::text), '') FROM generate_series(1, 655360) i");
    assert_eq!(client.sub("t").value(&["70"], "v").map(str::len), Some(20 * 1024 * 1024 + 2));
    follow(&mut client, "UPDATE t SET v = reverse(v) WHERE id = 70");
    client.leave();
    follow(&mut client, "UPDATE t SET v = v || 'x', n = 1 WHERE id = 70");
    follow(&mut cluster.subscriber("fresh", &["t"]), "UPDATE t SET n = 2 WHERE id = 70");
}

#[test]
fn triggers_that_change_rows_themselves() {
    let (_cluster, mut sql, mut client) = start();
    sql.run(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF pg_trigger_depth() < 3 THEN
             UPDATE t SET n = n + 1 WHERE id = NEW.id;
             UPDATE t SET v = 'touched by ' || NEW.id WHERE id = NEW.id + 1;
           END IF; RETURN NULL; END $$;
         CREATE TRIGGER aaa_first AFTER UPDATE OR INSERT ON t FOR EACH ROW EXECUTE FUNCTION again();
         CREATE TRIGGER zzz_last AFTER UPDATE OR INSERT ON t FOR EACH ROW EXECUTE FUNCTION again()",
    );
    follows(&mut sql, &mut client, "UPDATE t SET v = 'start' WHERE id = 1");
    follows(&mut sql, &mut client, "UPDATE t SET v = v || '.'");
    follows(&mut sql, &mut client, "INSERT INTO t VALUES (80, 'new'), (81, 'new')");
    sql.run(
        "CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           DELETE FROM t WHERE id = NEW.id; RETURN NULL; END $$;
         CREATE TRIGGER bbb AFTER INSERT ON t FOR EACH ROW WHEN (NEW.v = 'gone') EXECUTE FUNCTION drop_row();
         CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           NEW.v := NEW.v || ' (before)'; RETURN NEW; END $$;
         CREATE TRIGGER before BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.v = 'b') EXECUTE FUNCTION change()",
    );
    follows(&mut sql, &mut client, "INSERT INTO t VALUES (90, 'gone'), (91, 'b'); UPDATE t SET v = 'b' WHERE id = 5");
}

#[test]
fn foreign_keys_that_cascade() {
    let (_cluster, mut sql, mut client) = start();
    sql.table("c", "id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE");
    sql.table("n", "id int PRIMARY KEY, t int REFERENCES t ON DELETE SET NULL ON UPDATE SET DEFAULT");
    sql.run("INSERT INTO c SELECT i, i FROM generate_series(1, 10) i; INSERT INTO n SELECT * FROM c");
    for table in ["c", "n"] {
        client.subscribe(table, table);
    }
    client.wait_live();
    follows(&mut sql, &mut client, "DELETE FROM t WHERE id < 4");
    follows(&mut sql, &mut client, "UPDATE t SET id = 44 WHERE id = 4");
}

#[test]
fn upsert_and_merge() {
    let (_cluster, mut sql, mut client) = start();
    follows(
        &mut sql,
        &mut client,
        "INSERT INTO t SELECT i, 'new' FROM generate_series(5, 15) i
         ON CONFLICT (id) DO UPDATE SET v = t.v || ' ' || excluded.v, n = t.n + 1 WHERE t.id <> 6",
    );
    follows(&mut sql, &mut client, "INSERT INTO t VALUES (1, 'no'), (16, 'yes') ON CONFLICT DO NOTHING");
    follows(
        &mut sql,
        &mut client,
        "MERGE INTO t USING (SELECT i FROM generate_series(1, 20) i) s ON t.id = s.i
         WHEN MATCHED AND i % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = 99
         WHEN NOT MATCHED THEN INSERT VALUES (i, 'merged', i)",
    );
}

#[test]
fn an_update_without_a_change_does_no_harm() {
    let (_cluster, mut sql, mut client) = start();
    follows(&mut sql, &mut client, "UPDATE t SET v = v; UPDATE t SET n = n, id = id");
    follows(&mut sql, &mut client, "BEGIN; UPDATE t SET n = 5 WHERE id = 1; UPDATE t SET n = 1 WHERE id = 1; COMMIT");
    follows(&mut sql, &mut client, "BEGIN; INSERT INTO t VALUES (95); DELETE FROM t WHERE id = 95; COMMIT");
    follows(&mut sql, &mut client, "BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'again'); COMMIT");
}

#[test]
fn other_ways_to_write() {
    let (_cluster, mut sql, mut client) = start();
    follows(
        &mut sql,
        &mut client,
        "WITH gone AS (DELETE FROM t WHERE id < 4 RETURNING *) INSERT INTO t SELECT id + 500, v, n FROM gone",
    );
    sql.run("CREATE VIEW w AS SELECT id, v FROM t WHERE id > 5");
    follows(
        &mut sql,
        &mut client,
        "UPDATE w SET v = 'by the view'; DELETE FROM w WHERE id = 8; INSERT INTO w VALUES (9000, 'x')",
    );
    sql.run("CREATE ROLE writer; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON t TO writer; SET ROLE writer");
    follows_as_other(
        &mut sql,
        "INSERT INTO t VALUES (600, 'w'); UPDATE t SET v = 'w' WHERE id = 6; DELETE FROM t WHERE id = 7",
    );
    sql.run("RESET ROLE; SET search_path = ''");
    sql.run("INSERT INTO public.t VALUES (601, 'no path'); RESET search_path");
    follows(
        &mut sql,
        &mut client,
        "SET default_transaction_isolation = 'serializable'; UPDATE t SET n = 3; RESET default_transaction_isolation",
    );
    follows(&mut sql, &mut client, "DELETE FROM t");
}

/// A role that has no rights in the schema `rte` writes all the same.
#[track_caller]
fn follows_as_other(sql: &mut Sql, statements: &str) {
    sql.run(statements);
    sql.run("TRUNCATE t; INSERT INTO t SELECT i, 'refilled' FROM generate_series(1, 20) i");
}

#[test]
fn a_large_transaction_is_one_commit() {
    let (_cluster, mut sql, mut client) = start();
    let rows = rte_testkit::rounds(100_000);
    sql.run(&format!("INSERT INTO t SELECT i, 'bulk', 0 FROM generate_series(1000, 999 + {rows}) i"));
    client.wait_for("all or nothing", |c| {
        let held = c.sub("t").rows.len();
        assert!(held == 10 || held == 10 + rows, "{held} rows at a commit");
        held > 10
    });
    follows(&mut sql, &mut client, "UPDATE t SET n = n + 1");
    follows(&mut sql, &mut client, "DELETE FROM t WHERE id >= 1000");
}
