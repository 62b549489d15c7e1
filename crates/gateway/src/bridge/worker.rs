//! A query worker's connection. It is read only while its client's socket drains, which is the back-pressure of
//! snapshots.

use super::Bridge;
use super::jobs::{Job, Kind, Lost, WorkerId};
use super::peer::{BridgeFrame, FrameReader, PeerOut};
use crate::directory::FeederId;
use crate::event::SessionEvent;
use crate::flow::Flow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rte_protocol::bridge::{FromWorker, JobId, SessionId, ToFeeder, frame::FrameError};
use rte_protocol::wire::ErrorCode;
use std::rc::Rc;
use std::sync::Arc;

/// Rows that may be between a worker and its client's socket.
const AHEAD: usize = 256 * 1024;

/// What ends a worker's connection.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Snapshot(#[from] rte_core::snapshot::ParseSnapshotError),
}

/// Serves a worker until it is gone.
pub async fn serve(bridge: &Bridge, mut reader: FrameReader, out: &Rc<PeerOut>, database: u32, pid: u32) {
    let id = bridge.next_id();
    bridge.workers.borrow_mut().insert(id, out.clone());
    bridge.jobs.borrow_mut().attach(id, database);
    bridge.log.debug(format!("query worker of database {database} is attached (process {pid})"));
    bridge.assign(database);

    let flow = Flow::new(AHEAD);
    loop {
        flow.ready().await;
        let frame = tokio::select! {
            frame = reader.next() => frame,
            () = out.gone() => None,
        };
        let Some(frame) = frame else { break };
        if let Err(e) = handle(bridge, id, database, &flow, &frame) {
            bridge.log.warning(format!("query worker of database {database} broke the bridge's rules: {e}"));
            break;
        }
    }
    bridge.workers.borrow_mut().remove(&id);
    let lost = bridge.jobs.borrow_mut().detach(id);
    match lost {
        Lost::Broken(job) => bridge.session(job.feeder, job.session, SessionEvent::JobLost),
        Lost::Unverified(Job { feeder, session, id, .. }) => {
            let message = "the verification was interrupted".to_owned();
            let event = SessionEvent::JobFailed { job: id, code: ErrorCode::NotReady, message, hint: None };
            bridge.session(feeder, session, event);
        }
        Lost::Unanswered(Job { feeder, session, id, .. }) => {
            bridge.tell_feeder(feeder, &ToFeeder::AskFailed { session, job: id });
        }
        Lost::Nothing | Lost::Requeued => {}
    }
    bridge.assign(database);
    bridge.log.debug(format!("query worker of database {database} is gone (process {pid})"));
}

fn handle(
    bridge: &Bridge,
    worker: WorkerId,
    database: u32,
    flow: &Arc<Flow>,
    frame: &BridgeFrame,
) -> Result<(), Fault> {
    let (message, body): (FromWorker, Bytes) = frame.read()?;
    let (FromWorker::Begin { job, .. }
    | FromWorker::Rows { job, .. }
    | FromWorker::Ready { job }
    | FromWorker::Exported { job }
    | FromWorker::Verified { job, .. }
    | FromWorker::End { job }
    | FromWorker::Answer { job }
    | FromWorker::Failed { job, .. }) = &message;
    let (kind, feeder, session, cancelled) = {
        let mut jobs = bridge.jobs.borrow_mut();
        let Some(running) = jobs.running(worker, *job) else { return Ok(()) };
        // From its first row on, or its end, a job is not started anew.
        let decides = match &message {
            FromWorker::Rows { rows, parts, .. } => *rows > 0 || parts.is_some(),
            other => matches!(other, FromWorker::End { .. }),
        };
        if decides && !std::mem::replace(&mut running.rows_sent, true) && running.job.kind == Kind::Snapshot {
            bridge.tell_feeder(running.job.feeder, &ToFeeder::SnapshotTaken { job: *job });
        }
        (running.job.kind, running.job.feeder, running.job.session, running.cancelled)
    };
    let over = matches!(message, FromWorker::End { .. } | FromWorker::Answer { .. } | FromWorker::Failed { .. });
    if over {
        bridge.jobs.borrow_mut().finish(worker);
    }
    match kind {
        _ if cancelled => {}
        Kind::Ask if over => answer(bridge, feeder, session, *job, &message, &body),
        Kind::Ask => {}
        Kind::Snapshot => snapshot(bridge, feeder, session, flow, message, body)?,
        Kind::Verify => verification(bridge, feeder, session, flow, message, body),
    }
    if over {
        bridge.assign(database);
    }
    Ok(())
}

/// A question is answered, or will not be.
fn answer(bridge: &Bridge, feeder: FeederId, session: SessionId, job: JobId, message: &FromWorker, body: &[u8]) {
    let message = match message {
        FromWorker::Answer { .. } => ToFeeder::Answer { session, job, answer: STANDARD.encode(body) },
        _ => ToFeeder::AskFailed { session, job },
    };
    bridge.tell_feeder(feeder, &message);
}

/// Something of a snapshot, for its session.
fn snapshot(
    bridge: &Bridge,
    feeder: FeederId,
    session: SessionId,
    flow: &Arc<Flow>,
    message: FromWorker,
    body: Bytes,
) -> Result<(), Fault> {
    let event = match message {
        FromWorker::Begin { job, snapshot } => {
            bridge.tell_feeder(feeder, &ToFeeder::NeedTick);
            SessionEvent::Begin { job, snapshot: snapshot.parse()? }
        }
        FromWorker::Rows { job, index, rows, done, total, parts } => {
            let credit = flow.take(body.len());
            SessionEvent::Rows { job, index, rows, body, done, total, parts, credit }
        }
        FromWorker::End { job } | FromWorker::Answer { job } => SessionEvent::JobEnded { job },
        FromWorker::Failed { job, code, message, hint } => SessionEvent::JobFailed { job, code, message, hint },
        FromWorker::Ready { .. } | FromWorker::Exported { .. } | FromWorker::Verified { .. } => return Ok(()),
    };
    bridge.session(feeder, session, event);
    Ok(())
}

/// Something of a verification: first for the feeder, whose tick takes its snapshot, then for its session.
fn verification(
    bridge: &Bridge,
    feeder: FeederId,
    session: SessionId,
    flow: &Arc<Flow>,
    message: FromWorker,
    body: Bytes,
) {
    let event = match message {
        FromWorker::Ready { job } => return bridge.tell_feeder(feeder, &ToFeeder::VerifyReady { session, job }),
        FromWorker::Exported { job } => {
            let export = STANDARD.encode(&body);
            return bridge.tell_feeder(feeder, &ToFeeder::Exported { session, job, export });
        }
        FromWorker::Rows { job, rows, done, .. } => {
            let credit = flow.take(body.len());
            SessionEvent::Repair { job, rows, body, done, credit }
        }
        FromWorker::Verified { job, hash, rows } => SessionEvent::Verified { job, hash, rows, parts: body },
        FromWorker::Failed { job, code, message, hint } => SessionEvent::JobFailed { job, code, message, hint },
        FromWorker::Begin { job, .. } | FromWorker::End { job } | FromWorker::Answer { job } => {
            SessionEvent::JobEnded { job }
        }
    };
    bridge.session(feeder, session, event);
}
