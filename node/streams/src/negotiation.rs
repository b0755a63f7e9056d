//! What a client wants to speak, by the headers of its request, and what it is answered.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
        UPGRADE,
    },
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
/// What begins the name of a WebSocket protocol that carries SPDY.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How exec and attach are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteCommandProtocol {
    /// Streams of SPDY, in one of the versions 1 to 4.
    Spdy(ChannelVersion),
    /// Channels of WebSocket.
    WebSocket(ChannelVersion, ChannelEncoding),
}

/// How ports are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortForwardProtocol {
    /// Streams of SPDY, as many pairs as the client opens.
    Spdy,
    /// The same inside of WebSocket messages.
    Tunnel,
    /// Channels of WebSocket, a pair for each port that the request names.
    WebSocket(ChannelEncoding),
}

/// A version of `channel.k8s.io`; later ones can do what earlier ones can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChannelVersion {
    /// Errors are text.
    V1,
    /// The same, with fewer errors in the protocol.
    V2,
    /// Terminals can be resized.
    V3,
    /// How it ended is told by a `Status`, with the exit code.
    V4,
    /// The client can close a channel. WebSocket only.
    V5,
}

/// What a WebSocket message of a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelEncoding {
    /// A byte with the number of the channel, and bytes.
    Binary,
    /// A digit with the number of the channel, and bytes in base64.
    Base64,
}

/// What is spoken from now on.
#[derive(Debug)]
pub struct Agreement<P> {
    /// The protocol.
    pub protocol: P,
    /// The headers of the answer, whose status is 101.
    pub headers: HeaderMap,
}

/// Why nothing is.
#[derive(Debug)]
pub struct UpgradeRefusal {
    /// Of the answer.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// Its text.
    pub message: String,
}

impl UpgradeRefusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { status, headers: HeaderMap::new(), message: message.into() })
    }
}

/// Of exec and attach.
///
/// # Errors
/// [`UpgradeRefusal`], in the words of upstream's `httpstream.Handshake` where it is one of SPDY's.
pub fn remote_command(
    method: &Method,
    headers: &HeaderMap,
) -> Result<Agreement<RemoteCommandProtocol>, Box<UpgradeRefusal>> {
    use ChannelEncoding::{Base64, Binary};
    use ChannelVersion::{V1, V2, V3, V4, V5};
    let Asked::WebSocket = asked(headers)? else {
        let known = [
            ("v4.channel.k8s.io", V4),
            ("v3.channel.k8s.io", V3),
            ("v2.channel.k8s.io", V2),
            ("channel.k8s.io", V1),
        ];
        return Ok(spdy(headers, &known)?.map(RemoteCommandProtocol::Spdy));
    };
    let known = [
        ("v5.channel.k8s.io", (V5, Binary)),
        ("v4.channel.k8s.io", (V4, Binary)),
        ("v4.base64.channel.k8s.io", (V4, Base64)),
        ("channel.k8s.io", (V1, Binary)),
        ("base64.channel.k8s.io", (V1, Base64)),
    ];
    let agreement = websocket(method, headers, &known, Some((V1, Binary)))?;
    Ok(agreement.map(|(version, encoding)| RemoteCommandProtocol::WebSocket(version, encoding)))
}

/// Of port-forward.
///
/// # Errors
/// As for [`remote_command`].
pub fn port_forward(
    method: &Method,
    headers: &HeaderMap,
) -> Result<Agreement<PortForwardProtocol>, Box<UpgradeRefusal>> {
    use ChannelEncoding::{Base64, Binary};
    let Asked::WebSocket = asked(headers)? else {
        return spdy(headers, &[("portforward.k8s.io", PortForwardProtocol::Spdy)]);
    };
    let known = [
        (TUNNEL, PortForwardProtocol::Tunnel),
        ("v4.channel.k8s.io", PortForwardProtocol::WebSocket(Binary)),
        ("v4.base64.channel.k8s.io", PortForwardProtocol::WebSocket(Base64)),
    ];
    websocket(method, headers, &known, Some(PortForwardProtocol::WebSocket(Binary)))
}

/// Whether a request is for channels of WebSocket, whose ports are in the query.
#[must_use]
pub fn names_ports_in_query(headers: &HeaderMap) -> bool {
    is_websocket(headers) && !listed(headers, &SEC_WEBSOCKET_PROTOCOL).any(|protocol| protocol == TUNNEL)
}

