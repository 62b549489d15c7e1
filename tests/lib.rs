//! The promises of whagons_rte, one file for each kind: see the `[[test]]` entries of `Cargo.toml`.
//!
//! Each test runs alone and in any order, on a Postgres server of its own, which `RTE_PG_BIN` names.
//! `RTE_SEED` repeats a seeded test, `RTE_SECONDS` and `RTE_ROUNDS` make one longer, `RTE_PATIENCE` is
//! the number of seconds that a state may take.
