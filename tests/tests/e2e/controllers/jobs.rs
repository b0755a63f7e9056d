//! Jobs and CronJobs: exit codes, restart counts, and phases that are final.

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::{CronJob, Job, JobCondition},
    core::v1::Pod,
};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use super::{create, template};
use crate::{
    pods::{Pods, phase, terminated},
    suite::{SOON, suite, with_temp_ns},
};

/// Every index of an Indexed Job runs once, and is told which it is.
#[tokio::test]
async fn an_indexed_job_numbers_its_pods() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let args = ["say", "index $(JOB_COMPLETION_INDEX)"];
        let spec = json!({
            "completionMode": "Indexed",
            "completions": 4,
            "parallelism": 2,
            "template": template("Never", &args).await,
        });
        let jobs = create(&client, ns, "numbers", spec).await;
        let job = until(&jobs, "numbers", "Complete").await;
        let status = job.status.unwrap();
        assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(4), Some("0-3")));
        for pod in of_job(&client, ns, "numbers").await {
            let labels = pod.metadata.labels.unwrap();
            let log = pods.logs(&pod.metadata.name.unwrap()).await;
            assert_eq!(log, format!("index {}\n", labels["batch.kubernetes.io/job-completion-index"]));
        }
    })
    .await;
}

/// A Job whose pods fail is tried again as often as it says, and then fails.
#[tokio::test]
async fn a_failing_job_gives_up() {
    with_temp_ns(async |client, ns| {
        let spec = json!({ "backoffLimit": 1, "template": template("Never", &["exit", "3"]).await });
        let jobs = create(&client, ns, "fails", spec).await;
        let job = until(&jobs, "fails", "Failed").await;
        assert_eq!(condition(&job, "Failed").unwrap().reason.as_deref(), Some("BackoffLimitExceeded"));
        assert_eq!(job.status.unwrap().failed, Some(2));
        for pod in of_job(&client, ns, "fails").await {
            assert_eq!((phase(&pod), terminated(&pod).unwrap().exit_code), ("Failed", 3));
        }
    })
    .await;
}

/// Where the pod itself is restarted, its restarts count against the Job's limit.
#[tokio::test]
async fn restarts_count_against_a_jobs_limit() {
    with_temp_ns(async |client, ns| {
        let spec = json!({ "backoffLimit": 1, "template": template("OnFailure", &["exit", "3"]).await });
        let jobs = create(&client, ns, "restarts", spec).await;
        let job = until(&jobs, "restarts", "Failed").await;
        assert_eq!(condition(&job, "Failed").unwrap().reason.as_deref(), Some("BackoffLimitExceeded"));
    })
    .await;
}

/// `podFailurePolicy` sees the guest's exit code: one that ends the Job ends it at once.
#[tokio::test]
async fn an_exit_code_can_end_a_job() {
    with_temp_ns(async |client, ns| {
        let spec = json!({
            "backoffLimit": 6,
            "podFailurePolicy": policy("FailJob", 42),
            "template": template("Never", &["exit", "42"]).await,
        });
        let jobs = create(&client, ns, "hopeless", spec).await;
        let job = until(&jobs, "hopeless", "Failed").await;
        let failed = condition(&job, "Failed").unwrap();
        assert_eq!(failed.reason.as_deref(), Some("PodFailurePolicy"));
        let message = failed.message.as_deref().unwrap_or_default();
        assert!(message.contains("exit code 42"), "{message}");
        assert_eq!(of_job(&client, ns, "hopeless").await.len(), 1);
    })
    .await;
}

/// An exit code that `podFailurePolicy` ignores is tried again however small the limit is.
#[tokio::test]
async fn an_exit_code_can_be_ignored_by_a_job() {
    with_temp_ns(async |client, ns| {
        let spec = json!({
            "backoffLimit": 0,
            "podFailurePolicy": policy("Ignore", 5),
            "template": template("Never", &["exit", "5"]).await,
        });
        let jobs: Api<Job> = create(&client, ns, "patient", spec).await;
        wait::until("a second pod that failed", SOON, async || {
            let pods = of_job(&client, ns, "patient").await;
            match pods.iter().filter(|pod| phase(pod) == "Failed").count() {
                count if count >= 2 => Ok(()),
                count => Err(format!("{count} pods failed")),
            }
        })
        .await
        .unwrap();
        let job = jobs.get("patient").await.unwrap();
        assert!(condition(&job, "Failed").is_none(), "{:?}", job.status);
    })
    .await;
}

/// A CronJob's pod runs like any other, here asked for by hand.
#[tokio::test]
async fn a_cron_job_runs_on_demand() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "schedule": "0 0 1 1 *",
            "jobTemplate": { "spec": { "template": template("OnFailure", &["say", "midnight"]).await } },
        });
        create::<CronJob>(&client, ns, "yearly", spec).await;
        let arguments = ["--namespace", ns, "create", "job", "--from=cronjob/yearly", "now"];
        suite().await.cluster.kubectl(&arguments).await.unwrap();
        until(&Api::namespaced(client.clone(), ns), "now", "Complete").await;
        for pod in of_job(&client, ns, "now").await {
            assert_eq!(pods.logs(&pod.metadata.name.unwrap()).await, "midnight\n");
        }
    })
    .await;
}

/// A CronJob makes its Job by its schedule, at the next full minute, and takes notice of its success.
#[tokio::test]
async fn a_cron_job_runs_by_its_schedule() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "schedule": "* * * * *",
            "concurrencyPolicy": "Forbid",
            "jobTemplate": { "spec": { "template": template("OnFailure", &["say", "on time"]).await } },
        });
        let cron_jobs = create::<CronJob>(&client, ns, "minutely", spec).await;
        let succeeded = |cron_job: Option<&CronJob>| {
            cron_job.and_then(|c| c.status.as_ref()).is_some_and(|s| s.last_successful_time.is_some())
        };
        // It may have just missed a minute.
        let limit = Duration::from_secs(60) + SOON;
        let cron_job =
            wait::object(cron_jobs, "minutely", "a success", limit, succeeded).await.unwrap().unwrap();
        assert!(cron_job.status.unwrap().last_schedule_time.is_some());
        let jobs: Api<Job> = Api::namespaced(client.clone(), ns);
        let job = jobs.list(&ListParams::default()).await.unwrap().items.remove(0);
        assert_eq!(job.owner_references()[0].name, "minutely");
        assert_eq!(condition(&job, "Complete").unwrap().status, "True");
        for pod in of_job(&client, ns, &job.name_any()).await {
            assert_eq!((phase(&pod), pods.logs(&pod.name_any()).await.as_str()), ("Succeeded", "on time\n"));
        }
    })
    .await;
}

/// A policy of one rule, about one exit code of the main container.
fn policy(action: &str, code: i32) -> Value {
    let codes = json!({ "containerName": "main", "operator": "In", "values": [code] });
    json!({ "rules": [{ "action": action, "onExitCodes": codes }] })
}

/// Waits until a condition of the Job is true; one that ends otherwise fails the test at once.
async fn until(jobs: &Api<Job>, name: &str, wanted: &str) -> Job {
    let over = |job: &Job| condition(job, "Complete").or(condition(job, "Failed")).is_some();
    let job = wait::object(jobs.clone(), name, wanted, SOON, |job| job.is_some_and(over)).await.unwrap();
    let job = job.expect("the condition asks for a job");
    assert!(condition(&job, wanted).is_some(), "{:?}", job.status);
    job
}

fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|each| each.type_ == kind && each.status == "True")
}

async fn of_job(client: &Client, ns: &str, name: &str) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
    let own = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    pods.list(&own).await.unwrap().items
}
