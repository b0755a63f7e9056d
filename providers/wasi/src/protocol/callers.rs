//! Messages of the calls that carry streams.
//!
//! None is shorter than [`SMALLEST`]: HTTP/2 implementations cut a connection on which many small frames wait to be read, because
//! each takes more memory than it brings, and a guest that prints a byte at a time for a caller that does not read would do
//! that. With this, the flow-control window bounds how many there are.

use prost::Message as _;

use super::wire::{self, forward_message, from_caller, to_caller};

/// Bytes of a message at least. What h2 counts as a small frame is shorter.
const SMALLEST: usize = 256;

fn padding(length: usize) -> Vec<u8> {
    vec![0; SMALLEST.saturating_sub(length)]
}

impl wire::FromCaller {
    pub(crate) fn of(message: from_caller::Message) -> Self {
        let message = Self { message: Some(message), padding: Vec::new() };
        Self { padding: padding(message.encoded_len()), ..message }
    }
}

impl wire::ToCaller {
    pub(crate) fn of(message: to_caller::Message) -> Self {
        let message = Self { message: Some(message), padding: Vec::new() };
        Self { padding: padding(message.encoded_len()), ..message }
    }
}

impl wire::ForwardMessage {
    pub(crate) fn of(message: forward_message::Message) -> Self {
        let message = Self { message: Some(message), padding: Vec::new() };
        Self { padding: padding(message.encoded_len()), ..message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_is_small_and_no_large_one_grows() {
        for length in [0, 1, 200, 255, 256, 300, 64 << 10] {
            let least = length.max(SMALLEST);
            for encoded in [
                wire::FromCaller::of(from_caller::Message::Stdin(vec![1; length])).encoded_len(),
                wire::ToCaller::of(to_caller::Message::Stdout(vec![1; length])).encoded_len(),
                wire::ForwardMessage::of(forward_message::Message::Data(vec![1; length])).encoded_len(),
            ] {
                assert!((least..least + 16).contains(&encoded), "{length}: {encoded}");
            }
        }
    }
}
