use super::*;

type Requests = Occupancy<&'static str, &'static str, u32>;

fn now() -> Instant {
    Instant::now()
}

/// Requests that the guest was called with, in order.
fn begun(requests: &mut Requests, names: &[&'static str]) -> Vec<u64> {
    let mut begun = Vec::new();
    for name in names {
        let id = requests.join(now()).unwrap();
        requests.submit(id, (*name).to_owned(), name);
        assert_eq!(requests.begin(), Some((id, *name)));
        requests.begun(id, u32::try_from(id).unwrap());
        begun.push(id);
    }
    begun
}

fn progress(requests: &mut Requests, id: u64) -> Option<CallProgress<&'static str, &'static str>> {
    match requests.poll(id, &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(progress) => Some(progress),
        Poll::Pending => None,
    }
}

#[test]
fn as_many_are_in_it_as_there_may_be_and_no_more_than_are_left() {
    let mut requests = Requests::new(2, 3);
    let ids = begun(&mut requests, &["a", "b"]);
    assert_eq!(requests.join(now()), None);
    requests.end(ids[0], CallEnd::Returned);
    assert!(std::mem::take(&mut requests.is_freed));
    assert!(requests.join(now()).is_some());
    requests.end(ids[1], CallEnd::Returned);
    assert_eq!(requests.join(now()), None, "it has had three");
}

#[test]
fn one_that_is_too_old_too_large_busy_or_under_pressure_gets_none() {
    let mut requests = Requests::new(3, 9);
    let until = now();
    requests.made(9, until);
    assert_eq!(requests.join(until), None);
    requests.made(9, now() + std::time::Duration::from_secs(60));
    requests.before_poll();
    assert!(requests.join(now()).is_some(), "it is not known yet");
    requests.after_poll();
    assert_eq!(requests.join(now()), None);
    requests.before_poll();
    requests.is_asked();
    requests.after_poll();
    assert!(std::mem::take(&mut requests.is_freed), "who waits is told");
    requests.set_backpressure(true);
    assert_eq!(requests.join(now()), None);
    requests.set_backpressure(false);
    assert!(std::mem::take(&mut requests.is_freed));
    assert!(requests.join(now()).is_some());
    requests.set_grown();
    assert_eq!(requests.join(now()), None);
}

#[test]
fn what_the_guest_has_not_heard_of_goes_elsewhere() {
    let mut requests = Requests::new(9, 9);
    begun(&mut requests, &["a"]);
    let waits = requests.join(now()).unwrap();
    requests.submit(waits, "b".to_owned(), "b");
    requests.set_backpressure(true);
    assert_eq!(progress(&mut requests, waits), Some(CallProgress::Ended(CallEnd::HandedBack("b"))));
    requests.set_backpressure(false);
    requests.leave(waits);
    let late = requests.join(now()).unwrap();
    requests.close(|| CallEnd::Failed);
    requests.submit(late, "c".to_owned(), "c");
    assert_eq!(progress(&mut requests, late), Some(CallProgress::Ended(CallEnd::HandedBack("c"))));
}

/// Three have a seat before it is known that it may have but one more.
#[test]
fn those_who_are_too_many_go_elsewhere_and_do_not_come_back() {
    let mut requests = Requests::new(9, 9);
    let ids: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let id = requests.join(now()).unwrap();
            requests.submit(id, name.to_owned(), name);
            id
        })
        .collect();
    requests.made(1, now() + std::time::Duration::from_secs(60));
    assert_eq!(requests.begin(), Some((ids[0], "a")));
    assert_eq!(requests.begin(), None, "it was called once");
    for (id, name) in [(ids[1], "b"), (ids[2], "c")] {
        assert_eq!(progress(&mut requests, id), Some(CallProgress::Ended(CallEnd::HandedBack(name))));
        requests.leave(id);
        assert_eq!(requests.join(now()), None, "there is none left");
    }
}

