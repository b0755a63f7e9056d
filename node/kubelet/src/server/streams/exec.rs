//! `/exec/{namespace}/{pod}/{container}`: another instance of the container's program, connected to the caller.

use http::StatusCode;
use kubewasm_streams::{
    negotiation,
    remote_command::{self, Outcome, Streams},
};
use warp::reply::Response;

use super::{PodPath, UpgradeRequest, note, refused, target, upgraded};
use crate::{
    runtime::{CallerStreams, Runtime},
    server::reply::text,
};

pub(super) fn answer(request: UpgradeRequest, pod: PodPath, container: String) -> Response {
    try_answer(request, pod, &container).unwrap_or_else(|refusal| refusal)
}

fn try_answer(mut request: UpgradeRequest, path: PodPath, container: &str) -> Result<Response, Response> {
    let wanted = target::wanted(&request.query)?;
    let pod = path.find(request.state.pods())?;
    let Some(id) = path.running(&pod, container, request.state.pods()) else {
        let message = format!("container not found ({container:?})");
        return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    let commands = request.query.iter().filter(|(name, _)| name == "command");
    let argv: Vec<String> = commands.map(|(_, value)| value.clone()).collect();
    if argv.is_empty() {
        return Err(text(StatusCode::BAD_REQUEST, "no command was given: name the program in `command`"));
    }
    let runtime = request.runtime()?;
    let agreed = negotiation::remote_command(&request.method, &request.headers).map_err(|no| refused(*no))?;
    let (upgrade, connection) = request.connection()?;
    let times = request.state.stream_times();
    let response = connection.answer(upgrade, move |io| async move {
        let run = |streams| run(runtime.as_ref(), &id, &argv, wanted.tty, streams);
        note("exec", &path, remote_command::serve(io, agreed.protocol, wanted, times, run).await);
    });
    Ok(upgraded(response, agreed.headers))
}

async fn run(runtime: &dyn Runtime, id: &str, argv: &[String], tty: bool, streams: Streams) -> Outcome {
    let Streams { stdin, stdout, stderr, size } = streams;
    let streams = CallerStreams {
        stdin: stdin.map(|stream| Box::new(stream) as _),
        stdout: stdout.map(|stream| Box::new(stream) as _),
        stderr: stderr.map(|stream| Box::new(stream) as _),
        tty,
        earlier: false,
        size,
    };
    match runtime.exec_stream(id, argv, streams).await {
        Ok(0) => Outcome::Success,
        Ok(code) => {
            let message = format!("error executing command [{}], exit code {code}", argv.join(" "));
            Outcome::Exit { code, message }
        }
        Err(error) => Outcome::Failed(format!("error executing command in container: {error}")),
    }
}
