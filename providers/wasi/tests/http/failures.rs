//! Who is told of requests that have failed, and of what.

use kubewasm_host::http::{FailureSink, HttpServing, RequestFailures};

use super::world::{OF_WASI_0_2, PATIENCE, Server};

/// What is said of each failed request: nothing of what was in it.
#[tokio::test(flavor = "multi_thread")]
async fn failed_requests_are_told_of_by_their_reason() {
    let failures = RequestFailures::default();
    let serving = HttpServing {
        settings: "request-timeout=500ms".parse().unwrap(),
        certificate: None,
        failures: Some(FailureSink { failures: failures.clone(), id: "abc".into() }),
    };
    let server = Server::serving(OF_WASI_0_2, serving, 64 << 20).await;
    for (path, status, expected) in [
        ("/trap?hunter2", 500, "wasm trap: wasm `unreachable` instruction executed"),
        ("/nothing?hunter2", 500, "the guest returned without an answer"),
        ("/error?hunter2", 500, "the guest answered with an error"),
        ("/sleep?60000", 504, "the guest did not answer in time"),
    ] {
        assert_eq!(server.get(path).await.status, status, "{path}");
        let told = tokio::time::timeout(PATIENCE, failures.take()).await.expect("it is told of");
        let [(id, failed)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((id.as_str(), failed.count, failed.last.as_str()), ("abc", 1, expected), "{path}");
    }
    let mut late = server.connect().await;
    late.send("GET /late-trap HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(late.answer().await, None);
    let told = tokio::time::timeout(PATIENCE, failures.take()).await.expect("it is told of");
    assert!(told[0].1.last.contains("unreachable"), "{told:?}");
    for status in [200, 404, 503] {
        assert_eq!(server.get(&format!("/status?{status}")).await.status, status);
    }
    for _ in 0..3 {
        server.get("/trap").await;
    }
    let told = tokio::time::timeout(PATIENCE, failures.take()).await.expect("it is told of");
    assert_eq!(told[0].1.count, 3, "what a guest answers with is no failure");
}
