//! Tables, goals and plots out of results: on the screen after a run, and in docs/BENCHMARKS.md between markers, so that no
//! figure there is typed by hand.

mod document;
mod goals;
mod plot;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::options::bench_dir;
use crate::plan::{self, Scenario};
use crate::results::{Found, Run};
use crate::say;

/// A scenario with what was found of it, and in which run.
struct Part<'a> {
    scenario: &'a Scenario,
    found: &'a Found,
    run: &'a Run,
}

/// Prints what a run has found.
pub fn print(run: &Run, all: &[Scenario]) {
    for part in parts(std::slice::from_ref(run), all) {
        println!("\n### {}\n\n{}", part.scenario.title, table::of(&part));
    }
    println!("\n### Goals\n\n{}", goals::table(&parts(std::slice::from_ref(run), all)));
}

/// Writes the document's parts and the plots, of each scenario from the newest run that has it.
///
/// # Errors
/// There are no results, they cannot be read, or the document has no place for them.
pub fn write(files: &[PathBuf]) -> Result<(), String> {
    let files = if files.is_empty() { published()? } else { files.to_vec() };
    let mut runs = files.iter().map(|file| Run::read(file)).collect::<Result<Vec<_>, _>>()?;
    runs.sort_by_key(|run| run.started);
    if runs.is_empty() {
        return Err("there are no results in bench/results; `make bench ARGS=--publish` makes some".into());
    }
    let all = plan::load();
    let parts = parts(&runs, &all);
    let docs = bench_dir().join("../docs");
    let mut blocks = BTreeMap::from([
        ("runs".to_owned(), document::runs(&parts)),
        ("goals".to_owned(), goals::table(&parts)),
        ("scenarios".to_owned(), document::scenarios(&all)),
    ]);
    for part in &parts {
        let mut text = table::of(part);
        for picture in &part.scenario.plots {
            if let Some(svg) = plot::svg(part, picture)? {
                let file = format!("images/bench-{}.svg", picture.file);
                fs::write(docs.join(&file), svg).map_err(|e| format!("{file}: {e}"))?;
                text += &format!("\n![{}]({file})\n", picture.title);
            }
        }
        blocks.insert(part.scenario.name.clone(), text);
    }
    let path = docs.join("BENCHMARKS.md");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    fs::write(&path, document::filled(&text, &blocks)?).map_err(|e| format!("{}: {e}", path.display()))?;
    say(&format!("{} holds {} scenarios of {} runs", path.display(), parts.len(), runs.len()));
    Ok(())
}

fn parts<'a>(runs: &'a [Run], all: &'a [Scenario]) -> Vec<Part<'a>> {
    let newest = |scenario: &'a Scenario| {
        let of = |run: &'a Run| run.scenarios.iter().find(|f| f.name == scenario.name).map(|found| (run, found));
        runs.iter().rev().find_map(of).map(|(run, found)| Part { scenario, found, run })
    };
    all.iter().filter_map(newest).collect()
}

fn published() -> Result<Vec<PathBuf>, String> {
    let directory = bench_dir().join("results");
    let json = |path: &Path| path.extension().is_some_and(|e| e == "json");
    // It comes into being with the first results.
    let files = fs::read_dir(&directory).into_iter().flatten();
    Ok(files.flatten().map(|file| file.path()).filter(|path| json(path)).collect())
}
