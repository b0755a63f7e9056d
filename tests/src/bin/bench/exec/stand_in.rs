//! A node that is none: commands in its containers end at once, or write as fast as anybody reads, by WebSocket. What that takes is
//! what the API server takes.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use kubewasm_tests::{certificates::ServerIdentity, cluster::Cluster};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::task::AbortOnDropHandle;

const NODE: &str = "bench-stand-in";
const PROTOCOL: &str = "v5.channel.k8s.io";
/// Bytes of a message, as a guest writes them.
const PART: usize = 64 << 10;
const STDOUT: u8 = 1;
const STATUS: u8 = 3;

/// It is there until it is dropped.
pub(super) struct StandIn {
    _task: AbortOnDropHandle<()>,
}

impl StandIn {
    /// Listens, and makes a Node object that says so.
    ///
    /// # Errors
    /// When there is no port, or the API server refuses the Node.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self> {
        let address = cluster.node_address();
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await.context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let tls = ServerIdentity::new(&[&address.to_string()])?.server(&["http/1.1"])?;
        let task = tokio::spawn(serve(listener, tls));
        let nodes: Api<NodeObject> = Api::all(cluster.client().await?);
        let node = json!({ "metadata": { "name": NODE } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": address }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
        } });
        nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(Self { _task: AbortOnDropHandle::new(task) })
    }

    /// Name of the Node object.
    pub(super) fn node(&self) -> &'static str {
        NODE
    }
}

async fn serve(listener: TcpListener, tls: Arc<ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        // What fails is missed by who has asked.
        tokio::spawn(async move { answer(tcp, acceptor).await });
    }
}

/// Writes so many megabytes as the command says, and says that it has succeeded.
async fn answer(tcp: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let mut megabytes = 0;
    #[expect(clippy::result_large_err, reason = "the signature is the library's")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        megabytes = asked_for(request.uri().query().unwrap_or_default());
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        Ok(response)
    };
    let mut socket = accept_hdr_async(tls, choose).await?;
    let part = vec![STDOUT; PART + 1];
    for _ in 0..(megabytes << 20) / PART {
        socket.feed(Message::binary(part.clone())).await?;
    }
    let status = [&[STATUS][..], br#"{"metadata":{},"status":"Success"}"#].concat();
    socket.send(Message::binary(status)).await?;
    // Others than this code are errors to client-go.
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() })).await?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// The number that is the command.
fn asked_for(query: &str) -> usize {
    let command = query.split('&').find_map(|pair| pair.strip_prefix("command="));
    command.and_then(|command| command.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_says_how_much() {
        assert_eq!(asked_for("command=512&output=1"), 512);
        assert_eq!(asked_for("output=1"), 0);
    }
}
