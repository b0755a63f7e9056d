//! How a server ends.

use kubewasm_tests::wait;

use super::world::{PATIENCE, Server};

#[tokio::test(flavor = "multi_thread")]
async fn it_drains_without_a_request_that_fails() {
    let server = Server::new("drain=4s").await;
    let address = server.address;
    let mut kept = server.connect().await;
    kept.get("/").await;
    let mut slow = server.connect().await;
    slow.send("GET /sleep?6000 HTTP/1.1\r\nhost: test\r\n\r\n").await;
    server.until("the slow one", |stats| stats.in_flight == 1).await;
    server.stop_within(PATIENCE);
    // Others may not have heard of it yet.
    let mut late = server.connect().await;
    let answer = late.get("/").await;
    assert!(answer.status == 200 && answer.closes(), "{}", answer.head);
    assert!(late.is_ended().await);
    let answer = slow.answer().await.unwrap();
    assert!(answer.text() == "slept\n" && answer.closes(), "{}", answer.head);
    assert!(kept.is_ended().await, "it had no request");
    let exit = server.exit().await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_that_goes_elsewhere_when_it_is_told_sees_no_failure() {
    let server = Server::new("drain=500ms").await;
    let address = server.address;
    let load = (0..8).map(|_| {
        tokio::spawn(async move {
            let mut answered = 0;
            // Until nobody accepts a connection, which is when others would be asked.
            while let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                let mut client = super::world::Client::of(stream);
                loop {
                    let answer = client.get("/").await;
                    assert_eq!(answer.status, 200);
                    answered += 1;
                    if answer.closes() {
                        break;
                    }
                }
            }
            answered
        })
    });
    let load: Vec<_> = load.collect();
    server.until("some load", |stats| stats.answers[1] > 100).await;
    server.stop_within(PATIENCE);
    let mut all = 0;
    for load in load {
        all += load.await.unwrap();
    }
    assert!(all > 100);
    assert_eq!(server.stats().answers[1], all);
    assert_eq!(server.exit().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_killed_with_all_that_is_under_way() {
    let server = Server::new("").await;
    let account = std::sync::Arc::clone(&server.account);
    let mut clients = Vec::new();
    for path in ["/loop", "/sleep?60000", "/endless"] {
        let mut client = server.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        clients.push(client);
    }
    server.until("three that are worked on", |stats| stats.instances == 3).await;
    tokio::time::timeout(PATIENCE, server.kill()).await.unwrap();
    wait::until("the end of what they held", PATIENCE, async || match account.usage().memory_bytes {
        0 => Ok(()),
        left => Err(format!("{left} bytes are left")),
    })
    .await
    .unwrap();
}
