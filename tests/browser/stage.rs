//! Runs one scenario's script and does for it what it asks: a line of JSON each way, one question at a time.

use rte_testkit::{
    Builder, Cluster, Pace, Pgbench, Shutdown, Signal, Sql, Tellers, alive, expected_rows, kill, token_of, wait_until,
};
use serde_json::{Value, json};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a browser beside the server on two cores can follow with ease. The point is what happens meanwhile, not the load.
pub const PACE: Pace = Pace { accounts: 10_000, pause: Duration::from_millis(10) };

pub struct Stage {
    pub cluster: Cluster,
    script: &'static str,
    seed: u64,
    tellers: Option<Tellers>,
}

impl Stage {
    /// A cluster that serves, for a script of `client/test/browser`.
    pub fn new(cluster: Builder, script: &'static str, seed: u64) -> Self {
        Self { cluster: cluster.ready(), script, seed, tellers: None }
    }

    /// With TPC-B's tables, and as many accounts as the writers use.
    pub fn with_accounts(self) -> Self {
        Pgbench::prepare(&self.cluster);
        self.sql().run(&format!("DELETE FROM pgbench_accounts WHERE aid > {}", PACE.accounts));
        self
    }

    /// Plays the scenario to its end.
    ///
    /// # Panics
    /// When the script fails: what it found is in its output.
    #[track_caller]
    pub fn play(mut self) {
        let mut script = Script(self.command().spawn().expect("node, which the browser's tests need"));
        let mut answers = script.0.stdin.take().expect("its input");
        let questions = BufReader::new(script.0.stdout.take().expect("its output"));
        for line in questions.lines().map_while(Result::ok) {
            match serde_json::from_str::<Value>(&line) {
                Ok(question) if question["do"].is_string() => {
                    let answer = self.answer(&question);
                    // It may have failed meanwhile; its status tells.
                    let _ = writeln!(answers, "{answer}");
                }
                _ => println!("{line}"),
            }
        }
        let status = script.0.wait().expect("the script");
        if let Some(tellers) = self.tellers.take() {
            tellers.stop();
        }
        assert!(status.success(), "{}: {status}; RTE_SEED={}", self.script, self.seed);
    }

    fn command(&self) -> Command {
        // As cargo says it now: clones share what they build, and this may have been built in another one.
        let tests = env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR, which cargo sets for tests");
        let scripts = PathBuf::from(tests).join("../client/test/browser");
        let mut command = Command::new("node");
        command.arg(scripts.join(format!("{}.mjs", self.script)));
        command.env("RTE_URL", format!("http://127.0.0.1:{}", self.cluster.rte_port));
        command.env("RTE_SEED", self.seed.to_string());
        if env::var_os("RTE_CHROMIUM").is_none() {
            command.env("RTE_CHROMIUM", "chromium");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn sql(&self) -> Sql {
        wait_until("a session", || self.cluster.try_sql("postgres").ok())
    }

    fn answer(&mut self, question: &Value) -> Value {
        let text = |name: &str| question[name].as_str().unwrap_or_default().to_owned();
        match question["do"].as_str().unwrap_or_default() {
            // The first column of each row, as text.
            "query" => json!(self.sql().texts(&text("sql"))),
            "run" => {
                self.sql().run(&text("sql"));
                Value::Null
            }
            // Rows as the wire has them, each an array.
            "rows" => {
                let columns: Vec<String> = serde_json::from_value(question["columns"].clone()).expect("columns");
                let rows = expected_rows(&mut self.sql(), &text("table"), &columns);
                rows.iter().map(|row| serde_json::from_str::<Value>(row).expect("a row")).collect()
            }
            "token" => json!(token_of(&question["claims"])),
            "kill" => {
                let kind = text("kind");
                let pid = self.cluster.worker(&kind);
                kill(pid, Signal::KILL);
                wait_until("its end", || (!alive(pid)).then_some(()));
                Value::Null
            }
            "restart" => {
                self.cluster.restart(if text("how") == "immediate" { Shutdown::Immediate } else { Shutdown::Fast });
                Value::Null
            }
            "load" => {
                match self.tellers.take() {
                    Some(tellers) if question["on"] == json!(false) => tellers.stop(),
                    None if question["on"] == json!(true) => {
                        self.tellers = Some(Tellers::among(&self.cluster, 1, self.seed, PACE));
                    }
                    as_it_is => self.tellers = as_it_is,
                }
                Value::Null
            }
            "done" => json!(self.tellers.as_ref().map_or(0, Tellers::done)),
            "conf" => {
                self.cluster.conf(&text("name"), &text("value"));
                self.cluster.reload();
                Value::Null
            }
            other => panic!("{}: asks for {other}", self.script),
        }
    }
}

/// Ends with the test, whatever becomes of it.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
