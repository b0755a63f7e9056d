//! `/run/{namespace}/{pod}/{container}`: a command without streams, run to its end.

use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use warp::reply::{Reply as _, Response};

use super::{PodPath, Query, runtime, value};
use crate::{
    runtime::ExecIo,
    server::{reply::text, routes::ServerState},
};

/// Bytes of output that are answered with.
const OUTPUT: usize = 1024 * 1024;

/// Answers with what the command has printed. It ends with the request.
pub(super) async fn answer(state: &ServerState, pod: &PodPath, container: &str, query: &Query) -> Response {
    run(state, pod, container, query).await.unwrap_or_else(|refusal| refusal)
}

async fn run(
    state: &ServerState,
    path: &PodPath,
    container: &str,
    query: &Query,
) -> Result<Response, Response> {
    let failure = |message: String| text(StatusCode::INTERNAL_SERVER_ERROR, message);
    let pod = path.find(state.pods())?;
    let Some(id) = path.running(&pod, container, state.pods()) else {
        return Err(failure(format!("container not found ({container:?})")));
    };
    let Some(command) = value(query, "cmd").filter(|command| !command.is_empty()) else {
        return Err(text(StatusCode::BAD_REQUEST, "no command was given: name the program in `cmd`"));
    };
    // As upstream: the parameter is the command's words with single spaces between them.
    let argv: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let end = runtime(state)?.exec(&id, &argv, ExecIo::Collect { limit: OUTPUT }).await;
    let end = end.map_err(|error| failure(error.to_string()))?;
    if end.exit_code != 0 {
        let output = String::from_utf8_lossy(&end.output);
        return Err(failure(format!("command '{command}' exited with {}: {output}", end.exit_code)));
    }
    let mut response = end.output.into_response();
    // Upstream's, although it is text.
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
