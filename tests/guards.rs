//! Whoever comes too often, too slowly, under a wrong name or with too much gets a defined answer, and costs nobody else.
