//! Plugins that are components.

use std::{sync::Arc, time::Duration};

use kubewasm_workload::{ComponentPlugin, error::WorkloadError, types::Component};

use crate::{
    guests,
    world::{World, component, engine, workload},
};

async fn world() -> World {
    let plugin = ComponentPlugin::new(&engine(), "tally", &guests::tally()).await.unwrap();
    let plugin = plugin.with_deadline(Duration::from_millis(500));
    World::with(|builder| builder.with_plugin(Arc::new(plugin)).unwrap()).await
}

fn user() -> Component {
    component("user", &guests::tallying())
}

#[tokio::test]
async fn each_workload_has_an_instance_of_a_plugin_to_itself() {
    let world = world().await;
    for name in ["one", "other"] {
        world.start(workload(name, vec![user()])).await.unwrap();
    }
    let mut counts = Vec::new();
    for name in ["one", "one", "other", "one", "other"] {
        counts.push(world.call(name, "next", &[]).await.unwrap().unwrap());
    }
    assert_eq!(counts, [1, 2, 1, 3, 2]);
    world.stop("one").await.unwrap();
    world.start(workload("one", vec![user()])).await.unwrap();
    assert_eq!(world.call("one", "next", &[]).await.unwrap(), Some(1), "it has gone with the workload");
}

#[tokio::test]
async fn a_plugin_survives_a_caller_that_traps() {
    let world = world().await;
    world.start(workload("w", vec![user()])).await.unwrap();
    assert!(world.call("w", "crash", &[]).await.is_err());
    assert_eq!(world.call("w", "next", &[]).await.unwrap(), Some(2), "and keeps what it has counted");
}

#[tokio::test]
async fn a_plugin_that_fails_or_hangs_is_replaced_and_nobody_elses_is() {
    let world = world().await;
    for name in ["w", "neighbour"] {
        world.start(workload(name, vec![user()])).await.unwrap();
        assert_eq!(world.call(name, "next", &[]).await.unwrap(), Some(1));
    }
    let error = world.call("w", "break", &[]).await.unwrap_err().to_string();
    assert!(error.contains("component `tally` has failed"), "{error}");
    assert_eq!(world.call("w", "next", &[]).await.unwrap(), Some(1));
    let error = world.call("w", "hang", &[]).await.unwrap_err().to_string();
    assert!(error.contains("component `tally` has not returned"), "{error}");
    assert_eq!(world.call("w", "next", &[]).await.unwrap(), Some(1));
    assert_eq!(world.call("neighbour", "next", &[]).await.unwrap(), Some(2));
}

#[tokio::test]
async fn callers_at_the_same_time_do_not_wait_for_each_other_for_ever() {
    let world = world().await;
    world.start(workload("w", vec![user()])).await.unwrap();
    let calls = (0..100).map(|_| world.call("w", "next", &[]));
    let mut counts: Vec<_> =
        futures::future::join_all(calls).await.into_iter().map(|count| count.unwrap().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=100).collect::<Vec<_>>(), "none is lost");
}

#[tokio::test]
async fn a_plugin_imports_nothing_of_workloads() {
    let error =
        ComponentPlugin::new(&engine(), "p", &guests::importing(&["test:one/x@1.0.0"])).await.unwrap_err();
    assert!(matches!(error, WorkloadError::Link(_)), "{error}");
    assert!(error.to_string().contains("`test:one/x@1.0.0`, which `p` imports"), "{error}");
}
