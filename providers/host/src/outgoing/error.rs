//! What a guest is told of what went wrong.

use std::{error::Error as _, io};

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi_http::Error;

/// Of a look-up.
pub(super) fn of_lookup(code: ErrorCode) -> Error {
    let rcode = |name: &str| Error::DnsError { rcode: Some(name.to_owned()), info_code: None };
    match code {
        ErrorCode::AccessDenied => Error::HttpRequestDenied,
        ErrorCode::InvalidArgument => Error::HttpRequestUriInvalid,
        ErrorCode::NameUnresolvable => rcode("NXDOMAIN"),
        ErrorCode::PermanentResolverFailure => rcode("REFUSED"),
        _ => rcode("SERVFAIL"),
    }
}

/// Of a destination.
pub(super) fn of_destination(code: ErrorCode) -> Error {
    match code {
        ErrorCode::ConnectionRefused => Error::ConnectionRefused,
        _ => Error::DestinationIpUnroutable,
    }
}

/// Of a connection that is made.
pub(super) fn of_connect(error: &io::Error) -> Error {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        return Error::ConnectionLimitReached;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Error::ConnectionTerminated,
        io::ErrorKind::PermissionDenied => Error::DestinationIpProhibited,
        // The ports that there are to connect from are in use.
        io::ErrorKind::AddrNotAvailable => Error::ConnectionLimitReached,
        _ => Error::DestinationUnavailable,
    }
}

/// Of a TLS handshake.
pub(super) fn of_tls(error: &io::Error) -> Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}

/// Of a request that was sent, or of the response to it.
pub(super) fn of_response(error: &hyper::Error) -> Error {
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_timeout() {
        // What keeps a connection of HTTP/2 alive was not answered.
        Error::ConnectionReadTimeout
    } else if error.is_incomplete_message() || broken(error) == Some(io::ErrorKind::UnexpectedEof) {
        Error::HttpResponseIncomplete
    } else if error.is_canceled() || error.is_closed() || broken(error).is_some() {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

/// The connection was closed or lost before a response has begun.
pub(super) fn is_of_connection(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || broken(error).is_some()
}

/// How the connection was lost, where no rule of HTTP was broken.
fn broken(error: &hyper::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(current) = cause {
        if let Some(error) = current.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = current.source();
    }
    None
}
