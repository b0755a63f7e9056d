//! Requests by `wasi:http`, to a name that means the API server of the user's context: the host knows its address, whom it trusts
//! and who the user is.

use std::{
    io::{self, Read},
    thread,
    time::Duration,
};

use wasip2::{
    http::{
        outgoing_handler,
        types::{
            ErrorCode, Fields, IncomingBody, IncomingResponse, Method as WasiMethod, OutgoingBody,
            OutgoingRequest, RequestOptions, Scheme, http_error_code,
        },
    },
    io::streams::{InputStream, StreamError},
};

use crate::transport::{Method, Request, Response, Transport, TransportError};

/// The API server, to every plugin of every cluster.
const AUTHORITY: &str = "kubernetes.default.svc";
/// For a connection with TLS.
const TO_CONNECT: Duration = Duration::from_secs(30);
/// Until an answer begins; the API server gives up after 60 seconds by itself.
const TO_ANSWER: Duration = Duration::from_secs(75);

/// The API server, by way of the host.
#[derive(Debug)]
pub(crate) struct WasiHttp;

impl Transport for WasiHttp {
    fn send(&self, request: &Request) -> Result<Response, TransportError> {
        let outgoing = outgoing(request)?;
        let body = outgoing.body().map_err(|()| failure("the body was taken before"))?;
        let sent = outgoing_handler::handle(outgoing, Some(options(request.patience)?)).map_err(error)?;
        write(body, &request.body)?;
        sent.subscribe().block();
        let answer = sent.get().and_then(Result::ok).ok_or_else(|| failure("no answer came"))?;
        response(answer.map_err(error)?)
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }
}

fn failure(text: &str) -> TransportError {
    TransportError::Other(text.to_owned())
}

fn outgoing(request: &Request) -> Result<OutgoingRequest, TransportError> {
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes()))
        .collect();
    let headers = Fields::from_list(&headers).map_err(|error| failure(&format!("wrong headers: {error}")))?;
    let outgoing = OutgoingRequest::new(headers);
    let method = match request.method {
        Method::Get => WasiMethod::Get,
        Method::Post => WasiMethod::Post,
        Method::Put => WasiMethod::Put,
        Method::Patch => WasiMethod::Patch,
        Method::Delete => WasiMethod::Delete,
    };
    outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&Scheme::Https)))
        .and_then(|()| outgoing.set_authority(Some(AUTHORITY)))
        .and_then(|()| outgoing.set_path_with_query(Some(&request.path)))
        .map_err(|()| failure("the path is not one of a URL"))?;
    Ok(outgoing)
}

fn options(patience: Duration) -> Result<RequestOptions, TransportError> {
    let nanoseconds = |time: Duration| Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let options = RequestOptions::new();
    options
        .set_connect_timeout(nanoseconds(TO_CONNECT))
        .and_then(|()| options.set_first_byte_timeout(nanoseconds(TO_ANSWER)))
        .and_then(|()| options.set_between_bytes_timeout(nanoseconds(patience)))
        .map_err(|()| failure("the host knows no time limits of requests"))?;
    Ok(options)
}

/// Writes a request's body. Where the other side has ended the request meanwhile, the answer tells why.
fn write(body: OutgoingBody, mut bytes: &[u8]) -> Result<(), TransportError> {
    let stream = body.write().map_err(|()| failure("the body was taken before"))?;
    // As much as the call takes at a time.
    while let Some(part) = bytes.get(..bytes.len().min(4096)).filter(|part| !part.is_empty()) {
        if stream.blocking_write_and_flush(part).is_err() {
            return Ok(());
        }
        bytes = &bytes[part.len()..];
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(error)
}

fn response(incoming: IncomingResponse) -> Result<Response, TransportError> {
    let status = incoming.status();
    let retry_after = incoming.headers().get("retry-after").into_iter().next();
    let retry_after = retry_after.and_then(|value| String::from_utf8(value).ok()?.trim().parse().ok());
    let body = incoming.consume().map_err(|()| failure("the answer has no body"))?;
    let stream = body.stream().map_err(|()| failure("the answer has no body"))?;
    Ok(Response { status, retry_after, body: Box::new(Body { stream, _body: body, _response: incoming }) })
}

/// A body that is read. The stream goes before what it is a part of: fields are dropped in their order.
struct Body {
    stream: InputStream,
    _body: IncomingBody,
    _response: IncomingResponse,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.blocking_read(buffer.len() as u64) {
            Ok(bytes) => {
                let place = buffer
                    .get_mut(..bytes.len())
                    .ok_or_else(|| io::Error::other("more than was asked for"))?;
                place.copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            Err(StreamError::Closed) => Ok(0),
            Err(StreamError::LastOperationFailed(failed)) => {
                Err(io::Error::other(match http_error_code(&failed) {
                    Some(code) => error(code).to_string(),
                    None => failed.to_debug_string(),
                }))
            }
        }
    }
}

fn error(code: ErrorCode) -> TransportError {
    let text = match code {
        ErrorCode::HttpRequestDenied => return TransportError::Denied,
        ErrorCode::ConnectionRefused => return TransportError::Refused,
        ErrorCode::DnsTimeout | ErrorCode::DnsError(_) => "its name is not known".to_owned(),
        ErrorCode::DestinationNotFound | ErrorCode::DestinationUnavailable => {
            "it cannot be reached".to_owned()
        }
        ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete => {
            "the connection broke".to_owned()
        }
        ErrorCode::ConnectionTimeout => "no connection came in time".to_owned(),
        ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => {
            "it did not answer in time".to_owned()
        }
        ErrorCode::TlsCertificateError => "its certificate is not that of a trusted server".to_owned(),
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => "there is no TLS with it".to_owned(),
        ErrorCode::InternalError(Some(text)) => text,
        other => other.to_string(),
    };
    TransportError::Other(text)
}
