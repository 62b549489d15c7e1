//! A throw-away Postgres server: own directory, own port, gone when it is dropped.
//!
//! `RTE_PG_BIN` names the directory with `postgres` and its tools; without it `pg_config --bindir` does.
//! When we are root, everything runs as the user `postgres`. SQL goes over a Unix socket in the cluster's
//! directory, so the only TCP port is that of the gateway. After a panic the directory stays.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::client::{Client, Closed};
use crate::home::{as_postgres, bin, free_port, initdb, make_dir, run, template};
use crate::process::{self, Signal};
use crate::sql::{Door, Sql};
use crate::wait::{wait_until, within};

/// Ways to stop a server, as `pg_ctl` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    Smart,
    Fast,
    Immediate,
}

/// What a cluster is to be like.
#[derive(Debug)]
pub struct Builder {
    conf: Vec<(String, String)>,
    preload: bool,
    fresh: bool,
    tokens: bool,
    wal: bool,
}

/// A running or stopped server.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    pub rte_port: u16,
    server: Option<Child>,
}

impl Builder {
    /// A line of `postgresql.conf`; the last of a name counts.
    #[must_use]
    pub fn conf(mut self, name: &str, value: &str) -> Self {
        self.conf.push((name.into(), value.into()));
        self
    }

    /// Without the library in `shared_preload_libraries`.
    #[must_use]
    pub fn without_preload(mut self) -> Self {
        self.preload = false;
        self
    }

    /// With tokens of [`crate::SECRET`] and the role `authenticator`, which may be `web_anon`; further roles have to be
    /// granted to it.
    #[must_use]
    pub fn tokens(mut self) -> Self {
        self.tokens = true;
        self.conf("rte.jwt_secret", crate::SECRET).conf("rte.authenticator_role", "authenticator")
    }

    /// Changes are captured from the WAL, or not: by itself as `RTE_CAPTURE` says, `wal` or `trigger`.
    #[must_use]
    pub fn captures_wal(mut self, wal: bool) -> Self {
        self.wal = wal;
        self
    }

    /// With a system identifier of its own: clusters are copies of one template otherwise.
    #[must_use]
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// The files, without a server.
    ///
    /// # Panics
    /// When initdb or the file system refuse.
    #[must_use]
    pub fn create(self) -> Cluster {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rte-{}-{n}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        make_dir(&dir);
        let data = dir.join("data");
        if self.fresh {
            initdb(&data);
        } else {
            run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template()).arg(&data));
        }
        let rte_port = free_port();
        let socket_dir = dir.display().to_string();
        let port = rte_port.to_string();
        let mut lines = vec![
            ("listen_addresses", ""),
            ("unix_socket_directories", &socket_dir),
            ("fsync", "off"),
            ("shared_buffers", "64MB"),
            ("max_connections", "60"),
            ("max_wal_size", "2GB"),
            ("max_prepared_transactions", "10"),
            ("log_line_prefix", "%m [%p] %b "),
            ("log_checkpoints", "off"),
        ];
        if self.preload {
            lines.extend([
                ("shared_preload_libraries", "whagons_rte"),
                ("rte.port", &port),
                ("rte.anon_role", "web_anon"),
            ]);
        }
        if self.preload && self.wal {
            lines.extend([("wal_level", "logical"), ("rte.capture", "wal"), ("max_replication_slots", "40")]);
        }
        lines.extend(self.conf.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let cluster = Cluster { dir, rte_port, server: None };
        lines.iter().for_each(|(name, value)| cluster.conf(name, value));
        cluster
    }

    /// A running server without the extension.
    #[must_use]
    pub fn start(self) -> Cluster {
        let mut cluster = self.create();
        cluster.start();
        cluster
    }

    /// A running server with the extension, the role `web_anon`, which may read every table of the schema
    /// public, the barrier's table, and a gateway that answers.
    #[must_use]
    #[track_caller]
    pub fn ready(self) -> Cluster {
        let tokens = self.tokens;
        let cluster = self.start();
        cluster.sql().prepare_database();
        if tokens {
            cluster.sql().run("CREATE ROLE authenticator LOGIN NOINHERIT; GRANT web_anon TO authenticator");
        }
        cluster.wait_healthy();
        cluster
    }
}

impl Cluster {
    #[must_use]
    pub fn builder() -> Builder {
        Builder { conf: Vec::new(), preload: true, fresh: false, tokens: false, wal: crate::settings::captures_wal() }
    }

    /// A cluster as most tests want it: [`Builder::ready`].
    #[must_use]
    #[track_caller]
    pub fn ready() -> Self {
        Self::builder().ready()
    }

