//! `/logs/`: what is in `/var/log`, and, where the configuration says so, the logs of services of the machine.
//!
//! ```text
//! /logs/<path>            a file as it is, or what is in a directory
//! /logs/?query=<service>  [query] (pure) ─► [journal]: journalctl, or a file that has the service's name
//! /logs/?query=/<file>    the file
//! ```
//!
//! Nothing outside of the directory is shown, whatever links in it say: pods may have it mounted. (The kubelet follows
//! them.) See [system logs](https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-query).

mod journal;
mod query;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use warp::reply::{Reply as _, Response};

use self::{
    journal::Journal,
    query::{NodeLogQuery, QueryError},
};
use super::reply::text;

/// Bytes that are read at once.
const BLOCK: usize = 64 * 1024;
/// Blocks that may wait for a slow client.
const QUEUE: usize = 4;
/// Entries of a directory that are shown.
const MOST_ENTRIES: usize = 10_000;
/// What stands for itself in the address of an entry.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');

const WITH_SLASHES: &AsciiSet = &PLAIN.remove(b'/');

/// Whether system logs are shown, and which.
#[derive(Debug)]
pub(super) struct SystemLogs {
    dir: PathBuf,
    enabled: bool,
    /// `None`: queries are not looked at.
    journal: Option<Journal>,
}

impl SystemLogs {
    /// Shows `dir` where `enabled`, and answers queries where `queries`.
    pub(super) fn new(dir: PathBuf, enabled: bool, queries: bool) -> Self {
        let journal = queries.then(|| Journal::new(PathBuf::from("journalctl"), dir.clone()));
        Self { dir, enabled, journal }
    }

