//! What a fuzzer calls, in a build for one (`make fuzz`): what clients may send on upgraded connections, and what must hold
//! whatever it is.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "what a fuzzer is to find")]

use bytes::{Bytes, BytesMut};

use crate::{
    negotiation::{ChannelEncoding, ChannelVersion},
    remote_command,
    spdy::{Decoder, Encoder, Frame, FrameError},
    websocket::{self, Codec},
};

/// The bytes of a SPDY connection, after one that says how they are cut. What is not yet read is never more than one frame of
/// control; frames are the same however their bytes come; and what is read can be written and read again.
pub fn spdy(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    let cut = decode(bytes, usize::from(*cut).max(1));
    assert_eq!(whole.1, cut.1, "errors do not depend on cuts");
    assert_eq!(joined(&whole.0), joined(&cut.0), "frames do not depend on cuts");
    let (mut encoder, mut output) = (Encoder::default(), BytesMut::new());
    for frame in &whole.0 {
        encoder.encode(frame, &mut output);
    }
    // Headers that were deflated better than this side does it may make a frame that is too large.
    if output.len() <= 16 * 1024 {
        assert_eq!(decode(&output, usize::MAX), (whole.0, None));
    }
}

fn decode(bytes: &[u8], cut: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut input, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for part in bytes.chunks(cut) {
        input.extend_from_slice(part);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(input.len() < 16 * 1024 + 8, "what is kept is bounded");
    }
    (frames, None)
}

/// What frames say, without where data was cut: the kinds and the bytes of each stream in their order.
fn joined(frames: &[Frame]) -> Vec<(Option<u32>, Vec<u8>, String)> {
    let mut joined: Vec<(Option<u32>, Vec<u8>, String)> = Vec::new();
    for frame in frames {
        match frame {
            Frame::Data { id, fin, data } => match joined.last_mut() {
                Some((Some(last), bytes, end)) if last == id && end.is_empty() => {
                    bytes.extend_from_slice(data);
                    end.push_str(if *fin { "fin" } else { "" });
                }
                _ => joined.push((Some(*id), data.to_vec(), (if *fin { "fin" } else { "" }).to_owned())),
            },
            frame => joined.push((None, Vec::new(), format!("{frame:?}"))),
        }
    }
    joined
}

/// A message of a WebSocket client, after one byte that says which protocol it is of; and the same as sizes of a terminal.
pub fn message(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    let version = if kind & 1 == 0 { ChannelVersion::V5 } else { ChannelVersion::V4 };
    let encoding = if kind & 2 == 0 { ChannelEncoding::Binary } else { ChannelEncoding::Base64 };
    websocket::read(Codec { version, encoding }, Bytes::copy_from_slice(message));
    remote_command::read_sizes(message);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn what_fuzzers_begin_with_is_read() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (kind, read) in [("spdy", super::spdy as fn(&[u8])), ("websocket", super::message)] {
            let mut seen = 0;
            for seed in fs::read_dir(seeds.join(kind)).unwrap() {
                read(&fs::read(seed.unwrap().path()).unwrap());
                seen += 1;
            }
            assert_eq!(seen, 2, "{kind}");
        }
    }
}
