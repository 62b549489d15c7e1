//! A feeder's connection: what it says, in its order, to the I/O threads.

use super::jobs::{Job, Kind};
use super::peer::{BridgeFrame, FrameReader, PeerOut};
use super::{Bridge, Feeder};
use crate::databases::Database;
use crate::deflate::shared;
use crate::directory::FeederId;
use crate::event::{CatchUpPart, ChangesPart, CommitPart, SessionEvent, ToIo, Unavailable};
use crate::flow::Flow;
use crate::lag::micros;
use bytes::Bytes;
use rte_protocol::bridge::{FromFeeder, ToWorker, frame::FrameError};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What I/O threads may have before them of one feeder before it is not read further.
const AHEAD: usize = 64 << 20;
/// What a frame costs besides its bytes.
const FRAME: usize = 256;

/// What ends a feeder's connection.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Snapshot(#[from] rte_core::snapshot::ParseSnapshotError),
    #[error("lengths of frames do not add up to their body")]
    Lengths,
    #[error("tenants are the landlord's to tell of")]
    NotLandlord,
}

/// Serves a feeder until it is gone, given up or replaced.
pub async fn serve(bridge: &Bridge, mut reader: FrameReader, out: &Rc<PeerOut>, database: u32, name: &str, pid: u32) {
    let id = bridge.next_id();
    let replaced: Vec<FeederId> =
        bridge.feeders.borrow().iter().filter(|(_, f)| f.database == database).map(|(id, _)| *id).collect();
    for old in replaced {
        let old_out = bridge.feeders.borrow().get(&old).map(|f| f.out.clone());
        bridge.feeder_down(old);
        if let Some(old_out) = old_out {
            old_out.close();
        }
    }
    let shared_name: Arc<str> = name.into();
    let figures = bridge.metrics.databases.attach(&shared_name);
    let (landlord, own) = (*name == bridge.landlord, figures.clone());
    bridge.feeders.borrow_mut().insert(id, Feeder { database, landlord, out: out.clone(), figures: own });
    let under_way = &out.under_way;
    bridge.io.all(|| ToIo::FeederUp {
        feeder: id,
        database,
        name: shared_name.clone(),
        under_way: under_way.clone(),
        figures: figures.clone(),
    });
    bridge.show_feeders();
    bridge.log.log(format!("feeder of database \"{name}\" is attached (process {pid})"));

    let flow = Flow::new(AHEAD);
    loop {
        flow.ready().await;
        let frame = tokio::select! {
            frame = reader.next() => frame,
            () = out.gone() => None,
        };
        let Some(frame) = frame else { break };
        if let Err(e) = handle(bridge, id, database, &figures, &flow, &frame) {
            bridge.log.warning(format!("feeder of database \"{name}\" broke the bridge's rules: {e}"));
            break;
        }
    }
    bridge.feeder_down(id);
    bridge.log.log(format!("feeder of database \"{name}\" is gone (process {pid})"));
}

