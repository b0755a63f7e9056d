//! Paths, and what answers them. Who comes here has passed the gate.

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf, sync::Arc};

use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use kubewasm_streams::StreamTimes;
use serde_json::{Value, json};
use warp::{
    Filter, Rejection, Reply as _,
    filters::{
        BoxedFilter,
        path::{FullPath, Tail},
    },
    reply::Response,
};

use super::{
    Pods, container_logs, health, metrics::Metrics, reply::text, requests::RequestInFlight, stats, streams,
    system_logs::SystemLogs, upgrades::UpgradedConnection, zpages,
};
use crate::{
    config::{Config, KubeletConfiguration},
    runtime::Runtime,
    stats::NodeStats,
    traces::Tracer,
};

/// Paths that `enableDebuggingHandlers: false` closes, and says so.
const DEBUGGING: [&str; 8] = [
    "/run/",
    "/exec/",
    "/attach/",
    "/portForward/",
    "/containerLogs/",
    "/runningpods/",
    "/debug/pprof/",
    "/logs/",
];

/// Paths that there are none of then.
const DEBUGGING_UNTOLD: [&str; 3] = ["/configz", "/flagz", "/statusz"];

/// What the handlers work with.
pub(super) struct ServerState {
    configuration: KubeletConfiguration,
    logs_dir: PathBuf,
    pub(super) system_logs: SystemLogs,
    flags: BTreeMap<String, String>,
    started: Timestamp,
    pods: Arc<dyn Pods>,
    pub(super) metrics: Metrics,
    stats: Option<NodeStats>,
    tracer: Tracer,
    runtime: Option<Arc<dyn Runtime>>,
}

impl ServerState {
    pub(super) fn new(config: &Config, pods: Arc<dyn Pods>) -> Self {
        let kubelet = &config.kubelet;
        let system_logs = SystemLogs::new(
            config.system_logs_dir.clone(),
            kubelet.enable_system_log_handler,
            kubelet.enable_system_log_query,
        );
        Self {
            system_logs,
            flags: config.shown_flags.clone(),
            started: Timestamp::now(),
            configuration: config.kubelet.clone(),
            logs_dir: config.kubelet.pod_logs_dir.clone(),
            metrics: Metrics::new(&config.node_name, Arc::clone(&pods)),
            pods,
            stats: None,
            tracer: Tracer::off(),
            runtime: None,
        }
    }

    pub(super) fn set_tracer(&mut self, tracer: Tracer) {
        self.tracer = tracer;
    }

    pub(super) fn set_stats(&mut self, stats: NodeStats) {
        self.stats = Some(stats);
    }

    pub(super) fn set_runtime(&mut self, runtime: Arc<dyn Runtime>) {
        self.runtime = Some(runtime);
    }

    pub(super) fn runtime(&self) -> Option<&Arc<dyn Runtime>> {
        self.runtime.as_ref()
    }

    pub(super) fn pods(&self) -> &dyn Pods {
        self.pods.as_ref()
    }

    pub(super) fn stream_times(&self) -> StreamTimes {
        StreamTimes::new(self.configuration.streaming_connection_idle_timeout)
    }

    pub(super) fn stats(&self) -> Option<&NodeStats> {
        self.stats.as_ref()
    }
}

/// What serves one listener; it answers everything and rejects nothing.
pub(super) type Routes = BoxedFilter<(Response,)>;

type Query = Vec<(String, String)>;

