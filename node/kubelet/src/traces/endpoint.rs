//! Where traces are sent: the `endpoint` of the configuration, in the forms that gRPC's name resolution has.

use std::{io, os::linux::net::SocketAddrExt as _, path::PathBuf, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Where a collector listens when nobody says.
const DEFAULT: &str = "localhost:4317";
/// gRPC's port, where an endpoint names none.
const PORT: u16 = 443;
const CONNECT: Duration = Duration::from_secs(10);

/// Where a collector takes in OTLP over gRPC, in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEndpoint {
    /// `host:port`, `dns:host:port` or `dns://resolver/host:port`, whose resolver is this machine's all the same.
    Tcp(String),
    /// `unix:path` or `unix:///path`.
    Unix(PathBuf),
    /// `unix-abstract:name`.
    Abstract(String),
}

impl TraceEndpoint {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        let text = text.unwrap_or(DEFAULT);
        let path = |rest: &str| rest.strip_prefix("//").unwrap_or(rest).to_owned();
        if let Some(rest) = text.strip_prefix("unix-abstract:") {
            return Ok(Self::Abstract(path(rest)));
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            return match path(rest) {
                path if path.is_empty() => Err(format!("{text:?} names no socket")),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let host = match text.strip_prefix("dns:") {
            Some(rest) => match rest.strip_prefix("//") {
                Some(rest) => rest.split_once('/').map_or(rest, |(_resolver, host)| host),
                None => rest,
            },
            None if text.contains("//") => {
                return Err(format!(
                    "{text:?} has another scheme than dns, unix and unix-abstract; give host:port alone for a collector \
                     that takes in OTLP over gRPC"
                ));
            }
            None => text,
        };
        let wrong = || format!("{host:?} is no host with a port");
        let uri: Uri = format!("http://{host}").parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| uri.path() == "/" && uri.query().is_none());
        let authority = authority.filter(|authority| !authority.host().is_empty()).ok_or_else(wrong)?;
        match authority.port_u16() {
            Some(port) if authority.as_str() == format!("{}:{port}", authority.host()) => {
                Ok(Self::Tcp(authority.to_string()))
            }
            None if authority.as_str() == authority.host() => Ok(Self::Tcp(format!("{authority}:{PORT}"))),
            // A port that is none, or somebody's name before the host.
            _ => Err(wrong()),
        }
    }

    /// A way to it that is opened when it is needed, and again when it breaks.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub(super) fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let authority = match self {
            Self::Tcp(authority) => authority,
            Self::Unix(_) | Self::Abstract(_) => "localhost",
        };
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?.connect_timeout(CONNECT);
        Ok(match self.clone() {
            Self::Tcp(_) => endpoint.connect_lazy(),
            Self::Unix(path) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            })),
            Self::Abstract(name) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let connected = connect_abstract(&name);
                async move { connected.map(TokioIo::new) }
            })),
        })
    }
}

/// Does not wait: a socket of this machine takes a connection at once, or does not.
fn connect_abstract(name: &str) -> io::Result<UnixStream> {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_what_grpc_takes_for_names() {
        let tcp = |authority: &str| Ok(TraceEndpoint::Tcp(authority.to_owned()));
        assert_eq!(TraceEndpoint::parse(None), tcp("localhost:4317"));
        for (text, expected) in [
            ("collector:4317", "collector:4317"),
            ("[::1]:4317", "[::1]:4317"),
            ("dns:collector:4317", "collector:4317"),
            ("dns:///collector:4317", "collector:4317"),
            ("dns://8.8.8.8/collector:4317", "collector:4317"),
            ("collector", "collector:443"),
        ] {
            assert_eq!(TraceEndpoint::parse(Some(text)), tcp(expected), "{text}");
        }
        let unix = TraceEndpoint::Unix("/run/otel.sock".into());
        for text in ["unix:/run/otel.sock", "unix:///run/otel.sock"] {
            assert_eq!(TraceEndpoint::parse(Some(text)), Ok(unix.clone()), "{text}");
        }
        let hidden = TraceEndpoint::Abstract("otel".to_owned());
        assert_eq!(TraceEndpoint::parse(Some("unix-abstract:otel")), Ok(hidden));
        for text in [
            "http://collector:4317",
            "",
            "collector:port",
            "collector:99999",
            "me@collector:1",
            "a b:1",
            "host:1/path",
            "unix:",
        ] {
            assert!(TraceEndpoint::parse(Some(text)).is_err(), "{text}");
        }
    }
}
