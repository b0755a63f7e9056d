//! `/portForward/{namespace}/{pod}`: connections to ports of the pod.

use std::{fmt::Display, sync::Arc};

use http::StatusCode;
use kubewasm_streams::{
    negotiation,
    port_forward::{self, Forwarded},
};
use warp::reply::Response;

use super::{PodPath, Query, UpgradeRequest, note, refused, target, upgraded};
use crate::{
    runtime::{Duplex, PortForwardError, Runtime},
    server::reply::text,
};

/// Ports that one request may name; a channel has a byte for its number, and a port has two channels.
const PORTS: usize = 127;

pub(super) fn answer(request: UpgradeRequest, pod: PodPath) -> Response {
    try_answer(request, pod).unwrap_or_else(|refusal| refusal)
}

fn try_answer(mut request: UpgradeRequest, path: PodPath) -> Result<Response, Response> {
    let ports = match negotiation::names_ports_in_query(&request.headers) {
        true => ports(&request.query).map_err(|message| text(StatusCode::BAD_REQUEST, message))?,
        false => Vec::new(),
    };
    let pod = path.find(request.state.pods())?;
    if !path.is_of(&pod, request.state.pods()) {
        return Err(text(StatusCode::NOT_FOUND, "pod not found"));
    }
    if !target::has_running(&pod) {
        let message = format!("pod not found ({:?})", path.full_name());
        return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
    }
    let runtime = request.runtime()?;
    let agreed = negotiation::port_forward(&request.method, &request.headers).map_err(|no| refused(*no))?;
    let (upgrade, connection) = request.connection()?;
    let times = request.state.stream_times();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let response = connection.answer(upgrade, move |io| async move {
        let forwarded = ForwardedPod { runtime, pod: path.full_name(), uid };
        note(
            "port-forward",
            &path,
            port_forward::serve(io, agreed.protocol, &ports, times, &forwarded).await,
        );
    });
    Ok(upgraded(response, agreed.headers))
}

/// The ports of `port=80&port=81,82`.
fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (_, values) in query.iter().filter(|(name, _)| name == "port") {
        if values.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for value in values.split(',') {
            match value.parse() {
                Ok(0) => return Err(format!("port {values:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(error) => return Err(format!("unable to parse {values:?} as a port: {error}")),
            }
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".to_owned()),
        1..=PORTS => Ok(ports),
        _ => Err(format!("no more than {PORTS} ports can be forwarded by one request")),
    }
}

struct ForwardedPod {
    runtime: Arc<dyn Runtime>,
    pod: String,
    uid: String,
}

impl Forwarded for ForwardedPod {
    type Connection = Box<dyn Duplex>;
    type Error = PortForwardError;

    async fn connect(&self, port: u16) -> Result<Self::Connection, Self::Error> {
        self.runtime.port_forward(&self.uid, port).await
    }

    fn failure(&self, port: u16, error: &dyn Display) -> String {
        format!("error forwarding port {port} to pod {}, uid {}: {error}", self.pod, self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_query() {
        let of = |values: &[&str]| {
            let query: Query = values.iter().map(|value| ("port".to_owned(), (*value).to_owned())).collect();
            ports(&query)
        };
        assert_eq!(of(&["80", "81,82"]), Ok(vec![80, 81, 82]));
        for (values, error) in [
            (&[][..], "query parameter \"port\" is required"),
            (&[""], "query parameter \"port\" cannot be empty"),
            (&["0"], "port \"0\" must be > 0"),
            (&["80,x"], "unable to parse \"80,x\" as a port: invalid digit found in string"),
            (&["1"; 128], "no more than 127 ports can be forwarded by one request"),
        ] {
            assert_eq!(of(values), Err(error.to_owned()));
        }
    }
}
