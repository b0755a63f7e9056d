//! `wasi:logging`: messages of a component, with a level.

use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{GuestState, LARGEST_WRITE, Output, Stream};
use wasmtime::component::{HasData, Linker};

use super::bindings::logging::wasi::logging::logging;
use crate::{
    host_interface::{
        BoundInterface, ComponentBinding, GuestView, HostInterface, InterfaceError, LinkedImport, guest_view,
    },
    wit::{WitInterface, WitWorld},
};

/// How grave a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What goes on inside.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// For whoever looks after it.
    Info,
    /// Something may be wrong.
    Warn,
    /// Something is.
    Error,
    /// It cannot go on.
    Critical,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        })
    }
}

/// Takes messages.
#[async_trait]
pub trait LogSink: fmt::Debug + Send + Sync + 'static {
    /// Takes one. Whoever takes no more makes its component wait.
    async fn log(&self, level: LogLevel, context: &str, message: &str);
}

/// Writes messages to the log of a component, on its standard error: `WARN context: message`, a line each.
#[derive(Clone, Debug)]
pub struct OutputLog(pub Arc<dyn Output>);

#[async_trait]
impl LogSink for OutputLog {
    async fn log(&self, level: LogLevel, context: &str, message: &str) {
        let mut line = if context.is_empty() {
            format!("{level} {message}")
        } else {
            format!("{level} {context}: {message}")
        };
        // One message is one line, however many it has: a guest cannot make one that looks like another's.
        line = line.trim_end().replace(['\n', '\r'], " ");
        line.push('\n');
        let mut rest = Bytes::from(line);
        while !rest.is_empty() {
            self.0.ready().await;
            let room = self.0.room().min(LARGEST_WRITE).min(rest.len());
            let piece = rest.slice(..room);
            if room > 0 && self.0.push(Stream::Stderr, piece) {
                rest = rest.split_off(room);
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// `wasi:logging`. Messages go to the component's log, and to whoever listens to this process' own.
#[derive(Clone, Copy, Debug, Default)]
pub struct WasiLogging;

#[async_trait]
impl HostInterface for WasiLogging {
    fn id(&self) -> &'static str {
        "wasi-logging"
    }

    fn world(&self) -> WitWorld {
        WitWorld {
            imports: Vec::new(),
            exports: vec![WitInterface::from("wasi:logging/logging@0.1.0-draft")],
        }
    }

    async fn bind_component(
        &self,
        component: &ComponentBinding,
    ) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        Ok(Arc::new(BoundLog {
            sink: Arc::new(OutputLog(Arc::clone(&component.output))),
            workload: format!("{}/{}", component.workload.namespace, component.workload.name).into(),
            component: Arc::clone(&component.component),
        }))
    }

    fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()> {
        for import in imports {
            let mut instance = linker.instance(&import.import)?;
            logging::add_to_linker_instance::<_, HasLog>(&mut instance, guest_view::<BoundLog>)?;
        }
        Ok(())
    }
}

/// Where messages of a component go.
#[derive(Clone, Debug)]
struct BoundLog {
    sink: Arc<dyn LogSink>,
    workload: Arc<str>,
    component: Arc<str>,
}

impl BoundInterface for BoundLog {
    fn guest_state(&self) -> Box<dyn Any + Send> {
        Box::new(self.clone())
    }
}

struct HasLog;

impl HasData for HasLog {
    type Data<'a> = GuestView<'a, BoundLog>;
}

impl logging::Host for GuestView<'_, BoundLog> {
    async fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
            logging::Level::Critical => LogLevel::Critical,
        };
        trace(self.state, level, &context, &message);
        self.state.sink.log(level, &context, &message).await;
    }
}

fn trace(of: &BoundLog, level: LogLevel, context: &str, message: &str) {
    let (workload, component) = (&*of.workload, &*of.component);
    macro_rules! event {
        ($level:ident) => {
            // Written as a value, so that what a guest says is not taken for lines of ours.
            tracing::event!(tracing::Level::$level, workload, component, context = ?context, "{message:?}")
        };
    }
    match level {
        LogLevel::Trace => event!(TRACE),
        LogLevel::Debug => event!(DEBUG),
        LogLevel::Info => event!(INFO),
        LogLevel::Warn => event!(WARN),
        LogLevel::Error | LogLevel::Critical => event!(ERROR),
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_host::Capture;

    use super::*;

    #[tokio::test]
    async fn a_message_is_a_line_with_its_level() {
        let capture = Capture::new(1 << 20);
        let log = OutputLog(Arc::new(capture.clone()));
        log.log(LogLevel::Warn, "disk", "almost full\nERROR disk: forged\n").await;
        log.log(LogLevel::Critical, "", "gone").await;
        log.log(LogLevel::Info, "", &"x".repeat(2 * LARGEST_WRITE)).await;
        let text = String::from_utf8(capture.take()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["WARN disk: almost full ERROR disk: forged", "CRITICAL gone"]);
        assert_eq!(lines[2].len(), "INFO ".len() + 2 * LARGEST_WRITE);
        assert_eq!(lines.len(), 3);
    }
}
