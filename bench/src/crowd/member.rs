//! One client of a crowd: what it has said, and what the bytes that come mean. Does no I/O of its own.

use memchr::{memchr, memchr_iter, memmem};

use super::Count;
use crate::clock;
use crate::websocket::{self, Frame, Frames};

/// Which language a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// `rte.v1`: one asks for tables, and what has come counts from its commit.
    Rte,
    /// Frames come without asking and count at once.
    Frames,
    /// The same in SockJS's envelope.
    SockJs,
    /// Zero's: what one asked for comes first, and pokes count from their end.
    Zero,
}

/// What came of some bytes.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes that count now.
    pub changes: u64,
    /// Marks that came, where they are wanted one by one.
    pub marks: Vec<u64>,
    /// The oldest marks of frames, and for how many changes each stands.
    pub oldest: Vec<(u64, u64)>,
    /// It has become live.
    pub live: bool,
    /// A table was read anew in place of its changes.
    pub copies: u64,
    /// To be sent.
    pub answer: Vec<u8>,
    /// An error that the server answered with.
    pub refusal: Option<String>,
    /// The server said goodbye, or does not speak WebSocket.
    pub ended: bool,
}

#[derive(Debug)]
pub struct Member {
    speech: Speech,
    count: Count,
    keeps_cursor: bool,
    /// What has come of the answer to the handshake; none once it is over.
    head: Option<Vec<u8>>,
    frames: Frames,
    /// The snapshot has come, and the commit from which it counts.
    done: bool,
    live: bool,
    /// A copy is being replaced by a fresh one.
    again: bool,
    /// Of the tick that has not been committed yet.
    marks: Vec<u64>,
    oldest: Vec<(u64, u64)>,
    changes: u64,
    pub cursor: Option<String>,
}

impl Member {
    pub fn new(speech: Speech, count: Count, keeps_cursor: bool) -> Self {
        Self {
            speech,
            count,
            keeps_cursor,
            head: Some(Vec::new()),
            frames: Frames::default(),
            done: matches!(speech, Speech::Frames | Speech::SockJs),
            live: false,
            again: false,
            marks: Vec::new(),
            oldest: Vec::new(),
            changes: 0,
            cursor: None,
        }
    }

    /// Forgets the connection, but not the cursor.
    pub fn reset(&mut self) {
        let cursor = self.cursor.take();
        *self = Self { cursor, ..Self::new(self.speech, self.count, self.keeps_cursor) };
    }

    pub fn is_live(&self) -> bool {
        self.live
    }

    pub fn is_connected(&self) -> bool {
        self.head.is_none()
    }

    /// Takes what was read. `hello` is said once the handshake is over.
    pub fn take(&mut self, piece: &[u8], hello: Option<&str>) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(mut head) = self.head.take() else {
            self.frames(piece, &mut outcome);
            return outcome;
        };
        head.extend_from_slice(piece);
        let Some(end) = memmem::find(&head, b"\r\n\r\n") else {
            self.head = Some(head);
            return outcome;
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            outcome.refusal = Some(String::from_utf8_lossy(&head[..head.len().min(200)]).into_owned());
            outcome.ended = true;
            return outcome;
        }
        if let Some(hello) = hello {
            let hello = match &self.cursor {
                Some(cursor) => {
                    hello.replacen(r#"{"type":"hello","#, &format!(r#"{{"type":"hello","cursor":"{cursor}","#), 1)
                }
                None => hello.to_owned(),
            };
            outcome.answer = websocket::frame(1, hello.as_bytes());
        }
        if self.speech == Speech::Frames {
            self.live = true;
            outcome.live = true;
        }
        self.frames(&head[end + 4..], &mut outcome);
        outcome
    }

