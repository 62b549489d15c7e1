//! Encoded frames: shared by all connections of a thread, and made once for each form that they travel in.
//!
//! Invariant: rows and changes are never copied, but for the one form that must change them: an event whose JSON has line
//! ends in it. I/O threads only (`Rc`).

use crate::deflate::{Deflater, Place};
use crate::flow::{Credit, Flow};
use bytes::Bytes;
use rte_core::session;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// How a message stands among others.
#[derive(Debug, Clone, Default)]
pub enum Form {
    /// A WebSocket frame.
    Frame,
    /// A WebSocket frame that is compressed where it pays.
    Deflated(Rc<RefCell<Deflater>>),
    /// A server-sent event.
    Event,
    /// Nothing around it.
    #[default]
    Bare,
}

/// An encoded frame in up to three pieces, so that rows and changes are never copied.
#[derive(Debug, Default)]
struct Encoded {
    head: Bytes,
    body: Bytes,
    tail: Bytes,
    /// Bytes of `head` that are a WebSocket's header. None: it is no message, and the same in all forms.
    header: Option<u8>,
    /// Changes in it, for figures.
    changes: u32,
    /// Comes back to the reader that the rows came from, once they are written.
    credit: Option<Rc<Credit>>,
    /// Where all threads find its body compressed, where it is a body of all.
    place: Option<Place>,
    /// None: it does not pay.
    deflated: OnceCell<Option<OutFrame>>,
    event: OnceCell<OutFrame>,
    bare: OnceCell<OutFrame>,
}

/// A handle to an encoded frame; shared by all connections of a thread.
#[derive(Debug, Clone)]
pub struct OutFrame(Rc<Encoded>);

impl OutFrame {
    /// A text frame around a payload that is shared with others.
    pub fn text(payload: Bytes, changes: u32) -> Self {
        let header = header(TEXT, payload.len());
        let head = Bytes::copy_from_slice(header.as_slice());
        Self(Rc::new(Encoded { head, body: payload, header: Some(header.len), changes, ..Encoded::default() }))
    }

    /// The same of a body that other threads send too.
    pub fn text_at(payload: Bytes, changes: u32, place: Place) -> Self {
        let mut frame = Self::text(payload, changes);
        if let Some(encoded) = Rc::get_mut(&mut frame.0) {
            encoded.place = Some(place);
        }
        frame
    }

    /// A text frame of a small payload in pieces, which are put together.
    pub fn text_of(pieces: &[&[u8]]) -> Self {
        let size = pieces.iter().map(|p| p.len()).sum::<usize>();
        let header = header(TEXT, size);
        let mut bytes = Vec::with_capacity(usize::from(header.len) + size);
        bytes.extend_from_slice(header.as_slice());
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        Self(Rc::new(Encoded { head: bytes.into(), header: Some(header.len), ..Encoded::default() }))
    }

    /// A text frame of three parts.
    pub fn text_parts(before: &[u8], body: Bytes, after: Vec<u8>, credit: Option<Credit>) -> Self {
        let ws = header(TEXT, before.len() + body.len() + after.len());
        let head = Bytes::from([ws.as_slice(), before].concat());
        let (tail, credit) = (after.into(), credit.map(Rc::new));
        Self(Rc::new(Encoded { head, body, tail, header: Some(ws.len), credit, ..Encoded::default() }))
    }

    pub fn ping() -> Self {
        Self::raw(Bytes::from_static(&[0x89, 0]))
    }

    pub fn close(code: u16) -> Self {
        let [a, b] = code.to_be_bytes();
        Self::raw(Bytes::copy_from_slice(&[0x88, 2, a, b]))
    }

    /// Bytes that are no message, or frames already.
    pub fn raw(bytes: Bytes) -> Self {
        Self(Rc::new(Encoded { head: bytes, ..Encoded::default() }))
    }

    /// The same message in another form.
    pub fn into_form(self, form: &Form) -> Self {
        let Some(header) = self.0.header else { return self };
        match form {
            Form::Frame => self,
            Form::Deflated(deflater) => {
                let deflated = self.0.deflated.get_or_init(|| self.0.as_deflated(header.into(), deflater));
                deflated.clone().unwrap_or(self)
            }
            Form::Event => self.0.event.get_or_init(|| self.0.as_event(header.into())).clone(),
            Form::Bare => self.0.bare.get_or_init(|| self.0.as_bare(header.into())).clone(),
        }
    }

    /// What a socket is given, in order; pieces may be empty.
    pub fn pieces(&self) -> [&Bytes; 3] {
        [&self.0.head, &self.0.body, &self.0.tail]
    }

    /// What a socket will be given.
    #[cfg(test)]
    pub fn all(&self) -> Vec<u8> {
        self.pieces().map(|piece| &piece[..]).concat()
    }

    /// Whether its rows were handed on by this flow.
    pub fn is_of(&self, flow: &Arc<Flow>) -> bool {
        self.0.credit.as_ref().is_some_and(|credit| credit.is_of(flow))
    }

    pub fn changes(&self) -> u32 {
        self.0.changes
    }
}

impl session::Frame for OutFrame {
    fn bytes(&self) -> usize {
        self.0.head.len() + self.0.body.len() + self.0.tail.len()
    }
}

/// The first byte of a whole message of text, and of one that is compressed.
const TEXT: u8 = 0x81;
const COMPRESSED_TEXT: u8 = 0xc1;

/// What begins a line of an event, and what ends it.
const DATA: &[u8] = b"data: ";
const END: &[u8] = b"\n\n";

