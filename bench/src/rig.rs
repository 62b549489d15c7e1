//! The servers and tables that scenarios run on.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rte_testkit::{Builder, Cluster, Sql, within};

use crate::clock;

/// As a careful administrator would set it, and without what comes at random: an autovacuum or a checkpoint in
/// one contestant's turn is noise.
fn settings(builder: Builder, more: &[(&str, &str)]) -> Builder {
    let builder = builder
        .conf("fsync", "on")
        .conf("shared_buffers", "256MB")
        .conf("max_connections", "100")
        .conf("max_wal_size", "8GB")
        .conf("checkpoint_timeout", "1h")
        .conf("autovacuum", "off");
    more.iter().fold(builder, |builder, (name, value)| builder.conf(name, value))
}

/// How whagons gets to know of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    Trigger,
    Wal,
}

/// What a server of ours is to have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// Tokens of the kit's secret count.
    pub tokens: bool,
    pub settings: &'a [(&'a str, &'a str)],
}

/// A server with the extension and a gateway that answers.
///
/// # Errors
/// It cannot capture in this way.
pub fn ours(capture: Capture, needs: Needs) -> Result<Cluster, String> {
    let mut builder = settings(Cluster::builder(), &[]);
    if needs.tokens {
        builder = builder.tokens().conf("rte.require_tenant_claim", "off");
    }
    if capture == Capture::Wal {
        builder = builder.conf("wal_level", "logical").conf("rte.capture", "wal");
    }
    let cluster = settings(builder, needs.settings).ready();
    let known = cluster.sql().number("SELECT count(*) FROM pg_settings WHERE name = 'rte.capture'");
    if capture == Capture::Wal && known == 0 {
        return Err("this version has no capture from the WAL".into());
    }
    Ok(cluster)
}

/// Registers a table and waits until it is captured in this way.
///
/// # Errors
/// It does not come to it.
pub fn register(cluster: &Cluster, capture: Capture, table: &str) -> Result<(), String> {
    let mut sql = cluster.sql();
    sql.register(table);
    if capture == Capture::Wal {
        let others = "SELECT count(*) FROM rte.tables WHERE capture <> 'wal'";
        within(Duration::from_secs(20), || (sql.query_one(others, &[]).ok()?.get::<_, i64>(0) == 0).then_some(()))
            .ok_or("its tables are not captured from the WAL within 20 s")?;
    }
    Ok(())
}

/// A server that has never heard of us.
pub fn plain(more: &[(&str, &str)]) -> Cluster {
    settings(Cluster::builder().without_preload(), more).start()
}

/// A server on which wal2json can be used.
///
/// # Errors
/// The plugin cannot be had for this version.
pub fn with_wal2json() -> Result<Cluster, String> {
    let library = crate::peer::wal2json()?;
    let path = library.map(|directory| format!("$libdir:{}", directory.display()));
    let mut more = vec![("wal_level", "logical")];
    if let Some(path) = &path {
        more.push(("dynamic_library_path", path));
    }
    // Where it exists, it says which plugins may be used; without it all may.
    let describe = Command::new(postgres()).arg("--describe-config").output().map_err(|e| e.to_string())?;
    if String::from_utf8_lossy(&describe.stdout).contains("output_plugin_libraries") {
        more.push(("output_plugin_libraries", "wal2json"));
    }
    Ok(plain(&more))
}

/// The server's program.
pub fn postgres() -> PathBuf {
    std::env::var_os("RTE_PG_BIN").map_or_else(|| "postgres".into(), |bin| PathBuf::from(bin).join("postgres"))
}

/// A table whose rows are about 250 bytes as JSON.
pub fn create_feed(sql: &mut Sql, rows: u64) {
    sql.run(&format!(
        "CREATE TABLE feed (id int PRIMARY KEY, body text NOT NULL) WITH (fillfactor = 50);
         INSERT INTO feed SELECT i, '{}' FROM generate_series(1, {rows}) i",
        body(0)
    ));
}

/// A text that carries a mark.
pub fn body(mark: u64) -> String {
    format!("{}{}", clock::written(mark), "x".repeat(200))
}

/// Before a turn: what would otherwise come in it.
pub fn settle(cluster: &Cluster, tables: &[&str]) {
    let mut sql = cluster.sql();
    tables.iter().for_each(|table| sql.run(&format!("VACUUM {table}")));
    sql.run("CHECKPOINT");
}

/// Fills pgbench's tables.
pub fn pgbench_tables(cluster: &Cluster, scale: u64) {
    let output = cluster.tool("pgbench").args(["-i", "-q", "-s", &scale.to_string(), "postgres"]).output();
    let output = output.expect("pgbench");
    assert!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
}
