//! What every request passes before anything else looks at it.

use std::sync::Arc;

use http::{HeaderValue, Request, StatusCode, header::RETRY_AFTER};
use kube::Client;
use rustls_pki_types::CertificateDer;
use warp::reply::Response;

use super::{
    ServerError,
    attributes::{self, Attributes},
    authn::Authenticator,
    authz::Decisions,
    connections::Peer,
    reply::text,
    reviews::Reviews,
    tokens::{Identified, Tokens},
    user::User,
    x509::ClientCa,
};
use crate::config::{AuthorizationMode, Config, is_set};

/// Authentication and authorization, as configured.
#[derive(Debug)]
pub(super) struct Gate {
    node: String,
    authenticator: Authenticator,
    /// `None` with `AlwaysAllow`: every authenticated caller may do everything.
    decisions: Option<Decisions>,
    reviews: Arc<Reviews>,
}

impl Gate {
    pub(super) fn new(config: &Config, reviews: Client) -> Result<Self, ServerError> {
        let authentication = &config.kubelet.authentication;
        let authorization = &config.kubelet.authorization;
        let ca_file = &authentication.x509.client_ca_file;
        if authorization.mode == AuthorizationMode::AlwaysAllow {
            tracing::warn!(
                "authorization.mode is AlwaysAllow: every authenticated caller of the node's HTTPS API may do everything"
            );
        }
        Ok(Self {
            node: config.node_name.clone(),
            authenticator: Authenticator {
                certificates: is_set(ca_file).then(|| ClientCa::load(ca_file.clone())).transpose()?,
                tokens: authentication.webhook.enabled.then(|| Tokens::new(authentication.webhook.cache_ttl)),
                anonymous: authentication.anonymous.enabled,
            },
            decisions: (authorization.mode == AuthorizationMode::Webhook)
                .then(|| Decisions::new(&authorization.webhook)),
            reviews: Arc::new(Reviews::new(reviews)),
        })
    }

    /// Lets a request from `peer` through, or says how it is refused. Texts are the kubelet's.
    pub(super) async fn admit<B>(
        &self,
        request: &Request<B>,
        certificates: Option<&[CertificateDer<'static>]>,
        peer: Peer,
    ) -> Result<(), Response> {
        let headers = request.headers();
        let user = match self.authenticator.authenticate(certificates, headers, peer, &self.reviews).await {
            Identified::User(user) => user,
            Identified::Nobody => return Err(text(StatusCode::UNAUTHORIZED, "Unauthorized")),
            Identified::Busy => {
                let why =
                    "Too many requests with tokens that have not been seen before, please try again later.\n";
                let mut refusal = text(StatusCode::TOO_MANY_REQUESTS, why);
                refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                return Err(refusal);
            }
        };
        let Some(decisions) = &self.decisions else {
            return Ok(());
        };
        let verb = attributes::verb(request.method());
        let subresources = attributes::subresources(request.uri().path());
        for subresource in subresources {
            let attributes = Attributes { user: user.clone(), verb, subresource, node: self.node.clone() };
            match decisions.allows(&attributes, &self.reviews).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(err) => {
                    tracing::warn!(error = %err, user = user.name, verb, subresource, "cannot ask what a caller may do");
                    let User { name, .. } = user;
                    let message = format!(
                        "Authorization error (user={name}, verb={verb}, resource=nodes, subresource={subresource})"
                    );
                    return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
                }
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        );
        Err(text(StatusCode::FORBIDDEN, message))
    }

    #[cfg(test)]
    pub(super) fn certificates(&self) -> Option<&ClientCa> {
        self.authenticator.certificates.as_ref()
    }
}
