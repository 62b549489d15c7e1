//! What most people would build in Rust: a trigger that notifies, tokio-postgres that listens, a broadcast channel, and
//! one task of tokio-tungstenite for each WebSocket.
//!
//! Written as well as it can be without changing what it is: the payload is shared by reference count, buffers are small,
//! nothing is compressed, and what waits in the channel goes out in one flush.

use std::future::poll_fn;
use std::io;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio_postgres::{AsyncMessage, NoTls};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Changes that may wait for a slow client before it is dropped.
const CHANNEL: usize = 65_536;

/// Serves on a port of loopback until it is ended. `database` is a connection string of tokio-postgres. `ready` is called
/// once clients may come.
///
/// # Errors
/// The port or the database cannot be had, or the database is gone.
pub fn serve(database: &str, port: u16, ready: impl FnOnce()) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (changes, _) = broadcast::channel(CHANNEL);
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let (client, mut connection) = tokio_postgres::connect(database, NoTls).await.map_err(io::Error::other)?;
        let to_all: Sender<Utf8Bytes> = changes.clone();
        let database = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = to_all.send(notification.payload().into());
                }
            }
        });
        client.batch_execute("LISTEN changes").await.map_err(io::Error::other)?;
        ready();
        tokio::pin!(database);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        tokio::spawn(client_of(stream, changes.subscribe()));
                    }
                }
                _ = &mut database => return Err(io::Error::other("the database is gone")),
            }
        }
    })
}

async fn client_of(stream: TcpStream, mut changes: Receiver<Utf8Bytes>) {
    let _ = stream.set_nodelay(true);
    // By default a connection holds buffers of 128 KiB and more.
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024);
    let Ok(socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else { return };
    let (mut out, mut heard) = socket.split();
    loop {
        tokio::select! {
            change = changes.recv() => {
                let mut next = match change {
                    Ok(change) => Some(change),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return,
                };
                while let Some(change) = next {
                    if out.feed(Message::Text(change)).await.is_err() {
                        return;
                    }
                    next = match changes.try_recv() {
                        Ok(change) => Some(change),
                        Err(TryRecvError::Empty) => None,
                        Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return,
                    };
                }
                if out.flush().await.is_err() {
                    return;
                }
            }
            message = heard.next() => {
                if !matches!(message, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}
