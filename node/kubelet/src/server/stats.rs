//! The paths of numbers: `/stats/summary` and all below `/metrics`.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use warp::{
    Filter as _,
    filters::BoxedFilter,
    reply::{Reply as _, Response},
};

use super::{reply::text, routes::ServerState};
use crate::exposition::{self, Family, Format};

type Query = Vec<(String, String)>;

/// What answers them.
pub(super) fn routes(state: &Arc<ServerState>) -> BoxedFilter<(Response,)> {
    let with = {
        let state = Arc::clone(state);
        warp::any().map(move || Arc::clone(&state))
    };
    let summary = warp::path!("stats" / "summary")
        .and(warp::get().or(warp::post()).unify())
        .and(warp::query::<Query>())
        .and(with.clone())
        .then(async |query: Query, state: Arc<ServerState>| summary(&state, &query).await);
    let scraped = warp::get().and(warp::header::headers_cloned()).and(with);
    let metrics = warp::path!("metrics").and(scraped.clone()).then(
        async |headers: HeaderMap, state: Arc<ServerState>| {
            state.metrics.answer(state.stats(), &headers).await
        },
    );
    let probes = warp::path!("metrics" / "probes")
        .and(scraped.clone())
        .map(|headers: HeaderMap, state: Arc<ServerState>| state.metrics.answer_probes(&headers));
    let slis = warp::path!("metrics" / "slis")
        .and(scraped.clone())
        .map(|headers: HeaderMap, state: Arc<ServerState>| state.metrics.answer_slis(&headers));
    let resource = warp::path!("metrics" / "resource").and(scraped.clone()).then(
        async |headers: HeaderMap, state: Arc<ServerState>| match state.stats() {
            Some(stats) => families(&stats.resource().await, &headers),
            None => no_stats(),
        },
    );
    let cadvisor = warp::path!("metrics" / "cadvisor").and(scraped).then(
        async |headers: HeaderMap, state: Arc<ServerState>| match state.stats() {
            Some(stats) => families(&stats.cadvisor().await, &headers),
            None => no_stats(),
        },
    );
    summary
        .or(metrics)
        .unify()
        .or(probes)
        .unify()
        .or(slis)
        .unify()
        .or(resource)
        .unify()
        .or(cadvisor)
        .unify()
        .boxed()
}

async fn summary(state: &ServerState, query: &Query) -> Response {
    let only = query.iter().find(|(name, _)| name == "only_cpu_and_memory").map(|(_, value)| value.as_str());
    // As Go reads truth values.
    let only_cpu_and_memory = match only {
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some(other) => {
            let message =
                format!("parse request failed: only_cpu_and_memory is {other:?}, not true or false\n");
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
    };
    let Some(stats) = state.stats() else { return no_stats() };
    let Ok(body) = serde_json::to_string_pretty(&stats.summary(only_cpu_and_memory).await) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the summary could not be written\n");
    };
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn families(families: &[Family], headers: &HeaderMap) -> Response {
    let format = Format::of(headers);
    exposition::answer(exposition::families(families, format), format, headers)
}

/// A server without statistics: of tests alone.
fn no_stats() -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, "this server has no statistics\n")
}
