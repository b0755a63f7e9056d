//! `wasmcloud:messaging`: messages on subjects, over NATS.

mod interface;
mod messenger;
mod subject;

use async_trait::async_trait;

pub use interface::WasmcloudMessaging;
pub use messenger::{NatsMessenger, Subscriptions};

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerMessage {
    /// What it is about, and so who gets it.
    pub subject: String,
    /// What it says.
    pub body: Vec<u8>,
    /// The subject on which an answer is awaited.
    pub reply_to: Option<String>,
}

/// Takes messages: a component that exports `wasmcloud:messaging/handler`.
#[async_trait]
pub trait MessageHandler: std::fmt::Debug + Send + Sync + 'static {
    /// Takes one. It is called again before it has returned, as often as the settings allow.
    ///
    /// # Errors
    /// What the component says; it is logged, and the message is gone.
    async fn handle(&self, message: BrokerMessage) -> Result<(), String>;
}
