//! What a client offers in `Sec-WebSocket-Extensions`, and what is agreed to. Pure.
//!
//! Neither side keeps anything from one message to the next: that lets one compressed frame serve all, and bounds the memory
//! of a connection. Offers that are not understood wholly are declined, as the RFC wants; then nothing is compressed.

const NAME: &str = "permessage-deflate";

/// The answer to the first offer that can be agreed to; none where there is none.
pub fn accept<'a>(headers: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    headers.flat_map(|header| header.split(',')).find_map(answer)
}

fn answer(offer: &str) -> Option<&'static str> {
    let mut parameters = offer.split(';').map(str::trim);
    if !parameters.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let mut seen = [false; 4];
    for parameter in parameters {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start())?)),
            None => (parameter, None),
        };
        let known = match (name.to_ascii_lowercase().as_str(), value) {
            ("server_no_context_takeover", None) => 0,
            ("client_no_context_takeover", None) => 1,
            // Frames are made with the largest window, for all.
            ("server_max_window_bits", Some("15")) => 2,
            ("client_max_window_bits", None) => 3,
            ("client_max_window_bits", Some(bits)) if is_window(bits) => 3,
            _ => return None,
        };
        if std::mem::replace(&mut seen[known], true) {
            return None;
        }
    }
    Some(if seen[2] {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    })
}

/// A value without the quotes that it may stand in.
fn unquoted(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

fn is_window(bits: &str) -> bool {
    ["8", "9", "10", "11", "12", "13", "14", "15"].contains(&bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(headers: &[&str]) -> bool {
        accept(headers.iter().copied()).is_some()
    }

    #[test]
    fn what_browsers_and_libraries_offer_is_agreed_to() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "Permessage-Deflate ;client_max_window_bits = \"12\"; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
            "x-webkit-deflate-frame, permessage-deflate",
            // The second is what can be had.
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ] {
            assert!(accepted(&[offer]), "{offer}");
        }
        assert!(accepted(&["foo", "permessage-deflate"]));
        let answer = accept(["permessage-deflate; server_max_window_bits=15"].into_iter()).expect("agreed");
        assert!(answer.ends_with("; server_max_window_bits=15"));
    }

    #[test]
    fn what_is_not_understood_wholly_is_declined() {
        for offer in [
            "",
            ";",
            ",,,",
            "permessage-deflat",
            "permessage-deflate2",
            "permessage-deflate;",
            "permessage-deflate; unknown",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=015",
            "permessage-deflate; client_max_window_bits=\"15",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; =15",
            "permessage-deflate=1",
        ] {
            assert!(!accepted(&[offer]), "{offer}");
        }
        assert!(!accepted(&[]));
    }

    #[test]
    fn no_offer_however_odd_is_more_than_declined() {
        let parts = ["permessage-deflate", ";", ",", "=", "\"", " ", "client_max_window_bits", "15", "é", "\t", "\\"];
        let mut seed = 7_u64;
        for _ in 0..50_000 {
            let mut offer = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                offer.push_str(parts[(seed >> 33) as usize % parts.len()]);
            }
            accepted(&[&offer]);
        }
    }
}
