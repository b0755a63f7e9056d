//! By what a user is known to the API server. None of it is ever a guest's.
//!
//! ```text
//!   user of the kubeconfig ─► Credentials ─┬─ certificate ───────────► part of the connection
//!                                          ├─ token, tokenFile ──────► a header of each request
//!                                          └─ exec ─[program]─► both ─┘  asked again when it is over, or was refused
//! ```

mod certificate;
mod exec;
mod impersonation;
mod token;

use std::{sync::Arc, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use tokio::sync::Mutex;

pub(crate) use certificate::ClientIdentity;
pub(crate) use impersonation::impersonation;

use self::{
    exec::{ExecAnswer, ExecProgram},
    token::TokenSource,
};
use crate::{
    api_server::ApiServer,
    kubeconfig::{ClusterEntry, UserEntry},
};

/// What a user is known by.
#[derive(Debug)]
pub(crate) struct Credentials {
    identity: Option<Arc<ClientIdentity>>,
    header: HeaderSource,
    exec: Option<ExecSource>,
}

/// What is said of the user in a request.
#[derive(Debug)]
enum HeaderSource {
    None,
    Fixed(HeaderValue),
    Token(TokenSource),
}

/// A program, and what it has said last.
#[derive(Debug)]
struct ExecSource {
    program: ExecProgram,
    last: Mutex<Option<Issued>>,
}

/// What a program has said, and how often it had been asked then.
#[derive(Clone, Debug)]
struct Issued {
    answer: ExecAnswer,
    number: u64,
}

/// What a request is sent with.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestCredentials {
    /// For the connection.
    pub(crate) identity: Option<Arc<ClientIdentity>>,
    /// For the request.
    pub(crate) authorization: Option<HeaderValue>,
    /// Which answer of a program this is; `None` where no program is asked.
    pub(crate) issued: Option<u64>,
}

/// There are no credentials, and what to do. It names no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoCredentials(pub(crate) String);

impl Credentials {
    /// Reads what a user's entry has. Where what is sent can be read on its way, there are none, as for kubectl.
    ///
    /// # Errors
    /// What is wrong with the entry.
    pub(crate) fn new(user: UserEntry, cluster: &ClusterEntry, server: &ApiServer) -> Result<Self, String> {
        if !server.is_secure() {
            return Ok(Self { identity: None, header: HeaderSource::None, exec: None });
        }
        if let Some(provider) = &user.auth_provider {
            return Err(format!(
                "it has the auth-provider {:?}, which Kubernetes has given up; use an exec plugin in its place",
                provider.name
            ));
        }
        let identity = ClientIdentity::of_user(&user)?.map(Arc::new);
        let header = header(&user)?;
        // A token that is there goes before a program, as for client-go.
        let exec = match (user.exec, &header) {
            (Some(entry), HeaderSource::None) => {
                let program = ExecProgram::new(entry, cluster)?;
                Some(ExecSource { program, last: Mutex::default() })
            }
            _ => None,
        };
        Ok(Self { identity, header, exec })
    }

    /// What the next request is sent with. Asks a program, or reads a file, if need be.
    ///
    /// # Errors
    /// [`NoCredentials`], and nothing is to be sent.
    pub(crate) async fn for_request(&self) -> Result<RequestCredentials, NoCredentials> {
        if let Some(exec) = &self.exec {
            return exec.current(None).await.map(|issued| self.of_program(issued));
        }
        let authorization = match &self.header {
            HeaderSource::None => None,
            HeaderSource::Fixed(header) => Some(header.clone()),
            HeaderSource::Token(source) => Some(source.header().await?),
        };
        Ok(RequestCredentials { identity: self.identity.clone(), authorization, issued: None })
    }

    /// What to try once more with, after the server has refused what was `used`; `None` where there is nothing new to be had.
    ///
    /// # Errors
    /// [`NoCredentials`]
    pub(crate) async fn renew(
        &self,
        used: &RequestCredentials,
    ) -> Result<Option<RequestCredentials>, NoCredentials> {
        match (&self.exec, used.issued) {
            (Some(exec), Some(number)) => {
                exec.current(Some(number)).await.map(|issued| Some(self.of_program(issued)))
            }
            _ => Ok(None),
        }
    }

    fn of_program(&self, issued: Issued) -> RequestCredentials {
        let Issued { answer, number } = issued;
        RequestCredentials {
            identity: answer.identity.or_else(|| self.identity.clone()),
            authorization: answer.token,
            issued: Some(number),
        }
    }
}

impl ExecSource {
    /// What the program has said, unless that is over or is the one that was `refused`. Of several who want to know, one asks.
    async fn current(&self, refused: Option<u64>) -> Result<Issued, NoCredentials> {
        let mut last = self.last.lock().await;
        if let Some(issued) = &*last
            && refused != Some(issued.number)
            && issued.answer.expires.is_none_or(|end| end > SystemTime::now())
        {
            return Ok(issued.clone());
        }
        let number = last.as_ref().map_or(0, |issued| issued.number + 1);
        let issued = Issued { answer: self.program.run().await?, number };
        *last = Some(issued.clone());
        Ok(issued)
    }
}

fn header(user: &UserEntry) -> Result<HeaderSource, String> {
    let token = user.token.as_ref().filter(|token| !token.is_empty());
    if user.token_file.is_some() || token.is_some() {
        return TokenSource::new(token.cloned(), user.token_file.clone()).map(HeaderSource::Token);
    }
    match user.username.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let password = user.password.as_ref().map_or("", |password| password.reveal());
            let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
            sensitive(&value).map(HeaderSource::Fixed).ok_or_else(|| "its username cannot be sent".to_owned())
        }
        None => Ok(HeaderSource::None),
    }
}

/// A header that does not show itself.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// A field of `…-data`: Base64, perhaps with line ends in it.
pub(crate) fn decode(field: &str, data: &str) -> Result<Vec<u8>, String> {
    let compact: String = data.split_ascii_whitespace().collect();
    STANDARD.decode(compact).map_err(|_| format!("its {field} is not Base64"))
}

#[cfg(test)]
mod tests;
