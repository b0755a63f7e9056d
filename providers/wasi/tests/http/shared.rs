//! Several requests at a time in one instance of WASI 0.3, of the guest in `tests/guests/concurrent-0.3.c`.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::world::{Client, PATIENCE, Server};

const GUEST: &str = "concurrent-0.3.c";
const MEMORY: u64 = 64 << 20;

/// A server whose instances take so many requests at a time.
async fn server(concurrency: u32, settings: &str) -> Server {
    let settings = format!("max-requests=1000,instance-concurrency={concurrency},{settings}");
    Server::of(GUEST, &settings, MEMORY).await
}

/// A request that has been sent.
async fn asked(server: &Server, path: &str) -> Client {
    let mut client = server.connect().await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
    client
}

/// A request whose body has begun, and goes on until it is [`ended`].
async fn opened(server: &Server, path: &str) -> Client {
    let mut client = server.connect().await;
    client
        .send(format!("POST {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"))
        .await;
    client
}

/// Ends the body, and returns the answer.
async fn ended(mut client: Client) -> super::world::Answer {
    client.send("0\r\n\r\n").await;
    client.answer().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_meet_in_one_instance() {
    let server = server(10, "max-instances=1").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(asked(&server, "/meet?10").await);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().text(), "met\n");
    }
    server.until("the end of all", |stats| stats.in_flight == 0 && stats.instances == 1).await;
    assert_eq!(server.get("/count").await.text(), "11", "the instance was kept");
    let stats = server.stats();
    assert_eq!((stats.answers[1], stats.failures, stats.rejected), (11, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_than_there_may_be_has_another_instance_or_waits() {
    let server = server(2, "max-instances=2").await;
    let mut clients = Vec::new();
    for count in 1..=4 {
        clients.push(opened(&server, "/wait").await);
        server.until("one more", |stats| stats.in_flight == count).await;
    }
    server.until("two instances", |stats| stats.instances == 2).await;
    clients.push(opened(&server, "/wait").await);
    server.until("one that waits", |stats| stats.queued == 1).await;
    for client in clients {
        assert_eq!(ended(client).await.text(), "2", "as many are in an instance at a time");
    }
    let stats = server.stats();
    assert_eq!((stats.queued, stats.instances), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_for_the_queue_is_sent_away() {
    let server = server(2, "max-instances=1,queue=1").await;
    let first = [opened(&server, "/wait").await, opened(&server, "/wait").await];
    server.until("both", |stats| stats.in_flight == 2 && stats.instances == 1).await;
    let mut waits = asked(&server, "/count").await;
    server.until("one that waits", |stats| stats.queued == 1).await;
    let answer = server.get("/").await;
    assert!(answer.status == 503 && answer.head.contains("retry-after: 1"), "{}", answer.head);
    assert_eq!(server.stats().rejected, 1);
    drop(first);
    assert_eq!(waits.answer().await.unwrap().text(), "3");
}

/// While the guest holds others off, they wait in the queue, or have another instance.
#[tokio::test(flavor = "multi_thread")]
async fn backpressure_of_a_guest_is_honoured() {
    let server = server(10, "max-instances=1").await;
    let holds = opened(&server, "/hold").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    let mut waiting = Vec::new();
    for count in 1..=3 {
        waiting.push(asked(&server, "/count").await);
        server.until("one more that waits", |stats| stats.queued == count).await;
    }
    assert_eq!(ended(holds).await.text(), "1", "it was alone");
    for client in &mut waiting {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    server.until("the end of all", |stats| stats.in_flight == 0 && stats.queued == 0).await;

    let server = self::server(10, "max-instances=2").await;
    let holds = opened(&server, "/hold").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    let other = opened(&server, "/wait").await;
    server.until("another one", |stats| stats.instances == 2 && stats.queued == 0).await;
    assert_eq!((ended(other).await.text(), ended(holds).await.text()), ("1", "1"));
}

/// It fails all that are in the instance, and none that are elsewhere; it is one failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_trap_ends_what_is_in_its_instance() {
    let server = server(3, "max-instances=2").await;
    let mut unanswered = asked(&server, "/stay").await;
    server.until("one", |stats| stats.in_flight == 1 && stats.instances == 1).await;
    let mut begun = opened(&server, "/echo").await;
    server.until("two", |stats| stats.in_flight == 2).await;
    let falls = opened(&server, "/fall").await;
    server.until("three", |stats| stats.in_flight == 3).await;
    let elsewhere = opened(&server, "/wait").await;
    server.until("another instance", |stats| stats.instances == 2).await;
    assert_eq!(ended(falls).await.status, 500);
    assert_eq!(unanswered.answer().await.unwrap().status, 500);
    assert!(begun.answer().await.is_none(), "it is torn off");
    server.until("the end of the instance", |stats| stats.instances == 1).await;
    assert_eq!(ended(elsewhere).await.status, 200);
    let said = server.said();
    assert!(said.contains("kubewasm: POST /fall: wasm trap"), "{said}");
    assert_eq!(server.stats().failures, 1);
}

/// The one for which it computes is answered with 504 and its instance ended at once, before the time of the others is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_without_end_is_ended() {
    let server = server(10, "max-instances=1,request-timeout=6s").await;
    let dwells = opened(&server, "/dwell").await;
    server.until("an instance", |stats| stats.in_flight == 1 && stats.instances == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut stays = asked(&server, "/stay").await;
    server.until("two", |stats| stats.in_flight == 2).await;
    let answer = tokio::spawn(ended(dwells));
    let answers = tokio::join!(answer, stays.answer());
    assert_eq!((answers.0.unwrap().status, answers.1.unwrap().status), (504, 500));
    let said = server.said();
    assert!(said.contains("POST /dwell: the guest did not answer in time"), "{said}");
    assert!(said.contains("because the guest computed without end: 1"), "{said}");
    assert_eq!(server.get("/count").await.text(), "1");
    assert_eq!(server.stats().timeouts, 1);
}

/// Its request is answered, and nobody waits for what it does then.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_computes_without_end_after_its_answer_is_ended() {
    let server = server(10, "max-instances=1,request-timeout=1s").await;
    for _ in 0..2 {
        assert_eq!(server.get("/next").await.text(), "hello\n");
        server.until("the end of the instance", |stats| stats.instances == 0).await;
        assert!(server.said().contains("went on after its last answer for longer than request-timeout"));
    }
    assert_eq!(server.get("/count").await.text(), "1");
}

/// While a guest computes, nothing more is given to its instance.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_a_guest_that_computes_has_another_instance() {
    let server = server(10, "max-instances=2,request-timeout=2s").await;
    let mut computes = asked(&server, "/loop").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    assert_eq!(server.get("/count").await.text(), "1");
    assert_eq!(computes.answer().await.unwrap().status, 504);
    server.until("the end of the instance", |stats| stats.instances == 1).await;
}

/// Nobody computes: the others go on, and the instance takes no further request.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_slow_does_not_end_the_others() {
    let server = server(10, "request-timeout=3s").await;
    let mut goes_on = opened(&server, "/echo").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    let mut stays = asked(&server, "/stay").await;
    let mut count = 1;
    let answer = {
        let mut answer = std::pin::pin!(stays.answer());
        loop {
            // It says something all the time, so that it is not too slow itself.
            tokio::select! {
                answer = answer.as_mut() => break answer.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(200)) => goes_on.send("1\r\nb\r\n").await,
            }
            count += 1;
        }
    };
    assert_eq!(answer.status, 504);
    assert_eq!(server.get("/count").await.text(), "1", "it has an instance of its own");
    let answer = ended(goes_on).await;
    assert_eq!((answer.status, answer.text().len()), (200, count));
    server.until("the end of the old instance", |stats| stats.instances <= 1).await;
}

