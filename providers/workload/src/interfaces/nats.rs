//! A connection to NATS, which several back ends share the way of.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, connection::State, jetstream};
use tokio::sync::{OnceCell, watch};

use super::{InvalidSettings, Settings, server::ServerUrl, text};

/// Messages that a subscription holds before it has to be asked again.
const HELD_MESSAGES: usize = 1024;
/// How often a connection that is waited for is looked at, at least.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Longest pause before a connection is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A server of NATS, at `url`: `nats://[user[:password]@]host[:port]`, or `tls://`. `token` or `credentials` (the content of a
/// `.creds` file) say who asks, where the URL does not; `domain` is JetStream's.
#[derive(Clone)]
pub(super) struct Nats {
    server: ServerUrl,
    options: NatsOptions,
    connection: Arc<OnceCell<Connection>>,
}

#[derive(Clone)]
struct NatsOptions {
    token: Option<String>,
    credentials: Option<String>,
    domain: Option<String>,
    deadline: Duration,
    held_messages: usize,
}

#[derive(Clone)]
struct Connection {
    client: Client,
    jetstream: jetstream::Context,
    /// It is connected, or is not any more.
    changes: watch::Receiver<()>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Nats {
    /// The server that the settings name. It is not connected to before it is needed.
    pub(super) fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let server = settings.server()?;
        if !matches!(server.scheme(), "nats" | "tls" | "ws" | "wss") {
            return Err(InvalidSettings::new("url", "it begins with neither nats:// nor tls://"));
        }
        let option = |key: &str| settings.get(key).map(str::to_owned);
        let options = NatsOptions {
            token: option("token"),
            credentials: option("credentials"),
            domain: option("domain"),
            deadline: settings.limits()?.deadline,
            held_messages: HELD_MESSAGES,
        };
        if let Some(credentials) = &options.credentials {
            // Not the error's own words, which may hold some of it.
            ConnectOptions::with_credentials(credentials)
                .map_err(|_| InvalidSettings::new("credentials", "it is not the content of a .creds file"))?;
        }
        Ok(Self { server, options, connection: Arc::default() })
    }

    /// The same with so many messages held for a subscription.
    pub(super) fn holding(mut self, messages: usize) -> Self {
        self.options.held_messages = messages.max(1);
        self
    }

    pub(super) fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// The client, when it is connected: so nothing that was asked for while the server was away is done when it is back, and
    /// nobody waits for it any more.
    pub(super) async fn client(&self) -> Result<Client, String> {
        Ok(self.connected().await?.client)
    }

    /// The same for JetStream.
    pub(super) async fn jetstream(&self) -> Result<jetstream::Context, String> {
        Ok(self.connected().await?.jetstream)
    }

    async fn connected(&self) -> Result<Connection, String> {
        let connection = self.connection.get_or_try_init(|| self.connect()).await?;
        let mut changes = connection.changes.clone();
        while connection.client.connection_state() != State::Connected {
            // The client may leave out what it tells, and is looked at again.
            let changed = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return Err(format!("NATS at {}: the connection is closed", self.server));
            }
        }
        Ok(connection.clone())
    }

    fn connect(&self) -> impl Future<Output = Result<Connection, String>> + Send + '_ {
        let (tell, changes) = watch::channel(());
        let options = match &self.options.credentials {
            // Checked when it was made.
            Some(credentials) => ConnectOptions::with_credentials(credentials).unwrap_or_default(),
            None => ConnectOptions::new(),
        };
        let options = match &self.options.token {
            Some(token) => options.token(token.clone()),
            None => options,
        };
        let options = options
            .name("kubewasm")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(self.options.deadline)
            .request_timeout(Some(self.options.deadline))
            .subscription_capacity(self.options.held_messages)
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(|attempts| {
                LONGEST_PAUSE.min(Duration::from_millis(20) * u32::try_from(attempts.min(64)).unwrap_or(64))
            })
            .event_callback(move |event| {
                if matches!(event, Event::Connected | Event::Disconnected | Event::Closed) {
                    tell.send_replace(());
                }
                std::future::ready(())
            });
        async move {
            let failed =
                |error: &dyn std::error::Error| format!("NATS at {}: {}", self.server, text::words(error));
            let address = ServerAddr::from_url(self.server.secret().clone());
            let address =
                address.map_err(|_| format!("NATS at {}: the URL is not one of NATS", self.server))?;
            let client = options.connect(address).await.map_err(|error| failed(&error))?;
            let jetstream = match &self.options.domain {
                Some(domain) => jetstream::with_domain(client.clone(), domain),
                None => jetstream::new(client.clone()),
            };
            Ok(Connection { client, jetstream, changes })
        }
    }
}
