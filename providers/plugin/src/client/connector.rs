//! Connections to the API server: straight to it or through a proxy, with TLS where its address says so.

use std::{
    error::Error as StdError,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::{
        legacy::connect::{
            Connected, Connection, HttpConnector,
            proxy::{SocksV5, Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use super::{CONNECT, failure::RequestFailure, tls};
use crate::{cluster::ClusterAccess, credentials::ClientIdentity};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Makes connections.
#[derive(Clone)]
pub(super) struct ApiConnector {
    way: Way,
    /// `None` where the server is spoken to without.
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// How a connection gets there.
#[derive(Clone)]
enum Way {
    Direct(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
    Socks(SocksV5<HttpConnector>),
}

/// A proxy that cannot be used. It tells no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidProxy {
    #[error("the proxy is spoken to by {0}://; http:// and socks5:// are possible")]
    Scheme(String),
    #[error("the proxy's URL names no host")]
    Host,
    #[error("the proxy's user and password cannot be sent")]
    Credentials,
}

impl ApiConnector {
    pub(super) fn new(access: &ClusterAccess) -> Result<Self, InvalidProxy> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let way = match Proxy::of(access)? {
            None => Way::Direct(tcp),
            Some(Proxy { uri, login }) if uri.scheme_str() == Some("http") => {
                let tunnel = Tunnel::new(uri, tcp);
                Way::Tunnel(match login {
                    Some((user, password)) => tunnel.with_auth(basic(&user, &password)?),
                    None => tunnel,
                })
            }
            Some(Proxy { uri, login }) => {
                // `socks5h` has the proxy look up the name.
                let is_local = uri.scheme_str() != Some("socks5h");
                let socks = SocksV5::new(uri, tcp).local_dns(is_local);
                Way::Socks(match login {
                    Some((user, password)) => socks.with_auth(user, password),
                    None => socks,
                })
            }
        };
        Ok(Self { way, tls: None })
    }

    /// The same for connections on which it is `identity` who speaks.
    pub(super) fn as_identity(
        &self,
        access: &ClusterAccess,
        identity: Option<&Arc<ClientIdentity>>,
    ) -> Result<Self, RequestFailure> {
        let tls = match access.server.is_secure() {
            true => {
                let config = tls::config(&access.trust, identity)?;
                Some((TlsConnector::from(Arc::new(config)), access.server_name.clone()))
            }
            false => None,
        };
        Ok(Self { way: self.way.clone(), tls })
    }
}

/// A proxy, and who may use it.
struct Proxy {
    uri: Uri,
    login: Option<(String, String)>,
}

impl Proxy {
    /// That of the kubeconfig, or else of the environment, as Go reads it.
    fn of(access: &ClusterAccess) -> Result<Option<Self>, InvalidProxy> {
        if let Some(url) = &access.proxy {
            let scheme = url.scheme();
            if !matches!(scheme, "http" | "socks5" | "socks5h") {
                return Err(InvalidProxy::Scheme(scheme.to_owned()));
            }
            let host = url.host_str().ok_or(InvalidProxy::Host)?;
            let port = url.port().unwrap_or(if scheme == "http" { 80 } else { 1080 });
            let uri = format!("{scheme}://{host}:{port}").parse().map_err(|_| InvalidProxy::Host)?;
            let plain =
                |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            let login = (!url.username().is_empty())
                .then(|| (plain(url.username()), plain(url.password().unwrap_or_default())));
            return Ok(Some(Self { uri, login }));
        }
        let host = access.server.host();
        let is_own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let server = access.server.url().parse::<Uri>().map_err(|_| InvalidProxy::Host)?;
        let Some(found) = (!is_own).then(|| Matcher::from_env().intercept(&server)).flatten() else {
            return Ok(None);
        };
        let uri = found.uri().clone();
        match uri.scheme_str() {
            Some("http" | "socks5" | "socks5h") => {}
            other => return Err(InvalidProxy::Scheme(other.unwrap_or_default().to_owned())),
        }
        let login = found.raw_auth().map(|(user, password)| (user.to_owned(), password.to_owned()));
        let login = login.or_else(|| found.basic_auth().and_then(of_basic));
        Ok(Some(Self { uri, login }))
    }
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, InvalidProxy> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    HeaderValue::try_from(format!("Basic {encoded}")).map_err(|_| InvalidProxy::Credentials)
}

fn of_basic(header: &HeaderValue) -> Option<(String, String)> {
    use base64::Engine as _;
    let encoded = header.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

impl Service<Uri> for ApiConnector {
    type Response = ApiStream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<ApiStream, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.way {
            Way::Direct(way) => way.poll_ready(context).map_err(Into::into),
            Way::Tunnel(way) => way.poll_ready(context).map_err(Into::into),
            Way::Socks(way) => way.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting: BoxFuture<'static, Result<TokioIo<TcpStream>, BoxError>> = match &mut self.way {
            Way::Direct(way) => {
                let connecting = way.call(to);
                Box::pin(async { Ok(connecting.await?) })
            }
            Way::Tunnel(way) => {
                let connecting = way.call(to);
                Box::pin(async { Ok(connecting.await?) })
            }
            Way::Socks(way) => {
                let connecting = way.call(to);
                Box::pin(async { Ok(connecting.await?) })
            }
        };
        let tls = self.tls.clone();
        let opening = async move {
            let stream = connecting.await?;
            let Some((tls, name)) = tls else { return Ok(ApiStream { io: Box::pin(stream), is_h2: false }) };
            let stream = tls.connect(name, stream.into_inner()).await?;
            let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(ApiStream { io: Box::pin(TokioIo::new(stream)), is_h2 })
        };
        Box::pin(async {
            // Proxies and TLS have no limit of their own.
            match tokio::time::timeout(CONNECT, opening).await {
                Ok(opened) => opened,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long to connect").into()),
            }
        })
    }
}

trait Io: Read + Write + Send {}

impl<T: Read + Write + Send> Io for T {}

/// A connection that was made.
pub(super) struct ApiStream {
    io: Pin<Box<dyn Io>>,
    is_h2: bool,
}

impl Connection for ApiStream {
    fn connected(&self) -> Connected {
        if self.is_h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for ApiStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(context, buffer)
    }
}

impl Write for ApiStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(context, buffers)
    }
}
