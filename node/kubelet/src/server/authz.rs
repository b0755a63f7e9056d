//! What a caller may do: the API server is asked about `nodes/<subresource>` of this node.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    attributes::Attributes,
    reviews::{ReviewError, Reviews},
};
use crate::{config::WebhookAuthorization, lru::Lru};

/// Decisions that are cached at most.
const REMEMBERED: usize = 1024;

/// Decisions of the API server, remembered for as long as the configuration says.
pub(super) struct Decisions {
    allowed_ttl: Duration,
    denied_ttl: Duration,
    known: Mutex<Lru<Attributes, (Instant, bool)>>,
}

impl std::fmt::Debug for Decisions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decisions")
            .field("allowed_ttl", &self.allowed_ttl)
            .field("denied_ttl", &self.denied_ttl)
            .finish_non_exhaustive()
    }
}

impl Decisions {
    pub(super) fn new(config: &WebhookAuthorization) -> Self {
        Self {
            allowed_ttl: config.cache_authorized_ttl,
            denied_ttl: config.cache_unauthorized_ttl,
            known: Mutex::new(Lru::new(REMEMBERED)),
        }
    }

    /// Whether the caller is allowed to. Failed requests are not cached.
    pub(super) async fn allows(
        &self,
        attributes: &Attributes,
        reviews: &Reviews,
    ) -> Result<bool, ReviewError> {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, allowed)) = known.get_mut(attributes).filter(|(until, _)| *until > Instant::now())
            {
                return Ok(*allowed);
            }
        }
        let allowed = reviews.access(attributes).await?;
        let until = Instant::now() + if allowed { self.allowed_ttl } else { self.denied_ttl };
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(attributes.clone(), (until, allowed));
        Ok(allowed)
    }
}
