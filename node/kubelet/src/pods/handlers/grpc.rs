//! grpc: the [health checking protocol](https://github.com/grpc/grpc/blob/master/doc/health-checking.md),
//! in plain text. Whatever goes wrong is a failure, as in upstream's `pkg/probe/grpc`.

use std::{io, net::SocketAddr, time::Duration};

use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{ProbeOutcome, dial::describe};
use crate::duration;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const USER_AGENT: &str = "kube-probe/1.36";

/// What a health check may answer: a status, not more.
const RESPONSE_LIMIT: usize = 10 * 1024;

/// Asks about `service`, which is empty for the server as a whole.
pub(super) async fn probe(address: SocketAddr, service: &str, timeout: Duration) -> ProbeOutcome {
    let deadline = Instant::now() + timeout;
    let channel = match tokio::time::timeout_at(deadline, connect(address)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            return ProbeOutcome::Failure(format!(
                "error: failed to connect service at \"{address}\": {error}"
            ));
        }
        Err(_) => {
            return ProbeOutcome::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {}: context deadline exceeded",
                duration::format(timeout)
            ));
        }
    };
    match tokio::time::timeout_at(deadline, check(channel, service)).await {
        Ok(answer) => verdict(answer, timeout),
        Err(_) => verdict(Err(Status::deadline_exceeded("")), timeout),
    }
}

/// Connects once. Upstream tries again until the time is over, and then says no more than that it is.
async fn connect(address: SocketAddr) -> Result<Channel, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| describe(address, &error))?;
    // The one connection there is to be: when it is lost, there is no second.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent(USER_AGENT));
    let channel = match endpoint {
        Ok(endpoint) => endpoint.connect_with_connector(connector).await,
        Err(error) => Err(error),
    };
    channel.map_err(|error| error.to_string())
}

async fn check(channel: Channel, service: &str) -> Result<i32, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(RESPONSE_LIMIT);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec: ProstCodec<_, HealthCheckResponse> = ProstCodec::default();
    let response = client.unary(request, PathAndQuery::from_static(CHECK), codec).await?;
    Ok(response.into_inner().status)
}

/// What an answer says of the container, in the words of upstream.
fn verdict(answer: Result<i32, Status>, timeout: Duration) -> ProbeOutcome {
    let failure = match answer {
        Ok(SERVING) => return ProbeOutcome::success(),
        Ok(status) => format!("service unhealthy (responded with {:?})", status_name(status)),
        Err(status) => match status.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            Code::DeadlineExceeded => {
                format!("timeout: health rpc did not complete within {}", duration::format(timeout))
            }
            // gRPC's own spelling has one l.
            Code::Cancelled => rpc_error("Canceled", status.message()),
            code => rpc_error(&format!("{code:?}"), status.message()),
        },
    };
    ProbeOutcome::Failure(failure)
}

fn rpc_error(code: &str, message: &str) -> String {
    format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}")
}

/// Name of a `HealthCheckResponse.ServingStatus`; one that the protocol does not name is its number.
fn status_name(status: i32) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        SERVING => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
