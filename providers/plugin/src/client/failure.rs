//! Why there is no response: for the user, and for the guest.

use std::{error::Error as _, fmt, io};

use kubewasm_host::HttpError;

/// Why a request has no response.
#[derive(Debug)]
pub(crate) struct RequestFailure {
    /// For the user. It holds no secret.
    text: String,
    /// For the guest.
    error: HttpError,
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl RequestFailure {
    pub(super) fn new(text: impl Into<String>, error: HttpError) -> Self {
        Self { text: text.into(), error }
    }

    pub(super) fn no_credentials(text: String) -> Self {
        Self::new(text, HttpError::ConfigurationError)
    }

    pub(super) fn silent() -> Self {
        Self::new(
            "the API server does not answer in the time that the plugin waits",
            HttpError::ConnectionReadTimeout,
        )
    }

    pub(super) fn upgraded() -> Self {
        Self::new("the API server has answered with another protocol", HttpError::HttpUpgradeFailed)
    }

    /// What the guest is told.
    pub(crate) fn into_error(self) -> HttpError {
        self.error
    }

    /// Of a request that was not answered.
    pub(super) fn of_client(error: &hyper_util::client::legacy::Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        let mut found = None;
        while let Some(cause) = source {
            let text = cause.to_string();
            if !causes.iter().any(|known: &String| known.contains(&text)) {
                causes.push(text);
            }
            found = found.or_else(|| guest_error(cause));
            source = cause.source();
        }
        let text = if causes.is_empty() { error.to_string() } else { causes.join(": ") };
        let is_connect = error.is_connect();
        let otherwise =
            if is_connect { HttpError::DestinationUnavailable } else { HttpError::ConnectionTerminated };
        let doing =
            if is_connect { "cannot reach the API server" } else { "the API server has not answered" };
        Self::new(format!("{doing}: {text}"), found.unwrap_or(otherwise))
    }
}

/// What one cause is in the words of `wasi:http`.
fn guest_error(cause: &(dyn std::error::Error + 'static)) -> Option<HttpError> {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(of_tls(tls));
        }
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(HttpError::ConnectionRefused),
            io::ErrorKind::TimedOut => Some(HttpError::ConnectionTimeout),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Some(HttpError::DestinationIpUnroutable)
            }
            _ => None,
        };
    }
    cause.downcast_ref::<rustls::Error>().map(of_tls)
}

fn of_tls(error: &rustls::Error) -> HttpError {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            HttpError::TlsCertificateError
        }
        rustls::Error::AlertReceived(_) => {
            HttpError::TlsAlertReceived { alert_id: None, alert_message: Some(error.to_string()) }
        }
        _ => HttpError::TlsProtocolError,
    }
}
