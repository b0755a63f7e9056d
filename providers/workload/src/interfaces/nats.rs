//! A connection to NATS, which several back ends share the way of.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_nats::{
    Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, connection::State, jetstream,
};
use tokio::sync::{OnceCell, watch};

use super::{InvalidSettings, Settings, server::ServerUrl, text};

/// Most messages that a subscription holds that nobody has taken yet; more of them are lost. JetStream sends the keys of a bucket
/// without a pause until its window is full, some ten thousand of them, and tells what was lost only seconds later.
const HELD_MESSAGES: usize = 1 << 16;
/// How often a connection that is waited for is looked at, at least.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Longest pause before a connection is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A server of NATS, at `url`: `nats://[user:password@]host[:port]`, or `nats://token@host[:port]`; `tls://` in the same way.
/// `token` or `credentials` (the content of a `.creds` file) say who asks, where the URL does not; `domain` is JetStream's.
#[derive(Clone)]
pub(super) struct Nats {
    server: ServerUrl,
    options: NatsOptions,
    connection: Arc<OnceCell<Connection>>,
}

#[derive(Clone)]
struct NatsOptions {
    user: Option<(String, String)>,
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
    /// Whether the server has refused who asks, told anew when it is connected, or is not any more.
    refused: watch::Receiver<bool>,
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
        // A user without a password is a token, as for all clients of NATS.
        let (user, token) = match server.user().map_err(|reason| InvalidSettings::new("url", reason))? {
            Some((user, Some(password))) => (Some((user, password)), None),
            Some((token, None)) => (None, Some(token)),
            None => (None, option("token")),
        };
        let options = NatsOptions {
            user,
            token,
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
        let mut refused = connection.refused.clone();
        while connection.client.connection_state() != State::Connected {
            // It is tried again meanwhile, but what is asked for does not wait for somebody to change a password.
            if *refused.borrow_and_update() {
                return Err(format!(
                    "NATS at {} refuses who asks: user, password, token or credentials are missing or wrong",
                    self.server
                ));
            }
            // The client may leave out what it tells, and is looked at again.
            let changed = tokio::time::timeout(LOOK_AGAIN, refused.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return Err(format!("NATS at {}: the connection is closed", self.server));
            }
        }
        Ok(connection.clone())
    }

    fn connect(&self) -> impl Future<Output = Result<Connection, String>> + Send + '_ {
        let (tell, refused) = watch::channel(false);
        let options = match &self.options.credentials {
            // Checked when it was made.
            Some(credentials) => ConnectOptions::with_credentials(credentials).unwrap_or_default(),
            None => ConnectOptions::new(),
        };
        // The client takes none from a URL.
        let options = match &self.options.user {
            Some((user, password)) => options.user_and_password(user.clone(), password.clone()),
            None => options,
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
                match event {
                    Event::Connected | Event::Disconnected | Event::Closed => {
                        tell.send_replace(false);
                    }
                    Event::ClientError(ClientError::Other(reason)) => {
                        tell.send_replace(is_refusal(&reason));
                    }
                    _ => {}
                }
                std::future::ready(())
            });
        async move {
            let failed =
                |error: &dyn std::error::Error| format!("NATS at {}: {}", self.server, text::words(error));
            // The client writes the address to its log.
            let address = self.server.without_user().and_then(|url| ServerAddr::from_url(url).ok());
            let address =
                address.ok_or_else(|| format!("NATS at {}: the URL is not one of NATS", self.server))?;
            let client = options.connect(address).await.map_err(|error| failed(&error))?;
            let jetstream = match &self.options.domain {
                Some(domain) => jetstream::with_domain(client.clone(), domain),
                None => jetstream::new(client.clone()),
            };
            Ok(Connection { client, jetstream, refused })
        }
    }
}

/// Whether this is why the client could not connect. It tells no more than the words for the kind of an error.
fn is_refusal(reason: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| kind.to_string() == reason)
}
