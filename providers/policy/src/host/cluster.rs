//! What policies ask a cluster: objects, and whether somebody may do something. Answers are those of the API server, and errors
//! those of Kubewarden where it has any.
//!
//! Lists have no `managedFields`, and each of their items says what it is. An answer is [`RECENT`] old at most, which plurals of
//! kinds may be for longer; `disable_cache` asks anew.

mod path;
mod review;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kube::{Client, client::Body};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::{
    path::{group_version, object, objects, parameters},
    review::Review,
};
use super::answers::Answers;
use crate::{
    context_aware::{CAN_I, GET, GetQuery, KindOfObjects, LIST_ALL, LIST_IN_NAMESPACE, ListQuery, read},
    host_call::LONGEST_ANSWER,
    request::Fields,
};

/// How old an answer may be.
const RECENT: Duration = Duration::from_secs(5);
/// How old it may be under which plural a kind is.
const KIND_AGE: Duration = Duration::from_secs(600);
/// Characters of an API server's message that a policy is told.
const LONGEST_MESSAGE: usize = 1024;

/// A cluster that policies may ask.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    answers: Arc<Answers>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

/// Where objects of a kind are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KindPlace {
    plural: String,
    namespaced: bool,
}

impl Cluster {
    pub(super) fn new(client: Client, answers: Arc<Answers>) -> Self {
        Self { client, answers }
    }

    /// Answers an operation of `kubernetes`. Which kinds a policy may ask for was sorted out before.
    pub(super) async fn call(&self, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        match operation {
            LIST_IN_NAMESPACE => {
                let query: ListQuery = read(operation, payload)?;
                let Some(namespace) = query.namespace.clone() else {
                    return Err(format!("the payload of {operation} names no namespace"));
                };
                self.list(query, Some(namespace)).await
            }
            LIST_ALL => self.list(read(operation, payload)?, None).await,
            GET => self.get(read(operation, payload)?).await,
            CAN_I => self.can_i(read(operation, payload)?).await,
            _ => Err(format!("unknown operation: {operation}")),
        }
    }

    async fn list(&self, query: ListQuery, namespace: Option<String>) -> Result<Vec<u8>, String> {
        let KindOfObjects { api_version, kind } = &query.of;
        let place = self.place(&query.of).await?;
        if namespace.is_some() && !place.namespaced {
            return Err(format!(
                "resource {api_version}/{kind} is cluster wide. Cannot search for it inside of a namespace"
            ));
        }
        let path = objects(api_version, namespace.as_deref(), &place.plural)?;
        let parameters = parameters(&[
            ("labelSelector", query.label_selector.as_deref()),
            ("fieldSelector", query.field_selector.as_deref()),
        ]);
        let url = format!("{path}{parameters}");
        self.remembered(format!("list {url}"), query.disable_cache, async {
            let (status, body) = self.exchange(Method::GET, &url, Vec::new()).await?;
            match status.is_success() {
                true => tidy(&body, &query.of),
                false => Err(refusal(status, &body)),
            }
        })
        .await
    }

    async fn get(&self, query: GetQuery) -> Result<Vec<u8>, String> {
        let KindOfObjects { api_version, kind } = &query.of;
        let place = self.place(&query.of).await?;
        let namespace = match (place.namespaced, &query.namespace) {
            (true, None) => {
                return Err(format!(
                    "Resource {api_version}/{kind} is namespaced, but no namespace was provided"
                ));
            }
            (true, Some(namespace)) => Some(namespace.as_str()),
            (false, _) => None,
        };
        let url = object(api_version, namespace, &place.plural, &query.name)?;
        self.remembered(format!("get {url}"), query.disable_cache, async {
            let (status, body) = self.exchange(Method::GET, &url, Vec::new()).await?;
            match status {
                StatusCode::NOT_FOUND => Err(format!(
                    "Cannot find {api_version}/{kind} named '{}' inside of namespace '{:?}'",
                    query.name, query.namespace
                )),
                status if status.is_success() => Ok(body),
                status => Err(refusal(status, &body)),
            }
        })
        .await
    }

    async fn can_i(&self, review: Review) -> Result<Vec<u8>, String> {
        let body = review.document()?;
        let question = format!("review {}", String::from_utf8_lossy(&body));
        self.remembered(question, review.disable_cache, async {
            let (status, answer) = self.exchange(Method::POST, review::PATH, body).await?;
            match status.is_success() {
                true => review::status(&answer),
                false => Err(refusal(status, &answer)),
            }
        })
        .await
    }

