//! Messages over NATS.

use std::{sync::Arc, time::Duration};

use async_nats::{Request, client::RequestErrorKind};
use futures::StreamExt as _;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use super::{BrokerMessage, MessageHandler, subject};
use crate::interfaces::{InvalidSettings, Limits, Settings, limits::Turns, nats::Nats, text};

/// Messages that wait for a component on this host. What comes while they are more is lost, as NATS has it.
const WAITING: usize = 256;
/// Calls of a component at a time, unless the settings say otherwise.
const CALLS: usize = 8;
/// The pause before a subscription is tried again that could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends messages, and takes them for components.
#[derive(Clone, Debug)]
pub struct NatsMessenger {
    nats: Nats,
    turns: Turns,
    /// Where may be sent to; everywhere where there is no list.
    publish: Option<Arc<[String]>>,
    subscriptions: Arc<[String]>,
    queue_group: Option<Arc<str>>,
    calls: usize,
}

impl NatsMessenger {
    /// What the settings say: `url`, `subscriptions`, `queue_group`, `publish`, `max_calls`.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let limits: Limits = settings.limits()?;
        let calls = settings.get("max_calls").map(|text| {
            let number = text.parse::<usize>().ok().filter(|number| (1..=1024).contains(number));
            number.ok_or_else(|| InvalidSettings::new("max_calls", "it is not a whole number from 1 to 1024"))
        });
        let subscriptions = settings.list("subscriptions").unwrap_or_default();
        if subscriptions.iter().any(|subject| subject.starts_with('$')) {
            return Err(InvalidSettings::new(
                "subscriptions",
                "subjects that begin with $ are the server's own",
            ));
        }
        Ok(Self {
            nats: Nats::new(settings)?.holding(WAITING),
            turns: Turns::new(limits),
            publish: settings.list("publish").map(Into::into),
            subscriptions: subscriptions.into(),
            queue_group: settings.get("queue_group").map(Into::into),
            calls: calls.transpose()?.unwrap_or(CALLS),
        })
    }

    /// Sends a message, without waiting for anybody to take it.
    ///
    /// # Errors
    /// Where the workload may not, where the message is too large, or where the server is not there.
    pub async fn publish(&self, message: BrokerMessage) -> Result<(), String> {
        self.check(&message.subject, message.body.len())?;
        if let Some(reply_to) = &message.reply_to {
            subject::check(reply_to, None)?;
        }
        let BrokerMessage { subject, body, reply_to } = message;
        let sent = self.turns.run(async {
            let client = self.nats.client().await?;
            let sent = match reply_to {
                Some(reply_to) => client.publish_with_reply(subject, reply_to, body.into()).await,
                None => client.publish(subject, body.into()).await,
            };
            sent.map_err(|error| self.error(&error))?;
            client.flush().await.map_err(|error| self.error(&error))
        });
        sent.await.map_err(|late| late.to_string())?
    }

    /// Sends a message and waits for an answer, as long as is said and no longer than an operation may take.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish), and where nobody answers.
    pub async fn request(
        &self,
        subject: String,
        body: Vec<u8>,
        wait: Duration,
    ) -> Result<BrokerMessage, String> {
        self.check(&subject, body.len())?;
        let wait = wait.min(self.turns.limits().deadline);
        let answered = self.turns.run(async {
            let client = self.nats.client().await?;
            let request = Request::new().payload(body.into()).timeout(Some(wait));
            client.send_request(subject, request).await.map_err(|error| match error.kind() {
                RequestErrorKind::TimedOut => format!("nobody has answered within {wait:?}"),
                RequestErrorKind::NoResponders => "nobody answers on this subject".to_owned(),
                _ => self.error(&error),
            })
        });
        let message = answered.await.map_err(|late| late.to_string())??;
        Ok(broker_message(message))
    }

    /// Takes messages for a component, until what it returns is dropped.
    #[must_use]
    pub fn subscribe(&self, handler: &Arc<dyn MessageHandler>) -> Subscriptions {
        let calls = Arc::new(Semaphore::new(self.calls));
        let tasks = self.subscriptions.iter().map(|subject| {
            let (messenger, subject) = (self.clone(), subject.clone());
            tokio::spawn(messenger.take_all(subject, Arc::clone(handler), Arc::clone(&calls)))
        });
        Subscriptions(tasks.collect())
    }

    async fn take_all(self, subject: String, handler: Arc<dyn MessageHandler>, calls: Arc<Semaphore>) {
        // Calls end with it.
        let mut under_way = JoinSet::new();
        loop {
            let mut messages = match self.messages(&subject).await {
                Ok(messages) => messages,
                Err(error) => {
                    tracing::warn!(subject, error, "a subscription cannot be made; it is tried again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            loop {
                // A turn before a message, so that what cannot be taken yet waits where it is.
                let Ok(turn) = Arc::clone(&calls).acquire_owned().await else { return };
                let Some(message) = messages.next().await else { break };
                while under_way.try_join_next().is_some() {}
                let (handler, subject) = (Arc::clone(&handler), subject.clone());
                under_way.spawn(async move {
                    let _turn = turn;
                    if let Err(error) = handler.handle(broker_message(message)).await {
                        let error = text::printable(&error);
                        tracing::warn!(subject, error, "a component has not taken a message");
                    }
                });
            }
        }
    }

    async fn messages(&self, subject: &str) -> Result<async_nats::Subscriber, String> {
        let client = self.nats.client().await?;
        let subject = subject.to_owned();
        let subscribed = match &self.queue_group {
            Some(group) => client.queue_subscribe(subject, (**group).to_owned()).await,
            None => client.subscribe(subject).await,
        };
        subscribed.map_err(|error| self.error(&error))
    }

    fn check(&self, subject: &str, length: usize) -> Result<(), String> {
        subject::check(subject, self.publish.as_deref())?;
        let most = self.turns.limits().value_bytes;
        if length > most {
            return Err(format!("the message has {length} bytes, and may have {most} (max_value_bytes)"));
        }
        Ok(())
    }

    fn error(&self, error: &dyn std::error::Error) -> String {
        format!("NATS at {}: {}", self.nats.server(), text::words(error))
    }
}

fn broker_message(message: async_nats::Message) -> BrokerMessage {
    BrokerMessage {
        subject: message.subject.to_string(),
        body: message.payload.into(),
        reply_to: message.reply.map(|reply| reply.to_string()),
    }
}

/// Subscriptions of a component. They end when this is dropped, with the calls that are under way.
#[derive(Debug)]
pub struct Subscriptions(Vec<JoinHandle<()>>);

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}