fn handle(
    bridge: &Bridge,
    feeder: FeederId,
    database: u32,
    of_database: &Database,
    flow: &Arc<Flow>,
    frame: &BridgeFrame,
) -> Result<(), Fault> {
    let (message, body): (FromFeeder, Bytes) = frame.read()?;
    let credit = || flow.take(frame.len() + FRAME);
    let figures = &bridge.metrics.figures;
    let to = |session, event| bridge.session(feeder, session, event);
    match message {
        FromFeeder::Changes { frames } => {
            let total: usize = frames.iter().map(|f| f.len as usize).sum();
            if total != body.len() {
                return Err(Fault::Lengths);
            }
            let changes = frames.iter().map(|f| u64::from(f.changes)).sum();
            figures.changes_total.fetch_add(changes, Relaxed);
            of_database.counts.changes_total.fetch_add(changes, Relaxed);
            let part = Arc::new(ChangesPart { deflated: shared(frames.len()), frames, body, _credit: credit() });
            bridge.io.all(|| ToIo::Changes { feeder, part: part.clone() });
        }
        FromFeeder::Commit { snapshot, cursor, time } => {
            figures.ticks_total.fetch_add(1, Relaxed);
            of_database.counts.ticks_total.fetch_add(1, Relaxed);
            of_database.committed(Instant::now());
            let made_us = micros(&time);
            let part = CommitPart { snapshot: snapshot.parse()?, cursor, time, made_us, _credit: credit() };
            let part = Arc::new(part);
            bridge.io.all(|| ToIo::Commit { feeder, part: part.clone() });
        }
        FromFeeder::CatchUp { sessions, frames, cursor, time, last } => {
            let total: usize = frames.iter().map(|f| *f as usize).sum();
            if total != body.len() {
                return Err(Fault::Lengths);
            }
            let part = Arc::new(CatchUpPart { sessions, frames, body, cursor, time, last, _credit: credit() });
            bridge.io.all(|| ToIo::CatchUp { feeder, part: part.clone() });
        }
        FromFeeder::Opened { session, role, tables, monitor, expires_in_ms } => {
            to(session, SessionEvent::Opened { role, tables, monitor, expires_in_ms });
        }
        FromFeeder::Refused { session, close, code, message, hint } => {
            to(session, SessionEvent::Refused { close, code, message, hint });
        }
        FromFeeder::Subscribed { session, id, shape, table, key, columns, resumed, partial, digest } => {
            to(session, SessionEvent::Subscribed { id, shape, table, key, columns, resumed, partial, digest });
        }
        FromFeeder::Job { job, session, ids, shapes } => {
            // Before a worker can begin it.
            to(session, SessionEvent::Job { job, ids });
            bridge.queue_job(database, Job { kind: Kind::Snapshot, feeder, id: job, session, blob: body, shapes });
        }
        FromFeeder::Ask { job, session } => {
            // The session may have gone, and takes its question back then.
            to(session, SessionEvent::Ask { job });
            bridge
                .queue_job(database, Job { kind: Kind::Ask, feeder, id: job, session, blob: body, shapes: Vec::new() });
        }
        FromFeeder::Verify { job, session, request } => {
            to(session, SessionEvent::Verify { job, request });
            bridge.queue_job(
                database,
                Job { kind: Kind::Verify, feeder, id: job, session, blob: body, shapes: Vec::new() },
            );
        }
        FromFeeder::Export { job } => bridge.tell_runner(feeder, job, &ToWorker::Export { job }),
        FromFeeder::ExportAgain { job } => bridge.tell_runner(feeder, job, &ToWorker::Again { job }),
        FromFeeder::Verifying { job, session } => to(session, SessionEvent::Verifying { job }),
        // After its commit, so that what the worker says comes behind it.
        FromFeeder::Adopted { job } => bridge.tell_runner(feeder, job, &ToWorker::Adopted { job }),
        FromFeeder::VerifyFailed { session, request, code, message, hint } => {
            to(session, SessionEvent::VerifyFailed { request, code, message, hint });
        }
        FromFeeder::Resync { session, id, reason } => to(session, SessionEvent::Resync { id, reason }),
        FromFeeder::NotResumed { session, id, reason } => to(session, SessionEvent::NotResumed { id, reason }),
        FromFeeder::Ended { session, id, code, message, hint } => {
            to(session, SessionEvent::Ended { id, code, message, hint });
        }
        FromFeeder::Renewed { session, role } => to(session, SessionEvent::Renewed { role }),
        FromFeeder::Goodbye { close } => bridge.io.all(|| ToIo::Goodbye { feeder, close }),
        FromFeeder::Tenants { .. } | FromFeeder::TenantUnavailable { .. } if !bridge.is_landlord(feeder) => {
            return Err(Fault::NotLandlord);
        }
        FromFeeder::Tenants { tenants } => {
            bridge.metrics.databases.tell(&tenants);
            let tenants: Arc<[_]> = tenants.into();
            bridge.io.all(|| ToIo::Tenants(tenants.clone()));
        }
        FromFeeder::TenantUnavailable { tenant, close, code, message, hint } => {
            let why = Arc::new(Unavailable { tenant, close, code, message, hint });
            bridge.io.all(|| ToIo::TenantUnavailable(why.clone()));
        }
        FromFeeder::SessionError { session, id, code, message, hint } => {
            to(session, SessionEvent::Error { id, code, message, hint });
        }
    }
    Ok(())
}
