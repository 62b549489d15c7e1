//! The document's generated parts: between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.

use std::collections::BTreeMap;

use super::Part;
use crate::plan::Scenario;
use crate::results::Run;

/// Replaces what is between the markers.
///
/// # Errors
/// A block has no place.
pub fn filled(text: &str, blocks: &BTreeMap<String, String>) -> Result<String, String> {
    let mut text = text.to_owned();
    for (name, block) in blocks {
        let (begin, end) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->"));
        let place = text.find(&begin).map(|at| at + begin.len());
        let place = place.and_then(|from| text[from..].find(&end).map(|length| from..from + length));
        let place = place.ok_or_else(|| format!("docs/BENCHMARKS.md has no place for {name:?}: {begin}{end}"))?;
        text.replace_range(place, &format!("\n{}\n\n", block.trim()));
    }
    Ok(text)
}

/// Which runs the figures come from.
pub fn runs(parts: &[Part]) -> String {
    let mut runs: Vec<&Run> = Vec::new();
    for part in parts {
        if runs.iter().all(|run| run.started != part.run.started) {
            runs.push(part.run);
        }
    }
    runs.sort_by_key(|run| run.started);
    let mut text = String::new();
    for run in runs {
        let names = parts.iter().filter(|p| p.run.started == run.started).map(|p| p.scenario.name.as_str());
        let machine = run.machine.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ");
        text += &format!(
            "- `{}`, {}, commit {}: {}.\n  On {machine}.\n",
            run.command,
            date(run.started),
            run.commit,
            names.collect::<Vec<_>>().join(", ")
        );
    }
    text
}

/// What there is to be measured.
pub fn scenarios(all: &[Scenario]) -> String {
    let mut text = "| scenario | measured |\n|---|---|\n".to_owned();
    all.iter()
        .for_each(|s| text += &format!("| [{}](../bench/scenarios/{}.toml) | {} |\n", s.name, s.name, s.measures));
    text
}

/// `2026-11-21`, of seconds since 1970. Days are counted from March, so that the day that leap years add is the last.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays() {
        let text = "# T\n\n<!-- bench:a -->\nold\n<!-- /bench:a -->\n\nwhy\n";
        let filled = |name: &str| filled(text, &BTreeMap::from([(name.to_owned(), "new\n".to_owned())]));
        assert_eq!(filled("a").as_deref(), Ok("# T\n\n<!-- bench:a -->\n\nnew\n\n<!-- /bench:a -->\n\nwhy\n"));
        assert!(filled("b").is_err_and(|e| e.contains("\"b\"")));
    }

    #[test]
    fn a_date_is_that_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_219_200), "2026-11-21");
    }

    #[test]
    fn the_document_has_a_place_for_every_scenario() {
        let path = crate::options::bench_dir().join("../docs/BENCHMARKS.md");
        let text = std::fs::read_to_string(path).expect("the document");
        let names =
            crate::plan::load().into_iter().map(|s| s.name).chain(["runs", "goals", "scenarios"].map(str::to_owned));
        let blocks = names.map(|name| (name, String::new())).collect();
        super::filled(&text, &blocks).expect("a place for each");
    }
}
