//! How much memory the process has. The file that says so is opened before the right to open files is given up.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Where the kernel says it.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// None where the system has no such file.
    pub fn open() -> Option<Self> {
        File::open("/proc/self/status").ok().map(Self)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let n = self.0.read_at(&mut text, 0).ok()?;
        resident(std::str::from_utf8(&text[..n]).ok()?)
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_process_is_found() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t   1234 kB\nRssAnon:\t 1 kB\n"), Some(1234 << 10));
        assert_eq!(resident("Name:\tx\n"), None);
        if let Some(memory) = Memory::open() {
            assert!(memory.bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
