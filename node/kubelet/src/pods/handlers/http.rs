//! httpGet: one request on a connection of its own, for probes and for hooks.
//!
//! The request is that of upstream's
//! [`pkg/probe/http`](https://github.com/kubernetes/kubernetes/tree/v1.36.3/pkg/probe/http): whatever
//! certificate the server shows is taken, no proxy is asked, redirects stay on the pod.

use std::{error::Error as StdError, io, net::SocketAddr, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONNECTION, USER_AGENT},
};
use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::{Response, Url};

use super::{HookError, ProbeOutcome, Target, client, dial};

/// Bytes of a response that are read.
const BODY_LIMIT: usize = 10 * 1024;

/// What the request is for, as the server is told by its User-Agent.
#[derive(Clone, Copy, Debug)]
enum RequestPurpose {
    Probe,
    Lifecycle,
}

impl RequestPurpose {
    fn user_agent(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Probe => "kube-probe/1.36",
            Self::Lifecycle => "kube-lifecycle/1.36",
        })
    }
}

/// A request that can be sent. Headers may hold credentials, hence no `Debug`.
struct Get {
    url: Url,
    /// The URL as messages show it, with the port even where it is the scheme's own.
    shown: String,
    address: SocketAddr,
    headers: HeaderMap,
    redirects: client::Redirects,
}

/// Why there is no response.
struct Failed {
    message: String,
    /// The server does not speak TLS.
    not_tls: bool,
}

pub(super) async fn probe(target: Target<'_>, action: &HTTPGetAction, timeout: Duration) -> ProbeOutcome {
    let address = match target.find(action.host.as_deref(), &action.port, timeout).await {
        Ok(address) => address,
        Err(error) => return error.into(),
    };
    let get = match Get::of(address, target, action, RequestPurpose::Probe) {
        Ok(get) => get,
        Err(error) => return ProbeOutcome::Error(error),
    };
    let result = async {
        let response = get.send(timeout).await?;
        let status = response.status();
        Ok((status, get.body(response).await?))
    };
    match result.await {
        Ok((status, body)) => verdict(status, &body),
        Err(Failed { message, .. }) => ProbeOutcome::Failure(message),
    }
}

/// Runs a hook. Every response is a success; the text returned is a warning about how it was got.
pub(super) async fn hook(
    target: Target<'_>,
    action: &HTTPGetAction,
    within: Duration,
) -> Result<Option<String>, HookError> {
    let failed = |error: String| {
        HookError::Failed(format!(
            "HTTP lifecycle hook ({}) for Container {:?} in Pod \"{}\" failed - error: {error}",
            action.path.as_deref().unwrap_or_default(),
            target.container.name,
            target.pod,
        ))
    };
    let address = target.find(action.host.as_deref(), &action.port, within).await;
    let address = address.map_err(|error| failed(error.to_string()))?;
    let mut get = Get::of(address, target, action, RequestPurpose::Lifecycle).map_err(failed)?;
    match get.send(within).await {
        Ok(_) => Ok(None),
        Err(first) => {
            if !first.not_tls || !get.without_tls() || get.send(within).await.is_err() {
                // The first error tells what came of what the pod asked for.
                return Err(failed(first.message));
            }
            let address = get.address;
            Ok(Some(format!(
                "request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded"
            )))
        }
    }
}

