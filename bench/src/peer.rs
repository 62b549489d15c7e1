//! The Node peer of `bench/peers/node-notify`: installed from its lock file, once, outside the tree.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rte_testkit::{Cluster, Sql, wait_until};

use crate::options::target_dir;
use crate::{process, say};

/// A running peer, told of every change by NOTIFY.
pub struct NodePeer {
    child: Child,
    /// The session that listens: its work is part of what delivering costs.
    backend: i32,
    pub port: u16,
}

impl NodePeer {
    pub fn start(cluster: &Cluster) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut command = Command::new("node");
        command.arg("server.js").current_dir(install()).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env("PGHOST", cluster.dir()).env("PGPORT", "5432").env("PGUSER", "postgres");
        command.env("PGDATABASE", "postgres").env("PORT", port.to_string());
        let mut child = command.spawn().expect("node, which the peer needs");
        let mut ready = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut ready).expect("a line of the peer");
        assert_eq!(ready.trim(), "ready", "the peer is ready");
        let backend = wait_until("the peer listens", || {
            let row =
                cluster.sql().query_opt("SELECT pid FROM pg_stat_activity WHERE application_name = 'node-notify'", &[]);
            row.ok()?.map(|row| row.get(0))
        });
        Self { child, backend, port }
    }

    /// Of Node and of the session that listens for it.
    pub fn cpu_seconds(&self) -> f64 {
        self.node_cpu_seconds() + process::cpu_seconds(self.backend)
    }

    pub fn node_cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.child.id() as i32)
    }
}

impl Drop for NodePeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The trigger that everybody writes.
pub fn notify_on(sql: &mut Sql, table: &str) {
    sql.run(&format!(
        "CREATE OR REPLACE FUNCTION notify_row() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_notify('changes', row_to_json(NEW)::text); RETURN NULL; END $$;
         CREATE TRIGGER notify_row AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION notify_row()"
    ));
}

fn install() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/node-notify");
    let place = target_dir().join("bench/node-notify");
    fs::create_dir_all(&place).expect("a directory for the peer");
    let lock = "package-lock.json";
    let installed = place.join("installed");
    let current = fs::read(source.join(lock)).expect(lock);
    if fs::read(&installed).ok().as_ref() != Some(&current) {
        say("installing the Node peer");
        for file in ["package.json", lock] {
            fs::copy(source.join(file), place.join(file)).expect(file);
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&place);
        let output = npm.output().expect("npm, which the peer needs");
        assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
        fs::write(&installed, current).expect("a mark that the peer is installed");
    }
    fs::copy(source.join("server.js"), place.join("server.js")).expect("server.js");
    place
}
