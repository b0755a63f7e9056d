//! Commands of WASI 0.3.

use kubewasm_tests::{guests, registry::image::Content};
use serde_json::json;

use crate::{
    pods::{Pods, terminated},
    suite::{suite, with_temp_ns},
};

/// That of `tests/guests/actor-0.3.c`.
pub(crate) async fn image() -> String {
    let content = Content::program("actor", guests::guest("actor-0.3.c").await.unwrap());
    suite().await.registry.push("actor:v0.3", &content).await.unwrap().tagged
}

/// However it ends, the pod's status has it as of any other program; what it has said is in its log.
#[tokio::test]
async fn commands_of_wasi_0_3_end_as_others() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), image().await);
        for (name, last, phase, code, reason) in [
            ("returns", &["say", "last"][..], "Succeeded", 0, "Completed"),
            ("fails", &["fail"], "Failed", 1, "Error"),
            ("exits", &["exit", "42"], "Failed", 42, "Error"),
            ("exits-well", &["exit", "0"], "Succeeded", 0, "Completed"),
            ("traps", &["trap"], "Failed", 134, "Error"),
        ] {
            let args = [&["wait", "say", "hello"][..], last].concat();
            pods.create(name, json!({ "containers": [{ "name": "main", "image": image, "args": args }] }))
                .await;
            let pod = pods.phase(name, phase).await;
            let end = terminated(&pod).unwrap();
            assert_eq!((end.exit_code, end.reason.as_deref()), (code, Some(reason)), "{name}");
            assert!(pods.logs(name).await.starts_with("hello\n"), "{name}");
        }
    })
    .await;
}
