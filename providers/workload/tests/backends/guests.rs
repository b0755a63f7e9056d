//! A real guest, a service of a workload, with several back ends of each interface on real servers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kubewasm_host::{Capture, Output};
use kubewasm_tests::guests;
use kubewasm_workload::{
    engine::Engine,
    host::{Host, HostApi as _, HostBuilder},
    host_interface::WorkloadIdentity,
    interfaces::{
        blobstore::WasiBlobStore, config::WasiConfig, keyvalue::WasiKeyValue, logging::WasiLogging,
        messaging::WasmcloudMessaging,
    },
    output::Outputs,
    types::{LocalResources, Service, Workload, WorkloadStartRequest, WorkloadState},
    wit::WitInterface,
};
use tokio::io::AsyncReadExt as _;

use crate::servers::{PASSWORD, Server};

const PATIENCE: Duration = Duration::from_secs(120);

/// All that guests write.
#[derive(Debug)]
struct Log(Mutex<Capture>);

impl Outputs for Log {
    fn open(&self, _: &Arc<WorkloadIdentity>, _: &str) -> Arc<dyn Output> {
        Arc::new(self.0.lock().unwrap().clone())
    }
}

fn entry(interface: &str, name: &str, config: &[(&str, &str)]) -> WitInterface {
    WitInterface {
        name: Some(name.to_owned()),
        config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..WitInterface::from(interface)
    }
}

async fn host(log: &Arc<Log>) -> Arc<Host> {
    let builder = HostBuilder::new()
        .with_engine(Engine::builder().build().unwrap())
        .with_outputs(Arc::<Log>::clone(log))
        .with_plugin(Arc::new(WasiKeyValue::new()))
        .and_then(|builder| builder.with_plugin(Arc::new(WasiBlobStore::new())))
        .and_then(|builder| builder.with_plugin(Arc::new(WasiConfig::new())))
        .and_then(|builder| builder.with_plugin(Arc::new(WasiLogging)))
        .and_then(|builder| builder.with_plugin(Arc::new(WasmcloudMessaging::new())));
    builder.unwrap().build().unwrap().start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_uses_several_servers_at_once() {
    let (redis, nats, s3) = (Server::redis().await, Server::nats().await, Server::s3().await);
    let client = nats.nats_client().await;
    let jetstream = async_nats::jetstream::new(client.clone());
    let config = async_nats::jetstream::kv::Config { bucket: "values".to_owned(), ..Default::default() };
    let values = jetstream.create_key_value(config).await.unwrap();
    let mut messages = client.subscribe("news").await.unwrap();
    client.flush().await.unwrap();

    let steps = [
        ("set cache text hello", "set"),
        ("increment cache n 41", "41"),
        ("set values text hello", "set"),
        ("increment values n 258", "258"),
        ("set other text mine", "set"),
        ("get other text", "mine"),
        ("create objects/the-bucket", "objects/the-bucket"),
        ("write objects/the-bucket a/b.txt hello", "false"),
        ("read objects/the-bucket a/b.txt 1 2", "2 el"),
        ("create files", "files"),
        ("write-zeroes files large 8", "false"),
        ("count files large", "8388608"),
        ("copy objects/the-bucket a/b.txt files b.txt", "copied"),
        ("list files", "b.txt,large"),
        ("publish news it-works", "published"),
        ("publish $JS.API.INFO x", "error: access denied: subjects that begin with $ are the server's own"),
        ("config nothing", "none"),
    ];
    let keyvalue = "wasi:keyvalue/store,atomics,batch@0.2.0-draft";
    let blobstore = "wasi:blobstore/types,container,blobstore@0.2.0-draft";
    let (redis_url, nats_url, s3_url) = (redis.url(), nats.url(), s3.url());
    let host_interfaces = vec![
        entry(keyvalue, "cache", &[("url", &redis_url)]),
        entry(keyvalue, "values", &[("url", &nats_url)]),
        entry(
            blobstore,
            "objects",
            &[("endpoint", &s3_url), ("access_key_id", "id"), ("secret_access_key", PASSWORD)],
        ),
        entry(blobstore, "files", &[("url", &nats_url)]),
        WitInterface { name: None, ..entry("wasmcloud:messaging/consumer@0.2.0", "", &[("url", &nats_url)]) },
    ];
    let folder = guests::repository().join("tests/guests/interfaces");
    let bytes = guests::rust::program(&folder, "interfaces").await.unwrap().into();
    let arguments = steps.iter().map(|(step, _)| (*step).to_owned()).collect();
    let local_resources = LocalResources { arguments, memory_limit_mb: 64, ..LocalResources::default() };
    let workload = Workload {
        namespace: "test".to_owned(),
        name: "w".to_owned(),
        service: Some(Service { bytes, local_resources, ..Service::default() }),
        host_interfaces,
        ..Workload::default()
    };

    let log = Arc::new(Log(Mutex::new(Capture::new(1 << 20))));
    let host = host(&log).await;
    host.workload_start(WorkloadStartRequest { workload_id: "w".to_owned(), workload }).await.unwrap();
    let mut status = host.watch("w").unwrap();
    let ended = status
        .wait_for(|status| matches!(status.workload_state, WorkloadState::Completed | WorkloadState::Error));
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("the service ends").unwrap().clone();
    let said = String::from_utf8(log.0.lock().unwrap().take()).unwrap();
    assert_eq!(ended.workload_state, WorkloadState::Completed, "{ended:?}: {said}");
    let expected: Vec<_> = steps.iter().map(|(step, answer)| format!("{step} -> {answer}")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);

    // What other clients see of it.
    assert_eq!(crate::values::redis_cli(&redis, &["MGET", "cache:text", "cache:n"]), "hello\n41");
    assert_eq!(values.get("text").await.unwrap().unwrap(), "hello");
    assert_eq!(values.get("n").await.unwrap().unwrap(), [0, 0, 0, 0, 0, 0, 1, 2].as_slice());
    let objects = jetstream.get_object_store("files").await.unwrap();
    let mut text = String::new();
    objects.get("b.txt").await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    let message = futures::StreamExt::next(&mut messages).await.unwrap();
    assert_eq!(message.payload, "it-works");
    host.stop().await;
}
