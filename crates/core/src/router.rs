//! Which shapes a change may concern: those without a restriction that can be looked up, and those that want the value
//! that one of its columns has or had.
//!
//! The cost of a change is that of the shapes that it may concern, whatever the number of the others. A shape that is left out
//! cannot contain the row; one that is named need not. Pure, any thread.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A value to look shapes up by: equal values are those that Postgres' `=` calls equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    Int(i64),
    Bytes(Box<[u8]>),
}

/// The shapes of one table.
#[derive(Debug)]
pub struct Router<S> {
    any: Vec<S>,
    by_column: BTreeMap<i16, HashMap<Value, Vec<S>>>,
}

impl<S> Default for Router<S> {
    fn default() -> Self {
        Self { any: Vec::new(), by_column: BTreeMap::new() }
    }
}

impl<S: Copy + Eq + Hash> Router<S> {
    /// Adds a shape: for any change, or for rows that have one of the values in a column.
    pub fn insert(&mut self, shape: S, index: Option<&(i16, Vec<Value>)>) {
        let Some((column, values)) = index else {
            self.any.push(shape);
            return;
        };
        let by_value = self.by_column.entry(*column).or_default();
        for value in values {
            let shapes = by_value.entry(value.clone()).or_default();
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
    }

    /// Takes a shape out; `index` as it was added with.
    pub fn remove(&mut self, shape: S, index: Option<&(i16, Vec<Value>)>) {
        let Some((column, values)) = index else {
            self.any.retain(|s| *s != shape);
            return;
        };
        let Some(by_value) = self.by_column.get_mut(column) else { return };
        for value in values {
            if let Some(shapes) = by_value.get_mut(value) {
                shapes.retain(|s| *s != shape);
                if shapes.is_empty() {
                    by_value.remove(value);
                }
            }
        }
        if by_value.is_empty() {
            self.by_column.remove(column);
        }
    }

    /// The columns whose values tell shapes apart.
    pub fn columns(&self) -> impl Iterator<Item = i16> + '_ {
        self.by_column.keys().copied()
    }

    /// The shapes that every change may concern.
    pub fn any(&self) -> &[S] {
        &self.any
    }

    /// The shapes that want a value in a column.
    pub fn wanting(&self, column: i16, value: &Value) -> &[S] {
        self.by_column.get(&column).and_then(|by| by.get(value)).map_or(&[], Vec::as_slice)
    }

    /// All shapes that want a value in a column: where a change does not hold it.
    pub fn all_wanting(&self, column: i16) -> impl Iterator<Item = S> + '_ {
        self.by_column.get(&column).into_iter().flat_map(|by| by.values().flatten().copied())
    }

    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.by_column.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(values: &[i64]) -> Vec<Value> {
        values.iter().map(|v| Value::Int(*v)).collect()
    }

    #[test]
    fn a_shape_is_found_by_any_of_its_values_and_by_no_other() {
        let mut router = Router::default();
        router.insert(1, None);
        router.insert(2, Some(&(3, ints(&[7, 8, 7]))));
        router.insert(4, Some(&(3, ints(&[8]))));
        assert_eq!(router.any(), [1]);
        assert_eq!(router.wanting(3, &Value::Int(7)), [2]);
        assert_eq!(router.wanting(3, &Value::Int(8)), [2, 4]);
        assert!(router.wanting(3, &Value::Int(9)).is_empty());
        assert!(router.wanting(2, &Value::Int(7)).is_empty());
        assert_eq!(router.columns().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_was_added_can_be_taken_out_and_leaves_nothing() {
        let mut router = Router::default();
        let index = (1, ints(&[1, 2]));
        router.insert(1, Some(&index));
        router.insert(2, None);
        router.remove(1, Some(&index));
        assert!(router.wanting(1, &Value::Int(1)).is_empty());
        assert!(!router.is_empty());
        router.remove(2, None);
        assert!(router.is_empty());
    }

    #[test]
    fn a_shape_that_wants_no_value_is_never_found() {
        let mut router = Router::default();
        router.insert(1, Some(&(1, Vec::new())));
        assert_eq!(router.all_wanting(1).count(), 0);
        router.remove(1, Some(&(1, Vec::new())));
        assert!(router.is_empty());
    }
}