    fn frames(&mut self, piece: &[u8], outcome: &mut Outcome) {
        let mut frames = std::mem::take(&mut self.frames);
        frames.take(piece, |frame| match frame {
            Frame::Text(text) => match self.speech {
                Speech::Rte if !text.starts_with(br#"{"type":"changes""#) => self.control(text, outcome),
                Speech::Rte => self.changes(text),
                Speech::Zero => self.poke(text, outcome),
                Speech::SockJs if text == b"o" => {
                    self.live = true;
                    outcome.live = true;
                }
                Speech::SockJs if !text.starts_with(b"a") => {}
                Speech::Frames | Speech::SockJs => {
                    self.changes(text);
                    self.commit(outcome);
                }
            },
            Frame::Ping(payload) => outcome.answer.extend(websocket::frame(10, payload)),
            Frame::Close(_) => outcome.ended = true,
        });
        self.frames = frames;
    }

    fn control(&mut self, text: &[u8], outcome: &mut Outcome) {
        if text.starts_with(br#"{"type":"commit""#) {
            if self.keeps_cursor {
                self.cursor = cursor(text).or(self.cursor.take());
            }
            self.commit(outcome);
        } else if text.starts_with(br#"{"type":"snapshot""#) {
            let done = br#""done":true"#;
            self.done |= memmem::find(&text[text.len().saturating_sub(64)..], done).is_some()
                || memmem::find(&text[..text.len().min(64)], done).is_some();
        } else if text.starts_with(br#"{"type":"subscribed""#) {
            // Nothing but changes follow a copy that goes on.
            self.done |= memmem::find(text, br#""resumed":true"#).is_some();
        } else if text.starts_with(br#"{"type":"resync""#) {
            (self.done, self.again) = (false, true);
        } else if text.starts_with(br#"{"type":"error""#) {
            outcome.refusal = Some(String::from_utf8_lossy(text).into_owned());
        }
    }

    fn poke(&mut self, text: &[u8], outcome: &mut Outcome) {
        if text.starts_with(br#"["pokePart""#) {
            self.done |= memmem::find(text, br#""gotQueriesPatch""#).is_some();
            self.changes(text);
        } else if text.starts_with(br#"["pokeEnd""#) {
            // The first rows are no changes.
            if !self.live {
                self.forget();
            }
            self.commit(outcome);
        } else if text.starts_with(br#"["error""#) {
            outcome.refusal = Some(String::from_utf8_lossy(text).into_owned());
        }
    }

    fn forget(&mut self) {
        self.changes = 0;
        self.marks.clear();
        self.oldest.clear();
    }

    fn changes(&mut self, text: &[u8]) {
        match self.count {
            Count::Marks => {
                let count = memchr_iter(b'@', text).count() as u64;
                self.changes += count;
                if let Some(mark) = memchr(b'@', text).and_then(|at| clock::read(text, at)) {
                    self.oldest.push((mark, count));
                }
            }
            Count::Arrivals => {
                let before = self.marks.len();
                self.marks.extend(memchr_iter(b'@', text).filter_map(|at| clock::read(text, at)));
                self.changes += (self.marks.len() - before) as u64;
            }
            Count::Changes => self.changes += memmem::find_iter(text, br#"{"op":"#).count() as u64,
            Count::Frames => self.changes += 1,
        }
    }

    fn commit(&mut self, outcome: &mut Outcome) {
        if self.done && !self.live {
            self.live = true;
            outcome.live = true;
        }
        if self.done && self.again {
            self.again = false;
            outcome.copies += 1;
        }
        outcome.changes += std::mem::take(&mut self.changes);
        outcome.marks.append(&mut self.marks);
        outcome.oldest.append(&mut self.oldest);
    }
}

fn cursor(text: &[u8]) -> Option<String> {
    let name = br#""cursor":""#;
    let rest = &text[memmem::find(text, name)? + name.len()..];
    String::from_utf8(rest[..memchr(b'"', rest)?].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(text: &str) -> Vec<u8> {
        let mut frame = vec![0x81, 126];
        frame.extend((text.len() as u16).to_be_bytes());
        frame.extend(text.as_bytes());
        frame
    }

    #[test]
    fn a_member_is_live_from_the_commit_after_its_snapshot_and_counts_by_commits() {
        let mut member = Member::new(Speech::Rte, Count::Marks, true);
        let head = member.take(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n", Some(r#"{"type":"hello","x":1}"#));
        assert!(!head.answer.is_empty() && !head.live);
        let mut bytes = server_frame(r#"{"type":"snapshot","id":"1","rows":[],"done":true}"#);
        bytes.extend(server_frame(r#"{"type":"changes","shape":"a","changes":["@000000000007","@000000000009"]}"#));
        let before = member.take(&bytes, None);
        assert!(!before.live && before.changes == 0);
        let after = member.take(&server_frame(r#"{"type":"commit","cursor":"c1"}"#), None);
        assert!(after.live);
        assert_eq!((after.changes, after.oldest), (2, vec![(7, 2)]));
        assert_eq!(member.cursor.as_deref(), Some("c1"));
        let mut bytes = server_frame(r#"{"type":"resync","id":"1","reason":"too_many_changes"}"#);
        bytes.extend(server_frame(r#"{"type":"commit","cursor":"c2"}"#));
        bytes.extend(server_frame(r#"{"type":"snapshot","id":"1","rows":[],"done":true}"#));
        assert_eq!(member.take(&bytes, None).copies, 0);
        assert_eq!(member.take(&server_frame(r#"{"type":"commit","cursor":"c3"}"#), None).copies, 1);
        member.reset();
        assert!(!member.is_live() && !member.is_connected() && member.cursor.is_some());
    }

    #[test]
    fn what_a_peer_sends_counts_at_once() {
        let mut member = Member::new(Speech::SockJs, Count::Arrivals, false);
        assert!(!member.take(b"HTTP/1.1 101 X\r\n\r\n", None).live);
        assert!(member.take(&server_frame("o"), None).live);
        let outcome = member.take(&server_frame(r#"a["{\"body\":\"@000000000012xx\"}"]"#), None);
        assert_eq!((outcome.changes, outcome.marks), (1, vec![12]));
    }

    #[test]
    fn the_first_rows_of_a_query_are_no_changes() {
        let mut member = Member::new(Speech::Zero, Count::Marks, false);
        member.take(b"HTTP/1.1 101 X\r\n\r\n", None);
        let part = r#"["pokePart",{"gotQueriesPatch":[],"rowsPatch":["@000000000001"]}]"#;
        member.take(&server_frame(part), None);
        let first = member.take(&server_frame(r#"["pokeEnd",{}]"#), None);
        assert_eq!((first.live, first.changes), (true, 0));
        member.take(&server_frame(r#"["pokePart",{"rowsPatch":["@000000000002"]}]"#), None);
        assert_eq!(member.take(&server_frame(r#"["pokeEnd",{}]"#), None).oldest, [(2, 1)]);
    }

    #[test]
    fn a_server_that_refuses_ends_it() {
        let outcome = Member::new(Speech::Rte, Count::Marks, false).take(b"HTTP/1.1 503 Busy\r\n\r\n", None);
        assert!(outcome.ended && outcome.refusal.is_some_and(|r| r.contains("503")));
    }
}
