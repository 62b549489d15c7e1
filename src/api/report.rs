//! Asks the gateway what it knows of this database's connections. The gateway is not trusted: the answer is
//! bounded in size and time, and is only shown.

use crate::guc;
use pgrx::pg_sys;
use pgrx::prelude::*;
use rte_protocol::bridge::{Attach, ReportKind, frame};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const NONE: &str = r#"{"connections":[]}"#;
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REPORT: usize = 256 << 20;

#[pg_extern(sql = false)]
fn rte_report() -> String {
    if !crate::shmem::available() {
        return NONE.to_owned();
    }
    let path = guc::bridge_path();
    if path.is_empty() {
        return NONE.to_owned();
    }
    match ask(&path) {
        Ok(report) => report,
        Err(e) => {
            ereport!(
                WARNING,
                PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
                format!("the gateway did not answer: {e}"),
                "It may be starting; rte.workers shows it."
            );
            NONE.to_owned()
        }
    }
}

fn ask(path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // SAFETY: a plain read.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let mut out = Vec::new();
    frame::write(&mut out, &Attach::Observer { what: ReportKind::Connections, database }, &[])
        .map_err(std::io::Error::other)?;
    stream.write_all(&out)?;
    let mut buffer = Vec::new();
    stream.take(MAX_REPORT as u64).read_to_end(&mut buffer)?;
    let (report, _): (rte_protocol::bridge::Report, _) = frame::read(&buffer).map_err(std::io::Error::other)?;
    serde_json::to_string(&report).map_err(std::io::Error::other)
}