/// What it leaves is taken from the guest's way: the body ends, and others are not harmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_harms_nobody_else() {
    let server = server(2, "max-instances=1,request-timeout=60s").await;
    let stays = opened(&server, "/wait").await;
    server.until("one", |stats| stats.in_flight == 1 && stats.instances == 1).await;
    let goes = opened(&server, "/echo").await;
    server.until("two", |stats| stats.in_flight == 2).await;
    let mut waits = asked(&server, "/count").await;
    server.until("one that waits", |stats| stats.queued == 1).await;
    drop(goes);
    assert_eq!(waits.answer().await.unwrap().text(), "3", "the seat is free");
    assert_eq!(ended(stays).await.text(), "2");
}

/// The guest cannot be told to stop: its instance gets no more requests when its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_leaves_behind_has_its_time_and_no_more() {
    let server = server(2, "max-instances=1,request-timeout=4s").await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://test/stay").body(Empty::<Bytes>::new()).unwrap();
    let goes = tokio::spawn(sender.send_request(request));
    server.until("one", |stats| stats.in_flight == 1 && stats.instances == 1).await;
    goes.abort();
    server.until("nobody who waits", |stats| stats.in_flight == 0).await;
    server.until("the end of it", |stats| stats.instances == 0).await;
    let said = server.said();
    assert!(said.contains("GET /stay: its client is gone"), "{said}");
    assert_eq!(server.get("/count").await.text(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_replaced_when_they_are_used_up() {
    let server = Server::of(GUEST, "max-requests=3,instance-concurrency=3", MEMORY).await;
    let mut open = Vec::new();
    for count in 1..=4 {
        open.push(opened(&server, "/wait").await);
        server.until("one more", |stats| stats.in_flight == count).await;
    }
    server.until("a second instance", |stats| stats.instances == 2).await;
    for client in open {
        assert_eq!(ended(client).await.status, 200);
    }
    server.until("one that is left", |stats| stats.in_flight == 0 && stats.instances == 1).await;
    assert_eq!(server.get("/count").await.text(), "2");

    let server = self::server(3, "max-memory=2Mi").await;
    let stays = opened(&server, "/wait").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    assert_eq!(server.get("/grow?32").await.text(), "2");
    assert_eq!(server.get("/count").await.text(), "1", "the large one gets no more");
    assert_eq!(ended(stays).await.status, 200);
    server.until("the end of the large one", |stats| stats.instances == 1).await;

    let server = self::server(3, "idle-time=200ms,max-age=1h").await;
    assert_eq!(server.get("/count").await.text(), "1");
    server.until("nothing that is idle", |stats| stats.instances == 0).await;

    let server = self::server(3, "max-age=200ms").await;
    let stays = opened(&server, "/wait").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.get("/count").await.text(), "1", "the old one gets no more");
    assert_eq!(ended(stays).await.status, 200);
    server.until("the end of all", |stats| stats.instances == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_at_once() {
    const PIECES: usize = 200;
    let server = server(8, "max-body=0,max-instances=1").await;
    let echo = |letter: u8| {
        let address = server.address;
        tokio::spawn(async move {
            let mut client = Client::of(TcpStream::connect(address).await.unwrap());
            client.send("POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let piece = vec![letter; 5000];
            for _ in 0..PIECES {
                client.send("1388\r\n").await;
                client.send(&piece).await;
                client.send("\r\n").await;
            }
            ended(client).await
        })
    };
    let all: Vec<_> = (b'a'..=b'h').map(|letter| (letter, echo(letter))).collect();
    for (letter, answer) in all {
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 5000 * PIECES));
        assert!(answer.body.iter().all(|byte| *byte == letter), "each has its own");
    }
    server.until("the end of all", |stats| stats.in_flight == 0 && stats.instances == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_all_that_are_in_an_instance() {
    let server = server(10, "drain=0s").await;
    let open = [opened(&server, "/wait").await, opened(&server, "/wait").await];
    server.until("both", |stats| stats.in_flight == 2 && stats.instances == 1).await;
    server.stop_within(PATIENCE);
    for client in open {
        assert_eq!(ended(client).await.text(), "2");
    }
    let exit = server.exit().await;
    assert_eq!((exit.code, exit.message.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_ends_with_all_its_requests() {
    let server = server(10, "").await;
    let mut open = [opened(&server, "/wait").await, opened(&server, "/echo").await];
    server.until("an instance", |stats| stats.in_flight == 2 && stats.instances > 0).await;
    let mut computes = asked(&server, "/loop").await;
    server.until("all", |stats| stats.in_flight == 3).await;
    server.kill().await;
    for client in open.iter_mut().chain([&mut computes]) {
        let answer = client.answer().await;
        assert!(answer.is_none_or(|answer| answer.status == 500), "what was begun is torn off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_wasi_0_2_takes_one_request_at_a_time() {
    let error = Server::refused("http-0.2.c", "max-requests=2,instance-concurrency=2").await;
    assert!(error.contains("instance-concurrency") && error.contains("wasi:http/handler@0.3"), "{error}");
}

/// Seats are given on as they become free, and instances are replaced meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn everyone_in_the_queue_is_answered() {
    const CLIENTS: u32 = 40;
    const REQUESTS: u32 = 25;
    let server =
        Server::of(GUEST, "max-requests=17,instance-concurrency=4,max-instances=2,queue=1000", MEMORY).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let address = server.address;
            tokio::spawn(async move {
                let mut connection = Client::of(TcpStream::connect(address).await.unwrap());
                for request in 0..REQUESTS {
                    // Some hold the others off for a moment, and some wait for a timer.
                    let path = ["/", "/count", "/meet?1", "/hold"][(client + request) as usize % 4];
                    connection
                        .send(format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\na"))
                        .await;
                    assert_eq!(connection.answer().await.unwrap().status, 200, "{path}");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    server.until("the end of all", |stats| stats.in_flight == 0 && stats.instances <= 2).await;
    let stats = server.stats();
    assert_eq!(stats.answers, [0, u64::from(CLIENTS * REQUESTS), 0, 0, 0]);
    assert_eq!((stats.queued, stats.failures, stats.timeouts, stats.rejected), (0, 0, 0, 0));
}
