//! Frames, from bytes and to bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::headers::{Deflater, HeaderError, Headers, Inflater};

/// Bytes that a control frame may have; those of clients have a hundred.
const CONTROL: usize = 16 * 1024;
/// Bytes of a frame before its payload.
const HEAD: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A frame of either side, or a part of a data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream is opened.
    SynStream {
        /// Its number: odd for a client's.
        id: u32,
        /// The client will send nothing on it.
        fin: bool,
        /// Nothing may be sent to the client on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// A stream is accepted.
    SynReply {
        /// Its number.
        id: u32,
        /// Nothing will be sent on it.
        fin: bool,
        /// Empty, with Kubernetes.
        headers: Headers,
    },
    /// A stream is taken back, or refused.
    RstStream {
        /// Its number.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Settings, none of which matters.
    Settings,
    /// To be sent back by whose numbers it is not: a client's are odd.
    Ping {
        /// Its number.
        id: u32,
    },
    /// Nothing more will come.
    GoAway {
        /// The last stream that was heeded.
        last: u32,
        /// Why.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Its number.
        id: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// More may be sent. It may always.
    WindowUpdate {
        /// The stream.
        id: u32,
        /// Bytes.
        delta: u32,
    },
    /// Bytes of a stream. A large frame is read as several of these, of which the last has its `fin`.
    Data {
        /// The stream.
        id: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
}

/// Why a connection cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version of the protocol, or no SPDY at all.
    #[error("a frame of version {0} of SPDY, where 3 is spoken")]
    Version(u16),
    /// A control frame is longer than any that means something.
    #[error("a control frame of {0} bytes is too large")]
    TooLarge(usize),
    /// A frame is not of the form that its kind has.
    #[error("a malformed frame of kind {0}")]
    Malformed(u16),
    /// Its headers cannot be read.
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub struct Decoder {
    inflater: Inflater,
    state: DecoderState,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum DecoderState {
    /// The head of a frame; then what it says.
    Head,
    /// That many bytes of a control frame; then a head.
    Control { kind: u16, flags: u8, length: usize },
    /// Up to that many bytes of a data frame; then a head.
    Data { id: u32, fin: bool, remaining: usize },
    /// That many bytes of no meaning; then a head.
    Skipped { remaining: usize },
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflater: Inflater::new(), state: DecoderState::Head }
    }
}

impl Decoder {
    /// Takes the next frame, or the part that is there of a data frame, from `input`; `None` when it takes more bytes. What is
    /// left in `input` then is never more than a control frame.
    ///
    /// # Errors
    /// [`FrameError`], after which nothing can be read any more.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            match self.state {
                DecoderState::Head => {
                    if input.len() < HEAD {
                        return Ok(None);
                    }
                    self.state = head(input.get_u32(), input.get_u32())?;
                }
                DecoderState::Control { kind, flags, length } => {
                    if input.len() < length {
                        return Ok(None);
                    }
                    let payload = input.split_to(length).freeze();
                    self.state = DecoderState::Head;
                    return self.control(kind, flags, payload).map(Some);
                }
                DecoderState::Data { id, fin, remaining } => {
                    if remaining > 0 && input.is_empty() {
                        return Ok(None);
                    }
                    let data = input.split_to(remaining.min(input.len())).freeze();
                    let remaining = remaining - data.len();
                    let is_last = remaining == 0;
                    self.state =
                        if is_last { DecoderState::Head } else { DecoderState::Data { id, fin, remaining } };
                    return Ok(Some(Frame::Data { id, fin: fin && is_last, data }));
                }
                DecoderState::Skipped { remaining } => {
                    let skipped = remaining.min(input.len());
                    input.advance(skipped);
                    if skipped < remaining {
                        self.state = DecoderState::Skipped { remaining: remaining - skipped };
                        return Ok(None);
                    }
                    self.state = DecoderState::Head;
                }
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
        let malformed = FrameError::Malformed(kind);
        let fin = flags & FLAG_FIN != 0;
        let mut word = || payload.try_get_u32().map_err(|_| malformed.clone());
        let frame = match kind {
            SYN_STREAM => {
                let id = stream(word()?, &malformed)?;
                let _associated = word()?;
                // A priority and a slot.
                let _ = payload.try_get_u16().map_err(|_| malformed)?;
                let headers = self.inflater.headers(&payload)?;
                return Ok(Frame::SynStream {
                    id,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers,
                });
            }
            SYN_REPLY | HEADERS => {
                let id = stream(word()?, &malformed)?;
                let headers = self.inflater.headers(&payload)?;
                return Ok(match kind {
                    SYN_REPLY => Frame::SynReply { id, fin, headers },
                    _ => Frame::Headers { id, fin, headers },
                });
            }
            RST_STREAM => Frame::RstStream { id: stream(word()?, &malformed)?, status: word()? },
            PING => Frame::Ping { id: word()? },
            GOAWAY => Frame::GoAway { last: word()? & !FLAG_CONTROL, status: word()? },
            WINDOW_UPDATE => Frame::WindowUpdate { id: word()? & !FLAG_CONTROL, delta: word()? },
            SETTINGS => {
                let entries = usize::try_from(word()?).ok().and_then(|entries| entries.checked_mul(8));
                return match entries {
                    Some(length) if length == payload.len() => Ok(Frame::Settings),
                    _ => Err(malformed),
                };
            }
            _ => return Err(malformed),
        };
        if payload.is_empty() { Ok(frame) } else { Err(malformed) }
    }
}

/// The bit of the first word that tells control frames from data.
const FLAG_CONTROL: u32 = 1 << 31;

fn stream(word: u32, malformed: &FrameError) -> Result<u32, FrameError> {
    match word & !FLAG_CONTROL {
        0 => Err(malformed.clone()),
        id => Ok(id),
    }
}

/// What comes after a head.
fn head(first: u32, second: u32) -> Result<DecoderState, FrameError> {
    let [flags, length @ ..] = second.to_be_bytes();
    let length = length.into_iter().fold(0, |length, byte| length << 8 | usize::from(byte));
    if first & FLAG_CONTROL == 0 {
        let malformed = FrameError::Malformed(0);
        return Ok(DecoderState::Data {
            id: stream(first, &malformed)?,
            fin: flags & FLAG_FIN != 0,
            remaining: length,
        });
    }
    let [a, b, c, d] = first.to_be_bytes();
    let version = u16::from_be_bytes([a & 0x7f, b]);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if length > CONTROL {
        return Err(FrameError::TooLarge(length));
    }
    Ok(match u16::from_be_bytes([c, d]) {
        kind @ (SYN_STREAM | SYN_REPLY | RST_STREAM | SETTINGS | PING | GOAWAY | HEADERS | WINDOW_UPDATE) => {
            DecoderState::Control { kind, flags, length }
        }
        _ => DecoderState::Skipped { remaining: length },
    })
}

/// Writes the frames of one connection.
#[derive(Debug)]
pub struct Encoder {
    deflater: Deflater,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { deflater: Deflater::new() }
    }
}

