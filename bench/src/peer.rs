//! The peers of bench/peers: what they are installed from, and how they run. Each is a process of its own that ends with us.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rte_testkit::{Cluster, Signal, Sql, children, kill, within};

use crate::options::{bench_dir, target_dir};
use crate::{rig, say};

/// How long a peer may take until clients may come.
const START: Duration = Duration::from_secs(40);

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    pub port: u16,
    /// A directory that goes with it.
    scratch: Option<PathBuf>,
}

impl Peer {
    /// Node with `ws`, told of every change by NOTIFY.
    pub fn node(cluster: &Cluster) -> Result<Self, String> {
        let mut command = Command::new("node");
        command.arg("server.js").current_dir(install("node-notify")?);
        Self::start(cluster, command, "node-notify")
    }

    /// Node with SockJS, told of the changes of a table by wal2json.
    pub fn sockjs(cluster: &Cluster, table: &str) -> Result<Self, String> {
        cluster.sql().run("SELECT pg_create_logical_replication_slot('sockjs', 'wal2json')");
        let mut command = Command::new("node");
        command.arg("server.js").current_dir(install("wal2json-sockjs")?).env("TABLE", table).env("SLOT", "sockjs");
        Self::start(cluster, command, "wal2json-sockjs")
    }

    /// tokio-tungstenite, told of every change by NOTIFY.
    pub fn rust(cluster: &Cluster) -> Result<Self, String> {
        let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
        command.args(["serve", "rust-notify"]);
        Self::start(cluster, command, "rust-notify")
    }

    /// zero-cache. `address` is where the server listens on TCP.
    pub fn zero(cluster: &Cluster, address: &str, table: &str) -> Result<Self, String> {
        let place = install("zero")?;
        // A Node of its own, because it does not run with older ones.
        let nodes = ["x64", "arm64"].map(|m| place.join(format!("node_modules/node-linux-{m}/bin/node")));
        let node = nodes.into_iter().find(|node| node.exists()).ok_or("zero: no Node 22 for this machine")?;
        let replica = place.join(format!("replica-{}", std::process::id()));
        let _ = fs::remove_dir_all(&replica);
        fs::create_dir_all(&replica).map_err(|e| e.to_string())?;
        let mut command = Command::new(node);
        command.arg("server.js").current_dir(place).env("TABLE", table).env("PLACE", &replica);
        command.env("UPSTREAM", format!("postgres://postgres@{address}:5432/postgres"));
        let mut peer = Self::start(cluster, command, "zero")?;
        peer.scratch = Some(replica);
        Ok(peer)
    }

    fn start(cluster: &Cluster, mut command: Command, name: &str) -> Result<Self, String> {
        let port = free_port();
        command.env("PGHOST", cluster.dir()).env("PGPORT", "5432").env("PGUSER", "postgres");
        command.env("PGDATABASE", "postgres").env("PORT", port.to_string());
        let child = ready(command).map_err(|e| format!("{name}: {e}"))?;
        Ok(Self { child, port, scratch: None })
    }

    /// The processes that deliver, but for their sessions.
    pub fn processes(&self) -> Vec<i32> {
        family(self.child.id() as i32)
    }

    /// The process that clients are connected to.
    pub fn server(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // What it has started ends with it, if it is asked to end.
        let family = family(self.child.id() as i32);
        drop(self.child.stdin.take());
        if within(Duration::from_secs(2), || self.child.try_wait().ok().flatten()).is_none() {
            family.iter().for_each(|pid| kill(*pid, Signal::KILL));
            let _ = self.child.wait();
        }
        if let Some(scratch) = &self.scratch {
            let _ = fs::remove_dir_all(scratch);
        }
    }
}

/// A process and all that it has started.
fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    all.extend(children(pid).into_iter().flat_map(family));
    all
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Starts a process and waits for its line `ready`. It ends when its standard input does.
pub fn ready(mut command: Command) -> Result<Child, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let out = child.stdout.take().ok_or("it has no output")?;
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(out).read_line(&mut line);
        let _ = send.send(line);
    });
    match receive.recv_timeout(START) {
        Ok(line) if line.trim() == "ready" => Ok(child),
        other => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("it does not become ready: {other:?}"))
        }
    }
}