    /// Finds out where objects of a kind are.
    async fn place(&self, of: &KindOfObjects) -> Result<KindPlace, String> {
        let KindOfObjects { api_version, kind } = of;
        let base = group_version(api_version)?;
        let found = self.remembered_for(KIND_AGE, format!("kind {base} {kind}"), false, async {
            let (status, body) = self.exchange(Method::GET, &base, Vec::new()).await?;
            if !status.is_success() {
                let reason = refusal(status, &body);
                return Err(format!("error finding resource {api_version} / {kind}: {reason}"));
            }
            let place =
                place_of(kind, &body).ok_or_else(|| format!("Cannot find resource {api_version}/{kind}"))?;
            serde_json::to_vec(&place).map(Bytes::from).map_err(|error| error.to_string())
        });
        serde_json::from_slice(&found.await?).map_err(|error| error.to_string())
    }

    async fn remembered(
        &self,
        question: String,
        anew: bool,
        ask: impl Future<Output = Result<Bytes, String>>,
    ) -> Result<Vec<u8>, String> {
        self.remembered_for(RECENT, question, anew, ask).await
    }

    /// An answer that is kept, or else a new one.
    async fn remembered_for(
        &self,
        age: Duration,
        question: String,
        anew: bool,
        ask: impl Future<Output = Result<Bytes, String>>,
    ) -> Result<Vec<u8>, String> {
        let kept = if anew { None } else { self.answers.get(&question) };
        if let Some(kept) = kept {
            return Ok(kept.into());
        }
        let answer = ask.await?;
        self.answers.put(question, &answer, age);
        Ok(answer.into())
    }

    /// Asks the API server; its answer has no more bytes than a policy's may have.
    async fn exchange(
        &self,
        method: Method,
        url: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request =
            Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Body::from(body))
            .map_err(|error| format!("cannot ask the API server for {url}: {error}"))?;
        let response =
            self.client.send(request).await.map_err(|error| format!("cannot ask the API server: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(format!(
                "the API server's answer has more than {} MiB; ask for less: for one namespace, or with selectors",
                LONGEST_ANSWER >> 20
            )),
            Err(error) => Err(format!("the API server's answer broke off: {error}")),
        }
    }
}

/// Finds a kind in the list of what a version of a group has.
fn place_of(kind: &str, list: &[u8]) -> Option<KindPlace> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        resources: Vec<Resource>,
    }
    #[derive(Deserialize)]
    struct Resource {
        name: String,
        kind: String,
        namespaced: bool,
    }
    let list: List = serde_json::from_slice(list).ok()?;
    // What has a slash is a part of something else.
    let found = list.resources.into_iter().find(|it| it.kind == kind && !it.name.contains('/'))?;
    Some(KindPlace { plural: found.name, namespaced: found.namespaced })
}

/// A list without what is of no use to policies and large, whose items say what they are.
fn tidy(list: &[u8], of: &KindOfObjects) -> Result<Bytes, String> {
    let none = |error: serde_json::Error| format!("the API server's list cannot be read: {error}");
    let raw = |text: &str| serde_json::value::to_raw_value(text).map_err(none);
    let (api_version, kind) = (raw(&of.api_version)?, raw(&of.kind)?);
    let mut list: Fields = serde_json::from_slice(list).map_err(none)?;
    let items: Option<Vec<Fields>> = match list.get("items") {
        Some(items) => serde_json::from_str(items.get()).map_err(none)?,
        None => None,
    };
    let mut tidied = Vec::new();
    for mut item in items.unwrap_or_default() {
        item.entry("apiVersion".to_owned()).or_insert_with(|| api_version.clone());
        item.entry("kind".to_owned()).or_insert_with(|| kind.clone());
        if let Some(metadata) = item.get_mut("metadata") {
            let mut fields: Fields = serde_json::from_str(metadata.get()).map_err(none)?;
            fields.remove("managedFields");
            *metadata = serde_json::value::to_raw_value(&fields).map_err(none)?;
        }
        tidied.push(item);
    }
    let items: Box<RawValue> = serde_json::value::to_raw_value(&tidied).map_err(none)?;
    list.insert("items".to_owned(), items);
    let bytes = serde_json::to_vec(&list).map_err(none)?;
    Ok(bytes.into())
}

/// What an API server says of a request that it has not done.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let message = serde_json::from_slice(body).map(|Status { message }| message).unwrap_or_default();
    let message: String = message.chars().take(LONGEST_MESSAGE).collect();
    let separator = if message.is_empty() { "" } else { ": " };
    format!("the API server answered {status}{separator}{message}")
}

#[cfg(test)]
mod tests;
