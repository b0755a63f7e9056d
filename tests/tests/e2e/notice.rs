//! Guests that asked to be told when they are to end, by `KUBEWASM_STOP_NOTICE=stdin`.

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::{
    commands,
    endings::finalizers,
    pods::{Pods, running, terminated},
    suite::{suite, with_temp_ns},
};

async fn noticed(value: &str, args: &[&str], grace: u32) -> Value {
    noticed_of(&suite().await.actor.tagged, value, args, grace)
}

fn noticed_of(image: &str, value: &str, args: &[&str], grace: u32) -> Value {
    json!({
        "terminationGracePeriodSeconds": grace,
        "containers": [{
            "name": "main",
            "image": image,
            "args": args,
            "env": [{ "name": "KUBEWASM_STOP_NOTICE", "value": value }],
        }],
    })
}

/// A guest that waits for its notice does what it has to do when it comes, and ends with its own exit code. One
/// that takes no notice is killed when its grace is over.
#[tokio::test]
async fn a_guest_is_told_to_end_and_given_its_grace() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let listens = noticed("stdin", &["wait", "say", "goodbye", "exit", "7"], 60).await;
        let of_0_3 =
            noticed_of(&commands::image().await, "stdin", &["wait", "say", "goodbye", "exit", "7"], 60);
        let ignores = noticed("stdin", &["sleep", "600"], 1).await;
        for (name, spec, code) in
            [("listens", listens, 7), ("listens-0-3", of_0_3, 7), ("ignores", ignores, 137)]
        {
            pods.create(name, spec).await;
            pods.until(name, "running", running).await;
            // With a finalizer the object stays after the node has let go of it.
            finalizers(&pods, name, json!(["example.dev/keep"])).await;
            pods.api().delete(name, &DeleteParams::default()).await.unwrap();
            let pod = pods.until(name, "an end", |pod| terminated(pod).is_some()).await;
            let end = terminated(&pod).unwrap();
            assert_eq!((end.exit_code, end.reason.as_deref()), (code, Some("Error")), "{name}");
            if code == 7 {
                assert_eq!(pods.logs(name).await, "goodbye\n");
            }
            finalizers(&pods, name, json!([])).await;
            pods.gone(name).await;
        }
    })
    .await;
}

/// Without the notice, standard input is at its end from the beginning.
#[tokio::test]
async fn others_have_no_input() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("alone", &["wait", "say", "nothing came"]).await;
        pods.phase("alone", "Succeeded").await;
        assert_eq!(pods.logs("alone").await, "nothing came\n");
    })
    .await;
}

/// A kind of notice that does not exist is refused before the guest runs.
#[tokio::test]
async fn an_unknown_notice_is_refused() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.create("unknown", noticed("SIGTERM", &["wait"], 1).await).await;
        let state = pods.waiting("unknown", &["CreateContainerConfigError"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.contains("KUBEWASM_STOP_NOTICE") && message.contains("stdin"), "{message}");
    })
    .await;
}