/// What a response says of the container. Bodies stay out of failures: they may hold what is not meant
/// for everybody who may read events.
fn verdict(status: StatusCode, body: &str) -> ProbeOutcome {
    match status.as_u16() {
        200..300 => ProbeOutcome::success(),
        300..400 => ProbeOutcome::Success {
            warning: Some(format!("Probe terminated redirects, Response body: {body}")),
        },
        code => ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

impl Get {
    fn of(
        address: SocketAddr,
        target: Target<'_>,
        action: &HTTPGetAction,
        purpose: RequestPurpose,
    ) -> Result<Self, String> {
        let scheme = match action.scheme.as_deref() {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
            _ => "http",
        };
        let path = action.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let shown = format!("{scheme}://{address}{slash}{path}");
        let url = Url::parse(&shown).map_err(|error| format!("parse {shown:?}: {error}"))?;
        let headers = headers(action, purpose)?;
        let redirects =
            if target.addresses.are_shared() { client::Redirects::OnPort } else { client::Redirects::OnHost };
        Ok(Self { url, shown, address, headers, redirects })
    }

    /// Turns an https request into an http one, without the credentials that were meant for TLS alone.
    /// False when it was none.
    fn without_tls(&mut self) -> bool {
        self.headers.remove(AUTHORIZATION);
        self.url.scheme() == "https" && self.url.set_scheme("http").is_ok()
    }

    /// Sends it. The response's body is bound by `timeout` too.
    async fn send(&self, timeout: Duration) -> Result<Response, Failed> {
        let client = client::client(self.redirects).map_err(|message| Failed { message, not_tls: false })?;
        let request = client.get(self.url.clone()).headers(self.headers.clone()).timeout(timeout);
        request.send().await.map_err(|error| self.failed(&error, "awaiting headers"))
    }

    /// The beginning of the body. Upstream calls a body that breaks off an error of the node's and drops
    /// the result, so that a server which hangs there is never restarted; here it is a failure.
    async fn body(&self, mut response: Response) -> Result<String, Failed> {
        let mut body = Vec::new();
        while body.len() < BODY_LIMIT {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(self.failed(&error, "reading body")),
            }
        }
        body.truncate(BODY_LIMIT);
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn failed(&self, error: &reqwest::Error, during: &str) -> Failed {
        let cause = FailureCause::of(error);
        let text = match &cause {
            _ if error.is_timeout() => {
                format!("context deadline exceeded (Client.Timeout exceeded while {during})")
            }
            FailureCause::Io(io) if error.is_connect() && io.raw_os_error().is_some() => {
                dial::describe(self.address, io)
            }
            FailureCause::NotTls => "http: server gave HTTP response to HTTPS client".to_owned(),
            FailureCause::Closed => "EOF".to_owned(),
            FailureCause::Io(other) => dial::system_text(other),
            FailureCause::Other(other) => other.to_string(),
        };
        Failed {
            message: format!("Get \"{}\": {text}", self.shown),
            not_tls: matches!(cause, FailureCause::NotTls),
        }
    }
}

/// What is at the bottom of a failed request.
enum FailureCause<'a> {
    /// The server closed the connection in place of a response.
    Closed,
    /// The server does not speak TLS.
    NotTls,
    Io(&'a io::Error),
    Other(&'a (dyn StdError + 'static)),
}

impl<'a> FailureCause<'a> {
    fn of(error: &'a reqwest::Error) -> Self {
        let mut deepest: &(dyn StdError + 'static) = error;
        while let Some(next) = below(deepest) {
            deepest = next;
            if deepest.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
                return Self::Closed;
            }
        }
        match (deepest.downcast_ref(), deepest.downcast_ref()) {
            (Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), _) => {
                Self::NotTls
            }
            (_, Some(io)) => Self::Io(io),
            _ => Self::Other(deepest),
        }
    }
}

/// What an error was made of. An `io::Error` does not name the one inside of it as its source.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The pod's headers, and those that it leaves to the node.
fn headers(action: &HTTPGetAction, purpose: RequestPurpose) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in action.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&header.name)
            .map_err(|_| format!("invalid HTTP header {:?}", header.name))?;
        let value = HeaderValue::try_from(&header.value)
            .map_err(|_| format!("HTTP header {:?} has a value that cannot be sent", header.name))?;
        headers.append(name, value);
    }
    headers.entry(USER_AGENT).or_insert_with(|| purpose.user_agent());
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

#[cfg(test)]
mod tests;
