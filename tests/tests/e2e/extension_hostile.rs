//! Clients that are not what they should be, and modules that are as large as they may be: the others do not feel them.

use std::time::Duration;

use kubewasm_tests::{
    envoy::Variant,
    guests,
    subscriber::{Discovery, Subscriber},
    wait,
    web::Load,
};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::{
    extension_modules::{FileServer, filter, sha256},
    extension_site::{ExtensionServer, ExtensionSite, is_filtered},
    suite::{SOON, with_temp_ns},
};

const MIB: usize = 1 << 20;

fn spec(file: &str, plugin: &str) -> Value {
    json!({ "image": { "protocol": "local_fs", "uri": file }, "plugin_configuration": { "value": plugin } })
}

/// Bytes that a server has in memory.
fn memory(server: &ExtensionServer) -> usize {
    let pid = Pid::from_raw(server.process.id().try_into().unwrap()).unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

/// Streams that are opened, asked for and never read hold up nobody, and what waits for them is the newest alone: a hundred changes
/// of a large extension are not kept for them.
#[tokio::test]
async fn who_never_reads_holds_up_nobody() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let large = guests::with_section(&filter("large"), &vec![7; 8 * MIB]);
        std::fs::write(site.modules().join("large.wasm"), &large).unwrap();
        let server = site.start("a").await;
        site.apply("filter", spec("large.wasm", "0")).await;
        let envoy = site.envoy(&server, Variant::StateOfTheWorld, "filter").await;
        envoy.until("the filter", |answer| is_filtered(answer, "large", "", "0")).await.unwrap();
        let name = site.filter("filter");
        let mut silent: Vec<(Discovery, Subscriber)> = Vec::new();
        for number in 0..40 {
            // A connection each: the window of a connection is all that it takes otherwise.
            let discovery = site.discovery(&server).await;
            let stream = discovery.subscribe(Variant::ALL[number % 4], &[&name]).await.unwrap();
            silent.push((discovery, stream));
        }
        let before = memory(&server);
        let load = Load::start(envoy.port(), 2, |answer| answer.header("protocol") == "large");
        for round in 1..=20 {
            let plugin = round.to_string();
            site.apply("filter", spec("large.wasm", &plugin)).await;
            envoy.until("a change", |answer| is_filtered(answer, "large", "", &plugin)).await.unwrap();
        }
        load.end().await.unwrap();
        let grown = memory(&server).saturating_sub(before);
        assert!(
            grown < 40 * 8 * MIB,
            "{} MiB more for 40 who do not read 8 MiB, of 20 versions",
            grown / MIB
        );
        // Those who read after all get what is there now.
        let (_, stream) = &mut silent[1];
        let mut last = String::new();
        wait::until("the newest", SOON, async || match stream.take().await {
            Ok(update) => {
                last = plugin_of(&update);
                if last == "20" { Ok(()) } else { Err(last.clone()) }
            }
            Err(error) => panic!("{error:#}"),
        })
        .await
        .unwrap();
        assert_eq!(last, "20");
        site.end().await;
    })
    .await;
}

/// The configuration of the plugin that is in an update of one extension.
fn plugin_of(update: &kubewasm_tests::subscriber::Update) -> String {
    use envoy_types::pb::{envoy::extensions::filters::http::wasm::v3::Wasm, google::protobuf::StringValue};
    use prost::Message as _;
    let (_, _, any) = &update.resources[0];
    let config = Wasm::decode(any.value.as_slice()).unwrap().config.unwrap();
    StringValue::decode(config.configuration.unwrap().value.as_slice()).unwrap().value
}

