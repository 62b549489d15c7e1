//! What the hub tells of its connections: for the view `rte.connections`.

use super::Hub;
use rte_protocol::bridge::ConnectionReport;
use std::time::UNIX_EPOCH;

impl Hub {
    /// The open connections of a database.
    pub(super) fn report(&self, database: u32) -> Vec<ConnectionReport> {
        let mut out = Vec::new();
        for conn in self.conns.iter().flatten() {
            let state = conn.state.borrow();
            let of_database = state.feeder.and_then(|f| self.feeders.get(&f)).is_some_and(|f| f.database == database);
            if !of_database || !state.session.is_open() {
                continue;
            }
            let micros = conn.connected_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
            out.push(ConnectionReport {
                session: state.uuid.to_string(),
                tenant: state.home.as_ref().map(|home| home.name().to_owned()).unwrap_or_default(),
                role: state.role.to_string(),
                address: conn.peer.to_string(),
                transport: conn.wire.transport().name().to_owned(),
                client_id: state.client.as_ref().and_then(|c| c.id.clone()),
                client_name: state.client.as_ref().and_then(|c| c.name.clone()),
                connected_at_us: i64::try_from(micros).unwrap_or_default(),
                subscriptions: state.session.report(),
                queued_bytes: (state.queue.total() + state.session.kept_bytes()) as u64,
                sent_bytes: state.sent_bytes,
                sent_commits: state.sent_commits,
                sent_cursor: state.sent.as_ref().map(|(tick, held)| tick.cursor.with(held)),
                acked_cursor: state.acked.as_ref().map(ToString::to_string),
            });
        }
        out
    }
}