/// The guest may go on after an answer that was taken, and then nobody waits for it.
#[test]
fn an_answer_that_was_taken_is_wanted_no_more() {
    let mut requests = Requests::new(9, 9);
    let ids = begun(&mut requests, &["a", "b"]);
    assert_eq!(requests.answered(ids[0], "answer"), None);
    assert_eq!(progress(&mut requests, ids[0]), Some(CallProgress::Answered("answer")));
    assert_eq!(requests.wanted(), 2, "its body may go on");
    requests.leave(ids[0]);
    assert_eq!((requests.wanted(), requests.is_empty()), (1, false));
    requests.leave(ids[1]);
    assert_eq!(requests.wanted(), 1, "whoever leaves it looks after its time");
    requests.end(ids[0], CallEnd::Returned);
    assert_eq!(requests.wanted(), 1);
}

#[test]
fn who_is_too_slow_retires_it_for_the_others() {
    let mut requests = Requests::new(9, 9);
    let ids = begun(&mut requests, &["slow", "other"]);
    requests.time_is_up(ids[0]);
    assert_eq!((requests.join(now()), requests.is_to_end()), (None, false));
    assert_eq!(requests.answered(ids[0], "late"), Some("late"), "nobody takes it");
    assert_eq!(requests.answered(ids[1], "answer"), None);
    assert_eq!(progress(&mut requests, ids[1]), Some(CallProgress::Answered("answer")));
    requests.end(ids[1], CallEnd::Returned);
    assert!(requests.is_to_end() && !requests.is_empty(), "the slow one is there still");
    requests.end(ids[0], CallEnd::Returned);
    assert!(requests.close_if_empty() && !requests.is_good(), "it is not kept");
}

#[test]
fn the_guest_is_not_blamed_for_what_it_has_not_heard_of() {
    let mut requests = Requests::new(9, 9);
    let early = requests.join(now()).unwrap();
    requests.submit(early, "early".to_owned(), "early");
    requests.made(9, now() + std::time::Duration::from_secs(60));
    requests.time_is_up(early);
    requests.leave(early);
    assert!(requests.join(now()).is_some());
    let mut requests = Requests::new(9, 9);
    let early = requests.join(now()).unwrap();
    requests.time_is_up(early);
    assert!(requests.is_to_end(), "it was not made in time");
}

#[test]
fn who_computes_without_end_ends_it_at_once() {
    let mut requests = Requests::new(9, 9);
    let ids = begun(&mut requests, &["loop", "other"]);
    requests.before_poll();
    requests.is_asked();
    requests.has_yielded(Some(0));
    requests.after_poll();
    requests.before_poll();
    requests.after_poll();
    requests.time_is_up(ids[1]);
    assert!(!requests.is_to_end(), "it is not this one that computes");
    requests.time_is_up(ids[0]);
    assert!(requests.is_to_end());
    assert_eq!(requests.names(Some(0)), ["loop"]);
    assert_eq!(requests.names(Some(7)), ["loop", "other"]);
}

#[test]
fn those_who_leave_are_forgotten_when_the_guest_is_done_with_them() {
    let mut requests = Requests::new(9, 9);
    let ids = begun(&mut requests, &["a"]);
    let reserved = requests.join(now()).unwrap();
    assert!(requests.is_unanswered(ids[0]) && !requests.is_unanswered(reserved));
    requests.leave(reserved);
    requests.leave(ids[0]);
    assert!(!requests.is_empty() && !requests.close_if_empty());
    assert_eq!(requests.answered(ids[0], "answer"), Some("answer"));
    requests.end(ids[0], CallEnd::Returned);
    assert!(requests.calls.is_empty() && requests.close_if_empty());
    assert_eq!(requests.join(now()), None);
}

#[test]
fn what_cannot_be_made_is_no_instance_for_all_that_wait_for_it() {
    let mut requests = Requests::new(9, 9);
    let ids = [requests.join(now()).unwrap(), requests.join(now()).unwrap()];
    for id in ids {
        requests.submit(id, "a".to_owned(), "a");
    }
    requests.close_all(|| CallEnd::Overloaded);
    for id in ids {
        assert_eq!(progress(&mut requests, id), Some(CallProgress::Ended(CallEnd::Overloaded)));
    }
}