impl Encoder {
    /// Appends a frame. Data is that of one frame: less than 16 MiB.
    pub fn encode(&mut self, frame: &Frame, output: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, fin, unidirectional, headers } => {
                let block = self.deflater.block(headers);
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                control(SYN_STREAM, flags, 10 + block.len(), output);
                output.put_u32(*id);
                output.put_u32(0);
                output.put_u16(0);
                output.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => self.headers(SYN_REPLY, *id, *fin, headers, output),
            Frame::Headers { id, fin, headers } => self.headers(HEADERS, *id, *fin, headers, output),
            Frame::RstStream { id, status } => words(RST_STREAM, &[*id, *status], output),
            Frame::Settings => words(SETTINGS, &[0], output),
            Frame::Ping { id } => words(PING, &[*id], output),
            Frame::GoAway { last, status } => words(GOAWAY, &[*last, *status], output),
            Frame::WindowUpdate { id, delta } => words(WINDOW_UPDATE, &[*id, *delta], output),
            Frame::Data { id, fin, data } => {
                output.put_u32(*id);
                output.put_u32(flags_and_length(flag(*fin, FLAG_FIN), data.len()));
                output.put_slice(data);
            }
        }
    }

    fn headers(&mut self, kind: u16, id: u32, fin: bool, headers: &Headers, output: &mut BytesMut) {
        let block = self.deflater.block(headers);
        control(kind, flag(fin, FLAG_FIN), 4 + block.len(), output);
        output.put_u32(id);
        output.put_slice(&block);
    }
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

