//! `/healthz`: whether the node does its work. Formats are those of all Kubernetes components; see
//! [health endpoints](https://kubernetes.io/docs/reference/using-api/health-checks/).

use std::collections::BTreeSet;

use http::StatusCode;
use warp::reply::Response;

use super::{Pods, reply::text, slis::HealthMetrics};

/// The checks, and what each finds.
fn checks(pods: &dyn Pods) -> [(&'static str, Result<(), String>); 3] {
    [("ping", Ok(())), ("log", Ok(())), ("syncloop", pods.healthy())]
}

/// Answers `/healthz` (`check` is `None`) and `/healthz/<check>`; `None` is no such check. `query` holds
/// decoded pairs: `verbose` shows every check, `exclude` leaves one out. What all together find is noted in `metrics`.
pub(super) fn answer(
    pods: &dyn Pods,
    metrics: &HealthMetrics,
    check: Option<&str>,
    query: &[(String, String)],
) -> Option<Response> {
    let checks = checks(pods);
    if let Some(check) = check {
        let (_, found) = checks.iter().find(|(name, _)| *name == check)?;
        return Some(match found {
            Ok(()) => text(StatusCode::OK, "ok"),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        });
    }
    let is_excluded = |name: &str| query.iter().any(|(key, value)| key == "exclude" && value == name);
    let mut failed = false;
    let mut lines = String::new();
    for (name, found) in &checks {
        if is_excluded(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        metrics.observe(name, found.is_ok());
        lines.push_str(&match found {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(why) => {
                failed = true;
                tracing::warn!(check = name, why, "a health check failed");
                format!("[-]{name} failed: reason withheld\n")
            }
        });
    }
    let excluded = query.iter().filter(|(key, _)| key == "exclude").map(|(_, value)| value.as_str());
    let unknown: BTreeSet<&str> =
        excluded.filter(|name| checks.iter().all(|(known, _)| known != name)).collect();
    if !unknown.is_empty() {
        let unknown: Vec<String> = unknown.into_iter().map(|name| format!("{name:?}")).collect();
        let unknown = unknown.join(", ");
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {unknown}\n"));
    }
    Some(if failed {
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}healthz check failed\n"))
    } else if query.iter().any(|(key, _)| key == "verbose") {
        text(StatusCode::OK, format!("{lines}healthz check passed\n"))
    } else {
        text(StatusCode::OK, "ok")
    })
}
