//! The system calls that a gateway makes once its sockets are open and its threads run; every other is refused with
//! EPERM, in every thread. One that is refused by mistake fails, but ends nothing.
//!
//! What is not here on purpose: `open`, `socket`, `connect`, `bind`, `clone`, `execve`, `kill`, `ptrace`, `io_uring_*`,
//! `recvmsg` (it could be handed descriptors), memory that is executable, signals by descriptor. Threads that are started
//! later fail, so all are started before.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Allowed with any arguments.
const ANY: &[libc::c_long] = &[
    // Sockets that are open, and those that come from them.
    libc::SYS_accept4,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fstat,
    // The event loops. Each thread makes its own, maybe after the filter is there.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads, their beginning and their end.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Time, chance, and what a stopped process goes on with.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("it cannot be built: {0}")]
    Build(#[from] BackendError),
    #[error("the kernel does not take it: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Puts the filter in force, in all threads.
///
/// # Errors
/// An architecture that is not known here, or a kernel without filters.
pub fn apply() -> Result<(), FilterError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter: BpfProgram = SeccompFilter::new(rules()?, refuse, SeccompAction::Allow, arch)?.try_into()?;
    Ok(seccompiler::apply_filter_all_threads(&filter)?)
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ANY.iter().map(|call| (*call, Vec::new())).collect();
    let is = |argument: u8, values: &[libc::c_int]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| equal(argument, *value).and_then(|c| SeccompRule::new(vec![c]))).collect()
    };
    let descriptor = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
    rules.insert(libc::SYS_fcntl, is(1, &descriptor)?);
    #[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast, reason = "c_int or c_ulong, by platform")]
    rules.insert(libc::SYS_ioctl, is(1, &[libc::FIONBIO as libc::c_int])?);
    rules.insert(libc::SYS_prctl, is(0, &[libc::PR_SET_NAME])?);
    let no_delay = vec![equal(1, libc::IPPROTO_TCP)?, equal(2, libc::TCP_NODELAY)?];
    rules.insert(libc::SYS_setsockopt, vec![SeccompRule::new(no_delay)?]);
    // Only to itself, for `abort`.
    let own = libc::c_int::try_from(std::process::id()).unwrap_or_default();
    rules.insert(libc::SYS_tgkill, is(0, &[own])?);
    let executable = Op::MaskedEq(u64::from(libc::PROT_EXEC.cast_unsigned()));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let plain = SeccompCondition::new(2, Len::Dword, executable.clone(), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![plain])?]);
    }
    Ok(rules)
}

/// The kernel looks at the lower half of an `int` argument only, so does this.
fn equal(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Len::Dword, Op::Eq, u64::from(value.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_builds_and_names_nothing_that_opens_or_starts() {
        let rules = rules().expect("rules");
        for refused in [
            libc::SYS_openat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_pidfd_getfd,
            libc::SYS_recvmsg,
            libc::SYS_io_uring_setup,
        ] {
            assert!(!rules.contains_key(&refused), "system call {refused}");
        }
        let arch: TargetArch = std::env::consts::ARCH.try_into().expect("architecture");
        let filter = SeccompFilter::new(rules, SeccompAction::Errno(1), SeccompAction::Allow, arch).expect("filter");
        let program: BpfProgram = filter.try_into().expect("program");
        assert!(program.len() < 4096, "the kernel's bound: {}", program.len());
    }
}
