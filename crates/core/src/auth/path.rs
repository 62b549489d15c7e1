//! The place of a claim, in PostgREST's notation: `.role`, `.realm_access.roles[0]`, `."https://example.com/role"`. Pure.

use serde_json::{Map, Value};

/// A parsed place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Index(usize),
}

/// What is wrong with the text of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("\".name\", \".\"name\"\" or \"[0]\" was expected at character {0}")]
pub struct PathError(pub usize);

impl ClaimPath {
    /// Reads a place. The dot before a first plain name may be missing: `role` is `.role`.
    ///
    /// # Errors
    /// [`PathError`] where the text is not of this form; it must begin with a name.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let whole = text.trim();
        let mut rest = whole;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let at = whole.chars().count() - rest.chars().count() + 1;
            let (step, after) = step(rest, steps.is_empty()).ok_or(PathError(at))?;
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() { Err(PathError(1)) } else { Ok(Self(steps)) }
    }

    /// What lies there; null and nothing are the same.
    #[must_use]
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let mut steps = self.0.iter();
        let Some(Step::Member(first)) = steps.next() else { return None };
        let start = claims.get(first)?;
        let found = steps.try_fold(start, |value, step| match step {
            Step::Member(name) => value.as_object()?.get(name),
            Step::Index(index) => value.as_array()?.get(*index),
        })?;
        (!found.is_null()).then_some(found)
    }
}

/// The first step of a text and what follows it.
fn step(text: &str, first: bool) -> Option<(Step, &str)> {
    if let (Some(rest), false) = (text.strip_prefix('['), first) {
        let (digits, rest) = rest.split_once(']')?;
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        return Some((Step::Index(plain.then(|| digits.parse().ok())??), rest));
    }
    let dotted = text.strip_prefix('.');
    if let Some(quoted) = dotted.and_then(|rest| rest.strip_prefix('"')) {
        let (name, rest) = quoted.split_once('"')?;
        return (!name.is_empty()).then(|| (Step::Member(name.to_owned()), rest));
    }
    let rest = dotted.or(first.then_some(text))?;
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$' | '@');
    let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
    (end > 0).then(|| (Step::Member(rest[..end].to_owned()), &rest[end..]))
}
