//! Sessions: plain statements, with the server's words in the panic when one fails.

use std::path::PathBuf;
use std::time::Duration;

use postgres::{Config, NoTls};

use crate::wait::wait_until;

/// Where a cluster takes sessions, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Door(pub(crate) PathBuf);

impl Door {
    /// A session, if the server takes one now.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn knock(&self, database: &str) -> Result<Sql, postgres::Error> {
        self.knock_as(database, "postgres")
    }

    /// A session of some role, if the server takes one now.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn knock_as(&self, database: &str, role: &str) -> Result<Sql, postgres::Error> {
        let mut config = Config::new();
        config.host_path(&self.0).port(5432).user(role).dbname(database).application_name("test");
        config.connect_timeout(Duration::from_secs(10)).connect(NoTls).map(Sql)
    }
}

/// A session. Derefs to the `postgres` client.
pub struct Sql(postgres::Client);

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

    /// Runs statements that may fail, as when others have locked; a transaction that was begun is ended then.
    ///
    /// # Errors
    /// The session is lost.
    pub fn try_run(&mut self, statements: &str) -> Result<(), postgres::Error> {
        match self.0.batch_execute(statements) {
            Err(_) => self.0.batch_execute("ROLLBACK"),
            Ok(()) => Ok(()),
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

    /// Registers a table, and waits until it is captured as the cluster captures.
    #[track_caller]
    pub fn register(&mut self, name: &str) {
        self.run(&format!("SELECT rte.register_table('{}')", name.replace('\'', "''")));
        self.wait_captured();
    }

    /// Where the cluster captures from the WAL, waits until all tables of this database are. Nobody sees to that where no
    /// feeder runs, nor before the transaction ends.
    #[track_caller]
    pub fn wait_captured(&mut self) {
        let wanted = "SELECT current_setting('rte.capture', true) IS NOT DISTINCT FROM 'wal'
                             AND current_setting('wal_level') = 'logical' AND pg_current_xact_id_if_assigned() IS NULL
                             AND EXISTS (SELECT FROM rte.workers WHERE kind = 'feeder' AND database = current_database())";
        if self.text(wanted) == "t" {
            let all = "SELECT coalesce(bool_and(capture = 'wal' AND captured), true) FROM rte.tables";
            wait_until("tables are captured from the WAL", || (self.text(all) == "t").then_some(()));
        }
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
