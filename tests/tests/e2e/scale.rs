//! Many pods at once.

use futures::future::join_all;

use crate::{pods::Pods, suite::with_temp_ns};

/// Fifty pods that are created at once all run and end.
#[tokio::test]
async fn fifty_pods_at_once() {
    with_temp_ns(async |client, ns| {
        let pods = &Pods::new(&client, ns);
        let names: Vec<String> = (0..50).map(|number| format!("one-of-many-{number}")).collect();
        join_all(names.iter().map(async |name| pods.act(name, &["say", name]).await)).await;
        for name in &names {
            pods.phase(name, "Succeeded").await;
        }
        let logs = join_all(names.iter().map(|name| pods.logs(name))).await;
        for (name, log) in names.iter().zip(logs) {
            assert_eq!(log, format!("{name}\n"));
        }
    })
    .await;
}
