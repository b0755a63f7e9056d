//! What a registry was asked for, from its log.

/// A request that the registry has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// GET, HEAD and so on.
    pub method: String,
    /// Path of the URL, without its query.
    pub path: String,
    /// How it was answered.
    pub status: u16,
}

/// Finds the requests in a log. They are in [the form that web servers have in common][1], among the registry's own lines:
///
/// ```text
/// 127.0.0.1 - - [29/Nov/2026:15:04:05 +0000] "GET /v2/actor/manifests/v1 HTTP/1.1" 200 482 "" "agent"
/// ```
///
/// [1]: https://httpd.apache.org/docs/current/logs.html#combined
pub(super) fn parse(log: &str) -> Vec<Request> {
    log.lines().filter_map(request).collect()
}

fn request(line: &str) -> Option<Request> {
    // The first field in quotes; the registry escapes those that a client has sent. Its own lines have pairs instead.
    let (before, rest) = line.split_once(" \"")?;
    before.ends_with(']').then_some(())?;
    let (asked, rest) = rest.split_once("\" ")?;
    let mut words = asked.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    words.next()?.starts_with("HTTP/").then_some(())?;
    let status = rest.split(' ').next()?.parse().ok()?;
    let path = target.split('?').next().unwrap_or(target);
    Some(Request { method: method.to_owned(), path: path.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_among_other_lines() {
        let log = "time=\"2026-11-29T15:04:05Z\" level=warning msg=\"No HTTP secret\" instance.id=1\n\
            127.0.0.1 - - [29/Nov/2026:15:04:05 +0000] \"GET /v2/a/manifests/v1?ns=x HTTP/1.1\" 200 482 \"\" \"k\"\n\
            2026/11/29 15:04:05 http: TLS handshake error from 127.0.0.1:4: EOF\n\
            127.0.0.1 - alice [29/Nov/2026:15:04:06 +0000] \"HEAD /v2/a/blobs/sha256:ab HTTP/1.1\" 404 0 \"\" \"\"\n\
            127.0.0.1 - - [29/Nov/2026:15:04:06 +0000] \"GET \\\"x\\\" HTTP/1.1\" 400 0 \"\" \"\"\n";
        let request = |method: &str, path: &str, status| Request {
            method: method.to_owned(),
            path: path.to_owned(),
            status,
        };
        assert_eq!(
            parse(log),
            [request("GET", "/v2/a/manifests/v1", 200), request("HEAD", "/v2/a/blobs/sha256:ab", 404)]
        );
    }
}
