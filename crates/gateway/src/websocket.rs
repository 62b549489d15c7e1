//! The reading half of a WebSocket (RFC 6455, with messages compressed as in RFC 7692 where that was agreed to): bytes that
//! came from the socket in, messages and answers out.
//!
//! Decides what is a valid frame, and answers pings and closes; never touches the socket. Invariant: memory is what a client
//! has sent, not what it has announced, and nothing at all between messages. I/O threads.

use crate::deflate::{InflateError, Inflater};

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    Text(String),
    Binary,
    /// A ping or a pong, which is dealt with.
    Control,
    /// The client closes; the answer is in the output.
    Close,
    /// A frame or message over the limit.
    TooLarge,
    /// Not WebSocket.
    Violation,
}

/// The state of one connection's reading half.
#[derive(Debug)]
pub struct WebSocketIn {
    /// A frame whose end has not come.
    part: Vec<u8>,
    /// What has come of a message that comes in fragments.
    begun: Option<Box<Begun>>,
    max_frame: usize,
    /// Compression was agreed to.
    deflated: bool,
}

/// A message whose last fragment has not come.
#[derive(Debug)]
struct Begun {
    kind: Kind,
    payload: Vec<u8>,
}

/// What the first frame of a message says of it.
#[derive(Debug, Clone, Copy)]
struct Kind {
    text: bool,
    deflated: bool,
}

const FIN: u8 = 0x80;
/// Of a message's first frame: it is compressed.
const RSV1: u8 = 0x40;
const RSV23: u8 = 0x30;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The largest payload of a control frame.
const CONTROL: usize = 125;
const PROTOCOL_ERROR: u16 = 1002;

impl WebSocketIn {
    /// `max_frame`: bytes of a frame and of a message, inflated too.
    pub fn new(max_frame: usize, deflated: bool) -> Self {
        Self { part: Vec::new(), begun: None, max_frame, deflated }
    }

    /// Whether compression was agreed to.
    pub const fn is_deflated(&self) -> bool {
        self.deflated
    }

    /// The next message, or none where more input is needed. `input` is advanced; frames to send back are appended
    /// to `output`.
    pub fn next(&mut self, input: &mut &[u8], output: &mut Vec<u8>, inflater: &mut Inflater) -> Option<Incoming> {
        loop {
            let known = if self.part.is_empty() { frame_len(input) } else { self.complete_header(input) };
            let Some(len) = known else {
                self.part.extend_from_slice(input);
                *input = &[];
                return None;
            };
            if len.payload > self.max_frame as u64 {
                return Some(Incoming::TooLarge);
            }
            let missing = len.whole - self.part.len();
            if input.len() < missing {
                self.part.extend_from_slice(input);
                *input = &[];
                return None;
            }
            let (rest_of_frame, rest) = input.split_at(missing);
            *input = rest;
            let incoming = if self.part.is_empty() {
                self.read(rest_of_frame, len, output, inflater)
            } else {
                let mut frame = std::mem::take(&mut self.part);
                frame.extend_from_slice(rest_of_frame);
                self.read(&frame, len, output, inflater)
            };
            if incoming.is_some() {
                return incoming;
            }
        }
    }

    /// The length of the frame that was begun, with as much more of its header as that takes.
    fn complete_header(&mut self, input: &mut &[u8]) -> Option<FrameLen> {
        loop {
            if let Some(len) = frame_len(&self.part) {
                return Some(len);
            }
            let (first, rest) = input.split_first()?;
            self.part.push(*first);
            *input = rest;
        }
    }

