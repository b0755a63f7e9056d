//! The service of a workload, from its start to its end.

use std::{sync::Arc, time::Duration};

use kubewasm_host::{Host, exit::Exit};
use tokio_util::sync::CancellationToken;

use crate::{assemble::AssembledService, record::WorkloadRecord, workload::WorkloadState};

/// After the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is waited for before the next start, after so many failures.
fn pause(failures: u64) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    (FIRST_PAUSE * 2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE)
}

/// Runs a service until it has ended as it wanted to, has failed too often, or is to end.
pub(crate) async fn run(
    host: Arc<Host>,
    service: AssembledService,
    record: Arc<WorkloadRecord>,
    ends: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let failure = tokio::select! {
            biased;
            () = ends.cancelled() => return,
            exit = run_once(&host, &service) => match exit {
                Ok(exit) if exit.code == 0 => {
                    record.set(WorkloadState::Completed, "the service has completed");
                    return;
                }
                Ok(Exit { code, message, .. }) if message.is_empty() => format!("the service exited with {code}"),
                Ok(Exit { code, message, .. }) => format!("the service exited with {code}: {message}"),
                Err(reason) => format!("the service could not be started: {reason}"),
            },
        };
        failures += 1;
        if failures > service.max_restarts {
            let times = format!("{failure} (restarted {} times)", service.max_restarts);
            record.set(WorkloadState::Error, &times);
            return;
        }
        record.set(
            WorkloadState::Running,
            &format!("{failure}; restart {failures} of {}", service.max_restarts),
        );
        tokio::select! {
            () = ends.cancelled() => return,
            () = tokio::time::sleep(pause(failures)) => {}
        }
    }
}

async fn run_once(host: &Host, service: &AssembledService) -> Result<Exit, String> {
    let setup = service.ground.setup(&service.extension);
    let guest = host.prepare(Arc::clone(&service.loaded), setup).map_err(|error| error.to_string())?;
    Ok(guest.run().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_longest() {
        for (failures, millis) in [(1, 100), (2, 200), (4, 800), (8, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(pause(failures), Duration::from_millis(millis), "{failures}");
        }
    }
}
