//! Logging to standard error.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Starts logging. `KUBEWASM_LOG` takes a filter in `tracing`'s own language, and then goes before `-v`.
pub(crate) fn init(verbosity: u8, format: Format) {
    let filter = std::env::var("KUBEWASM_LOG")
        .ok()
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .unwrap_or_else(|| EnvFilter::new(directives(verbosity)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).with_target(verbosity >= 4).init();
        }
        Format::Json => builder.json().init(),
    }
}

/// What each level of `-v` lets through. Libraries stay a step behind; that a request failed is said by who
/// made it, and not by the client and its watches too.
fn directives(verbosity: u8) -> &'static str {
    match verbosity {
        0 => "warn,kube_client=off,kube_runtime::watcher=off",
        1 | 2 => {
            "warn,kube_client=off,kube_runtime::watcher=off,kubewasm=info,kubewasm_extension=info,kubewasm_kubelet=info,kubewasm_modules=info,kubewasm_host=info,kubewasm_policy::server=info,kubewasm_wasi=info"
        }
        3 | 4 => {
            "info,kube_client=off,kube_runtime::watcher=off,kubewasm=debug,kubewasm_control=debug,kubewasm_extension=debug,kubewasm_kubelet=debug,kubewasm_modules=debug,kubewasm_host=debug,kubewasm_policy=debug,kubewasm_wasi=debug"
        }
        5 => "debug,hyper=info,h2=info,rustls=info,tower=info,hyper_util=info",
        _ => "trace",
    }
}
