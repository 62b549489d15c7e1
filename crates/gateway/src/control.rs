//! The channel to the launcher: its orders in, lines for the server's log out.
//!
//! Lines never make a thread wait: they go through a bounded channel and are dropped past it. Any thread.

use crossbeam_channel::{Receiver, Sender, bounded};
use rte_protocol::bridge::{LogLevel, ToGateway, ToLauncher, frame};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// Lines that may wait for the launcher.
const LINES: usize = 1024;

/// Where lines for the server's log go.
#[derive(Debug, Clone)]
pub struct Log(Sender<ToLauncher>);

/// Lines that wait for a thread to write them.
#[derive(Debug)]
pub struct Lines(Receiver<ToLauncher>);

impl Log {
    /// A log, and what is said to it.
    pub fn new() -> (Self, Lines) {
        let (sender, receiver) = bounded(LINES);
        (Self(sender), Lines(receiver))
    }

    pub fn send(&self, message: ToLauncher) {
        let _ = self.0.try_send(message);
    }

    fn line(&self, level: LogLevel, message: String) {
        self.send(ToLauncher::Log { level, message });
    }

    pub fn debug(&self, message: String) {
        self.line(LogLevel::Debug, message);
    }

    pub fn log(&self, message: String) {
        self.line(LogLevel::Log, message);
    }

    pub fn warning(&self, message: String) {
        self.line(LogLevel::Warning, message);
    }
}

impl Lines {
    /// The thread that writes them. It ends when every `Log` is dropped.
    pub fn write_to(self, mut control: UnixStream) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("rte log".into()).spawn(move || {
            let mut out = Vec::new();
            for message in self.0 {
                out.clear();
                if frame::write(&mut out, &message, &[]).is_err() || control.write_all(&out).is_err() {
                    return;
                }
            }
        })
    }
}

/// Reads the next order; none when the launcher is gone. Blocks.
pub fn next_order(control: &mut UnixStream) -> Option<ToGateway> {
    let mut prefix = [0; 4];
    control.read_exact(&mut prefix).ok()?;
    let len = frame::frame_len(&prefix).ok()??;
    // Orders are settings: nothing of theirs is large.
    if len > 1 << 24 {
        return None;
    }
    let mut whole = vec![0; len];
    whole[..4].copy_from_slice(&prefix);
    control.read_exact(&mut whole[4..]).ok()?;
    frame::read(&whole).ok().map(|(order, _)| order)
}
