//! Bearer tokens, as texts and in files.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;

use super::{NoCredentials, sensitive};
use crate::kubeconfig::Secret;

/// For how long a file need not be read again. Whoever writes a new token into it leaves the old one good for minutes.
const FRESH: Duration = Duration::from_secs(10);
/// Bytes of a file of a token.
const LARGEST: u64 = 1 << 20;

/// Where a token comes from. A file goes before a text, which is for when it cannot be read, as for client-go.
#[derive(Debug)]
pub(super) struct TokenSource {
    fixed: Option<HeaderValue>,
    file: Option<PathBuf>,
    read: Mutex<Option<(Instant, HeaderValue)>>,
}

impl TokenSource {
    pub(super) fn new(token: Option<Secret>, file: Option<PathBuf>) -> Result<Self, String> {
        let fixed = match token {
            Some(token) => Some(bearer(token.reveal()).ok_or("its token has characters that no token has")?),
            None => None,
        };
        Ok(Self { fixed, file, read: Mutex::default() })
    }

    /// The header for a request that is sent now.
    pub(super) async fn header(&self) -> Result<HeaderValue, NoCredentials> {
        let Some(file) = &self.file else {
            return self.fixed.clone().ok_or_else(|| NoCredentials("the user has no token".to_owned()));
        };
        let fresh = |read: &Option<(Instant, HeaderValue)>| {
            let (at, header) = read.as_ref()?;
            (at.elapsed() < FRESH).then(|| header.clone())
        };
        if let Some(header) = fresh(&self.read.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(header);
        }
        let failed = |reason: String| {
            NoCredentials(format!("the user's tokenFile {} cannot be used: {reason}", file.display()))
        };
        let header = match tokio::fs::read_to_string(file).await {
            Ok(text) if text.len() as u64 > LARGEST => {
                Err(failed(format!("it has more than {LARGEST} bytes")))
            }
            Ok(text) if text.trim().is_empty() => Err(failed("it is empty".to_owned())),
            Ok(text) => {
                bearer(text.trim()).ok_or_else(|| failed("it has characters that no token has".to_owned()))
            }
            Err(error) => Err(failed(error.to_string())),
        };
        let header = header.or_else(|error| self.fixed.clone().ok_or(error))?;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), header.clone()));
        Ok(header)
    }
}

/// The header of a token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}
