//! Unix sockets that never block, not even in connecting.

use std::cell::Cell;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// How many sockets this process has made.
pub fn made() -> u64 {
    MADE.get()
}

/// Two ends of a new connection.
pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
    MADE.set(MADE.get() + 1);
    UnixStream::pair()
}

/// The standard library connects Unix sockets only in blocking mode, where a full backlog would hold a
/// worker beyond the reach of signals; here a full backlog is an error.
pub fn connect_nonblocking(path: &str) -> io::Result<UnixStream> {
    // SAFETY: plain data, for which zero is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: opens a descriptor, or says -1.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    MADE.set(MADE.get() + 1);
    // SAFETY: open, and owned by nobody else.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    stream.set_nonblocking(true)?;
    // SAFETY: a descriptor of this process, with an argument that the command takes.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the address is a whole sockaddr_un that ends with NUL.
    let done = unsafe {
        libc::connect(fd, (&raw const address).cast(), std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t)
    };
    if done == 0 { Ok(stream) } else { Err(io::Error::last_os_error()) }
}