    /// Appends a setting; it counts from the next start or reload.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn conf(&self, name: &str, value: &str) {
        let path = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        fs::write(&path, text).expect("postgresql.conf");
    }

    /// Has the server read its settings again.
    pub fn reload(&self) {
        process::kill(self.postmaster(), Signal::HUP);
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The cluster's directory: data, log, Unix socket.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Pid of the postmaster.
    ///
    /// # Panics
    /// When the server does not run.
    #[must_use]
    pub fn postmaster(&self) -> i32 {
        self.server.as_ref().expect("a running server").id() as i32
    }

    /// Starts the server and waits until it takes sessions.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        wait_until("the server takes sessions", || {
            if let Some(Ok(Some(status))) = self.server.as_mut().map(Child::try_wait) {
                panic!("the server ended with {status}\n{}", self.log_tail(40));
            }
            self.try_sql("postgres").ok()
        });
    }

    /// Starts the server and does not wait.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        let log = File::options().create(true).append(true).open(self.dir.join("log")).expect("log");
        let mut command = as_postgres(&bin("postgres"));
        command.arg("-D").arg(self.data()).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        self.server = Some(command.spawn().expect("postgres"));
    }

    /// Stops the server and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stop(&mut self, how: Shutdown) {
        self.signal_stop(how);
        self.wait_stopped();
    }

    /// Asks the server to stop.
    pub fn signal_stop(&self, how: Shutdown) {
        let signal = match how {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        process::kill(self.postmaster(), signal);
    }

    /// Waits for the end of the postmaster.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn wait_stopped(&mut self) {
        let server = self.server.as_mut().expect("a running server");
        wait_until("the server stops", || server.try_wait().ok().flatten());
        self.server = None;
    }

    /// Kills the postmaster and waits until all its processes are gone.
    #[track_caller]
    pub fn kill(&mut self) {
        process::kill(self.postmaster(), Signal::KILL);
        self.wait_stopped();
        wait_until("the server's processes are gone", || self.processes().is_empty().then_some(()));
    }

    /// Stop and start.
    #[track_caller]
    pub fn restart(&mut self, how: Shutdown) {
        self.stop(how);
        self.start();
    }

    /// All processes that work in the data directory.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        process::with_cwd(&self.data())
    }

    /// A session in the database `postgres`.
    #[must_use]
    #[track_caller]
    pub fn sql(&self) -> Sql {
        self.sql_in("postgres")
    }

    /// A session in a database.
    ///
    /// # Panics
    /// When there is no such database or server.
    #[must_use]
    #[track_caller]
    pub fn sql_in(&self, database: &str) -> Sql {
        match self.try_sql(database) {
            Ok(sql) => sql,
            Err(e) => panic!("no session in {database}: {e:?}"),
        }
    }

    /// A session, if the server takes one now.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn try_sql(&self, database: &str) -> Result<Sql, postgres::Error> {
        self.door().knock(database)
    }

    /// The way in, for threads of their own.
    #[must_use]
    pub fn door(&self) -> Door {
        Door(self.dir.clone())
    }

    /// Runs psql with a script on its standard input.
    ///
    /// # Panics
    /// When psql cannot be started.
    #[must_use]
    pub fn psql(&self, database: &str, options: &[&str], script: &str) -> Output {
        let path = self.dir.join("script.sql");
        fs::write(&path, script).expect("script");
        let mut command = self.tool("psql");
        command.args(["-X", "-q", "-d", database]).args(options).stdin(File::open(&path).expect("script"));
        command.output().expect("psql")
    }

    /// A tool of the server's, told where the server is.
    #[must_use]
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(bin(name));
        command.env("PGHOST", &self.dir).env("PGPORT", "5432").env("PGUSER", "postgres").env("LC_ALL", "C");
        command
    }

    /// A client that is connected and has no subscriptions.
    #[must_use]
    #[track_caller]
    pub fn client(&self, name: &str) -> Client {
        Client::connect(self.rte_port, name)
    }

    /// A client that is connected with a token.
    #[must_use]
    #[track_caller]
    pub fn client_with(&self, name: &str, token: &str) -> Client {
        match self.knock(name, token) {
            Ok(client) => client,
            Err((client, closed)) => panic!("{name}: not welcome: {closed:?}, errors {:?}", client.errors),
        }
    }

    /// The same, but to be refused is an answer: the client with its errors, and how it was closed.
    ///
    /// # Errors
    /// The client that was refused.
    #[allow(clippy::result_large_err, reason = "both are for a test to look at")]
    pub fn knock(&self, name: &str, token: &str) -> Result<Client, (Client, Closed)> {
        let mut client = Client::new(self.rte_port, name);
        client.options.token = Some(token.to_owned());
        match client.try_join() {
            Ok(()) => Ok(client),
            Err(closed) => Err((client, closed)),
        }
    }

    /// A client that holds these tables and the barrier's, live. Ids are the tables' names as given.
    #[must_use]
    #[track_caller]
    pub fn subscriber(&self, name: &str, tables: &[&str]) -> Client {
        let mut client = self.client(name);
        client.subscribe_barrier();
        tables.iter().for_each(|t| client.subscribe(t, t));
        client.wait_live();
        client
    }

    /// Waits until `GET /health` answers 200.
    #[track_caller]
    pub fn wait_healthy(&self) {
        let ready = within(crate::patience(), || self.healthy().then_some(()));
        assert!(ready.is_some(), "the gateway is not healthy: {:?}", crate::get(self.rte_port, "/health"));
    }

    /// Whether `GET /health` answers 200.
    #[must_use]
    pub fn healthy(&self) -> bool {
        crate::get(self.rte_port, "/health").is_some_and(|r| r.status == 200)
    }

    /// Pid of the only running process of a kind, from `rte.workers`.
    #[must_use]
    #[track_caller]
    pub fn worker(&self, kind: &str) -> i32 {
        wait_until(kind, || {
            let mut sql = self.try_sql("postgres").ok()?;
            let row =
                sql.query_opt("SELECT pid FROM rte.workers WHERE kind = $1 AND pid IS NOT NULL LIMIT 1", &[&kind]);
            row.ok()?.map(|row| row.get(0))
        })
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            process::kill(server.id() as i32, Signal::QUIT);
            if within(Duration::from_secs(6), || server.try_wait().ok().flatten()).is_none() {
                let _ = server.kill();
                let _ = server.wait();
            }
        }
        for pid in self.processes() {
            process::kill(pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("--- {} (kept), end of its log:\n{}\n---", self.dir.display(), self.log_tail(60));
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
