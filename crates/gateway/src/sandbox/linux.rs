//! Linux: limits of the process, Landlock, the filter of system calls, and the attempts that show what they refuse.

use super::filter;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus,
    Scope,
};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::getppid;
use rte_protocol::bridge::{Attempt, SandboxReport};
use socket2::{Domain, Socket, Type};
use std::fs::{File, read_dir};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

/// The newest version of Landlock that is asked for; older kernels give what they have.
const LANDLOCK: ABI = ABI::V9;

/// Bounds the memory that the process can write to. Address space that is only reserved does not count, for the
/// allocator reserves much more than it uses.
pub fn limit_memory(bytes: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?)
}

pub fn confine(report: &mut SandboxReport) {
    match nix::sys::prctl::set_no_new_privs() {
        Ok(()) => report.no_new_privs = true,
        Err(e) => report.missing.push(format!("no new privileges ({e})")),
    }
    // A core file would hold tokens. There is no file to be written either.
    for (resource, name) in [(Resource::RLIMIT_CORE, "core files"), (Resource::RLIMIT_FSIZE, "files")] {
        if let Err(e) = setrlimit(resource, 0, 0) {
            report.missing.push(format!("a limit of {name} ({e})"));
        }
    }
    match landlock() {
        Ok((RulesetStatus::NotEnforced, _)) => report.missing.push("Landlock (the kernel has none)".to_owned()),
        Ok((_, abi)) => report.landlock_abi = abi,
        Err(e) => report.missing.push(format!("Landlock ({e})")),
    }
}

/// Refuses the whole file system, and all connecting, binding and signalling that the kernel's version knows of.
fn landlock() -> Result<(RulesetStatus, Option<u32>), RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            u32::try_from(kernel_abi.unwrap_or(effective_abi as i32)).ok()
        }
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
    };
    Ok((status.ruleset, abi))
}

pub fn seal(report: &mut SandboxReport) {
    // Threads count as processes here, so this comes after the last of them.
    if let Err(e) = setrlimit(Resource::RLIMIT_NPROC, 0, 0) {
        report.missing.push(format!("a limit of processes ({e})"));
    }
    match filter::apply() {
        Ok(()) => report.filtered = true,
        Err(e) => report.missing.push(format!("the filter of system calls ({e})")),
    }
}

/// Tries what the process must not be able to do. Each does no harm where it succeeds.
pub fn attempts(postgres_socket: &str, own: Option<SocketAddr>) -> Vec<Attempt> {
    let start = || Command::new("/bin/true").spawn().and_then(|mut child| child.wait()).map(drop);
    // A program that does not exist: where running it is allowed, the error is another one.
    let run = || nix::unistd::execve::<_, &std::ffi::CStr>(c"/rte/no/such/program", &[c"none"], &[]).map(drop);
    let connect = || own.map_or(Err(io::ErrorKind::InvalidInput.into()), |own| TcpStream::connect(own).map(drop));
    let tried = [
        ("open a file", File::open("PG_VERSION").map(drop)),
        ("list a directory", read_dir(".").map(drop)),
        ("connect to the server's socket", UnixStream::connect(postgres_socket).map(drop)),
        ("connect to a port", connect()),
        ("make a socket", Socket::new(Domain::IPV4, Type::STREAM, None).map(drop)),
        ("start a process", start()),
        ("run a program", run().map_err(io::Error::from)),
        ("signal the launcher", nix::sys::signal::kill(getppid(), None).map_err(io::Error::from)),
    ];
    let attempt = |(what, result): (&str, io::Result<()>)| {
        let errno = result.err().map(|e| e.raw_os_error().unwrap_or(0));
        // EAGAIN is the limit of processes.
        let refused = errno.is_some_and(|e| [Errno::EPERM, Errno::EACCES, Errno::EAGAIN].contains(&Errno::from_raw(e)));
        Attempt { what: what.to_owned(), errno, refused }
    };
    tried.into_iter().map(attempt).collect()
}
