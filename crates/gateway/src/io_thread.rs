//! An I/O thread: a single-threaded runtime that owns its connections from the first byte to the last. One of them has the
//! bridge besides: what a feeder says is on its way to that thread's clients without another thread being woken, and while
//! they are written to, feeders are not read, so that their ticks gather.
//!
//! Events of the bridge are taken in batches, and sockets are written after a batch: while sockets are being written,
//! ticks gather and share the next write. That is how cost per change falls under load.

use crate::bridge;
use crate::event::ToIo;
use crate::hub::{Hub, Shared, sweep_interval};
use crate::welcome::welcome;
use rte_protocol::bridge::GatewayConfig;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// Events in one batch.
const BATCH: usize = 64;

/// Runs until the senders are gone, a shutdown is through, or the bridge cannot be served.
pub fn run(
    config: Arc<GatewayConfig>,
    shared: Shared,
    events: mpsc::UnboundedReceiver<ToIo>,
    bridge: Option<bridge::Start>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, async {
        let connections = serve_events(config, shared, events);
        let Some(start) = bridge else {
            connections.await;
            return Ok(());
        };
        tokio::select! {
            ended = tokio::task::spawn_local(bridge::serve(start)) => ended?,
            () = connections => Ok(()),
        }
    })
}

async fn serve_events(config: Arc<GatewayConfig>, shared: Shared, mut events: mpsc::UnboundedReceiver<ToIo>) {
    let hub = Rc::new(RefCell::new(Hub::new(config, shared)));
    let mut batch = Vec::with_capacity(BATCH);
    let mut next_sweep = Instant::now();
    let mut stop_at = None;
    loop {
        let deadline = stop_at.map_or(next_sweep, |s| next_sweep.min(s));
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline.into()) => {
                let mut hub = hub.borrow_mut();
                hub.sweep();
                next_sweep = Instant::now() + sweep_interval(&hub.config);
            }
            n = events.recv_many(&mut batch, BATCH) => {
                if n == 0 {
                    return;
                }
                hub.borrow_mut().now = Instant::now();
                for event in batch.drain(..) {
                    match event {
                        ToIo::Socket { stream, peer, permit } => {
                            let Ok(stream) = TcpStream::from_std(stream) else { continue };
                            tokio::task::spawn_local(welcome(hub.clone(), stream, peer, permit));
                        }
                        event => hub.borrow_mut().event(event),
                    }
                }
                {
                    let mut hub = hub.borrow_mut();
                    hub.flush_all();
                    hub.note_lags();
                }
                // Tasks of connections have their turn between batches.
                tokio::task::yield_now().await;
            }
        }
        let hub = hub.borrow();
        if hub.stopping {
            let now = Instant::now();
            let stop = *stop_at.get_or_insert(now + Duration::from_millis(250));
            next_sweep = now + Duration::from_millis(10);
            if hub.open_connections() == 0 || now >= stop {
                return;
            }
        }
    }
}
