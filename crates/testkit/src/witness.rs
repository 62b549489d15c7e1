//! What somebody was entitled to hear. Tokens are numbers that stand in one version of one row (or in one name) and nowhere
//! else, so one that is found in a frame says where it came from.
//!
//! States of the database are numbered by the marks of the barrier's table. Nothing here asks Postgres.

use std::collections::HashMap;

/// The first token; all have as many digits.
pub const FIRST_TOKEN: u64 = 77_000_000_000_001;
const DIGITS: usize = 14;

/// The tokens in a text. Runs of digits of another length are none, so neither times nor hexadecimal names are taken for one.
pub fn tokens(text: &str) -> impl Iterator<Item = u64> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|run| run.len() == DIGITS && run.starts_with("77"))
        .filter_map(|run| run.parse().ok())
}

/// Tokens, each with the states in which they might be heard.
#[derive(Debug, Default)]
pub struct Entitled(HashMap<u64, Vec<(i32, i32)>>);

impl Entitled {
    /// Notes what may be heard in a state; states come in order.
    pub fn note(&mut self, text: &str, state: i32, previous: i32) {
        for token in tokens(text) {
            let spans = self.0.entry(token).or_default();
            match spans.last_mut() {
                Some((_, last)) if *last >= previous => *last = state,
                _ => spans.push((state, state)),
            }
        }
    }

    /// The tokens in a text that might not be heard in any state from `first` on, up to now.
    #[must_use]
    pub fn leaked(&self, text: &str, first: i32) -> Vec<u64> {
        tokens(text)
            .filter(|token| !self.0.get(token).is_some_and(|spans| spans.iter().any(|(_, last)| *last >= first)))
            .collect()
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The spans of a token, for messages.
    #[must_use]
    pub fn spans(&self, token: u64) -> &[(i32, i32)] {
        self.0.get(&token).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entitled, tokens};

    #[test]
    fn only_tokens_are_found() {
        let text = r#"["77000000000012",7700000000001,"x77000000000013y",177000000000014] 2026-01-01T00:00:00.770000"#;
        assert_eq!(tokens(text).collect::<Vec<_>>(), [77_000_000_000_012, 77_000_000_000_013]);
    }

    #[test]
    fn what_was_lost_may_not_be_heard_later() {
        let mut entitled = Entitled::default();
        entitled.note("77000000000001 77000000000002", 3, 2);
        entitled.note("77000000000001", 5, 3);
        entitled.note("77000000000002", 9, 5);
        assert!(entitled.leaked("77000000000001", 5).is_empty());
        assert_eq!(entitled.leaked("77000000000001 77000000000002", 6), [77_000_000_000_001]);
        assert_eq!(entitled.spans(77_000_000_000_002), [(3, 3), (9, 9)]);
        assert_eq!(entitled.leaked("77000000000003", 0), [77_000_000_000_003]);
    }
}
