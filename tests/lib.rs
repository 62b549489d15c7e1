//! The promises of whagons_rte: one file each, see the `[[test]]` entries.