fn flags_and_length(flags: u8, length: usize) -> u32 {
    u32::from(flags) << 24 | u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff
}

fn control(kind: u16, flags: u8, length: usize, output: &mut BytesMut) {
    output.put_u16(0x8000 | VERSION);
    output.put_u16(kind);
    output.put_u32(flags_and_length(flags, length));
}

fn words(kind: u16, words: &[u32], output: &mut BytesMut) {
    control(kind, 0, 4 * words.len(), output);
    for word in words {
        output.put_u32(*word);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let headers = || {
            prop::collection::vec(("[a-z]{1,12}", "[ -~]{0,40}"), 0..6)
                .prop_map(|pairs| pairs.into_iter().collect())
        };
        let id = || 1..=0x7fff_ffff_u32;
        prop_oneof![
            (id(), any::<bool>(), any::<bool>(), headers()).prop_map(|(id, fin, unidirectional, headers)| {
                Frame::SynStream { id, fin, unidirectional, headers }
            }),
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
                id,
                fin,
                headers
            }),
            (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
                id,
                fin,
                headers
            }),
            (id(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
            Just(Frame::Settings),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (id(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (id(), any::<u32>()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
            (id(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(id, fin, data)| Frame::Data { id, fin, data: data.into() }),
        ]
    }

    /// Puts the parts of data frames together again.
    fn joined(parts: Vec<Frame>) -> Vec<Frame> {
        let mut whole: Vec<Frame> = Vec::new();
        let mut open = false;
        for part in parts {
            match (whole.last_mut(), part) {
                (Some(Frame::Data { fin, data, .. }), Frame::Data { fin: ends, data: more, .. }) if open => {
                    *data = [&data[..], &more[..]].concat().into();
                    *fin |= ends;
                }
                (_, part) => whole.push(part),
            }
            open = matches!(whole.last(), Some(Frame::Data { fin: false, .. }));
        }
        whole
    }

    proptest! {
        /// Wherever a connection cuts them.
        #[test]
        fn frames_are_read_as_they_were_written(
            frames in prop::collection::vec(frames(), 0..12),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
            for frame in &frames {
                encoder.encode(frame, &mut bytes);
            }
            let (mut decoder, mut input, mut read) = (Decoder::default(), BytesMut::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                input.extend_from_slice(&bytes.split_to((*cut).min(bytes.len())));
                while let Some(frame) = decoder.decode(&mut input).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert!(input.is_empty());
            // Two frames without an end that follow each other look like one: the parts are what counts.
            prop_assert_eq!(joined(read), joined(frames));
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            crate::fuzzing::spdy(&bytes);
        }
    }

    fn decoded(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        Decoder::default().decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn what_is_no_frame_of_spdy_3_is_refused() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], None),
            (&[0x80, 2, 0, 1, 0, 0, 0, 0], Some(FrameError::Version(2))),
            (&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], Some(FrameError::TooLarge(0x00ff_ffff))),
            (&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], Some(FrameError::Malformed(RST_STREAM))),
            (&[0x80, 3, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1, 0], Some(FrameError::Malformed(PING))),
            (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], Some(FrameError::Malformed(SETTINGS))),
            (&[0x80, 3, 0, 1, 0, 0, 0, 3, 0, 0, 1], Some(FrameError::Malformed(SYN_STREAM))),
            (&[0, 0, 0, 0, 0, 0, 0, 0], Some(FrameError::Malformed(0))),
        ] {
            match error {
                Some(error) => assert_eq!(decoded(bytes), Err(error), "{bytes:?}"),
                // Its first letters are the number of a stream; there is none such.
                None => assert!(matches!(decoded(bytes), Ok(Some(Frame::Data { .. })))),
            }
        }
    }

    #[test]
    fn frames_of_unknown_kinds_are_skipped() {
        let mut bytes = BytesMut::from(&[0x80, 3, 0, 99, 0, 0, 0, 3, 1, 2, 3][..]);
        words(PING, &[7], &mut bytes);
        assert_eq!(decoded(&bytes), Ok(Some(Frame::Ping { id: 7 })));
    }
}
