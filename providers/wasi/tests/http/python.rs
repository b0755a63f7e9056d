//! A guest in Python: an interpreter and its library, in a component of many modules.

use super::world::{OF_PYTHON, Server};

/// An instance has some 30 MiB of it.
const MEMORY: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_python_answers_each_request_in_a_fresh_instance() {
    let server = Server::of(OF_PYTHON, "", MEMORY).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "hello\n");
        assert_eq!(client.get("/count").await.text(), "1");
    }
    client.send("POST /total HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n[1, 2, 4]").await;
    assert_eq!(client.answer().await.unwrap().text(), r#"{"total": 7}"#);
    let body = "0123456789".repeat(30_000);
    client
        .send(format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await;
    assert!(client.answer().await.unwrap().text() == body, "it comes back as it is");
    server.until("no instance", |stats| stats.instances == 0 && stats.in_flight == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_of_python_is_one_answer_and_a_traceback() {
    let server = Server::of(OF_PYTHON, "", MEMORY).await;
    assert_eq!(server.get("/raise").await.status, 500);
    let said = server.said();
    assert!(said.contains("ValueError: nobody catches this") && said.contains("GET /raise: "), "{said}");
    let mut client = server.connect().await;
    client.send("GET /late-raise HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.answer().await, None, "it breaks off");
    assert_eq!(server.get("/count").await.text(), "1");
}

/// Python is told that there is no more, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn python_has_the_memory_of_its_container_and_no_more() {
    let server = Server::of(OF_PYTHON, "", MEMORY).await;
    let grown: u64 = server.get("/grow?1000").await.text().parse().unwrap();
    assert!((64..256).contains(&grown), "{grown} MiB");
    server.until("the end of it", |stats| stats.instances == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_python_is_kept_within_the_settings() {
    // One at a time: a request that comes in the moment before an instance is back waits for it.
    let server = Server::of(OF_PYTHON, "max-requests=3,max-instances=1,request-timeout=20s", MEMORY).await;
    let mut client = server.connect().await;
    let mut counts = String::new();
    for _ in 0..4 {
        counts.push_str(client.get("/count").await.text());
    }
    assert_eq!(counts, "1231");
    assert_eq!(client.get("/raise").await.status, 500);
    assert_eq!(client.get("/count").await.text(), "1", "one that has failed is not used again");
}
