//! The SQL surface, word for word: each `pg_test/sql/*.sql` runs through psql, and what psql prints is the
//! text of `pg_test/expected/*.out`. `RTE_BLESS=1` writes the expected texts anew.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rte_testkit::Cluster;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pg_test").join(name)
}

/// Output and messages of psql in the order in which they come.
fn run(cluster: &Cluster, script: &Path) -> String {
    let out = cluster.dir().join("out");
    let file = File::create(&out).expect("output");
    let mut psql = cluster.tool("psql");
    psql.args(["-X", "-a", "-q", "-d", "postgres", "-v", "VERBOSITY=default", "-v", "SHOW_CONTEXT=never"]);
    psql.stdin(File::open(script).expect("script"));
    psql.stdout(file.try_clone().expect("output")).stderr(file);
    psql.status().expect("psql");
    fs::read_to_string(out).expect("output")
}

#[test]
fn the_sql_surface_is_as_written() {
    let mut scripts: Vec<PathBuf> =
        fs::read_dir(folder("sql")).expect("scripts").map(|e| e.expect("script").path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut different = Vec::new();
    for script in scripts {
        let cluster = Cluster::ready();
        let name = script.file_stem().and_then(|n| n.to_str()).expect("name").to_owned();
        let printed = run(&cluster, &script);
        let path = folder("expected").join(format!("{name}.out"));
        if std::env::var_os("RTE_BLESS").is_some() {
            fs::write(&path, &printed).expect("expected");
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if let Some((n, line)) = first_difference(&expected, &printed) {
            different.push(format!("{name}.out, line {n}: {line}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn first_difference(expected: &str, printed: &str) -> Option<(usize, String)> {
    let (mut expected, mut printed) = (expected.lines(), printed.lines());
    (1..).find_map(|n| match (expected.next(), printed.next()) {
        (None, None) => Some(None),
        (a, b) if a == b => None,
        (a, b) => Some(Some((n, format!("expected {a:?}, got {b:?}")))),
    })?
}
