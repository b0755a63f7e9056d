//! Components of WASI 0.3.

use super::world::{OF_WASI_0_3, Server};

const MEMORY: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_wasi_0_3_answers_each_request_in_a_fresh_instance() {
    let server = Server::of(OF_WASI_0_3, "", MEMORY).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "hello\n");
        assert_eq!(client.get("/count").await.text(), "1");
    }
    server.until("no instance", |stats| stats.instances == 0 && stats.in_flight == 0).await;
    assert_eq!(client.get("/trap").await.status, 500);
    assert!(server.said().contains("GET /trap: wasm trap"), "it is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_wasi_0_3_is_used_again_and_given_up_as_others() {
    let server = Server::of(OF_WASI_0_3, "max-requests=3,request-timeout=300ms", MEMORY).await;
    let mut client = server.connect().await;
    let mut counts = String::new();
    for _ in 0..6 {
        counts.push_str(client.get("/count").await.text());
        server.until("the end of the answer", |stats| stats.in_flight == 0).await;
    }
    assert!(counts.contains('2') && !counts.contains('4'), "{counts}");
    assert_eq!(client.get("/loop").await.status, 504);
    assert_eq!(client.get("/").await.text(), "hello\n");
}
