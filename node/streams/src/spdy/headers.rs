//! Header blocks: names and values, deflated against a dictionary, in one zlib stream for all of a connection.
//!
//! The dictionary is given to the inflater as what came before: one stored block. What is sent refers to none of it, which a
//! deflater may do, and says that it does, which clients want to read.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary;

/// Bytes that a block may have when it is inflated. Kubernetes' have a hundred.
const BLOCK: usize = 32 * 1024;
/// Headers that a block may have.
const COUNT: usize = 128;
/// The first two bytes of a zlib stream: deflate with a window of 32 KiB and a dictionary.
const ZLIB: [u8; 2] = [0x78, 0xbb];
/// The bit of the second that says so.
const HAS_DICTIONARY: u8 = 0x20;

/// Names, in lower case, and their values, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header, by its name in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).and_then(|(_, values)| values.split('\0').next())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Why a header block cannot be read. The connection cannot go on: the state of the inflater is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is no part of a zlib stream.
    #[error("a header block is not compressed as it should be")]
    Corrupt,
    /// It is for another dictionary.
    #[error("a header block is compressed with an unknown dictionary")]
    UnknownDictionary,
    /// It is too large.
    #[error("a header block is too large")]
    TooLarge,
    /// It ends in the middle, or has more than it says, or something that is no text.
    #[error("a header block is malformed")]
    Malformed,
}

/// Inflates the header blocks of one connection, in their order.
#[derive(Debug)]
pub(super) struct Inflater {
    stream: Decompress,
    /// What has come of the zlib header while it is not complete: two bytes, and four with a dictionary.
    head: Option<Vec<u8>>,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { stream: Decompress::new(false), head: Some(Vec::new()) }
    }

    pub(super) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, compressed: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut rest = compressed;
        while let Some(head) = &mut self.head {
            let [next, after @ ..] = rest else { return Ok(Vec::new()) };
            head.push(*next);
            rest = after;
            let has_dictionary = match head[..] {
                [_] => continue,
                [method, flags, ..] => {
                    let is_deflate = method & 0xf == 8 && u16::from_be_bytes([method, flags]) % 31 == 0;
                    if !is_deflate {
                        return Err(HeaderError::Corrupt);
                    }
                    flags & HAS_DICTIONARY != 0
                }
                [] => return Err(HeaderError::Corrupt),
            };
            match head[2..] {
                [] if !has_dictionary => self.head = None,
                [a, b, c, d] => {
                    if u32::from_be_bytes([a, b, c, d]) != dictionary::ID {
                        return Err(HeaderError::UnknownDictionary);
                    }
                    self.head = None;
                    self.prime()?;
                }
                _ => {}
            }
        }
        self.run(rest, BLOCK)
    }

    /// Puts the dictionary into the window.
    fn prime(&mut self) -> Result<(), HeaderError> {
        let text = dictionary::text();
        let length = u16::try_from(text.len()).map_err(|_| HeaderError::UnknownDictionary)?;
        let mut stored = vec![0];
        stored.extend(length.to_le_bytes());
        stored.extend((!length).to_le_bytes());
        stored.extend(&text);
        self.run(&stored, text.len()).map(drop)
    }

    /// All that `input` inflates to, which may not be more than `most`.
    fn run(&mut self, input: &[u8], most: usize) -> Result<Vec<u8>, HeaderError> {
        let mut output = Vec::with_capacity(512);
        let mut rest = input;
        loop {
            let (before, length) = (self.stream.total_in(), output.len());
            let status = self.stream.decompress_vec(rest, &mut output, FlushDecompress::Sync);
            let taken = usize::try_from(self.stream.total_in() - before).map_err(|_| HeaderError::Corrupt)?;
            rest = rest.get(taken..).ok_or(HeaderError::Corrupt)?;
            // The stream goes on for as long as the connection.
            if !matches!(status, Ok(Status::Ok | Status::BufError)) {
                return Err(HeaderError::Corrupt);
            }
            if output.len() > most {
                return Err(HeaderError::TooLarge);
            }
            if output.len() == output.capacity() {
                output.reserve(output.len());
            } else if taken == 0 && output.len() == length {
                // It can go no further: what it has taken, it may give out later, when it has a whole window of it.
                return if rest.is_empty() { Ok(output) } else { Err(HeaderError::Corrupt) };
            }
        }
    }
}

