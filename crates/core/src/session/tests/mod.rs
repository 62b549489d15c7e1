//! Tests of the session machine: single promises, and a seeded model of everything around it.

mod model;
mod promises;
mod verify;