/// A thousand names that are not there, on each of many streams: who has a name that is there gets it at once, and what is made later
/// arrives where it was asked for.
#[tokio::test]
async fn a_thousand_names_that_are_not_there_cost_little() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
        let server = site.start("a").await;
        let names: Vec<String> = (0..999).map(|number| site.filter(&format!("none-{number}"))).collect();
        let late = site.filter("late");
        let all: Vec<&str> = names.iter().map(String::as_str).chain([late.as_str()]).collect();
        let discovery = site.discovery(&server).await;
        let before = memory(&server);
        let mut streams = Vec::new();
        for number in 0..50 {
            let variant = Variant::ALL[number % 4];
            streams.push(discovery.subscribe(variant, &all).await.unwrap());
        }
        site.apply("there", spec("filter.wasm", "there")).await;
        let envoy = site.envoy(&server, Variant::Aggregated, "there").await;
        envoy.until("the filter", |answer| is_filtered(answer, "file", "", "there")).await.unwrap();
        site.apply("late", spec("filter.wasm", "late")).await;
        for stream in &mut streams {
            let update = tokio::time::timeout(SOON, stream.take()).await.unwrap().unwrap();
            assert_eq!(update.names(), [late.as_str()]);
        }
        let grown = memory(&server).saturating_sub(before);
        assert!(grown < 64 * MIB, "{} MiB more for 50 streams of 1000 names", grown / MIB);
        // One who asks for more than a stream may is told so, and nobody else notices.
        let more: Vec<String> = (0..200_000).map(|number| site.filter(&format!("n-{number}"))).collect();
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        for variant in Variant::ALL {
            let refused = async {
                let mut stream = discovery.subscribe(variant, &more).await?;
                stream.next().await
            };
            let outcome = tokio::time::timeout(SOON, refused).await.expect("an answer");
            assert!(outcome.is_err(), "{variant:?}");
        }
        assert!(is_filtered(&envoy.get().await.unwrap(), "file", "", "there"));
        site.apply("there", spec("filter.wasm", "changed")).await;
        envoy.until("a change", |answer| is_filtered(answer, "file", "", "changed")).await.unwrap();
        site.end().await;
    })
    .await;
}

/// A module of 100 MiB arrives where the server takes it, in one message, while smaller ones go on changing.
#[tokio::test]
async fn a_module_of_a_hundred_mebibytes_arrives() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await.flag(format!("--max-module-bytes={}", 128 * MIB));
        let files = FileServer::start(false).await;
        let large = guests::with_section(&filter("large"), &vec![7; 100 * MIB]);
        let digest = sha256(&large);
        let uri = files.put("/large.wasm", large);
        std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
        let server = site.start("a").await;
        site.apply("small", spec("filter.wasm", "0")).await;
        let small = site.envoy(&server, Variant::Delta, "small").await;
        small.until("the filter", |answer| is_filtered(answer, "file", "", "0")).await.unwrap();
        let load = Load::start(small.port(), 1, |answer| answer.header("protocol") == "file");
        let image = json!({ "protocol": "http", "uri": uri, "sha256": digest });
        site.apply("large", json!({ "image": image, "plugin_configuration": { "value": "1" } })).await;
        let state = site.published("large").await;
        assert!(state.number("sizeBytes") > 100 * MIB as u64, "{state:?}");
        let name = site.filter("large");
        let discovery = site.discovery(&server).await;
        let mut readers = Vec::new();
        for variant in Variant::ALL {
            let mut stream = discovery.subscribe(variant, &[&name]).await.unwrap();
            readers.push(tokio::spawn(async move {
                stream.take().await.map(|update| update.resources[0].2.value.len())
            }));
        }
        site.apply("small", spec("filter.wasm", "1")).await;
        small.until("a change", |answer| is_filtered(answer, "file", "", "1")).await.unwrap();
        for reader in readers {
            let size = tokio::time::timeout(SOON, reader).await.unwrap().unwrap().unwrap();
            assert!(size > 100 * MIB, "{size}");
        }
        let envoy = site.envoy(&server, Variant::StateOfTheWorld, "large").await;
        envoy.until("the large filter", |answer| is_filtered(answer, "large", "", "1")).await.unwrap();
        load.end().await.unwrap();
        assert_eq!(files.asked(), 1, "it was fetched once for all of them");
        site.end().await;
    })
    .await;
}

/// Connections that say nothing, and some that talk nonsense.
#[tokio::test]
async fn nonsense_is_hung_up_on() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
        let server = site.start("a").await;
        site.apply("filter", spec("filter.wasm", "0")).await;
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap());
        }
        let mut talker = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        talker.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), talker.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "it is let talk");
        let envoy = site.envoy(&server, Variant::Delta, "filter").await;
        envoy.until("the filter", |answer| is_filtered(answer, "file", "", "0")).await.unwrap();
        site.end().await;
    })
    .await;
}
