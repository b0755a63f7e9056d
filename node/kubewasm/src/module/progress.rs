//! Bars for long work, on a terminal and for people.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kubewasm_modules::PullProgress;
use tokio_util::task::AbortOnDropHandle;

use super::ModuleSession;

/// A bar that counts bytes; it vanishes when it is dropped, and is none where nobody looks.
pub(crate) struct TransferBar(ProgressBar);

impl TransferBar {
    pub(crate) fn new(session: &ModuleSession, what: String) -> Self {
        // Draws nothing unless standard error is a terminal.
        let target =
            if session.is_for_people() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what);
        let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    pub(crate) fn update(&self, state: PullProgress) {
        self.0.set_length(state.total_bytes);
        self.0.set_position(state.done_bytes);
    }
}

impl Drop for TransferBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How long work takes of which nothing is shown: most of it was done before, and then a terminal would only flicker.
const UNSEEN: Duration = Duration::from_millis(300);

/// The same for work whose length nobody knows.
pub(crate) struct Spinner {
    bar: ProgressBar,
    _showing: Option<AbortOnDropHandle<()>>,
}

impl Spinner {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(session: &ModuleSession, what: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
            .with_style(ProgressStyle::default_spinner())
            .with_message(what);
        let showing = session.is_for_people().then(|| {
            let bar = bar.clone();
            tokio::spawn(async move {
                tokio::time::sleep(UNSEEN).await;
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(Duration::from_millis(100));
            })
        });
        Self { bar, _showing: showing.map(AbortOnDropHandle::new) }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
