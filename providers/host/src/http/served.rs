//! What the requests of one container have in common.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    certificate::{InvalidCertificate, ServerCertificate},
    failures::FailureSink,
    gate::Gate,
    instances::IdleInstances,
    metrics::{HttpMetrics, HttpStats},
    settings::HttpSettings,
    shared::SharedInstances,
    tls::{CertificateOutcome, ServerTls},
};
use crate::{
    account::{Account, HeldMemory},
    cache::Loaded,
    common::Common,
    cpu,
    host::Host,
    outcome::Overflow,
    output::{Output, Stream},
    owned_setup::OwnedSetup,
};

/// What the requests of one container have in common.
pub(super) struct Served {
    pub(super) host: Arc<Host>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) settings: HttpSettings,
    pub(super) setup: OwnedSetup,
    pub(super) common: Common,
    pub(super) gate: Arc<Gate>,
    pub(super) idle: IdleInstances,
    /// Those that several requests are in.
    pub(super) shared: SharedInstances,
    pub(super) metrics: HttpMetrics,
    pub(super) log: ServerLog,
    /// It speaks TLS, and nothing else.
    pub(super) tls: Option<ServerTls>,
    /// Who is told of failed requests.
    pub(super) failures: Option<FailureSink>,
    /// The container is about to end: whoever is answered is told to make a new connection, elsewhere.
    drains: AtomicBool,
    tasks: TaskTracker,
    kill: CancellationToken,
    pub(super) _held: HeldMemory,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Served {
    pub(super) fn new(
        host: Arc<Host>,
        loaded: Arc<Loaded>,
        settings: HttpSettings,
        setup: OwnedSetup,
        common: Common,
        held: HeldMemory,
    ) -> Self {
        let gate = Gate::new(settings.max_instances as usize, settings.queue as usize);
        let log = ServerLog { output: Arc::clone(&setup.output), warnings: Mutex::new((Instant::now(), 0)) };
        Self {
            host,
            loaded,
            settings,
            setup,
            common,
            gate,
            idle: IdleInstances::default(),
            shared: SharedInstances::default(),
            metrics: HttpMetrics::default(),
            log,
            tls: None,
            failures: None,
            drains: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            kill: CancellationToken::new(),
            _held: held,
        }
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.setup.account
    }

    /// What is said of a stack that was too small.
    pub(super) fn overflow(&self) -> Overflow {
        self.host.overflow(&self.loaded)
    }

    /// Takes note of a request that has failed: in the container's log, with what it was, and for whoever is to be told, where
    /// that is nobody's to know.
    pub(super) fn failed(&self, request: &str, reason: &str) {
        self.metrics.failed();
        self.tell(request, reason);
    }

    /// The same of a request whose time was over.
    pub(super) fn timed_out(&self, request: &str, reason: &str) {
        self.metrics.timed_out();
        self.tell(request, reason);
    }

    fn tell(&self, request: &str, reason: &str) {
        self.log.warn(&format!("{request}: {reason}"));
        self.tell_of_failure(reason);
    }

    /// Has somebody told that a request has failed.
    pub(super) fn tell_of_failure(&self, reason: &str) {
        if let Some(failures) = &self.failures {
            failures.failed(reason);
        }
    }

    /// What the URLs of requests begin with.
    pub(super) fn scheme(&self) -> http::uri::Scheme {
        if self.tls.is_some() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP }
    }

    pub(super) fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    pub(super) fn begin_to_drain(&self) {
        self.drains.store(true, Ordering::Relaxed);
    }

    /// Does something of this container's in its turns, until it is done or the container is killed.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let turns = self.in_turns(work);
        let work = self.kill.clone().run_until_cancelled_owned(turns);
        // Where there is no executor any more, nothing is left to be done.
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            executor.spawn(self.tasks.track_future(work));
        }
    }

    /// The same, with no more time than a request has.
    pub(super) fn finish(&self, work: impl Future<Output = ()> + Send + 'static) {
        let timeout = self.settings.request_timeout;
        self.spawn(async move {
            // Whoever has the answer has all that there was to have.
            let _ = tokio::time::timeout(timeout, work).await;
        });
    }

    pub(super) fn in_turns<F: Future>(&self, work: F) -> cpu::Turns<F> {
        let (scheduler, account) = (Arc::clone(self.host.scheduler()), Arc::clone(self.account()));
        let began = Arc::new(cpu::TurnStart::new(Arc::clone(&account)));
        cpu::Turns::new(work, scheduler, account, began)
    }

    /// Waits until nothing of the container's is under way.
    pub(super) async fn is_done(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends everything that is under way.
    pub(super) fn kill(&self) {
        self.kill.cancel();
        self.idle.clear();
    }

    pub(super) fn stats(&self) -> HttpStats {
        self.metrics.stats(self.gate.queued())
    }
}

/// Where it is noted down what became of requests: in the container's own output. What does not fit there is left out, so
/// that nobody waits for it.
#[derive(Debug)]
pub(super) struct ServerLog {
    output: Arc<dyn Output>,
    /// Since when, and how many.
    warnings: Mutex<(Instant, u32)>,
}

/// Warnings in each [`WARNING_PERIOD`]; the last one says that there are more.
const WARNINGS: u32 = 20;
const WARNING_PERIOD: Duration = Duration::from_secs(1);

impl ServerLog {
    /// A line of the access log, with its end.
    pub(super) fn line(&self, line: &str) {
        self.push(Stream::Stdout, line.to_owned());
    }

    /// Something that went wrong.
    pub(super) fn warn(&self, text: &str) {
        let count = {
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            if warnings.0.elapsed() >= WARNING_PERIOD {
                *warnings = (Instant::now(), 0);
            }
            warnings.1 = warnings.1.saturating_add(1);
            warnings.1
        };
        if count < WARNINGS {
            self.push(Stream::Stderr, format!("kubewasm: {text}\n"));
        } else if count == WARNINGS {
            self.push(Stream::Stderr, format!("kubewasm: {text}; others are left out for a second\n"));
        }
    }

    fn push(&self, stream: Stream, text: String) {
        if self.output.room() >= text.len() {
            self.output.push(stream, text.into());
        }
    }
}

/// What someone may ask who does not serve.
#[derive(Clone, Debug)]
pub struct HttpMonitor(pub(super) Arc<Served>);

impl HttpMonitor {
    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> HttpStats {
        self.0.stats()
    }

    /// Gives the server another certificate, for handshakes from now on. What is connected goes on.
    ///
    /// # Errors
    /// [`InvalidCertificate::Unusable`]; the one that it has stays.
    pub fn set_certificate(
        &self,
        certificate: &ServerCertificate,
    ) -> Result<CertificateOutcome, InvalidCertificate> {
        let tls = self.0.tls.as_ref();
        tls.map_or(Ok(CertificateOutcome::NotServed), |tls| tls.set(certificate))
    }

    /// Ends all that is under way, and returns when nothing is. For after the server's own future.
    pub async fn end(&self) {
        self.0.kill();
        self.0.is_done().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Capture;

    #[test]
    fn warnings_are_bounded() {
        let capture = Capture::new(1 << 20);
        let log = ServerLog { output: Arc::new(capture.clone()), warnings: Mutex::new((Instant::now(), 0)) };
        for _ in 0..100 {
            log.warn("x");
        }
        let text = String::from_utf8(capture.take()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (20, "kubewasm: x"));
        assert!(lines[19].contains("left out"), "{text}");
    }
}