/// A number of headers, and each one's name and value after their lengths.
fn parse(block: &[u8]) -> Result<Headers, HeaderError> {
    let mut rest = block;
    let count = usize::try_from(number(&mut rest)?).map_err(|_| HeaderError::TooLarge)?;
    if count > COUNT {
        return Err(HeaderError::TooLarge);
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = text(&mut rest)?;
        if name.is_empty() {
            return Err(HeaderError::Malformed);
        }
        headers.push((name.to_ascii_lowercase(), text(&mut rest)?));
    }
    match rest {
        [] => Ok(Headers(headers)),
        _ => Err(HeaderError::Malformed),
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, HeaderError> {
    let (number, after) = rest.split_first_chunk::<4>().ok_or(HeaderError::Malformed)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = usize::try_from(number(rest)?).map_err(|_| HeaderError::TooLarge)?;
    let (text, after) = rest.split_at_checked(length).ok_or(HeaderError::Malformed)?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Malformed)
}

/// Deflates the header blocks of one connection, in their order.
#[derive(Debug)]
pub(super) struct Deflater {
    stream: Compress,
    has_begun: bool,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self { stream: Compress::new(Compression::fast(), false), has_begun: false }
    }

    /// The block of `headers`, complete: it can be inflated without what comes after it.
    pub(super) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        plain.extend(number(headers.0.len()));
        for (name, value) in &headers.0 {
            for text in [name, value] {
                plain.extend(number(text.len()));
                plain.extend(text.bytes());
            }
        }
        // More than it takes, so that one call does it all.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 128);
        if !self.has_begun {
            self.has_begun = true;
            block.extend(ZLIB);
            block.extend(dictionary::ID.to_be_bytes());
        }
        let mut rest = &plain[..];
        loop {
            let before = self.stream.total_in();
            let status = self.stream.compress_vec(rest, &mut block, FlushCompress::Sync);
            let taken = usize::try_from(self.stream.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or_default();
            // It is all there when there was room for more.
            if status.is_err() || (rest.is_empty() && block.len() < block.capacity()) {
                return block;
            }
            block.reserve(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's `compress/zlib` makes of a header block with the dictionary, at its best compression: the first block of a
    /// connection of kubectl's, and the second.
    const OF_KUBECTL: [&str; 2] = [
        "78f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff",
        "02a57c0c295029930829b08bc079c3c2c0c280818181b30812c199a084cf6880b5986605bb08000000ffff",
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn blocks_of_gos_compressor_are_read() {
        let mut inflater = Inflater::new();
        let [first, second] = OF_KUBECTL.map(|block| inflater.headers(&bytes(block)).unwrap());
        assert_eq!(first, [("streamtype", "error")].into_iter().collect());
        let expected =
            [("streamtype", "data"), ("port", "8080"), ("requestid", "0"), ("accept-charset", "utf-8")];
        assert_eq!(second, expected.into_iter().collect());
    }

    #[test]
    fn what_is_deflated_can_be_inflated_block_by_block() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let many: Headers = (0..100).map(|n| (format!("name-{n}"), format!("value {}", n * 7919))).collect();
        for headers in [Headers::default(), [("streamtype", "stdin")].into_iter().collect(), many] {
            let block = deflater.block(&headers);
            assert_eq!(inflater.headers(&block).unwrap(), headers);
        }
    }

    #[test]
    fn bombs_are_not_inflated() {
        let bomb: Headers = [("a", "x".repeat(16 << 20))].into_iter().collect();
        let block = Deflater::new().block(&bomb);
        assert!(block.len() < 128 << 10, "{}", block.len());
        assert_eq!(Inflater::new().headers(&block), Err(HeaderError::TooLarge));
        let many: Headers = (0..200).map(|n| (n.to_string(), "")).collect();
        assert_eq!(Inflater::new().headers(&Deflater::new().block(&many)), Err(HeaderError::TooLarge));
    }

    #[test]
    fn what_is_no_header_block_is_refused() {
        for (block, error) in [
            ("1f8b", HeaderError::Corrupt),
            ("78bb00000001", HeaderError::UnknownDictionary),
            ("78bbe3c6a7c2ffffff", HeaderError::Corrupt),
            ("78", HeaderError::Malformed),
            ("", HeaderError::Malformed),
            // A last block: the stream would be at its end.
            ("78bbe3c6a7c2010400fbff00000000", HeaderError::Corrupt),
            // A stored block with a header that is longer than it.
            ("78bbe3c6a7c2000800f7ff0000000100000009", HeaderError::Malformed),
        ] {
            assert_eq!(Inflater::new().headers(&bytes(block)), Err(error), "{block}");
        }
        let stored = bytes("78bbe3c6a7c2000400fbff00000000");
        assert_eq!(Inflater::new().headers(&stored), Ok(Headers::default()));
    }
}
