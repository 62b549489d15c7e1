//! What the command line asks for.

use std::path::PathBuf;

const HELP: &str = "\
Measures whagons_rte against what else is there, in one run and in turns, on servers of its own.

  (no option)      all scenarios of bench/scenarios but those that have to be asked for, sized to be quoted
  --only a,b       these scenarios
  --list           what scenarios there are, and what each measures
  --profile name   the sizes of the files' [publish] or [quick] part instead
  --quick          the same as --profile quick: to see that it works, not to quote
  --publish        the same as --profile publish, and the results go into bench/results
  --seconds n      length of one measured stretch, for scenarios that have such
  --rounds n       how often the contestants take turns
  --contestants a,b   only these, and what they are measured against
  --out file       where the results go as JSON (default: bench/<time>.json in the target directory)

  report [file…]   makes the tables and plots of docs/BENCHMARKS.md from results, of each scenario from the newest
                   (default: all in bench/results)
";

/// What to do.
#[derive(Debug)]
pub enum Command {
    Run(Options),
    List,
    Report(Vec<PathBuf>),
    /// A peer or a limit, as a process of its own: its name and arguments.
    Serve(String, Vec<String>),
}

/// How to measure.
#[derive(Debug, Default)]
pub struct Options {
    /// Empty: all that do not have to be asked for.
    pub only: Vec<String>,
    pub profile: Profile,
    pub seconds: Option<u64>,
    pub rounds: Option<u64>,
    pub contestants: Option<Vec<String>>,
    pub out: Option<PathBuf>,
}

/// Which part of a scenario's file counts over its plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    #[default]
    Full,
    Publish,
    Quick,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Publish => "publish",
            Self::Quick => "quick",
        }
    }
}

impl Command {
    pub fn from_args() -> Self {
        Self::parse(std::env::args().skip(1)).unwrap_or_else(|problem| {
            eprint!("{}{HELP}", problem.as_deref().map(|p| format!("error: {p}\n\n")).unwrap_or_default());
            std::process::exit(i32::from(problem.is_some()));
        })
    }

    /// `Err(None)` asks for help.
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, Option<String>> {
        let mut args = args.peekable();
        match args.peek().map(String::as_str) {
            Some("report") => return Ok(Self::Report(args.skip(1).map(PathBuf::from).collect())),
            Some("serve") => {
                let name = args.nth(1).ok_or_else(|| Some("serve wants a name".to_owned()))?;
                return Ok(Self::Serve(name, args.collect()));
            }
            _ => {}
        }
        let mut options = Options::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| Some(format!("{arg} wants a value")));
            let number = |text: String| match text.parse::<u64>() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(Some(format!("{text:?} is no number above 0"))),
            };
            let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
            match arg.as_str() {
                "--only" => options.only = list(value()?),
                "--list" => return Ok(Self::List),
                "--profile" => {
                    options.profile = match value()?.as_str() {
                        "full" => Profile::Full,
                        "publish" => Profile::Publish,
                        "quick" => Profile::Quick,
                        other => return Err(Some(format!("there is no profile {other:?}"))),
                    }
                }
                "--quick" => options.profile = Profile::Quick,
                "--publish" => options.profile = Profile::Publish,
                "--seconds" => options.seconds = number(value()?)?,
                "--rounds" => options.rounds = number(value()?)?,
                "--contestants" => options.contestants = Some(list(value()?)),
                "--out" => options.out = Some(value()?.into()),
                "--help" | "-h" => return Err(None),
                _ => return Err(Some(format!("{arg:?} is not an option"))),
            }
        }
        Ok(Self::Run(options))
    }
}

/// Where cargo builds, and so where we may leave files.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into(), PathBuf::from)
}

/// The directory of this crate, with its scenarios, peers and published results.
pub fn bench_dir() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Option<String>> {
        Command::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_command_line_says_what_is_run_and_how() {
        let Ok(Command::Run(options)) = parse("--only latency,idle --rounds 2 --quick") else { panic!("it is a run") };
        assert_eq!(options.only, ["latency", "idle"]);
        assert_eq!((options.rounds, options.seconds, options.profile), (Some(2), None, Profile::Quick));
        assert!(matches!(parse("report a.json"), Ok(Command::Report(files)) if files.len() == 1));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("--rounds 0").is_err_and(|e| e.is_some_and(|e| e.contains("\"0\""))));
        assert!(parse("--fast").is_err_and(|e| e.is_some_and(|e| e.contains("--fast"))));
        assert!(parse("--help").is_err_and(|e| e.is_none()));
    }
}
