//! Static pods of a URL as a source of pods, after upstream's `pkg/kubelet/config/http.go`: asks it again and again, and tells
//! what has changed. An answer that cannot be had or understood leaves the pods as they are; an empty one is no pods.

use std::{collections::HashSet, error::Error, fmt, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header::USER_AGENT};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use reqwest::{Client, Url, redirect};
use tokio::{sync::mpsc, time::Instant};

use super::{
    files::keep_first_sight,
    manifest,
    normalize::{Origin, normalize},
    told::Told,
};
use crate::{
    config::KubeletConfiguration,
    explain::causes,
    pods::{
        board::FullName,
        manager::{PodSource, Update},
    },
};

/// How long an answer may take, all of it; upstream's number.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that an answer may have; upstream's number.
const LIMIT: usize = 10 << 20;
/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Checks a URL of static pods; empty is none.
///
/// # Errors
/// What is wrong with it. The URL itself, which may hold a password, is not in it.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Ok(());
    }
    let parsed = Url::parse(url).map_err(|error| format!("is no URL: {error}"))?;
    match parsed.scheme() {
        "http" | "https" => Ok(()),
        scheme => Err(format!("has the scheme {scheme:?}; it must be http or https")),
    }
}

/// The static pods of a node that a URL describes.
pub struct UrlSource {
    url: Url,
    /// As it was given: part of the pods' UIDs.
    given: String,
    headers: HeaderMap,
    node: String,
    period: Duration,
}

impl fmt::Debug for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UrlSource")
            .field("url", &self.shown())
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl UrlSource {
    /// The pods of `staticPodURL` of a configuration that has been checked; `None` where there is no such URL.
    #[must_use]
    pub fn new(config: &KubeletConfiguration, node: &str) -> Option<Self> {
        Some(Self {
            url: Url::parse(&config.static_pod_url).ok()?,
            given: config.static_pod_url.clone(),
            headers: config.static_pod_url_header.to_map().unwrap_or_default(),
            node: node.to_owned(),
            period: config.http_check_frequency,
        })
    }

    /// Tells `updates` of the pods, until nobody listens.
    pub async fn run(self, updates: mpsc::Sender<Update>) {
        let mut told = Told::of(PodSource::Http);
        let (mut client, mut last, mut trouble) = (None, None, None);
        loop {
            let asked_at = Instant::now();
            let answer = match self.ask(&mut client).await {
                Ok(answer) if last.as_ref() == Some(&answer) => Ok(None),
                Ok(answer) => self.read(&answer, &told, Timestamp::now()).map(|pods| {
                    last = Some(answer);
                    Some(pods)
                }),
                Err(error) => Err(error),
            };
            match answer {
                Ok(pods) => {
                    if trouble.take().is_some() {
                        tracing::info!("staticPodURL {}: its pods can be read again", self.shown());
                    }
                    if let Some((pods, conflicts)) = pods
                        && told.tell(pods, conflicts, &updates).await.is_err()
                    {
                        return;
                    }
                }
                Err(message) => {
                    if trouble.as_ref() != Some(&message) {
                        tracing::error!(
                            "staticPodURL {}: {message}; static pods stay as they are",
                            self.shown()
                        );
                    }
                    trouble = Some(message);
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(asked_at + self.period) => {}
                () = updates.closed() => return,
            }
        }
    }

    /// The URL without what may be secret in it.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Neither can fail where there is a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    async fn ask(&self, client: &mut Option<Client>) -> Result<String, String> {
        let client = match client {
            Some(client) => client,
            None => client.insert(self.client()?),
        };
        let failed = |error: reqwest::Error| causes(&error.without_url() as &dyn Error);
        let request = client.get(self.url.clone()).headers(self.headers.clone());
        let mut answer = request.send().await.map_err(failed)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it was answered with {}", answer.status()));
        }
        let mut body = BytesMut::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            if body.len().saturating_add(part.len()) > LIMIT {
                return Err(format!("more than {LIMIT} bytes are too much for pods"));
            }
            body.extend_from_slice(&part);
        }
        String::from_utf8(body.into()).map_err(|error| format!("the answer is not text: {error}"))
    }

    /// A client, even where the system has no certificate authorities: plain HTTP can still be spoken.
    fn client(&self) -> Result<Client, String> {
        // Without one, the HTTP client panics.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err("the process has not chosen a cryptography provider".to_owned());
        }
        let agent = HeaderValue::from_static(concat!("kubewasm/", env!("CARGO_PKG_VERSION")));
        let has_secrets = !self.headers.is_empty();
        let builder = || {
            Client::builder()
                .default_headers(HeaderMap::from_iter([(USER_AGENT, agent.clone())]))
                .timeout(ANSWER_TIMEOUT)
                .redirect(redirect::Policy::custom(move |attempt| follow(attempt, has_secrets)))
        };
        builder().build().or_else(|_| builder().tls_certs_only([]).build()).map_err(|error| causes(&error))
    }

    /// The pods of an answer, all of them or none, and which of them are left out because others have their name.
    fn read(&self, text: &str, told: &Told, now: Timestamp) -> Result<(Vec<Arc<Pod>>, Vec<String>), String> {
        let (mut names, mut uids) = (HashSet::new(), HashSet::new());
        let (mut pods, mut conflicts) = (Vec::new(), Vec::new());
        for written in manifest::parse_all(text)? {
            let given = written.metadata.name.clone().unwrap_or_default();
            let mut pod = normalize(written, &self.node, Origin::Url(&self.given), now)
                .map_err(|message| format!("the pod {given:?}: {message}"))?;
            let name = FullName::of(&pod);
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if uids.contains(&uid) || names.contains(&name) {
                conflicts.push(format!(
                    "staticPodURL {}: the pod {name}, or its UID, is there twice; one is left out",
                    self.shown()
                ));
                continue;
            }
            if let Some(before) = told.pod(&uid) {
                keep_first_sight(before, &mut pod);
            }
            uids.insert(uid);
            names.insert(name);
            pods.push(Arc::new(pod));
        }
        Ok((pods, conflicts))
    }
}

/// Redirects are followed, but never from HTTPS to HTTP, and with headers of the operator's to no other server.
fn follow(attempt: redirect::Attempt<'_>, has_secrets: bool) -> redirect::Action {
    let origin = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
    let (first, next) = (attempt.previous().first(), attempt.url());
    if next.scheme() == "http" && attempt.previous().iter().any(|url| url.scheme() == "https") {
        attempt.error("it redirects from HTTPS to HTTP, which is refused")
    } else if has_secrets && first.map(origin) != Some(origin(next)) {
        attempt.error("it redirects to another server, which must not see the headers of staticPodURLHeader")
    } else if attempt.previous().len() > REDIRECTS {
        attempt.error("it redirects too often")
    } else {
        attempt.follow()
    }
}

#[cfg(test)]
mod tests;
