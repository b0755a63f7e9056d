//! Whether guests wait for a turn while others have theirs, and how long turns are because of it.
//!
//! A long turn wastes little, and a short one lets others wait for little: so turns are short while somebody waits. Ticks come
//! at [`TICK`] otherwise, because each of them wakes a thread, and a worker at rest is to cost nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::engine::{SHORT_TICK, TICK};

/// Short ticks in which nobody came to wait, after which ticks are long again.
const CALM: u32 = 20;

/// How often somebody has come to wait for a turn. One per worker.
#[derive(Debug, Default)]
pub(crate) struct Crowd(AtomicU64);

impl Crowd {
    /// Somebody waits.
    pub(super) fn grows(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When the next tick of an engine comes.
#[derive(Debug)]
pub(crate) struct Pace {
    crowd: Arc<Crowd>,
    seen: u64,
    /// Ticks since somebody came to wait.
    calm: u32,
}

impl Pace {
    /// That of an engine whose guests wait in this crowd.
    pub(crate) fn new(crowd: Arc<Crowd>) -> Self {
        let seen = crowd.count();
        Self { crowd, seen, calm: CALM }
    }

    /// Time until the next tick.
    pub(crate) fn next(&mut self) -> Duration {
        let count = self.crowd.count();
        self.calm = if count == self.seen { self.calm.saturating_add(1) } else { 0 };
        self.seen = count;
        if self.calm < CALM { SHORT_TICK } else { TICK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short_while_somebody_comes_to_wait_and_for_a_while_after() {
        let crowd = Arc::new(Crowd::default());
        crowd.grows();
        let mut pace = Pace::new(Arc::clone(&crowd));
        assert_eq!(pace.next(), TICK, "who came before it began does not wait any more");
        for _ in 0..3 {
            crowd.grows();
            for tick in 0..CALM {
                assert_eq!(pace.next(), SHORT_TICK, "{tick}");
            }
        }
        for _ in 0..3 {
            assert_eq!(pace.next(), TICK);
        }
    }

    #[test]
    fn engines_see_the_same_crowd_each_for_itself() {
        let crowd = Arc::new(Crowd::default());
        let [mut one, mut other] = [(); 2].map(|()| Pace::new(Arc::clone(&crowd)));
        crowd.grows();
        assert_eq!(one.next(), SHORT_TICK);
        assert_eq!(other.next(), SHORT_TICK);
    }
}
