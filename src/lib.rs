//! whagons_rte
