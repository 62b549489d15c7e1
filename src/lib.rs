//! whagons_rte
mod job;
pgrx::pg_module_magic!();
