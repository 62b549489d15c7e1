//! The client as modules that a page can import: `/client.js`, and what it loads where there is no IndexedDB.
//!
//! It is public code, so pages of every origin may have it. Nothing of it changes while the process runs, so each file is
//! compressed once, and caches ask by its tag. Pure.

use super::answer::Answer;
use super::request::Request;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Write as _;
use std::sync::LazyLock;

/// A file as it is served.
#[derive(Debug)]
struct File {
    plain: &'static [u8],
    gzip: Bytes,
    /// Weak, for both forms are the same file.
    tag: String,
}

impl File {
    fn new(text: &'static str) -> Self {
        let plain = text.as_bytes();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to memory cannot fail; what could not be compressed is served as it is.
        let gzip = encoder.write_all(plain).and_then(|()| encoder.finish()).unwrap_or_default();
        let mut hash = DefaultHasher::new();
        hash.write(plain);
        Self { plain, gzip: gzip.into(), tag: format!("W/\"{:016x}\"", hash.finish()) }
    }

    fn answer(&self, request: &Request) -> Answer {
        let asked = request.header("if-none-match").unwrap_or_default();
        let known = asked.split(',').map(str::trim).any(|tag| tag == "*" || opaque(tag) == opaque(&self.tag));
        let compressed = !self.gzip.is_empty() && accepts_gzip(request);
        let answer = if known {
            Answer::new(304, TYPE, Bytes::new())
        } else if compressed {
            Answer::new(200, TYPE, self.gzip.clone()).with("Content-Encoding", "gzip")
        } else {
            Answer::new(200, TYPE, Bytes::from_static(self.plain))
        };
        answer
            .with("Access-Control-Allow-Origin", "*")
            .with("Cache-Control", "no-cache")
            .with("ETag", self.tag.as_str())
            .with("Vary", "Accept-Encoding")
            // Pages that only embed what says so may have it too.
            .with("Cross-Origin-Resource-Policy", "cross-origin")
    }
}

const TYPE: &str = "text/javascript; charset=utf-8";

static CLIENT: LazyLock<File> = LazyLock::new(|| File::new(include_str!("../../../../client/bundle/client.js")));
static MEMORY: LazyLock<File> = LazyLock::new(|| File::new(include_str!("../../../../client/bundle/client-memory.js")));

/// The file at this path.
pub fn at(path: &str, request: &Request) -> Option<Answer> {
    let file = match path {
        "/client.js" => &CLIENT,
        "/client-memory.js" => &MEMORY,
        _ => return None,
    };
    Some(file.answer(request))
}

/// A tag without its mark of weakness: for reading, both kinds compare alike.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Whether the request takes gzip: named, or by `*`, and not with a weight of nothing.
fn accepts_gzip(request: &Request) -> bool {
    let weight = |wanted: &str| {
        request.headers("accept-encoding").flat_map(|v| v.split(',')).find_map(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.trim().parse::<f32>().ok());
            name.trim().eq_ignore_ascii_case(wanted).then(|| weight.unwrap_or(0.0))
        })
    };
    weight("gzip").or_else(|| weight("*")).is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::request::parse;
    use super::*;

    fn request(headers: &str) -> Request {
        let text = format!("GET /client.js HTTP/1.1\r\n{headers}\r\n\r\n");
        parse(text.as_bytes()).expect("parse").expect("whole").request
    }

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        for (header, takes) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("gzip;q=nonsense", false),
            ("identity", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(&request(&format!("Accept-Encoding: {header}"))), takes, "{header}");
        }
        assert!(!accepts_gzip(&request("X: y")));
    }

    #[test]
    fn a_known_tag_is_answered_without_a_body() {
        let file = File::new("export {};\n");
        let status = |tag: &str| {
            let answer = file.answer(&request(&format!("If-None-Match: {tag}"))).encode();
            String::from_utf8_lossy(&answer[9..12]).into_owned()
        };
        let strong = opaque(&file.tag);
        for tag in [&file.tag, strong, "*", &format!("\"other\", {}", file.tag)] {
            assert_eq!(status(tag), "304", "{tag}");
        }
        for tag in ["\"other\"", "", strong.trim_matches('"')] {
            assert_eq!(status(tag), "200", "{tag}");
        }
    }
}
