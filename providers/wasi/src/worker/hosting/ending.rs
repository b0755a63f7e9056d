//! When a container that was asked to stop has to have ended.

use kubewasm_host::{Guest, exit::Exit};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Runs a guest to its end or until it is asked to stop. WASI has no signals: without a `notice` a guest
/// cannot be told to end, nor can it refuse, so that it ends at once and the grace is what it has at most. With
/// one, it is told, and killed when its grace is over.
pub(super) async fn until_stopped(
    guest: Guest,
    mut stop: watch::Receiver<Option<Instant>>,
    notice: Option<CancellationToken>,
) -> Exit {
    let stopped = async move {
        let deadline = asked(&mut stop).await;
        let Some(notice) = &notice else { return Instant::now() >= deadline };
        notice.cancel();
        is_over(stop).await;
        true
    };
    tokio::select! {
        biased;
        killed = stopped => Exit::stopped(killed),
        exit = guest.run() => exit,
    }
}

/// Waits until the grace is over, which may become shorter meanwhile.
pub(super) async fn is_over(mut stop: watch::Receiver<Option<Instant>>) {
    loop {
        let deadline = asked(&mut stop).await;
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return,
            // The deadline may have come nearer.
            _ = stop.changed() => {}
        }
    }
}

/// Waits until somebody asks for the end, and returns when that has to have come.
async fn asked(stop: &mut watch::Receiver<Option<Instant>>) -> Instant {
    match stop.wait_for(Option::is_some).await.map(|deadline| *deadline) {
        Ok(Some(deadline)) => deadline,
        // The sender lives in the table for as long as the container runs.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}