    /// Reads a whole frame.
    fn read(&mut self, frame: &[u8], len: FrameLen, output: &mut Vec<u8>, inflater: &mut Inflater) -> Option<Incoming> {
        let payload = usize::try_from(len.payload).ok()?;
        let (header, masked) = frame.split_at(frame.len() - payload);
        let (first, opcode) = (header[0], header[0] & 0x0f);
        // Clients mask.
        let Some(mask) = header.last_chunk::<4>().filter(|_| header[1] & 0x80 != 0) else {
            return Some(Incoming::Violation);
        };
        let begins = matches!(opcode, TEXT | BINARY);
        let reserved = if self.deflated && begins { RSV23 } else { RSV1 | RSV23 };
        let fits = match opcode {
            TEXT | BINARY => self.begun.is_none(),
            CONTINUATION => self.begun.is_some(),
            CLOSE | PING | PONG => first & FIN != 0 && payload <= CONTROL,
            _ => false,
        };
        if first & reserved != 0 || !fits {
            return Some(Incoming::Violation);
        }
        if opcode >= CLOSE {
            let mut payload = Vec::with_capacity(payload);
            unmask(masked, *mask, &mut payload);
            return Some(control(opcode, &payload, output));
        }
        let last = first & FIN != 0;
        let kind = Kind { text: opcode == TEXT, deflated: first & RSV1 != 0 };
        let mut begun = self.begun.take().unwrap_or_else(|| Box::new(Begun { kind, payload: Vec::new() }));
        if begun.payload.len() + payload > self.max_frame {
            return Some(Incoming::TooLarge);
        }
        unmask(masked, *mask, &mut begun.payload);
        if !last {
            self.begun = Some(begun);
            return None;
        }
        Some(self.message(*begun, inflater))
    }

    fn message(&self, Begun { kind, mut payload }: Begun, inflater: &mut Inflater) -> Incoming {
        if kind.deflated {
            payload = match inflater.inflate(&payload, self.max_frame) {
                Ok(payload) => payload,
                Err(InflateError::TooLarge) => return Incoming::TooLarge,
                Err(InflateError::Bad) => return Incoming::Violation,
            };
        }
        if !kind.text {
            return Incoming::Binary;
        }
        String::from_utf8(payload).map_or(Incoming::Violation, Incoming::Text)
    }
}

/// Appends what a client has masked.
fn unmask(masked: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let (words, rest) = masked.as_chunks::<4>();
    out.reserve(masked.len());
    let mask_word = u32::from_ne_bytes(mask);
    out.extend(words.iter().flat_map(|word| (u32::from_ne_bytes(*word) ^ mask_word).to_ne_bytes()));
    out.extend(rest.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
}

/// Answers a control frame.
fn control(opcode: u8, payload: &[u8], output: &mut Vec<u8>) -> Incoming {
    match opcode {
        PING => answer(PONG, payload, output),
        CLOSE => {
            let code = match payload {
                [] => None,
                [a, b, reason @ ..] if std::str::from_utf8(reason).is_ok() => Some(u16::from_be_bytes([*a, *b])),
                _ => return Incoming::Violation,
            };
            let code = code.map(|code| if may_be_sent(code) { code } else { PROTOCOL_ERROR }.to_be_bytes());
            answer(CLOSE, code.as_ref().map_or(&[], |code| code), output);
            return Incoming::Close;
        }
        _ => {}
    }
    Incoming::Control
}

fn answer(opcode: u8, payload: &[u8], output: &mut Vec<u8>) {
    // No longer than what it answers.
    output.extend([FIN | opcode, payload.len() as u8]);
    output.extend_from_slice(payload);
}

/// Whether a close frame may have this code.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// How long a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameLen {
    payload: u64,
    /// With its header.
    whole: usize,
}

