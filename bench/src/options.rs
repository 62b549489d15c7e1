//! What the command line asks for.

use std::path::PathBuf;

const HELP: &str = "\
Measures latency, writers' speed, snapshots, fan-out and policies, each against its peers in the same run.

  --only a,b     some of: latency, writers, snapshot, fanout, policies (default: all)
  --seconds n    length of one measured stretch (default 8)
  --rounds n     how often the contestants take turns (default 5)
  --quick        short stretches, few rounds: to see that it works, not to quote
  --out file     where the results go as JSON (default: bench/results.json in the target directory)
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Latency,
    Writers,
    Snapshot,
    Fanout,
    Policies,
}

#[derive(Debug)]
pub struct Options {
    pub only: Vec<Scenario>,
    pub seconds: u64,
    pub rounds: usize,
    pub out: PathBuf,
}

impl Options {
    pub fn from_args() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|problem| {
            eprint!("{}{HELP}", problem.as_deref().map(|p| format!("error: {p}\n\n")).unwrap_or_default());
            std::process::exit(i32::from(problem.is_some()));
        })
    }

    /// `Err(None)` asks for help.
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Option<String>> {
        use Scenario::{Fanout, Latency, Policies, Snapshot, Writers};
        let out = target_dir().join("bench/results.json");
        let mut options = Self { only: vec![Latency, Writers, Snapshot, Fanout, Policies], seconds: 8, rounds: 5, out };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| Some(format!("{arg} wants a value")));
            let number = |text: String| text.parse::<u64>().map_err(|_| Some(format!("{text:?} is no number")));
            match arg.as_str() {
                "--only" => {
                    let scenario = |name: &str| match name {
                        "latency" => Ok(Latency),
                        "writers" => Ok(Writers),
                        "snapshot" => Ok(Snapshot),
                        "fanout" => Ok(Fanout),
                        "policies" => Ok(Policies),
                        _ => Err(Some(format!("there is no scenario {name:?}"))),
                    };
                    options.only = value()?.split(',').map(scenario).collect::<Result<_, _>>()?;
                }
                "--seconds" => options.seconds = number(value()?)?.max(1),
                "--rounds" => options.rounds = number(value()?)?.max(1) as usize,
                "--quick" => (options.seconds, options.rounds) = (2, 2),
                "--out" => options.out = value()?.into(),
                "--help" | "-h" => return Err(None),
                _ => return Err(Some(format!("{arg:?} is not an option"))),
            }
        }
        Ok(options)
    }
}

/// Where cargo builds, and so where we may leave files.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into(), PathBuf::from)
}
