//! Requests that others have collected: those that gunicorn's tests hold its parser against (MIT). Each is sent as it is, all at
//! once and byte by byte, but for two things. A request of HTTP/1.1 without a Host, which RFC 9112 (3.2) wants refused and which
//! gunicorn does not ask for, gets one. And the target of one with a body becomes one that a guest reads the body for.

use std::{fs, path::Path};

use kubewasm_tests::cluster::programs;
use tokio::io::AsyncWriteExt;

use super::world::Server;

struct Case {
    name: String,
    bytes: Vec<u8>,
    /// What gunicorn's test expects, as a text in Python.
    expected: String,
}

impl Case {
    /// It takes another setting of gunicorn's than the usual one.
    fn is_about_settings(&self) -> bool {
        self.expected.contains("cfg.set(")
    }

    /// Requests that are in it.
    fn requests(&self) -> usize {
        self.expected.matches("\"method\"").count()
    }
}

/// The requests of one of the two kinds, in the order of their names.
async fn corpus(kind: &str) -> Vec<Case> {
    let folder = programs::build("tools/gunicorn/build.sh").await.unwrap().join(kind);
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "http") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let expected = fs::read_to_string(path.with_extension("py")).unwrap();
            cases.push(Case { name, bytes: request(&path), expected });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() > 60, "the corpus is there");
    cases
}

/// The bytes of a request: in its file, lines are broken for people, and what does not show is written with a backslash.
fn request(path: &Path) -> Vec<u8> {
    let text = fs::read(path).unwrap();
    let mut written = text.iter().copied().filter(|byte| *byte != b'\n');
    let mut bytes = Vec::new();
    while let Some(byte) = written.next() {
        bytes.push(match byte {
            b'\\' => match written.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [written.next().unwrap(), written.next().unwrap()];
                    u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("{}: \\{}", path.display(), char::from(other)),
            },
            byte => byte,
        });
    }
    with_target(with_host(bytes))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Adds a Host to each head that has none.
fn with_host(bytes: Vec<u8>) -> Vec<u8> {
    const VERSION: &[u8] = b" HTTP/1.1\r\n";
    let (mut all, mut rest) = (Vec::new(), &bytes[..]);
    while let Some(at) = find(rest, VERSION) {
        let (line, after) = rest.split_at(at + VERSION.len());
        all.extend(line);
        let head = &after[..find(after, b"\r\n\r\n").unwrap_or(after.len())].to_ascii_lowercase();
        if !head.starts_with(b"host") && find(head, b"\nhost").is_none() {
            all.extend(b"Host: test\r\n");
        }
        rest = after;
    }
    [&all, rest].concat()
}

/// Has what is sent with a body answered by a guest that reads it.
fn with_target(bytes: Vec<u8>) -> Vec<u8> {
    let is_post = [&b"POST /"[..], b"PUT /"].into_iter().any(|method| bytes.starts_with(method));
    let Some(start) = find(&bytes, b" /").filter(|_| is_post) else { return bytes };
    let end = start + 1 + find(&bytes[start + 1..], b" ").unwrap_or_default();
    [&bytes[..start], b" /echo", &bytes[end..]].concat()
}

/// The statuses of the answers that come whole.
async fn answers(server: &Server, bytes: &[u8], is_slow: bool) -> Vec<u16> {
    let mut client = server.connect().await;
    client.0.set_nodelay(true).unwrap();
    // The server may end the connection before it has had all.
    if is_slow {
        for byte in bytes {
            if client.0.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    } else {
        let _ = client.0.write_all(bytes).await;
    }
    let _ = client.0.shutdown().await;
    let mut statuses = Vec::new();
    while let Some(answer) = client.answer().await {
        statuses.push(answer.status);
    }
    statuses
}

const ALL_AT_ONCE_AND_BYTE_BY_BYTE: [bool; 2] = [false, true];

/// What gunicorn refuses and this server does not, and why that is well.
const ACCEPTED: [(&str, &str); 9] = [
    ("003c", "a method is any token, and `-bl` is one"),
    ("041", "what two values of Content-Type mean is for the guest to say"),
    ("chunked_09", "white space behind a chunk's size is skipped; the size is the same for everybody"),
    ("rfc9110_trailer_forbidden_cl_01", "the guest gets the trailers without it"),
    ("rfc9110_trailer_forbidden_host_01", "the guest gets the trailers without it"),
    ("rfc9110_trailer_forbidden_te_01", "the guest gets the trailers without it"),
    ("rfc9112_bare_lf_01", "a line may end with LF alone (RFC 9112, 2.2)"),
    ("rfc9112_leading_crlf_02", "at least one empty line before a request is to be ignored (RFC 9112, 2.2)"),
    (
        "rfc9112_smuggle_cl_te_chunked_01",
        "of both, chunks count, and the connection ends (RFC 9112, 6.1); see `malformed.rs` for what follows",
    ),
];

/// What gunicorn answers and this server does not, and why.
const REFUSED: [(&str, &str); 11] = [
    ("014", "a quotation mark is no character of a URI (RFC 3986, 2)"),
    ("022", "the end of an answer of HTTP/1.0 without a length is that of its connection"),
    ("025", "the only transfer coding is chunked (501: RFC 9112, 6.1)"),
    ("025_line", "the same"),
    ("029", "the same"),
    ("030", "the same"),
    ("099", "its body is shorter than its length"),
    ("rfc9112_smuggle_gzip_chunked_01", "the only transfer coding is chunked"),
    ("rfc9112_smuggle_te_identity_chunked_01", "the same"),
    ("rfc9112_target_authority_connect_01", "this server is no proxy"),
    ("rfc9112_target_authority_ipv6_01", "the same"),
];

fn names(reasons: &[(&'static str, &str)]) -> Vec<&'static str> {
    reasons.iter().map(|(name, _)| *name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_of_others_are_refused() {
    let server = Server::new("").await;
    for is_slow in ALL_AT_ONCE_AND_BYTE_BY_BYTE {
        let mut accepted = Vec::new();
        for case in corpus("invalid").await {
            // Bounds differ, and have tests of their own.
            if case.is_about_settings() || case.expected.contains("LimitRequest") {
                continue;
            }
            let statuses = answers(&server, &case.bytes, is_slow).await;
            if statuses.iter().any(|status| *status < 400) {
                accepted.push(case.name);
            }
        }
        assert_eq!(accepted, names(&ACCEPTED));
    }
    assert_eq!(server.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_others_are_answered() {
    let server = Server::new("").await;
    for is_slow in ALL_AT_ONCE_AND_BYTE_BY_BYTE {
        let mut refused = Vec::new();
        for case in corpus("valid").await {
            if case.is_about_settings() {
                continue;
            }
            let statuses = answers(&server, &case.bytes, is_slow).await;
            if statuses != vec![200; case.requests()] {
                refused.push(case.name);
            }
        }
        assert_eq!(refused, names(&REFUSED));
    }
}
