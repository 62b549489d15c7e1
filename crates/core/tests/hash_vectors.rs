//! The integrity hash by the vectors that the browser's client tests too: neither side can change it alone.

use rte_core::integrity::{Canonical, SetHash, part_of};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    /// JSON texts, as the wire may have them.
    row: String,
    canonical: String,
    hash: String,
    key: String,
    part_of_256: u32,
}

#[test]
fn both_sides_hash_the_same() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("hash_vectors.json")).expect("vectors");
    assert!(vectors.len() >= 30);
    let mut writer = Canonical::default();
    for vector in vectors {
        let mut canonical = |json: &str| {
            let mut out = Vec::new();
            writer.append(json.as_bytes(), &mut out).expect("JSON");
            out
        };
        let row = canonical(&vector.row);
        assert_eq!(String::from_utf8_lossy(&row), vector.canonical, "{}", vector.row);
        let mut set = SetHash::default();
        set.add(&row);
        assert_eq!(set.to_string(), vector.hash, "{}", vector.row);
        assert_eq!(part_of(&canonical(&vector.key), 256), vector.part_of_256, "{}", vector.key);
    }
}
