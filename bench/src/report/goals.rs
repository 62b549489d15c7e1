//! What was found, held against the goals of the scenarios' files. Medians count.

use super::Part;
use super::table::{cases, figure, rounds};
use crate::contestant::label;
use crate::plan::{Goal, Metric};
use crate::stats::Spread;

struct Verdict {
    goal: String,
    found: String,
    met: bool,
}

/// A table of all goals that something was measured for.
pub fn table(parts: &[Part]) -> String {
    let mut text = "| goal | found |  |\n|---|---:|---|\n".to_owned();
    for verdict in parts.iter().flat_map(|part| part.scenario.goals.iter().flat_map(|goal| verdicts(part, goal))) {
        let met = if verdict.met { "met" } else { "**missed**" };
        text += &format!("| {} | {} | {met} |\n", verdict.goal, verdict.found);
    }
    text
}

fn verdicts(part: &Part, goal: &Goal) -> Vec<Verdict> {
    let Some(metric) = part.scenario.metrics.iter().find(|m| m.name == goal.metric) else { return Vec::new() };
    let wanted = |case: &&str| goal.cases.is_empty() || goal.cases.iter().any(|c| c == case);
    let cases: Vec<&str> = cases(part.found).into_iter().filter(wanted).collect();
    let median = |contestant: &str, case: &str| {
        rounds(part.found, metric, contestant, case).map(|r| Spread::of(r).median).filter(|m| !m.is_nan())
    };
    let what = |contestant: &str| format!("{}: {}, {}", part.scenario.title, metric.label, label(contestant));
    let mut verdicts = Vec::new();
    for contestant in &goal.contestants {
        if let Some(factor) = goal.flat {
            let medians: Vec<f64> = cases.iter().filter_map(|case| median(contestant, case)).collect();
            if medians.len() > 1 {
                let spread = Spread::of(medians);
                verdicts.push(Verdict {
                    goal: format!("{}: the highest at most {factor} times the lowest", what(contestant)),
                    found: format!("{} to {}", figure(spread.min, metric.digits), figure(spread.max, metric.digits)),
                    met: spread.max <= factor * spread.min,
                });
            }
            continue;
        }
        for case in &cases {
            let Some(found) = median(contestant, case) else { continue };
            let rival = goal
                .not_worse_than
                .iter()
                .filter_map(|rival| median(rival, case).map(|m| (rival, m)))
                .min_by(|(_, a), (_, b)| if metric.higher_is_better { b.total_cmp(a) } else { a.total_cmp(b) });
            verdicts.extend(verdict(goal, metric, found, rival).map(|(rule, met)| Verdict {
                goal: format!("{}, {case}: {rule}", what(contestant)),
                found: figure(found, metric.digits),
                met,
            }));
        }
    }
    verdicts
}

fn verdict(goal: &Goal, metric: &Metric, found: f64, rival: Option<(&String, f64)>) -> Option<(String, bool)> {
    let text = |bound: f64| if bound.fract() == 0.0 { figure(bound, 0) } else { bound.to_string() };
    if let Some(bound) = goal.at_least {
        return Some((format!("at least {}", text(bound)), found >= bound));
    }
    if let Some(bound) = goal.at_most {
        return Some((format!("at most {}", text(bound)), found <= bound));
    }
    let (name, theirs) = rival?;
    let met = if metric.higher_is_better { found >= theirs } else { found <= theirs };
    Some((format!("not worse than the best peer ({}: {})", label(name), figure(theirs, metric.digits)), met))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed_by_the_number() {
        let metric = |higher_is_better| Metric {
            name: "m".into(),
            label: "m".into(),
            digits: 1,
            against: None,
            of: None,
            higher_is_better,
        };
        let goal = |at_least, at_most| Goal {
            metric: "m".into(),
            contestants: vec![],
            cases: vec![],
            at_least,
            at_most,
            not_worse_than: vec![],
            flat: None,
        };
        let met = |goal: &Goal, high, found, rival| verdict(goal, &metric(high), found, rival).map(|(_, met)| met);
        assert_eq!(met(&goal(Some(0.85), None), true, 0.85, None), Some(true));
        assert_eq!(met(&goal(Some(0.85), None), true, 0.84, None), Some(false));
        assert_eq!(met(&goal(None, Some(4.0)), false, 4.1, None), Some(false));
        let node = "node".to_owned();
        assert_eq!(met(&goal(None, None), false, 0.3, Some((&node, 0.4))), Some(true));
        assert_eq!(met(&goal(None, None), true, 0.3, Some((&node, 0.4))), Some(false));
        assert_eq!(met(&goal(None, None), true, 0.3, None), None);
    }
}
