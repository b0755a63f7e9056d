//! Answers of one provider that are still good.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Most answers that are kept; a provider that answers for each image has as many as there are images.
const ENTRIES: usize = 1000;

/// For which images an answer is kept: `cacheKeyType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CachedFor {
    /// For those of the repository that was asked about.
    Image,
    /// For all of its registry.
    Registry,
    /// For all that the provider is asked about.
    Global,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum CacheKey {
    Image(String),
    Registry(String),
    Global,
}

/// Answers with their ends.
#[derive(Debug)]
pub(super) struct AnswerCache<T>(HashMap<CacheKey, (T, Instant)>);

impl<T> Default for AnswerCache<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> AnswerCache<T> {
    /// The answer for a repository: its own, or that of its registry, or the one for all.
    pub(super) fn get(&mut self, repository: &str, now: Instant) -> Option<T> {
        self.0.retain(|_, (_, end)| *end > now);
        [CachedFor::Image, CachedFor::Registry, CachedFor::Global]
            .into_iter()
            .find_map(|cached_for| self.0.get(&key(cached_for, repository)))
            .map(|(answer, _)| answer.clone())
    }

    /// Keeps an answer for `duration`; not at all when that is nothing, or more than a clock can tell.
    pub(super) fn put(
        &mut self,
        cached_for: CachedFor,
        repository: &str,
        answer: T,
        duration: Duration,
        now: Instant,
    ) {
        let Some(end) = now.checked_add(duration).filter(|end| *end > now) else { return };
        if self.0.len() >= ENTRIES {
            let first = self.0.iter().min_by_key(|(_, (_, end))| *end).map(|(key, _)| key.clone());
            first.and_then(|key| self.0.remove(&key));
        }
        self.0.insert(key(cached_for, repository), (answer, end));
    }
}

fn key(cached_for: CachedFor, repository: &str) -> CacheKey {
    match cached_for {
        CachedFor::Image => CacheKey::Image(repository.to_owned()),
        CachedFor::Registry => {
            CacheKey::Registry(repository.split('/').next().unwrap_or_default().to_owned())
        }
        CachedFor::Global => CacheKey::Global,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_for_what_it_says_and_as_long() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        for (cached_for, good_for) in [
            (CachedFor::Image, &["r.io/a"][..]),
            (CachedFor::Registry, &["r.io/a", "r.io/b"]),
            (CachedFor::Global, &["r.io/a", "r.io/b", "x.io/a"]),
        ] {
            let mut cache = AnswerCache::default();
            cache.put(cached_for, "r.io/a", 1, Duration::from_secs(10), now);
            for repository in ["r.io/a", "r.io/b", "x.io/a"] {
                let expected = good_for.contains(&repository).then_some(1);
                assert_eq!(cache.get(repository, later(9)), expected, "{cached_for:?} {repository}");
            }
            assert_eq!(cache.get("r.io/a", later(10)), None);
        }
        let mut cache = AnswerCache::default();
        cache.put(CachedFor::Image, "r.io/a", 1, Duration::ZERO, now);
        assert_eq!(cache.get("r.io/a", now), None);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let now = Instant::now();
        let mut cache = AnswerCache::default();
        for n in 0..ENTRIES + 10 {
            let duration = Duration::from_secs(60 + n as u64);
            cache.put(CachedFor::Image, &format!("r.io/{n}"), n, duration, now);
        }
        assert_eq!(cache.0.len(), ENTRIES);
        assert_eq!(cache.get("r.io/0", now), None, "the one that ends first goes first");
        assert_eq!(cache.get("r.io/10", now), Some(10));
    }
}