    /// Another program in the place of `journalctl`.
    #[cfg(test)]
    pub(super) fn with_journalctl(mut self, program: PathBuf) -> Self {
        self.journal = Some(Journal::new(program, self.dir.clone()));
        self
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Answers a request for `path`, which is percent-encoded and begins behind `/logs`.
    pub(super) async fn answer(&self, path: &str, pairs: &[(String, String)]) -> Response {
        let mut path = path.to_owned();
        if let Some(journal) = &self.journal {
            match NodeLogQuery::parse(pairs) {
                Err(QueryError::Undecodable(message)) => {
                    return text(StatusCode::BAD_REQUEST, message + "\n");
                }
                Err(QueryError::Invalid(message)) => return text(StatusCode::NOT_ACCEPTABLE, message + "\n"),
                Ok(None) => {}
                Ok(Some(_)) if !matches!(path.as_str(), "" | "/") => {
                    return text(StatusCode::NOT_ACCEPTABLE, "path not allowed in query mode\n");
                }
                Ok(Some(NodeLogQuery::Services(query))) => return journal.answer(query),
                Ok(Some(NodeLogQuery::File(file))) => {
                    path = format!("/{}", utf8_percent_encode(file.trim_start_matches('/'), WITH_SLASHES));
                    if let Err(error) = open_below(&self.dir, &decoded(&path)) {
                        let message = format!("query: Invalid value: {file:?}: {error}\n");
                        return text(StatusCode::NOT_ACCEPTABLE, message);
                    }
                }
            }
        }
        let below = decoded(&path);
        match open_below(&self.dir, &below) {
            Ok(Opened::File(file)) => whole(file, is_compressed(&below)),
            Ok(Opened::Directory(_)) if !path.ends_with('/') => {
                let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("logs");
                redirect(&format!("{name}/"))
            }
            Ok(Opened::Directory(dir)) => match tokio::task::spawn_blocking(move || listing(&dir)).await {
                Ok(Ok(body)) => html(body),
                Ok(Err(error)) => failed(&error),
                Err(error) => failed(&io::Error::other(error)),
            },
            Err(error) => failed(&error),
        }
    }
}

/// The path in the directory that a request names, relative to it.
fn decoded(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes: Vec<u8> = percent_decode_str(path.trim_matches('/')).collect();
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[derive(Debug)]
enum Opened {
    File(File),
    Directory(OwnedFd),
}

/// Opens what is below a directory. No link leads out of it, and nothing but files and directories is opened.
fn open_below(dir: &Path, below: &Path) -> io::Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags | OFlags::DIRECTORY, Mode::empty())?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // A pipe that nobody writes to is not waited for.
    let opened = openat2(&root, below, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty(), resolve);
    let opened = opened.map_err(|error| match error {
        Errno::XDEV => io::Error::new(io::ErrorKind::PermissionDenied, "it is outside of the log directory"),
        Errno::NOTDIR | Errno::INVAL | Errno::NAMETOOLONG => io::ErrorKind::NotFound.into(),
        other => other.into(),
    })?;
    let file = File::from(opened);
    let metadata = file.metadata()?;
    match metadata.is_dir() {
        true => Ok(Opened::Directory(file.into())),
        false if metadata.is_file() => Ok(Opened::File(file)),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is neither a file nor a directory")),
    }
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// A file as far as it reaches now.
fn whole(file: File, compressed: bool) -> Response {
    let (blocks, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        send(tokio::fs::File::from_std(file).take(size), &blocks).await;
    });
    let mut response = warp::reply::stream(ReceiverStream::new(receiver)).into_response();
    let kind = if compressed { "application/gzip" } else { "text/plain; charset=utf-8" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

type Blocks = mpsc::Sender<io::Result<Bytes>>;

/// Sends what there is to read, until there is no more or nobody to take it.
async fn send(mut from: impl tokio::io::AsyncRead + Unpin, blocks: &Blocks) {
    let mut block = vec![0; BLOCK];
    loop {
        let read = match from.read(&mut block).await {
            Ok(0) => return,
            Ok(count) => Ok(Bytes::copy_from_slice(block.get(..count).unwrap_or_default())),
            Err(error) => Err(error),
        };
        let has_failed = read.is_err();
        if blocks.send(read).await.is_err() || has_failed {
            return;
        }
    }
}

/// The entries of a directory, as links.
fn listing(dir: &OwnedFd) -> io::Result<String> {
    let mut names = Vec::new();
    let mut is_cut = false;
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "." | "..") {
            continue;
        }
        if names.len() == MOST_ENTRIES {
            is_cut = true;
            break;
        }
        if entry.file_type() == rustix::fs::FileType::Directory {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let mut body =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let address = utf8_percent_encode(&name, WITH_SLASHES).to_string();
        body.push_str(&format!("<a href=\"./{address}\">{}</a>\n", escaped(&name)));
    }
    if is_cut {
        body.push_str(&format!("… (the first {MOST_ENTRIES} are shown)\n"));
    }
    body.push_str("</pre>\n");
    Ok(body)
}

fn escaped(name: &str) -> String {
    let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    name.replace('"', "&#34;").replace('\'', "&#39;")
}

fn html(body: String) -> Response {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn redirect(to: &str) -> Response {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
    // What comes from an address is one; a name that is none was not found.
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn failed(error: &io::Error) -> Response {
    match error.kind() {
        io::ErrorKind::NotFound => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, format!("403 Forbidden: {error}\n")),
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, format!("500 Internal Server Error: {error}\n")),
    }
}

#[cfg(any(fuzzing, test))]
pub(super) mod fuzzing {
    //! For [`crate::server::fuzzing`].

    use std::{io::Read as _, path::Path};

    use super::{Opened, decoded, open_below, query::NodeLogQuery};

    /// What is in the file that nobody is to see.
    pub(in crate::server) const SECRET: &str = "a secret that is beside the log directory";

    /// Opens what a request would, and checks that it is within.
    pub(in crate::server) fn stays_within(dir: &Path, path: &str) {
        if let Ok(Opened::File(mut file)) = open_below(dir, &decoded(path)) {
            let mut text = String::new();
            file.read_to_string(&mut text).expect("a file of the log directory is text here");
            assert_ne!(text, SECRET, "{path}");
        }
    }

    /// Reads a query: services have names that no program takes for a flag.
    pub(in crate::server) fn query(pairs: &[(String, String)]) {
        if let Ok(Some(NodeLogQuery::Services(query))) = NodeLogQuery::parse(pairs) {
            assert!(!query.services.is_empty() && query.services.len() <= 4);
            let fits = |name: &String| name.len() <= 256 && !name.contains(['/', ' ', '\n', '\0']);
            assert!(query.services.iter().all(fits));
        }
    }
}

#[cfg(test)]
mod tests;
