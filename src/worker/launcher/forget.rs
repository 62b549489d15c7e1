//! The gateway forgets the secret of tokens, which it inherited with the launcher's memory: who breaks into it must not
//! be able to make tokens.
//!
//! Copies of a setting lie in the setting itself, in its values to go back to, and in memory of the configuration's parser
//! that was given back. So all private memory is looked through for the secret's bytes. In the gateway's process, before
//! it serves.

use crate::guc;
use std::ptr;

/// What hides the secret from the search while it is searched for.
const MASK: u8 = 0x5a;

/// Overwrites `rte.jwt_secret` wherever this process has it.
///
/// # Safety
/// Right after `fork`, in the child, whose only thread this is and which does not read its settings any more.
pub unsafe fn forget_secrets() {
    let Some(mut secret) = guc::jwt_secret() else { return };
    let masked: Vec<u8> = secret.iter().map(|byte| byte ^ MASK).collect();
    secret.fill(0);
    std::hint::black_box(&secret);
    drop(secret);
    // Shorter ones are not accepted, and could be anything.
    if masked.len() < rte_core::auth::MIN_SECRET {
        return;
    }
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in maps.lines().filter_map(private_and_writable) {
        // SAFETY: a mapping of this process that can be read and written; nothing else runs in it. What is overwritten is
        // read by nobody: the settings, and memory that was given back.
        unsafe { wipe(start, end, &masked) };
    }
}

/// Start and end of a mapping's addresses (proc(5)).
fn private_and_writable(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    if rights != "rw-p" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

/// # Safety
/// The addresses are this process' to read and write.
unsafe fn wipe(start: usize, end: usize, masked: &[u8]) {
    let first = libc::c_int::from(masked[0] ^ MASK);
    let mut at = start;
    while end - at >= masked.len() {
        // SAFETY: the caller's promise; the match lies within the mapping.
        unsafe {
            let found = libc::memchr(at as *const libc::c_void, first, end - at - masked.len() + 1);
            if found.is_null() {
                return;
            }
            at = found as usize;
            let here = at as *mut u8;
            if (0..masked.len()).all(|i| ptr::read_volatile(here.add(i)) ^ MASK == masked[i]) {
                (0..masked.len()).for_each(|i| ptr::write_volatile(here.add(i), 0));
            }
        }
        at += 1;
    }
}