/// What `serve rust-notify` does.
pub fn serve_rust_notify() {
    end_with_parent();
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let [host, port, user, database] = ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"].map(variable);
    let database = format!("host={host} port={port} user={user} dbname={database} application_name=rust-notify");
    let port = variable("PORT").parse().expect("a port");
    let ended = rte_peer_rust_notify::serve(&database, port, || println!("ready"));
    panic!("{ended:?}");
}

/// Ends this process when its standard input does: whoever started it is gone.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// The trigger that everybody writes.
pub fn notify_on(sql: &mut Sql, table: &str) {
    sql.run(&format!(
        "CREATE OR REPLACE FUNCTION notify_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_notify('changes', row_to_json(NEW)::text); RETURN NULL; END $$;
         CREATE TRIGGER notify_row AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION notify_row()"
    ));
}

/// The trigger that audits and outboxes are made of: the row as JSON into a table with a sequence.
pub fn log_on(sql: &mut Sql, table: &str) {
    sql.run(&format!(
        "CREATE TABLE IF NOT EXISTS row_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL,
             relation text NOT NULL, op text NOT NULL, row_new jsonb, row_old jsonb);
         CREATE OR REPLACE FUNCTION log_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO row_log (at, relation, op, row_new, row_old) VALUES (now(), TG_TABLE_NAME, TG_OP, to_jsonb(NEW), to_jsonb(OLD));
             RETURN NULL; END $$;
         CREATE TRIGGER log_row AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION log_row()"
    ));
}

/// Installs a Node peer from its lock file, once, outside the tree.
fn install(name: &str) -> Result<PathBuf, String> {
    let source = bench_dir().join("peers").join(name);
    let place = target_dir().join("bench").join(name);
    let failed = |e: std::io::Error| format!("{name}: {e}");
    fs::create_dir_all(&place).map_err(failed)?;
    let lock = "package-lock.json";
    let installed = place.join("installed");
    let current = fs::read(source.join(lock)).map_err(failed)?;
    if fs::read(&installed).ok().as_ref() != Some(&current) {
        say(&format!("installing the peer {name}"));
        for file in ["package.json", lock] {
            fs::copy(source.join(file), place.join(file)).map_err(failed)?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&place);
        let output = npm.output().map_err(|e| format!("npm, which the peer {name} needs: {e}"))?;
        if !output.status.success() {
            return Err(format!("npm ci for {name}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        fs::write(&installed, current).map_err(failed)?;
    }
    fs::copy(source.join("server.js"), place.join("server.js")).map_err(failed)?;
    Ok(place)
}

/// The directory with wal2json's library, from Debian's package where it is not installed; none where it is.
pub fn wal2json() -> Result<Option<PathBuf>, String> {
    let version = Command::new(rig::postgres()).arg("--version").output().map_err(|e| e.to_string())?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.contains(") 15.") {
        return Err(format!(
            "wal2json is taken from Debian's package for PostgreSQL 15, and this is {}",
            version.trim()
        ));
    }
    let config = Command::new(rig::postgres().with_file_name("pg_config")).arg("--pkglibdir").output();
    let libraries = config.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim())).unwrap_or_default();
    if libraries.join("wal2json.so").exists() {
        return Ok(None);
    }
    let place = target_dir().join("bench/wal2json");
    let inside = place.join("usr/lib/postgresql/15/lib");
    if !inside.join("wal2json.so").exists() {
        say("fetching Debian's package of wal2json");
        fs::create_dir_all(&place).map_err(|e| e.to_string())?;
        let script = "apt-get download -q postgresql-15-wal2json && dpkg -x postgresql-15-wal2json_*.deb .";
        let output = Command::new("sh").args(["-c", script]).current_dir(&place).output().map_err(|e| e.to_string())?;
        if !output.status.success() {
            let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("wal2json is not installed and cannot be fetched: {problem}"));
        }
    }
    Ok(Some(fs::canonicalize(inside).map_err(|e| e.to_string())?))
}
