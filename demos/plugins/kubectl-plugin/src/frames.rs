//! A watch's body as its parts: one JSON text on each line.

use std::io::{BufRead as _, BufReader, Read};

/// The largest object that etcd takes is 1.5 MiB; an event has one, and another of its forms in `managedFields`.
const LARGEST: usize = 16 << 20;

/// Why there are no more frames.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// The connection broke, in the middle of a frame or before one.
    Broken(String),
    /// A frame is larger than anything that is watched.
    TooLarge,
}

/// Reads lines. What is not ended by a line's end never arrived as a whole, and is none.
pub(crate) struct Frames<R> {
    reader: BufReader<R>,
    largest: usize,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), largest: LARGEST }
    }

    /// The next frame; `None` where the body has ended behind a whole one.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            let mut line = Vec::new();
            let read = self.reader.by_ref().take(self.largest as u64 + 1).read_until(b'\n', &mut line);
            read.map_err(|error| FrameError::Broken(error.to_string()))?;
            match line.pop() {
                None => return Ok(None),
                Some(b'\n') if line.iter().all(u8::is_ascii_whitespace) => {}
                Some(b'\n') => return Ok(Some(line)),
                Some(_) if line.len() >= self.largest => return Err(FrameError::TooLarge),
                Some(_) => return Err(FrameError::Broken("the connection broke".to_owned())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Gives its bytes in pieces of the size, and then fails or ends.
    struct Pieces(Vec<u8>, usize, Option<&'static str>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(buffer.len()).min(self.0.len());
            buffer[..size].copy_from_slice(&self.0[..size]);
            self.0.drain(..size);
            match (size, self.2) {
                (0, Some(error)) => Err(io::Error::other(error)),
                (size, _) => Ok(size),
            }
        }
    }

    fn frames(text: &str, piece: usize, error: Option<&'static str>) -> Frames<Pieces> {
        Frames { reader: BufReader::new(Pieces(text.into(), piece, error)), largest: 8 }
    }

    #[test]
    fn frames_are_whole_however_they_arrive() {
        for piece in [1, 2, 3, 100] {
            let mut frames = frames("one\n\n\r\ntwo\n12345678\n", piece, None);
            for expected in ["one", "two", "12345678"] {
                assert_eq!(frames.next(), Ok(Some(expected.into())));
            }
            assert_eq!((frames.next(), frames.next()), (Ok(None), Ok(None)));
        }
    }

    #[test]
    fn half_a_frame_is_none() {
        let mut cut = frames("one\ntw", 3, None);
        assert_eq!(cut.next(), Ok(Some(b"one".to_vec())));
        assert!(matches!(cut.next(), Err(FrameError::Broken(_))));
        let mut broken = frames("one\n", 3, Some("reset"));
        assert_eq!(broken.next(), Ok(Some(b"one".to_vec())));
        assert_eq!(broken.next(), Err(FrameError::Broken("reset".to_owned())));
    }

    #[test]
    fn a_frame_without_an_end_does_not_fill_the_memory() {
        assert_eq!(frames(&"x".repeat(100), 7, None).next(), Err(FrameError::TooLarge));
        assert_eq!(frames("123456789\n", 100, None).next(), Err(FrameError::TooLarge));
    }
}
