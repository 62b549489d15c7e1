//! A query worker's connection. It is read only while its clients' sockets drain, which is the back-pressure of
//! snapshots.

use super::Bridge;
use super::jobs::{Job, Kind, Lost, Member, Running, WorkerId};
use super::peer::{BridgeFrame, FrameReader, PeerOut};
use crate::event::SessionEvent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rte_core::Snapshot;
use rte_protocol::bridge::{FromWorker, ToFeeder, frame::FrameError};
use rte_protocol::wire::ErrorCode;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// For how long those who share a reading wait for one that is far behind.
const PATIENCE: Duration = Duration::from_secs(2);

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

    loop {
        pace(bridge, id).await;
        let frame = tokio::select! {
            frame = reader.next() => frame,
            () = out.gone() => None,
        };
        let Some(frame) = frame else { break };
        if let Err(e) = handle(bridge, id, database, &frame) {
            bridge.log.warning(format!("query worker of database {database} broke the bridge's rules: {e}"));
            break;
        }
    }
    bridge.workers.borrow_mut().remove(&id);
    let lost = bridge.jobs.borrow_mut().detach(id);
    match lost {
        Lost::Broken(jobs) => {
            jobs.iter().for_each(|job| bridge.session(job.feeder, job.session, SessionEvent::JobLost));
        }
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

/// Waits until the clients for whom a worker reads take more. Where several share it, one that takes nothing for a while, and is
/// far behind, gets its rows another time.
async fn pace(bridge: &Bridge, worker: WorkerId) {
    loop {
        let flows = bridge.jobs.borrow().flows(worker);
        if let [flow] = &flows[..] {
            return flow.ready().await;
        }
        let all = async {
            for flow in &flows {
                flow.ready().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_ok() {
            return;
        }
        let left = bridge.jobs.borrow_mut().leave_behind(worker);
        bridge.metrics.figures.left_behind_total.fetch_add(left.len() as u64, Relaxed);
        for Member { job, flow } in left {
            bridge.session(job.feeder, job.session, SessionEvent::LeftBehind { job: job.id, flow });
        }
    }
}

fn handle(bridge: &Bridge, worker: WorkerId, database: u32, frame: &BridgeFrame) -> Result<(), Fault> {
    let (message, body): (FromWorker, Bytes) = frame.read()?;
    let (FromWorker::Begin { job, .. }
    | FromWorker::Rows { job, .. }
    | FromWorker::Ready { job }
    | FromWorker::Exported { job }
    | FromWorker::Verified { job, .. }
    | FromWorker::End { job }
    | FromWorker::Answer { job }
    | FromWorker::Failed { job, .. }) = &message;
    let (kind, members, again) = {
        let mut jobs = bridge.jobs.borrow_mut();
        let Some(running) = jobs.running(worker, *job) else { return Ok(()) };
        let again = others(running, &message);
        // From its first row on, or its end, a job is not started anew.
        let decides = match &message {
            FromWorker::Rows { rows, parts, .. } => *rows > 0 || parts.is_some(),
            other => matches!(other, FromWorker::End { .. }),
        };
        if decides && !std::mem::replace(&mut running.rows_sent, true) && running.kind == Kind::Snapshot {
            let shared = running.members.len().saturating_sub(1) as u64;
            bridge.metrics.figures.shared_jobs_total.fetch_add(shared, Relaxed);
            for member in &running.members {
                bridge.tell_feeder(running.feeder, &ToFeeder::SnapshotTaken { job: member.job.id });
            }
        }
        (running.kind, running.members.clone(), again)
    };
    let over = matches!(message, FromWorker::End { .. } | FromWorker::Answer { .. } | FromWorker::Failed { .. });
    let mut jobs = bridge.jobs.borrow_mut();
    if over {
        jobs.finish(worker);
    }
    let called_back = !again.is_empty();
    jobs.requeue(database, again);
    drop(jobs);
    match (kind, &members[..]) {
        (Kind::Snapshot, _) => snapshot(bridge, &members, message, &body)?,
        (Kind::Ask, [member]) if over => answer(bridge, &member.job, &message, &body),
        (Kind::Verify, [member]) => verification(bridge, member, message, body),
        _ => {}
    }
    if over || called_back {
        bridge.assign(database);
    }
    Ok(())
}

/// Takes those out of a job that the worker does not read for; they are to be read for another time.
fn others(running: &mut Running, message: &FromWorker) -> Vec<Job> {
    match message {
        FromWorker::Begin { others, .. } => running.keep(others),
        // It may be the first one's fault: its role, its claims. A locked table and a failing condition are the same for all.
        FromWorker::Failed { code, .. }
            if !running.rows_sent && !matches!(code, ErrorCode::NotReady | ErrorCode::WhereFailed) =>
        {
            let first = running.id;
            let rest = running.members.extract_if(.., |member| member.job.id != first);
            rest.map(|member| member.job).collect()
        }
        _ => Vec::new(),
    }
}

/// A question is answered, or will not be.
fn answer(bridge: &Bridge, asked: &Job, message: &FromWorker, body: &[u8]) {
    let (session, job) = (asked.session, asked.id);
    let message = match message {
        FromWorker::Answer { .. } => ToFeeder::Answer { session, job, answer: STANDARD.encode(body) },
        _ => ToFeeder::AskFailed { session, job },
    };
    bridge.tell_feeder(asked.feeder, &message);
}

/// Something of a snapshot, for the sessions that wait for it.
fn snapshot(bridge: &Bridge, members: &[Member], message: FromWorker, body: &Bytes) -> Result<(), Fault> {
    let taken: Snapshot = match &message {
        FromWorker::Begin { snapshot, .. } => snapshot.parse()?,
        _ => Snapshot::default(),
    };
    if let (FromWorker::Begin { .. }, Some(member)) = (&message, members.first()) {
        bridge.tell_feeder(member.job.feeder, &ToFeeder::NeedTick);
    }
    for Member { job: Job { id: job, feeder, session, .. }, flow } in members {
        let job = *job;
        let event = match &message {
            FromWorker::Begin { .. } => SessionEvent::Begin { job, snapshot: taken.clone() },
            FromWorker::Rows { index, rows, done, total, parts, .. } => {
                let (index, rows, done, total, parts) = (*index, *rows, *done, *total, parts.clone());
                let (body, credit) = (body.clone(), flow.take(body.len()));
                SessionEvent::Rows { job, index, rows, body, done, total, parts, credit }
            }
            FromWorker::End { .. } | FromWorker::Answer { .. } => SessionEvent::JobEnded { job },
            FromWorker::Failed { code, message, hint, .. } => {
                SessionEvent::JobFailed { job, code: *code, message: message.clone(), hint: hint.clone() }
            }
            FromWorker::Ready { .. } | FromWorker::Exported { .. } | FromWorker::Verified { .. } => continue,
        };
        bridge.session(*feeder, *session, event);
    }
    Ok(())
}

/// Something of a verification: first for the feeder, whose tick takes its snapshot, then for its session.
fn verification(bridge: &Bridge, member: &Member, message: FromWorker, body: Bytes) {
    let Member { job: Job { feeder, session, .. }, flow } = member;
    let (feeder, session) = (*feeder, *session);
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
