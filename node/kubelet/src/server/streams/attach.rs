//! `/attach/{namespace}/{pod}/{container}`: the caller connected to the container itself.

use http::StatusCode;
use kubewasm_streams::{
    negotiation,
    remote_command::{self, Outcome, Streams},
};
use warp::reply::Response;

use super::{PodPath, UpgradeRequest, note, refused, target, target::Stdio, upgraded};
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
    let running = path.running(&pod, container, request.state.pods()).zip(target::stdio(&pod, container));
    let Some((id, stdio)) = running else {
        let message = format!("container {container} not found in pod {}", path.full_name());
        return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    // Whether it is a terminal was settled when it was started, whatever the caller says.
    if stdio.tty && wanted.stderr {
        return Err(text(StatusCode::INTERNAL_SERVER_ERROR, "tty and stderr cannot both be true"));
    }
    let runtime = request.runtime()?;
    let agreed = negotiation::remote_command(&request.method, &request.headers).map_err(|no| refused(*no))?;
    let (upgrade, connection) = request.connection()?;
    let times = request.state.stream_times();
    let response = connection.answer(upgrade, move |io| async move {
        let run = |streams| run(runtime.as_ref(), &id, stdio, streams);
        note("attach", &path, remote_command::serve(io, agreed.protocol, wanted, times, run).await);
    });
    Ok(upgraded(response, agreed.headers))
}

async fn run(runtime: &dyn Runtime, id: &str, stdio: Stdio, streams: Streams) -> Outcome {
    let Streams { stdin, stdout, stderr, size } = streams;
    // Input for a container that asks for none is thrown away, so that its caller does not wait.
    let (stdin, unread) = if stdio.stdin { (stdin, None) } else { (None, stdin) };
    let streams = CallerStreams {
        stdin: stdin.map(|stream| Box::new(stream) as _),
        stdout: stdout.map(|stream| Box::new(stream) as _),
        stderr: stderr.map(|stream| Box::new(stream) as _),
        tty: stdio.tty,
        // Clients read the log where they want it.
        earlier: false,
        size,
    };
    let thrown_away = async {
        if let Some(mut unread) = unread {
            let _ = tokio::io::copy(&mut unread, &mut tokio::io::sink()).await;
        }
        std::future::pending::<()>().await;
    };
    let attached = tokio::select! {
        attached = runtime.attach(id, streams) => attached,
        () = thrown_away => return Outcome::Success,
    };
    match attached {
        Ok(()) => Outcome::Success,
        Err(error) => Outcome::Failed(format!("error attaching to container: {error}")),
    }
}
