//! Bearer tokens: whose they are, asked of the API server.
//!
//! Answers, yes and no, are remembered by the hash of the token, each kind apart, so that any number of bad tokens
//! puts no good one out of memory; that there was no answer is not remembered. Callers with the same token share one
//! question. Questions about tokens that have never been good are few at a time, in all and from one address: a flood
//! of them is told to come again and takes nothing from callers who are known.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{connections::Peer, reviews::Reviews, user::User};
use crate::lru::Lru;

/// Tokens whose answers are remembered, of each kind.
const REMEMBERED: usize = 1024;
/// Questions at once about tokens that have never been good; less than a third of all that may be asked at once.
const UNSEEN_AT_ONCE: usize = 16;
/// Those that may be asked, or wait to be, for one address.
const UNSEEN_OF_PEER: usize = 4;

/// SHA-256 of a token.
type TokenHash = [u8; 32];

/// What becomes of a token.
#[derive(Clone, Debug)]
pub(super) enum Identified {
    /// It is this user's.
    User(User),
    /// It is nobody's, or nobody could be asked.
    Nobody,
    /// Too many that nobody has seen before are asked about already.
    Busy,
}

/// What is known of tokens.
pub(super) struct Tokens {
    inner: Arc<TokensInner>,
}

struct TokensInner {
    ttl: Duration,
    answers: Mutex<TokenAnswers>,
    unseen: Semaphore,
    /// Questions, by address, about tokens that have never been good. Locked after the answers.
    places: Mutex<HashMap<Peer, usize>>,
}

struct TokenAnswers {
    /// Users, and until when they are taken to be so. One whose time is over tells that the token has been good.
    good: Lru<TokenHash, (Instant, User)>,
    /// Until when a token is taken to be nobody's.
    bad: Lru<TokenHash, Instant>,
    questions: HashMap<TokenHash, WeakShared<BoxFuture<'static, Option<User>>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("ttl", &self.inner.ttl).finish_non_exhaustive()
    }
}

impl Tokens {
    /// An answer is good for `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        let (good, bad) = (Lru::new(REMEMBERED), Lru::new(REMEMBERED));
        Self {
            inner: Arc::new(TokensInner {
                ttl,
                answers: Mutex::new(TokenAnswers { good, bad, questions: HashMap::new() }),
                unseen: Semaphore::new(UNSEEN_AT_ONCE),
                places: Mutex::default(),
            }),
        }
    }

    /// Whose token it is that came from `peer`.
    pub(super) async fn identify(&self, token: &str, peer: Peer, reviews: &Arc<Reviews>) -> Identified {
        let key: TokenHash = Sha256::digest(token.as_bytes()).into();
        let question = match self.recall(key, token, peer, reviews) {
            Ok(identified) => return identified,
            Err(question) => question,
        };
        question.await.map_or(Identified::Nobody, Identified::User)
    }

    /// What is known of a token, or the question that is, or is now, asked about it.
    fn recall(
        &self,
        key: TokenHash,
        token: &str,
        peer: Peer,
        reviews: &Arc<Reviews>,
    ) -> Result<Identified, Shared<BoxFuture<'static, Option<User>>>> {
        let now = Instant::now();
        let mut answers = lock(&self.inner.answers);
        let known = answers.good.get_mut(&key).map(|(until, user)| (*until > now, user.clone()));
        if let Some((true, user)) = known {
            return Ok(Identified::User(user));
        }
        if answers.bad.get_mut(&key).is_some_and(|until| *until > now) {
            return Ok(Identified::Nobody);
        }
        answers.questions.retain(|_, question| question.upgrade().is_some_and(|q| q.peek().is_none()));
        if let Some(question) = answers.questions.get(&key).and_then(WeakShared::upgrade) {
            return Err(question);
        }
        let place = match known {
            // It has been good: it is asked about like every known caller.
            Some(_) => None,
            None => match QuestionPlace::take(&self.inner, peer) {
                Some(place) => Some(place),
                None => return Ok(Identified::Busy),
            },
        };
        let question = ask(Arc::clone(&self.inner), key, token.to_owned(), place, Arc::clone(reviews));
        let question = question.boxed().shared();
        if let Some(weak) = question.downgrade() {
            answers.questions.insert(key, weak);
        }
        Err(question)
    }
}

/// Asks, and remembers the answer.
async fn ask(
    inner: Arc<TokensInner>,
    key: TokenHash,
    token: String,
    place: Option<QuestionPlace>,
    reviews: Arc<Reviews>,
) -> Option<User> {
    // The semaphore is never closed, so that this waits and does not fail.
    let _turn = match &place {
        Some(_) => inner.unseen.acquire().await.ok(),
        None => None,
    };
    let answer = reviews.token(&token).await;
    let until = Instant::now() + inner.ttl;
    match answer {
        Ok(Some(user)) => {
            lock(&inner.answers).good.insert(key, (until, user.clone()));
            Some(user)
        }
        Ok(None) => {
            let mut answers = lock(&inner.answers);
            answers.good.remove(&key);
            answers.bad.insert(key, until);
            None
        }
        Err(err) => {
            tracing::warn!(error = %err, "cannot ask whose token it is; the caller is refused");
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of a question among those of its address; left when the question is dropped, answered or not.
struct QuestionPlace {
    peer: Peer,
    inner: Arc<TokensInner>,
}

impl QuestionPlace {
    /// `None`: all are taken.
    fn take(inner: &Arc<TokensInner>, peer: Peer) -> Option<Self> {
        let mut places = lock(&inner.places);
        let taken = places.entry(peer).or_insert(0);
        if *taken >= UNSEEN_OF_PEER {
            return None;
        }
        *taken += 1;
        Some(Self { peer, inner: Arc::clone(inner) })
    }
}

impl Drop for QuestionPlace {
    fn drop(&mut self) {
        let mut places = lock(&self.inner.places);
        if let Some(taken) = places.get_mut(&self.peer) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.peer);
            }
        }
    }
}
