//! The acceptor thread: opens the port, and deals sockets to the I/O threads in turn.
//!
//! Invariant: past the limits a socket gets a short refusal and no thread sees it.

use crate::control::Log;
use crate::event::{IoThreads, ToIo};
use crate::http::Answer;
use crate::limits::Gate;
use parking_lot::RwLock;
use rte_protocol::bridge::GatewayConfig;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Connections that may wait for `accept`. The kernel has a bound of its own, 4096 as a rule: whom it turns away tries again after a
/// second, so after a restart that thousands come back from it should be no lower.
const BACKLOG: i32 = 4096;

/// Opens the listening sockets: as many of the addresses as can be had, but at least one.
///
/// # Errors
/// The last failure, where none can be had.
pub fn bind(config: &GatewayConfig, log: &Log) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "rte.listen_addresses is empty");
    for name in &config.listen_addresses {
        // With port 0, the first one decides for all.
        let port = match listeners.first() {
            Some(first) if config.port == 0 => first.local_addr()?.port(),
            _ => config.port,
        };
        let addresses: Vec<SocketAddr> = if name == "*" {
            vec![SocketAddr::from(([0, 0, 0, 0], port)), SocketAddr::from(([0_u16; 8], port))]
        } else {
            match (name.as_str(), port).to_socket_addrs() {
                Ok(addresses) => addresses.collect(),
                Err(e) => {
                    log.warning(format!("could not resolve listen address \"{name}\": {e}"));
                    failure = e;
                    continue;
                }
            }
        };
        for mut address in addresses {
            if let Some(first) = listeners.first().filter(|_| config.port == 0) {
                address.set_port(first.local_addr()?.port());
            }
            if listeners.iter().any(|l| l.local_addr().is_ok_and(|a| a == address)) {
                continue;
            }
            match open(address) {
                Ok(listener) => listeners.push(listener),
                Err(e) => {
                    log.warning(format!("could not listen on {address}: {e}"));
                    failure = e;
                }
            }
        }
    }
    if listeners.is_empty() { Err(failure) } else { Ok(listeners) }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What the thread starts with.
#[derive(Debug)]
pub struct Start {
    pub listeners: Vec<TcpListener>,
    pub config: Arc<RwLock<Arc<GatewayConfig>>>,
    pub gate: Arc<Gate>,
    pub io: IoThreads,
    pub log: Log,
    pub stop: Arc<Notify>,
    /// Closed without a word where nobody is to be served.
    pub go: std::sync::mpsc::Receiver<()>,
}

/// Runs from the word to go until it is told to stop.
pub fn run(start: Start) -> io::Result<()> {
    if start.go.recv().is_err() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async move {
        let Start { listeners, config, gate, io, log, stop, .. } = start;
        let accept = async {
            let listeners =
                listeners.into_iter().map(tokio::net::TcpListener::from_std).collect::<io::Result<Vec<_>>>()?;
            let next = std::cell::Cell::new(0);
            let loops = listeners.iter().map(|l| accept(l, &config, &gate, &io, &log, &next));
            all(loops.map(Box::pin).collect()).await;
            Ok(())
        };
        tokio::select! {
            () = stop.notified() => Ok(()),
            done = accept => done,
        }
    })
}

/// Polls all of them, forever.
async fn all<F: Future<Output = ()> + Unpin>(mut loops: Vec<F>) {
    std::future::poll_fn(|cx| {
        for one in &mut loops {
            let _ = std::pin::Pin::new(one).poll(cx);
        }
        std::task::Poll::<()>::Pending
    })
    .await;
}

async fn accept(
    listener: &tokio::net::TcpListener,
    config: &RwLock<Arc<GatewayConfig>>,
    gate: &Arc<Gate>,
    io: &IoThreads,
    log: &Log,
    next: &std::cell::Cell<usize>,
) {
    let mut failing = false;
    let local = listener.local_addr().is_ok_and(|a| a.ip().to_canonical().is_loopback());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => {
                failing = false;
                accepted
            }
            // The client has gone meanwhile.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(e) => {
                // Once per row of failures: out of descriptors, they come ten times a second.
                if !std::mem::replace(&mut failing, true) {
                    log.warning(format!("could not accept connections: {e}"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(stream) = stream.into_std() else { continue };
        let config = config.read().clone();
        match gate.socket(peer.ip(), local, &config) {
            Ok(permit) => {
                let _ = stream.set_nodelay(true);
                let thread = next.get() % io.0.len();
                next.set(next.get().wrapping_add(1));
                let _ = io.0[thread].send(ToIo::Socket { stream, peer, permit });
            }
            Err(refusal) => turn_away(stream, &Answer::refusal(refusal)),
        }
    }
}

/// A short answer that fits any socket's buffer; nobody waits for it.
fn turn_away(mut stream: TcpStream, answer: &Answer) {
    let _ = stream.write(&answer.encode());
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
