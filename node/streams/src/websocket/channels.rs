//! Messages: whose channel they are, and what is in them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

use crate::negotiation::{ChannelEncoding, ChannelVersion};

/// The channel of messages that close another, since version 5.
const CLOSE: u8 = 255;

/// In which direction a channel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Nobody asked for it.
    Unused,
    /// From the client.
    Read,
    /// To the client.
    Write,
    /// Both.
    Duplex,
}

impl Channel {
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::Duplex)
    }
}

/// How messages are written.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// The version of the protocol.
    pub version: ChannelVersion,
    /// What is in them.
    pub encoding: ChannelEncoding,
}

/// What a message of a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes of a channel.
    Data(u8, Bytes),
    /// Nothing more will come on a channel.
    End(u8),
    /// Nothing.
    Nothing,
}

impl Codec {
    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(self, mut message: Bytes) -> Result<Received, &'static str> {
        let Some(&first) = message.first() else { return Ok(Received::Nothing) };
        if first == CLOSE && self.version >= ChannelVersion::V5 {
            return match message[..] {
                [_, channel] => Ok(Received::End(channel)),
                _ => Err("a single channel byte should follow the close signal"),
            };
        }
        let data = message.split_off(1);
        match self.encoding {
            ChannelEncoding::Binary => Ok(Received::Data(first, data)),
            ChannelEncoding::Base64 => {
                let decoded = STANDARD.decode(&data).map_err(|_| "a message is not base64")?;
                Ok(Received::Data(first.wrapping_sub(b'0'), decoded.into()))
            }
        }
    }

    /// A message of a channel.
    pub(super) fn write(self, channel: u8, data: &[u8]) -> Message {
        match self.encoding {
            ChannelEncoding::Binary => {
                let mut message = BytesMut::with_capacity(1 + data.len());
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            ChannelEncoding::Base64 => {
                let mut message = String::from(char::from(b'0'.wrapping_add(channel)));
                STANDARD.encode_string(data, &mut message);
                Message::text(message)
            }
        }
    }
}

/// For a fuzzer.
#[cfg(any(fuzzing, test))]
pub(crate) fn read(codec: Codec, message: Bytes) {
    let length = message.len();
    match codec.read(message) {
        Ok(Received::Data(_, data)) => assert!(data.len() < length),
        Ok(Received::End(_)) => assert_eq!(length, 2),
        Ok(Received::Nothing) => assert_eq!(length, 0),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(version: ChannelVersion, encoding: ChannelEncoding) -> Codec {
        Codec { version, encoding }
    }

    #[test]
    fn messages_are_read_by_version_and_encoding() {
        let v5 = codec(ChannelVersion::V5, ChannelEncoding::Binary);
        let v4 = codec(ChannelVersion::V4, ChannelEncoding::Binary);
        let base64 = codec(ChannelVersion::V1, ChannelEncoding::Base64);
        let data = |channel, bytes: &'static [u8]| Ok(Received::Data(channel, Bytes::from_static(bytes)));
        for (codec, message, expected) in [
            (v5, &b"\0hello"[..], data(0, b"hello")),
            (v5, b"\xff\0", Ok(Received::End(0))),
            (v5, b"\xff", Err("a single channel byte should follow the close signal")),
            (v5, b"\xff\0\0", Err("a single channel byte should follow the close signal")),
            (v4, b"\xff\0", data(255, b"\0")),
            (v4, b"", Ok(Received::Nothing)),
            (v4, b"\x04", data(4, b"")),
            (base64, b"0aGVsbG8=", data(0, b"hello")),
            (base64, b"0", data(0, b"")),
            (base64, b"0???", Err("a message is not base64")),
        ] {
            assert_eq!(codec.read(Bytes::from_static(message)), expected, "{message:?}");
        }
    }

    #[test]
    fn messages_are_written_with_their_channel_in_front() {
        let binary = codec(ChannelVersion::V4, ChannelEncoding::Binary);
        assert_eq!(binary.write(1, b"x"), Message::Binary(Bytes::from_static(b"\x01x")));
        let base64 = codec(ChannelVersion::V4, ChannelEncoding::Base64);
        assert_eq!(base64.write(1, b"\n"), Message::text("1Cg=="));
    }
}
