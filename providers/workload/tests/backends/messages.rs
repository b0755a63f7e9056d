//! Messages over NATS.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt as _;
use kubewasm_workload::interfaces::messaging::{BrokerMessage, MessageHandler, NatsMessenger};
use tokio::sync::mpsc;

use crate::{servers::Server, settings};

const PATIENCE: Duration = Duration::from_secs(60);

/// Stands for a component.
#[derive(Debug)]
struct Handler(mpsc::UnboundedSender<BrokerMessage>);

#[async_trait]
impl MessageHandler for Handler {
    async fn handle(&self, message: BrokerMessage) -> Result<(), String> {
        self.0.send(message).map_err(|error| error.to_string())
    }
}

fn message(subject: &str, body: &str) -> BrokerMessage {
    BrokerMessage { subject: subject.to_owned(), body: body.as_bytes().to_vec(), reply_to: None }
}

/// Sends until it arrives: a subscription is made some time after it was asked for.
async fn arrives(
    from: &NatsMessenger,
    subject: &str,
    body: &str,
    at: &mut mpsc::UnboundedReceiver<BrokerMessage>,
) -> BrokerMessage {
    let arrived = async {
        loop {
            let _ = from.publish(message(subject, body)).await;
            let next = tokio::time::timeout(Duration::from_millis(100), at.recv()).await;
            if let Ok(Some(message)) = next
                && message.body == body.as_bytes()
            {
                return message;
            }
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("the message arrives")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_and_are_answered() {
    let mut server = Server::nats().await;
    let url = server.url();
    let messenger = NatsMessenger::new(&settings(&[
        ("url", &url),
        ("subscriptions", "orders.>, users.*"),
        ("publish", "orders.>,questions"),
        ("timeout_ms", "1000"),
    ]))
    .unwrap();
    let (sender, mut received) = mpsc::unbounded_channel();
    let handler: Arc<dyn MessageHandler> = Arc::new(Handler(sender));
    let subscriptions = messenger.subscribe(&handler);
    let got = arrives(&messenger, "orders.new", "one", &mut received).await;
    assert_eq!((&*got.subject, got.reply_to), ("orders.new", None));

    for subject in ["$JS.API.INFO", "others", "orders.*", ""] {
        assert!(messenger.publish(message(subject, "x")).await.is_err(), "{subject}");
    }

    let client = server.nats_client().await;
    let mut questions = client.subscribe("questions").await.unwrap();
    // A server does what one connection asks for in order: it knows of the questions once this is back.
    let mut echo = client.subscribe("echo").await.unwrap();
    client.publish("echo", "".into()).await.unwrap();
    echo.next().await.unwrap();
    let answering = tokio::spawn(async move {
        let question = questions.next().await.unwrap();
        client.publish(question.reply.unwrap(), "42".into()).await.unwrap();
        client.flush().await.unwrap();
        // Nothing more is answered, and somebody is there.
        questions.next().await.unwrap();
        questions
    });
    let answer = messenger.request("questions".to_owned(), b"?".to_vec(), PATIENCE).await.unwrap();
    assert_eq!(answer.body, b"42");
    let silent = messenger.request("questions".to_owned(), b"?".to_vec(), Duration::from_millis(50)).await;
    assert!(silent.unwrap_err().contains("nobody has answered"));
    drop(answering.await.unwrap());

    server.kill();
    let away = tokio::time::timeout(PATIENCE, messenger.publish(message("orders.new", "x"))).await;
    assert!(away.expect("the deadline holds").is_err());
    server.start().await;
    arrives(&messenger, "orders.new", "two", &mut received).await;

    // What is dropped takes nothing any more, not even the sender.
    drop(subscriptions);
    drop(handler);
    tokio::time::timeout(PATIENCE, async { while received.recv().await.is_some() {} })
        .await
        .expect("it ends");
}
