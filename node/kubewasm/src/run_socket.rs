//! How `kubewasm exec` speaks with a `kubewasm run`: over a socket in the folder of the run, which is its user's alone.
//!
//! Both are of one program, and a message is a byte that says what it is, four that say how long, and what it holds. The client
//! asks first ([`Ask`]); then streams go in both directions, and the last that comes back is how it ended.

mod client;
mod server;

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(crate) use client::{connect, find};
pub(crate) use server::{RunSocket, RunningPod};

/// The socket in the folder of a run.
const SOCKET: &str = "exec.sock";
/// The file there that holds the name of the pod.
const NAME: &str = "pod";
/// Most bytes of a message.
const LIMIT: usize = 1 << 20;

/// What is to be executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// The container; the pod's first one if none is named.
    pub(crate) container: Option<String>,
    pub(crate) argv: Vec<String>,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    /// Columns and lines of the client's terminal, where it has one.
    pub(crate) size: Option<(u16, u16)>,
}

/// A message in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The first one.
    Ask(Vec<u8>),
    Stdin(Vec<u8>),
    StdinEnd,
    /// Columns and lines.
    Size(u16, u16),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// An exit code.
    Exit(i32),
    /// Why nothing was executed.
    Failed(String),
}

impl Frame {
    /// Reads one; nothing when the other side has ended.
    ///
    /// # Errors
    /// Those of reading, and when what comes is none.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let kind = match from.read_u8().await {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the other side is another program");
        if length > LIMIT {
            return Err(invalid());
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content).await?;
        let frame = match (kind, &content[..]) {
            (0, _) => Self::Ask(content),
            (1, _) => Self::Stdin(content),
            (2, _) => Self::StdinEnd,
            (3, [a, b, c, d]) => Self::Size(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
            (4, _) => Self::Stdout(content),
            (5, _) => Self::Stderr(content),
            (6, [a, b, c, d]) => Self::Exit(i32::from_be_bytes([*a, *b, *c, *d])),
            (7, _) => Self::Failed(String::from_utf8(content).map_err(|_| invalid())?),
            _ => return Err(invalid()),
        };
        Ok(Some(frame))
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of writing, and when it is too large.
    pub(crate) async fn write(self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, content) = match self {
            Self::Ask(content) => (0, content),
            Self::Stdin(content) => (1, content),
            Self::StdinEnd => (2, Vec::new()),
            Self::Size(columns, lines) => (3, [columns.to_be_bytes(), lines.to_be_bytes()].concat()),
            Self::Stdout(content) => (4, content),
            Self::Stderr(content) => (5, content),
            Self::Exit(code) => (6, code.to_be_bytes().to_vec()),
            Self::Failed(why) => (7, why.into_bytes()),
        };
        let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= LIMIT);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        let mut message = vec![kind];
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&content);
        to.write_all(&message).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let frames = [
            Frame::Ask(b"{}".to_vec()),
            Frame::Stdin(vec![0, 1, 255]),
            Frame::StdinEnd,
            Frame::Size(132, 43),
            Frame::Stdout(Vec::new()),
            Frame::Stderr(b"x".to_vec()),
            Frame::Exit(-1),
            Frame::Failed("why".to_owned()),
        ];
        let mut wire = Vec::new();
        for frame in frames.clone() {
            frame.write(&mut wire).await.unwrap();
        }
        let mut wire = &wire[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut wire).await.unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut wire).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        for bytes in [
            &[9, 0, 0, 0, 0][..],
            &[3, 0, 0, 0, 1, 7],
            &[1, 255, 0, 0, 0],
            &[7, 0, 0, 0, 1, 255],
            &[1, 0, 0, 0, 2, 1],
        ] {
            assert!(Frame::read(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
        assert!(Frame::Stdin(vec![0; LIMIT + 1]).write(&mut Vec::new()).await.is_err());
    }
}