/// Everything of the HTTPS port.
pub(super) fn service(state: Arc<ServerState>) -> Routes {
    let with = {
        let state = Arc::clone(&state);
        warp::any().map(move || Arc::clone(&state))
    };
    let closed = !state.configuration.enable_debugging_handlers;
    let debugging = warp::path::full().and_then(move |path: FullPath| async move {
        if closed && DEBUGGING.iter().any(|prefix| path.as_str().starts_with(prefix)) {
            Ok(text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n"))
        } else if closed && DEBUGGING_UNTOLD.contains(&path.as_str().trim_end_matches('/')) {
            Ok(not_found())
        } else {
            Err(warp::reject())
        }
    });

    let logs = warp::path!("containerLogs" / String / String / String)
        .and(warp::get())
        .and(warp::query::<Query>())
        .and(with.clone())
        .then(
            |namespace: String, pod: String, container: String, query: Query, state: Arc<ServerState>| async move {
                let pods = Arc::clone(&state.pods);
                container_logs::answer(pods, &state.logs_dir, (&namespace, &pod, &container), &query).await
            },
        );
    let numbers = stats::routes(&state);
    let (requests, tracer) = (state.metrics.requests.clone(), state.tracer.clone());
    let pods =
        warp::path!("pods").and(warp::get()).and(with.clone()).map(|state: Arc<ServerState>| pods(&state));
    let running = warp::path!("runningpods")
        .and(warp::get())
        .and(with.clone())
        .map(|state: Arc<ServerState>| running_pods(&state));
    let configz = warp::path!("configz").and(warp::get()).and(with.clone()).map(|state: Arc<ServerState>| {
        warp::reply::json(&json!({ "kubeletconfig": state.configuration.effective() })).into_response()
    });
    let statusz =
        warp::path!("statusz").and(warp::get()).and(warp::header::headers_cloned()).and(with.clone()).map(
            |headers: HeaderMap, state: Arc<ServerState>| {
                zpages::statusz(state.started, Timestamp::now(), &headers)
            },
        );
    let flagz = warp::path!("flagz")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(with)
        .map(|headers: HeaderMap, state: Arc<ServerState>| zpages::flagz(&state.flags, &headers));
    let system_logs = system_log_routes(Arc::clone(&state));
    let streams = streams::routes(&state);

    let counted = warp::method().and(warp::path::full()).and(warp::header::headers_cloned()).map(
        move |method: Method, path: FullPath, headers: HeaderMap| {
            requests.begin(&method, path.as_str(), &headers, &tracer)
        },
    );
    let answers = debugging
        .or(health_routes(state))
        .unify()
        .or(logs)
        .unify()
        .or(numbers)
        .unify()
        .or(pods)
        .unify()
        .or(running)
        .unify()
        .or(configz)
        .unify()
        .or(statusz)
        .unify()
        .or(flagz)
        .unify()
        .or(system_logs)
        .unify()
        .or(streams)
        .unify()
        .recover(rejected)
        .unify();
    counted
        .and(answers)
        .map(|mut request: RequestInFlight, response: Response| {
            request.answered(response.status());
            // It is in flight for as long as what it has become.
            if let Some(upgraded) = response.extensions().get::<UpgradedConnection>() {
                upgraded.keep(request);
            }
            response
        })
        .boxed()
}

/// Everything of the plain port.
pub(super) fn health_service(state: Arc<ServerState>) -> Routes {
    health_routes(state).recover(rejected).unify().boxed()
}

fn health_routes(
    state: Arc<ServerState>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let whole = warp::path!("healthz").map(|| None);
    let one = warp::path!("healthz" / String).map(Some);
    whole.or(one).unify().and(warp::get()).and(warp::query::<Query>()).and_then(
        move |check: Option<String>, query: Query| {
            let answer = health::answer(state.pods.as_ref(), &state.metrics.health, check.as_deref(), &query);
            async move { answer.ok_or_else(warp::reject) }
        },
    )
}

fn system_log_routes(
    state: Arc<ServerState>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let closed = {
        let is_enabled = state.system_logs.is_enabled();
        move || async move {
            match is_enabled {
                true => Err(warp::reject()),
                false => Ok(text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n")),
            }
        }
    };
    let below = warp::path("logs");
    let shown =
        below.and(warp::get()).and(warp::path::tail()).and(warp::path::full()).and(warp::query::<Query>());
    let shown = shown.then(move |_: Tail, path: FullPath, query: Query| {
        let state = Arc::clone(&state);
        async move {
            // What follows the segment, its slash included: a directory has one at its end.
            let path = path.as_str().strip_prefix("/logs").unwrap_or_default();
            state.system_logs.answer(path, &query).await
        }
    });
    below.and(warp::path::tail()).and_then(move |_: Tail| closed()).or(shown).unify()
}

/// No route took the request.
async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    Ok(if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
    } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        text(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#)
    } else {
        not_found()
    })
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// All pods as they are known here.
fn pods(state: &ServerState) -> Response {
    let items = state.pods.pods().into_iter().map(|pod| {
        let mut item = json!(*pod);
        if let Some(item) = item.as_object_mut() {
            // The list says it for all of them.
            item.remove("apiVersion");
            item.remove("kind");
        }
        item
    });
    list(items.collect())
}

/// Pods that have a running container, with no more than names.
fn running_pods(state: &ServerState) -> Response {
    let items = state.pods.pods().into_iter().filter_map(|pod| {
        let status = pod.status.as_ref()?;
        let statuses = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let running: Vec<&str> = statuses
            .into_iter()
            .flatten()
            .flatten()
            .filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
            .map(|status| status.name.as_str())
            .collect();
        let spec = pod.spec.as_ref()?;
        let plain = spec.init_containers.iter().flatten().chain(&spec.containers);
        let plain = plain.map(|container| (&container.name, &container.image));
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let containers: Vec<Value> = plain
            .chain(ephemeral.map(|container| (&container.name, &container.image)))
            .filter(|(name, _)| running.contains(&name.as_str()))
            .map(|(name, image)| json!({ "name": name, "image": image, "resources": {} }))
            .collect();
        let metadata = &pod.metadata;
        (!containers.is_empty()).then(|| {
            json!({
                "metadata": { "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid },
                "spec": { "containers": containers },
                "status": {},
            })
        })
    });
    list(items.collect())
}

fn list(items: Vec<Value>) -> Response {
    warp::reply::json(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
        .into_response()
}
