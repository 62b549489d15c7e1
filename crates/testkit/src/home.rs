//! The Postgres installation that clusters are made with, and what a new one needs: a user, a directory,
//! a data directory, a port.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub fn bin(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        std::env::var_os("RTE_PG_BIN").map(PathBuf::from).unwrap_or_else(|| {
            let output = Command::new("pg_config").arg("--bindir").output();
            let output = output.expect("RTE_PG_BIN, or a pg_config in the path");
            String::from_utf8_lossy(&output.stdout).trim().into()
        })
    })
    .join(name)
}

/// User and group of `postgres`, when we are root.
fn owner() -> Option<(u32, u32)> {
    static OWNER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = passwd.lines().find(|l| l.starts_with("postgres:")).expect("a user postgres, since we are root");
        let mut ids = line.split(':').skip(2).map_while(|f| f.parse().ok());
        Some((ids.next()?, ids.next()?))
    })
}

pub fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C").env_remove("PGDATA");
    command
}

pub fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).expect("directory");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("permissions");
    if let Some((uid, gid)) = owner() {
        chown(dir, Some(uid), Some(gid)).expect("chown");
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn initdb(data: &Path) {
    let mut command = as_postgres(&bin("initdb"));
    command.current_dir(data.parent().unwrap_or(Path::new("/"))).arg("-D").arg(data);
    run(command.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]));
}

/// A data directory that clusters of this Postgres are copied from; made once per machine.
pub fn template() -> PathBuf {
    let version = Command::new(bin("postgres")).arg("--version").output().expect("postgres --version").stdout;
    let name = format!("{} {}", bin("").display(), String::from_utf8_lossy(&version));
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let user = rustix::process::geteuid().as_raw();
    let template = std::env::temp_dir().join(format!("rte-template-{user}-{}", name.trim_matches('_')));
    if !template.exists() {
        let work = template.with_extension(format!("{}", std::process::id()));
        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !template.exists() {
            let _ = fs::remove_dir_all(&work);
            make_dir(&work);
            initdb(&work.join("data"));
            // Somebody else may have been faster; theirs is as good.
            let _: io::Result<()> = fs::rename(&work, &template);
            let _ = fs::remove_dir_all(&work);
        }
    }
    template.join("data")
}

/// A port that nobody listens on, outside the range that outgoing connections are given.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (std::process::id().wrapping_mul(61).wrapping_add(n) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