impl Encoded {
    /// Compressed; none where it does not pay.
    fn as_deflated(&self, header: usize, deflater: &RefCell<Deflater>) -> Option<OutFrame> {
        let message = deflater.borrow_mut().message(&self.head[header..], &self.body, &self.tail, self.place.as_ref());
        let [before, body, tail] = message?;
        let ws = self::header(COMPRESSED_TEXT, before.len() + body.len() + tail.len());
        Some(self.like([ws.as_slice(), &before].concat().into(), body, tail))
    }

    /// Without the WebSocket's header.
    fn as_bare(&self, header: usize) -> OutFrame {
        let (body, tail) = (self.body.clone(), self.tail.clone());
        self.like(self.head.slice(header..), body, tail)
    }

    /// As an event. Line ends, which JSON may have between values, each begin a new line of data.
    fn as_event(&self, header: usize) -> OutFrame {
        let parts = [&self.head[header..], &self.body, &self.tail];
        if parts.iter().any(|part| part.iter().any(|b| matches!(b, b'\n' | b'\r'))) {
            return self.like(in_lines(&parts.concat()).into(), Bytes::new(), Bytes::new());
        }
        let [head, _, tail] = parts;
        let head = if head.is_empty() { Bytes::from_static(DATA) } else { [DATA, head].concat().into() };
        let tail = if tail.is_empty() { Bytes::from_static(END) } else { [tail, END].concat().into() };
        self.like(head, self.body.clone(), tail)
    }

    fn like(&self, head: Bytes, body: Bytes, tail: Bytes) -> OutFrame {
        let (changes, credit) = (self.changes, self.credit.clone());
        OutFrame(Rc::new(Encoded { head, body, tail, changes, credit, ..Self::default() }))
    }
}

/// An event of more than one line.
fn in_lines(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8 + DATA.len() + END.len());
    out.extend_from_slice(DATA);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\n');
        out.extend_from_slice(DATA);
        let after = at + if rest[at..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[after..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(END);
    out
}

struct Header {
    bytes: [u8; 10],
    len: u8,
}

impl Header {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The header of an unmasked, unfragmented frame.
#[allow(clippy::cast_possible_truncation, reason = "each arm has checked the range")]
fn header(first: u8, payload: usize) -> Header {
    let mut bytes = [0; 10];
    bytes[0] = first;
    let len = match payload {
        0..=125 => {
            bytes[1] = payload as u8;
            2
        }
        126..=0xffff => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    Header { bytes, len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rte_core::session::Frame as _;

    #[test]
    fn headers_take_the_shortest_form() {
        assert_eq!(header(0x81, 125).as_slice(), [0x81, 125]);
        assert_eq!(header(0x81, 126).as_slice(), [0x81, 126, 0, 126]);
        assert_eq!(header(0x81, 0x1_0000).as_slice(), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    /// Reads an event as browsers do.
    fn data(event: &[u8]) -> String {
        let text = std::str::from_utf8(event).expect("text").replace("\r\n", "\n").replace('\r', "\n");
        let lines = text.strip_suffix("\n\n").expect("the end").split('\n');
        let lines: Vec<_> = lines.map(|line| line.strip_prefix("data: ").expect("only data")).collect();
        lines.join("\n")
    }

    #[test]
    fn a_message_is_the_same_in_every_form() {
        let long = "x".repeat(70_000);
        for text in ["{}", "{\"a\":\n1}", "\n", "a\r\nb\rc\n\nd\r", "\r\n\r\n", &long, "data: x\n:", "é\n€"] {
            let plain = text.replace("\r\n", "\n").replace('\r', "\n");
            let (a, rest) = text.split_at(text.len() / 3 / 4 * 4);
            let (b, c) = rest.split_at(rest.len() / 2 / 4 * 4);
            let parts = OutFrame::text_parts(a.as_bytes(), Bytes::copy_from_slice(b.as_bytes()), c.into(), None);
            let pieces = OutFrame::text_of(&[a.as_bytes(), b.as_bytes(), c.as_bytes()]);
            for frame in [OutFrame::text(Bytes::copy_from_slice(text.as_bytes()), 3), parts, pieces] {
                assert!(frame.clone().into_form(&Form::Frame).all().ends_with(text.as_bytes()));
                assert_eq!(frame.clone().into_form(&Form::Bare).all(), text.as_bytes());
                let event = frame.clone().into_form(&Form::Event);
                assert_eq!(data(&event.all()), plain);
                assert_eq!((event.changes(), event.bytes()), (frame.changes(), event.all().len()));
                // Made once, and whole in itself.
                assert!(Rc::ptr_eq(&event.0, &frame.into_form(&Form::Event).0));
                assert_eq!(event.clone().into_form(&Form::Event).all(), event.all());
            }
        }
        assert_eq!(OutFrame::ping().into_form(&Form::Event).all(), OutFrame::ping().all());
    }

    #[test]
    fn a_body_is_shared_by_all_forms_and_its_credit_comes_back_with_the_last() {
        let body = Bytes::from(vec![b'x'; 1000]);
        let flow = crate::flow::Flow::new(1);
        let frame = OutFrame::text_parts(b"{", body.clone(), b"}".to_vec(), Some(flow.take(1000)));
        let (event, bare) = (frame.clone().into_form(&Form::Event), frame.clone().into_form(&Form::Bare));
        for form in [&frame, &event, &bare] {
            assert_eq!(form.0.body.as_ptr(), body.as_ptr());
        }
        drop((frame, bare));
        assert!(!flow.is_free());
        drop(event);
        assert!(flow.is_free());
    }
}
