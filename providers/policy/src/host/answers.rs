//! Answers of others, kept for a moment, so that a policy that is called a hundred times a second does not ask a hundred times.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

/// Answers that are kept at most.
const MOST_ANSWERS: usize = 1024;
/// Bytes of all of them, 64 MiB, their questions included.
const MOST_BYTES: usize = 64 << 20;

/// Answers by their questions. Errors are never among them.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_question: HashMap<String, Answer>,
    bytes: usize,
    /// Counts answers, so that the oldest is known.
    arrived: u64,
}

#[derive(Debug)]
struct Answer {
    bytes: Bytes,
    until: Instant,
    arrived: u64,
}

impl Answers {
    /// An answer that is young enough.
    pub(super) fn get(&self, question: &str) -> Option<Bytes> {
        let kept = self.lock();
        let answer = kept.by_question.get(question).filter(|answer| answer.until > Instant::now())?;
        Some(answer.bytes.clone())
    }

    /// Keeps an answer for so long. Those that are over, and then the oldest, make room.
    pub(super) fn put(&self, question: String, bytes: &Bytes, age: Duration) {
        let now = Instant::now();
        let mut kept = self.lock();
        let Kept { by_question, bytes: held, arrived } = &mut *kept;
        let size = |question: &str, answer: &Bytes| question.len().saturating_add(answer.len());
        by_question.retain(|question, answer| {
            let stays = answer.until > now;
            if !stays {
                *held = held.saturating_sub(size(question, &answer.bytes));
            }
            stays
        });
        let new = size(&question, bytes);
        if new > MOST_BYTES {
            return;
        }
        let answer = Answer { bytes: bytes.clone(), until: now + age, arrived: *arrived };
        *arrived = arrived.wrapping_add(1);
        *held = held.saturating_add(new);
        if let Some(old) = by_question.insert(question.clone(), answer) {
            *held = held.saturating_sub(size(&question, &old.bytes));
        }
        while by_question.len() > MOST_ANSWERS || *held > MOST_BYTES {
            let oldest = by_question.iter().min_by_key(|(_, answer)| answer.arrived);
            let Some(oldest) = oldest.map(|(question, _)| question.clone()) else { break };
            if let Some(old) = by_question.remove(&oldest) {
                *held = held.saturating_sub(size(&oldest, &old.bytes));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn an_answer_is_kept_as_long_as_it_may_be() {
        let answers = Answers::default();
        answers.put("a".into(), &"1".into(), LONG);
        answers.put("b".into(), &"2".into(), Duration::ZERO);
        assert_eq!((answers.get("a"), answers.get("b")), (Some("1".into()), None));
        answers.put("a".into(), &"3".into(), LONG);
        assert_eq!(answers.get("a"), Some("3".into()));
        let kept = answers.lock();
        assert_eq!((kept.by_question.len(), kept.bytes), (1, 2), "what is over was given up");
    }

    #[test]
    fn the_oldest_make_room() {
        let answers = Answers::default();
        for n in 0..=MOST_ANSWERS {
            answers.put(n.to_string(), &"x".into(), LONG);
        }
        assert_eq!(answers.get("0"), None);
        assert!(answers.get("1").is_some() && answers.get(&MOST_ANSWERS.to_string()).is_some());
        let large = Bytes::from(vec![0; MOST_BYTES / 2]);
        answers.put("large".into(), &large, LONG);
        answers.put("larger".into(), &large, LONG);
        assert_eq!(answers.get("large"), None);
        assert!(answers.get("larger").is_some());
        answers.put("too large".into(), &Bytes::from(vec![0; MOST_BYTES]), LONG);
        assert_eq!(answers.get("too large"), None);
        let kept = answers.lock();
        assert!(
            kept.bytes <= MOST_BYTES && kept.by_question.contains_key("larger"),
            "it has displaced nothing"
        );
    }
}
