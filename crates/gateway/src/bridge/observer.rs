//! A backend that reads a report for a view: one answer, then the end.

use super::Bridge;
use super::peer::{FrameReader, PeerOut};
use crate::event::ToIo;
use rte_protocol::bridge::Report;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What a thread or the backend may take.
const PATIENCE: Duration = Duration::from_secs(4);

pub async fn serve(bridge: &Bridge, mut reader: FrameReader, out: &Rc<PeerOut>, database: u32) {
    let mut answers = Vec::new();
    bridge.io.all(|| {
        let (reply, answer) = oneshot::channel();
        answers.push(answer);
        ToIo::Report { database, reply }
    });
    let mut connections = Vec::new();
    for answer in answers {
        if let Ok(Ok(part)) = tokio::time::timeout(PATIENCE, answer).await {
            connections.extend(part);
        }
    }
    out.send(&Report { connections }, &[]);
    // Until it has read the answer and closes.
    let _ = tokio::time::timeout(PATIENCE, reader.next()).await;
}