enum Asked {
    Spdy,
    WebSocket,
}

fn asked(headers: &HeaderMap) -> Result<Asked, Box<UpgradeRefusal>> {
    let upgrades = listed(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    if !upgrades {
        return Err(UpgradeRefusal::new(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    Ok(if is_websocket(headers) { Asked::WebSocket } else { Asked::Spdy })
}

fn is_websocket(headers: &HeaderMap) -> bool {
    listed(headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// The values of a header that is a list.
fn listed<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

impl<P> Agreement<P> {
    fn new(protocol: P, upgrade: &'static str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        Self { protocol, headers }
    }

    fn map<Q>(self, change: impl FnOnce(P) -> Q) -> Agreement<Q> {
        Agreement { protocol: change(self.protocol), headers: self.headers }
    }
}

/// The first of the client's versions that is known.
fn spdy<P: Copy>(
    headers: &HeaderMap,
    known: &[(&'static str, P)],
) -> Result<Agreement<P>, Box<UpgradeRefusal>> {
    let refusal = |message: String| UpgradeRefusal::new(StatusCode::BAD_REQUEST, message);
    if !headers.contains_key(&PROTOCOL_VERSION) {
        return Err(refusal(format!(
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {} headers",
            headers.keys_len()
        )));
    }
    let wanted: Vec<&str> = listed(headers, &PROTOCOL_VERSION).collect();
    if wanted.is_empty() {
        return Err(refusal("unable to upgrade: header X-Stream-Protocol-Version is empty".to_owned()));
    }
    let find = |wanted: &&str| known.iter().find(|(name, _)| name == wanted);
    let Some((name, protocol)) = wanted.iter().find_map(find) else {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let mut refusal = UpgradeRefusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                wanted.join(" "),
                names.join(" ")
            ),
        );
        for (name, _) in known {
            refusal.headers.append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
        return Err(refusal);
    };
    // Some clients name several.
    if !listed(headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(SPDY)) {
        return Err(refusal("unable to upgrade: missing upgrade headers in request".to_owned()));
    }
    let mut agreement = Agreement::new(*protocol, SPDY);
    agreement.headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(name));
    Ok(agreement)
}

/// The first of the server's protocols where it is `known[0]`, as upstream looks for that one before all others; then the first
/// of the client's that is known; then what is meant where the client names none.
fn websocket<P: Copy>(
    method: &Method,
    headers: &HeaderMap,
    known: &[(&'static str, P)],
    unnamed: Option<P>,
) -> Result<Agreement<P>, Box<UpgradeRefusal>> {
    if method != Method::GET {
        return Err(UpgradeRefusal::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with a GET"));
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|_| headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version.as_bytes() == b"13"));
    let Some(key) = key else {
        let message = "unable to upgrade: Sec-WebSocket-Key and Sec-WebSocket-Version: 13 are required";
        return Err(UpgradeRefusal::new(StatusCode::BAD_REQUEST, message));
    };
    let wanted: Vec<&str> = listed(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let find = |wanted: &&str| known.iter().find(|(name, _)| name == wanted);
    let preferred = known.first().filter(|(name, _)| wanted.contains(name));
    let agreed = match preferred.or_else(|| wanted.iter().find_map(find)) {
        Some((name, protocol)) => Some((Some(*name), *protocol)),
        None if wanted.is_empty() => unnamed.map(|protocol| (None, protocol)),
        None => None,
    };
    let Some((name, protocol)) = agreed else {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "requested protocol(s) are not supported: [{}]; supports [{}]",
            wanted.join(" "),
            names.join(" ")
        );
        return Err(UpgradeRefusal::new(StatusCode::FORBIDDEN, message));
    };
    let mut agreement = Agreement::new(protocol, "websocket");
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        agreement.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(name) = name {
        agreement.headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(agreement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }

    #[test]
    fn the_clients_first_known_version_of_spdy_is_spoken() {
        let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        for (versions, expected) in [
            (&["v4.channel.k8s.io", "v3.channel.k8s.io"][..], Ok(ChannelVersion::V4)),
            (&["v9.channel.k8s.io, v2.channel.k8s.io", "v4.channel.k8s.io"], Ok(ChannelVersion::V2)),
            (&["channel.k8s.io"], Ok(ChannelVersion::V1)),
            // It is WebSocket's.
            (
                &["v5.channel.k8s.io"],
                Err((
                    403,
                    "unable to upgrade: unable to negotiate protocol: client supports \
                [v5.channel.k8s.io], server accepts [v4.channel.k8s.io v3.channel.k8s.io v2.channel.k8s.io channel.k8s.io]",
                )),
            ),
            (&[""], Err((400, "unable to upgrade: header X-Stream-Protocol-Version is empty"))),
            (
                &[],
                Err((
                    400,
                    "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with 2 headers",
                )),
            ),
        ] {
            let versions = versions.iter().map(|version| ("x-stream-protocol-version", *version));
            let pairs: Vec<_> = upgrade.into_iter().chain(versions).collect();
            let answer = remote_command(&Method::POST, &headers(&pairs));
            match (answer, expected) {
                (Ok(agreement), Ok(version)) => {
                    assert_eq!(agreement.protocol, RemoteCommandProtocol::Spdy(version));
                    assert_eq!(agreement.headers[UPGRADE], SPDY);
                    assert!(agreement.headers.contains_key(&PROTOCOL_VERSION));
                }
                (Err(refusal), Err((status, message))) => {
                    assert_eq!((refusal.status.as_u16(), &refusal.message[..]), (status, message));
                    assert_eq!(refusal.headers.contains_key(&ACCEPTED_VERSIONS), status == 403);
                }
                (answer, expected) => panic!("{answer:?} for {expected:?}"),
            }
        }
    }

    #[test]
    fn websocket_protocols_are_found_by_their_names() {
        use ChannelEncoding::{Base64, Binary};
        use ChannelVersion::{V1, V4, V5};
        let of = |protocols: Option<&'static str>| {
            let mut pairs = vec![
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
            ];
            pairs.extend(protocols.map(|protocols| ("sec-websocket-protocol", protocols)));
            headers(&pairs)
        };
        for (protocols, expected, name) in [
            (Some("v4.channel.k8s.io, v5.channel.k8s.io"), (V5, Binary), Some("v5.channel.k8s.io")),
            (Some("base64.channel.k8s.io,v4.channel.k8s.io"), (V1, Base64), Some("base64.channel.k8s.io")),
            (Some("v4.base64.channel.k8s.io"), (V4, Base64), Some("v4.base64.channel.k8s.io")),
            (None, (V1, Binary), None),
        ] {
            let agreement = remote_command(&Method::GET, &of(protocols)).unwrap();
            assert_eq!(agreement.protocol, RemoteCommandProtocol::WebSocket(expected.0, expected.1));
            assert_eq!(agreement.headers[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            let spoken = agreement.headers.get(SEC_WEBSOCKET_PROTOCOL).map(|name| name.to_str().unwrap());
            assert_eq!(spoken, name);
        }
        let refusal = remote_command(&Method::GET, &of(Some("graphql-ws"))).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert!(refusal.message.starts_with("requested protocol(s) are not supported: [graphql-ws]"));
        let refusal = remote_command(&Method::POST, &of(None)).unwrap_err();
        assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);

        let tunnel = of(Some("SPDY/3.1+portforward.k8s.io"));
        let agreement = port_forward(&Method::GET, &tunnel).unwrap();
        assert_eq!(agreement.protocol, PortForwardProtocol::Tunnel);
        assert!(!names_ports_in_query(&tunnel) && names_ports_in_query(&of(None)));
    }

    #[test]
    fn requests_for_no_upgrade_are_refused() {
        for (pairs, message) in [
            (&[][..], "Upgrade request required"),
            (&[("upgrade", "SPDY/3.1")], "Upgrade request required"),
            (
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "h2c"),
                    ("x-stream-protocol-version", "portforward.k8s.io"),
                ],
                "unable to upgrade: missing upgrade headers in request",
            ),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                "unable to upgrade: Sec-WebSocket-Key and Sec-WebSocket-Version: 13 are required",
            ),
        ] {
            let refusal = port_forward(&Method::GET, &headers(pairs)).unwrap_err();
            assert_eq!((refusal.status.as_u16(), &refusal.message[..]), (400, message));
        }
    }
}