/// The length that a header announces; none where it is not whole. Whether it is valid is not looked at.
fn frame_len(bytes: &[u8]) -> Option<FrameLen> {
    let second = *bytes.get(1)?;
    let (size, payload) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        len => (2, u64::from(len)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let whole = usize::try_from(payload).unwrap_or(usize::MAX).saturating_add(size + mask);
    Some(FrameLen { payload, whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..126 => out.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&[1, 2, 3, 4]);
        out.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// What comes of bytes that arrive in pieces of a size; texts by their length.
    fn read(bytes: &[u8], size: usize) -> (Vec<String>, Vec<u8>) {
        read_by(&mut WebSocketIn::new(100_000, false), bytes, size)
    }

    fn read_by(ws: &mut WebSocketIn, bytes: &[u8], size: usize) -> (Vec<String>, Vec<u8>) {
        let (mut output, mut seen, mut inflater) = (Vec::new(), Vec::new(), Inflater::default());
        for mut piece in bytes.chunks(size) {
            while let Some(incoming) = ws.next(&mut piece, &mut output, &mut inflater) {
                match incoming {
                    Incoming::Text(text) => {
                        seen.push(format!("{} of {}", text.len(), text.chars().next().unwrap_or(' ')))
                    }
                    Incoming::TooLarge | Incoming::Violation | Incoming::Close => {
                        seen.push(format!("{incoming:?}"));
                        return (seen, output);
                    }
                    other => seen.push(format!("{other:?}")),
                }
            }
            assert!(ws.part.capacity() <= 2 * (ws.part.len() + 16).max(size), "{} bytes", ws.part.capacity());
        }
        (seen, output)
    }

    #[test]
    fn frames_are_the_same_however_they_arrive() {
        let mut bytes = Vec::new();
        for (first, len, byte) in [(0x81, 5, b'a'), (0x81, 125, b'b'), (0x81, 126, b'c'), (0x81, 70_000, b'd')] {
            bytes.extend(frame(first, &vec![byte; len]));
        }
        bytes.extend(frame(0x89, b"ping"));
        // A text in three fragments, with a ping between them.
        for (first, text) in [(0x01, &b"ee"[..]), (0x89, b""), (0x00, b"e"), (0x80, b"eee")] {
            bytes.extend(frame(first, text));
        }
        bytes.extend(frame(0x82, b"x"));
        bytes.extend(frame(0x88, b"\x03\xe8"));
        let whole = read(&bytes, bytes.len());
        let texts = ["5 of a", "125 of b", "126 of c", "70000 of d", "Control", "Control", "6 of e", "Binary", "Close"];
        assert_eq!(whole.0, texts);
        // Two pongs and a close.
        assert_eq!(whole.1, [&b"\x8a\x04ping"[..], b"\x8a\x00", b"\x88\x02\x03\xe8"].concat());
        for size in [1, 2, 3, 7, 64, 1000, 16_384] {
            assert_eq!(read(&bytes, size), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_length_is_refused_before_it_is_believed() {
        for (len, size) in [(50_000_000_u64, 1), (100_001, 3), (u64::MAX, 14)] {
            let header = [&[0x81, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat();
            assert_eq!(read(&header, size).0, ["TooLarge"], "{len}");
        }
        // Fragments add up.
        let mut bytes = frame(0x01, &[b'x'; 60_000]);
        bytes.extend(frame(0x80, &[b'x'; 60_000]));
        assert_eq!(read(&bytes, 1000).0, ["TooLarge"]);
        assert_eq!(read(b"\x81\x05hello", 3).0, ["Violation"]);
    }

    /// A frame of a compressed message.
    fn deflated(first: u8, payload: &[u8]) -> Vec<u8> {
        frame(first | RSV1, payload)
    }

    const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

    #[test]
    fn compressed_messages_are_read_where_that_was_agreed_to_and_nowhere_else() {
        let whole = deflated(0x81, HELLO);
        let fragments = [deflated(0x01, &HELLO[..3]), frame(0x89, b"p"), frame(0x80, &HELLO[3..])].concat();
        let plain = frame(0x81, b"plain");
        let bytes = [&whole[..], &fragments, &plain, &deflated(0x82, HELLO)].concat();
        for size in [1, 5, 1000] {
            let (seen, _) = read_by(&mut WebSocketIn::new(100, true), &bytes, size);
            assert_eq!(seen, ["5 of H", "Control", "5 of H", "5 of p", "Binary"]);
            assert_eq!(read_by(&mut WebSocketIn::new(100, false), &whole, size).0, ["Violation"]);
        }
        for (first, payload) in [
            // On what may not have it.
            (0xc0, HELLO),
            (0xc8, b""),
            (0xc9, b""),
            (0xa1, HELLO),
            (0xd1, HELLO),
            // Not compressed.
            (0xc1, b"Hello"),
            (0xc1, &[0x06]),
            // No text.
            (0xc1, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00]),
        ] {
            assert_eq!(
                read_by(&mut WebSocketIn::new(100, true), &frame(first, payload), 3).0,
                ["Violation"],
                "{first:x}"
            );
        }
        let late = [frame(0x01, b"a"), deflated(0x80, b"b")].concat();
        assert_eq!(read_by(&mut WebSocketIn::new(100, true), &late, 3).0, ["Violation"]);
    }

    /// What tungstenite makes of the same bytes.
    fn by_tungstenite(bytes: &[u8], max: usize) -> (Vec<String>, Vec<u8>) {
        use tungstenite::error::{CapacityError, Error};
        use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

        struct Memory<'a>(&'a [u8], Vec<u8>);
        impl std::io::Read for Memory<'_> {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                if self.0.is_empty() { Err(std::io::ErrorKind::WouldBlock.into()) } else { self.0.read(buf) }
            }
        }
        impl std::io::Write for Memory<'_> {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.1.write(buf)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let config = WebSocketConfig::default().max_message_size(Some(max)).max_frame_size(Some(max));
        let mut context = WebSocketContext::new(Role::Server, Some(config));
        let (mut memory, mut seen) = (Memory(bytes, Vec::new()), Vec::new());
        loop {
            seen.push(match context.read(&mut memory) {
                Ok(Message::Text(text)) => format!("{} of {}", text.len(), text.chars().next().unwrap_or(' ')),
                Ok(Message::Binary(_)) => "Binary".into(),
                Ok(Message::Close(_)) => "Close".into(),
                Ok(_) => "Control".into(),
                Err(Error::Io(_)) => return (seen, memory.1),
                Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => "TooLarge".into(),
                Err(_) => "Violation".into(),
            });
            if matches!(seen.last().map(String::as_str), Some("Close" | "TooLarge" | "Violation")) {
                let _ = context.flush(&mut memory);
                return (seen, memory.1);
            }
        }
    }

    #[test]
    fn frames_mean_what_tungstenite_takes_them_for() {
        let mut seed = 0x2545_F491_4F6C_DD1D_u64;
        let mut chance = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as usize % below
        };
        const FIRSTS: [u8; 8] = [0x81, 0x01, 0x00, 0x80, 0x82, 0x89, 0x8a, 0x02];
        for round in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..1 + chance(6) {
                let first = match chance(40) {
                    0 => chance(256) as u8,
                    1 => 0x88,
                    n => FIRSTS[n % FIRSTS.len()],
                };
                let size = [0, 1, 2, 5, 124, 125, 126, 300, 999, 1001][chance(10)];
                let byte = if first & 0x0f == CLOSE { 0x03 } else { b'a' + chance(26) as u8 };
                let mut one = frame(first, &vec![byte; size]);
                if chance(60) == 0 {
                    let at = chance(one.len().min(6));
                    one[at] = chance(256) as u8;
                }
                bytes.extend(one);
            }
            let (theirs, their_output) = by_tungstenite(&bytes, 1000);
            let mut ws = WebSocketIn::new(1000, false);
            let (mut ours, our_output) = read_by(&mut ws, &bytes, 1 + chance(2000));
            // It refuses what a header says before the frame is there.
            if !ws.part.is_empty() {
                continue;
            }
            // A text that is none is found at its end here, and at its first bad fragment there.
            if ws.begun.is_some_and(|begun| begun.kind.text && std::str::from_utf8(&begun.payload).is_err()) {
                ours.push("Violation".to_owned());
            }
            let verdict = |seen: &[String]| matches!(seen.last().map(String::as_str), Some("TooLarge" | "Violation"));
            assert_eq!(verdict(&ours), verdict(&theirs), "{round}: {ours:?} {theirs:?} {bytes:02x?}");
            if !verdict(&ours) {
                assert_eq!(ours, theirs, "{round}");
                let answered = |output: &[u8]| output.iter().take(2).copied().collect::<Vec<_>>();
                assert_eq!(
                    answered(&our_output)[..1.min(our_output.len())],
                    answered(&their_output)[..1.min(their_output.len())]
                );
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_go_over_its_bound() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.extend_from_slice(&seed.to_be_bytes());
            }
            // Mostly a compressed frame that is masked.
            bytes[0] = [0xc1, 0x41, bytes[0]][(seed >> 40) as usize % 3];
            bytes[1] |= 0x80;
            read_by(&mut WebSocketIn::new(64, true), &bytes, 1 + (seed >> 50) as usize % 80);
        }
    }
}
