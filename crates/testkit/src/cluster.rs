//! A throw-away Postgres server: own directory, own port, gone when it is dropped.
//!
//! `RTE_PG_BIN` names the directory with `postgres` and its tools; without it `pg_config --bindir` does.
//! When we are root, everything runs as the user `postgres`. SQL goes over a Unix socket in the cluster's
//! directory, so the only TCP port is that of the gateway. After a panic the directory stays.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::{Config, NoTls};

use crate::client::Client;
use crate::process::{self, Signal};
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
}

/// A running or stopped server.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    pub rte_port: u16,
    server: Option<Child>,
}

/// Where a cluster takes sessions, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Door(PathBuf);

impl Door {
    /// A session, if the server takes one now.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn knock(&self, database: &str) -> Result<Sql, postgres::Error> {
        let mut config = Config::new();
        config.host_path(&self.0).port(5432).user("postgres").dbname(database).application_name("test");
        config.connect_timeout(Duration::from_secs(10)).connect(NoTls).map(Sql)
    }
}

/// A session. Derefs to the `postgres` client.
pub struct Sql(postgres::Client);

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
        let cluster = self.start();
        cluster.sql().prepare_database();
        cluster.wait_healthy();
        cluster
    }
}

impl Cluster {
    #[must_use]
    pub fn builder() -> Builder {
        Builder { conf: Vec::new(), preload: true, fresh: false }
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

impl std::ops::Deref for Sql {
    type Target = postgres::Client;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Sql {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Sql {
    /// Runs statements that must succeed.
    ///
    /// # Panics
    /// With the server's words when one fails.
    #[track_caller]
    pub fn run(&mut self, statements: &str) {
        if let Err(e) = self.0.batch_execute(statements) {
            panic!("{}\n{e:?}", statements.chars().take(500).collect::<String>());
        }
    }

    /// Runs statements that must fail, and returns SQLSTATE, message, detail and hint.
    ///
    /// # Panics
    /// When they succeed.
    #[track_caller]
    pub fn fails(&mut self, statements: &str) -> (String, String) {
        match self.0.batch_execute(statements) {
            Ok(()) => panic!("this did not fail: {statements}"),
            Err(e) => {
                let e = e.as_db_error().expect("an error of the server");
                let text =
                    [Some(e.message()), e.detail(), e.hint()].into_iter().flatten().collect::<Vec<_>>().join("\n");
                (e.code().code().to_owned(), text)
            }
        }
    }

    /// First column of the first row, as text.
    ///
    /// # Panics
    /// When the statement fails or gives no row.
    #[track_caller]
    pub fn text(&mut self, query: &str) -> String {
        match self.texts(query).into_iter().next() {
            Some(text) => text,
            None => panic!("no row: {query}"),
        }
    }

    /// First column of all rows, as text; NULL is an empty text.
    ///
    /// # Panics
    /// When the statement fails.
    #[track_caller]
    pub fn texts(&mut self, query: &str) -> Vec<String> {
        let messages = match self.0.simple_query(query) {
            Ok(messages) => messages,
            Err(e) => panic!("{query}\n{e:?}"),
        };
        let row = |m| match m {
            postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    /// First column of the first row, as a number.
    #[track_caller]
    pub fn number(&mut self, query: &str) -> i64 {
        let text = self.text(query);
        match text.parse() {
            Ok(number) => number,
            Err(_) => panic!("{text:?} is no number: {query}"),
        }
    }

    /// Creates a table in the schema public and registers it. `web_anon` may read it.
    #[track_caller]
    pub fn table(&mut self, name: &str, columns: &str) {
        self.run(&format!("CREATE TABLE {name} ({columns})"));
        self.register(name);
    }

    /// Registers a table.
    #[track_caller]
    pub fn register(&mut self, name: &str) {
        self.run(&format!("SELECT rte.register_table('{}')", name.replace('\'', "''")));
    }

    /// Commits a row of a new value into the barrier's table: a client that holds it holds everything that was
    /// committed before.
    #[track_caller]
    pub fn barrier(&mut self) -> i32 {
        self.number("INSERT INTO kit_barrier DEFAULT VALUES RETURNING id") as i32
    }

    /// The extension, the role `web_anon` and the barrier's table.
    #[track_caller]
    pub fn prepare_database(&mut self) {
        self.run(
            "DO $$ BEGIN IF to_regrole('web_anon') IS NULL THEN CREATE ROLE web_anon NOLOGIN; END IF; END $$;
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO web_anon;
             CREATE EXTENSION whagons_rte;
             CREATE TABLE kit_barrier (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        );
        self.register("kit_barrier");
    }
}

fn bin(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        std::env::var_os("RTE_PG_BIN").map(PathBuf::from).unwrap_or_else(|| {
            let output = Command::new("pg_config").arg("--bindir").output();
            let output = output.expect("RTE_PG_BIN, or a pg_config in the path");
            String::from_utf8_lossy(&output.stdout).trim().into()
        })
    })
    .join(name)
}

/// User and group of `postgres`, when we are root.
fn owner() -> Option<(u32, u32)> {
    static OWNER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = passwd.lines().find(|l| l.starts_with("postgres:")).expect("a user postgres, since we are root");
        let mut ids = line.split(':').skip(2).map_while(|f| f.parse().ok());
        Some((ids.next()?, ids.next()?))
    })
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").env_remove("PGDATA");
    command
}

fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).expect("directory");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("permissions");
    if let Some((uid, gid)) = owner() {
        chown(dir, Some(uid), Some(gid)).expect("chown");
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn initdb(data: &Path) {
    let mut command = as_postgres(&bin("initdb"));
    command.current_dir(data.parent().unwrap_or(Path::new("/"))).arg("-D").arg(data);
    run(command.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]));
}

/// A data directory that clusters of this Postgres are copied from; made once per machine.
fn template() -> PathBuf {
    let version = Command::new(bin("postgres")).arg("--version").output().expect("postgres --version").stdout;
    let name = format!("{} {}", bin("").display(), String::from_utf8_lossy(&version));
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let user = rustix::process::geteuid().as_raw();
    let template = std::env::temp_dir().join(format!("rte-template-{user}-{}", name.trim_matches('_')));
    if !template.exists() {
        let work = template.with_extension(format!("{}", std::process::id()));
        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !template.exists() {
            let _ = fs::remove_dir_all(&work);
            make_dir(&work);
            initdb(&work.join("data"));
            // Somebody else may have been faster; theirs is as good.
            let _: io::Result<()> = fs::rename(&work, &template);
            let _ = fs::remove_dir_all(&work);
        }
    }
    template.join("data")
}

/// A port that nobody listens on, outside the range that outgoing connections are given.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (std::process::id().wrapping_mul(61).wrapping_add(n) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
