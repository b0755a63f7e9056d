use super::*;
use kubewasm_host::exit::ExitReason;

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn instance(id: &str, revision: u64) -> Instance {
    let (pod_uid, label) = (format!("pod-{id}"), String::new());
    Instance { id: id.into(), pod_uid, label, revision, started_at: now(), end: None }
}

fn exited(id: &str, revision: u64) -> Instance {
    let end = End { finished_at: now(), exit: Exit::new(0, ExitReason::Exited, "") };
    Instance { end: Some(end), ..instance(id, revision) }
}

fn claim(group: &str, id: &str) -> Claim {
    Claim { group: group.into(), pod_uid: format!("pod-{id}"), label: format!("label-{id}") }
}

/// Claims the id, and has its worker tell of it.
fn put(view: &View, group: &str, incarnation: &str, instance: Instance) {
    view.claim(&instance.id, claim(group, &instance.id)).unwrap();
    view.told(group, incarnation, instance).unwrap();
}

#[test]
fn old_news_do_not_undo_new_ones() {
    let view = View::default();
    put(&view, "g", "1", exited("a", 2));
    view.told("g", "1", instance("a", 1)).unwrap();
    assert!(view.get("a").unwrap().end.is_some());
}

#[test]
fn what_a_picture_does_not_name_is_gone() {
    let view = View::default();
    for (id, revision) in [("named", 1), ("missing", 2), ("later", 4)] {
        put(&view, "g", "1", instance(id, revision));
    }
    put(&view, "other group", "1", instance("elsewhere", 1));
    view.claim("asked", claim("g", "asked")).unwrap();
    assert_eq!(view.synced("g", "1", 3, &HashSet::from(["named".to_owned()])), ["missing"]);
    let mut left: Vec<_> = view.all().into_iter().map(|instance| instance.id).collect();
    left.sort();
    assert_eq!(left, ["elsewhere", "later", "named"]);
    assert_eq!(view.sighting("asked"), Sighting::Starting);
}

#[test]
fn a_dead_worker_loses_what_ran_and_keeps_what_had_ended() {
    for dead in [Dead::One("1"), Dead::AllBut("2")] {
        let view = View::default();
        put(&view, "g", "1", instance("ran", 1));
        put(&view, "g", "1", exited("ended", 2));
        put(&view, "h", "1", instance("elsewhere", 1));
        put(&view, "g", "2", instance("successor", 1));
        view.claim("asked", claim("g", "asked")).unwrap();
        assert_eq!(view.lost("g", dead, &Exit::lost("the worker died"), now()), [""; 0]);
        let exit = |id| {
            let end = view.get(id).unwrap().end;
            end.map(|end| (end.exit.code, end.exit.reason))
        };
        assert_eq!(exit("ran"), Some((137, ExitReason::Lost)));
        assert_eq!(exit("ended"), Some((0, ExitReason::Exited)));
        assert_eq!((exit("elsewhere"), exit("successor")), (None, None));
        assert_eq!(view.sighting("asked"), Sighting::Starting, "who starts it finds out");
    }
}

/// An escaped guest has its worker, and can say what it likes in its name.
#[test]
fn a_worker_speaks_for_its_own_group_alone() {
    let view = View::default();
    put(&view, "g", "1", instance("a", 1));
    let lie = Instance { pod_uid: "pod-b".into(), label: "another image".into(), ..exited("a", 9) };
    assert_eq!(view.told("h", "1", lie.clone()), Err(Foreign));
    assert_eq!(view.told("h", "1", exited("never started", 9)), Err(Foreign));
    assert_eq!(view.told_of_start("h", "1", "a"), Err(Foreign));
    assert!(!view.told_of_end("h", "1", "a", 9));
    assert_eq!(view.synced("h", "1", 9, &HashSet::new()), [""; 0]);
    view.lost("h", Dead::One("1"), &Exit::lost("it says"), now());
    assert_eq!(view.all().len(), 1);
    assert!(view.get("a").unwrap().end.is_none());
    assert_eq!(view.sighting("never started"), Sighting::Absent);
    // Of its own containers it can say that they have ended, and not that they are another pod's.
    view.told("g", "1", lie).unwrap();
    let seen = view.get("a").unwrap();
    assert_eq!((seen.pod_uid.as_str(), seen.label.as_str()), ("pod-a", "label-a"));
    assert!(seen.end.is_some());
}

#[test]
fn an_id_is_claimed_once() {
    let view = View::default();
    view.is_silent("h", Ledger::Kept, vec![("old".into(), claim("h", "old"))]);
    put(&view, "g", "1", instance("a", 1));
    assert_eq!(view.claim("a", claim("h", "a")), Err(Taken::Elsewhere("g".into())));
    assert_eq!(view.claim("a", claim("g", "a")), Ok(()), "it is known there already");
    assert_eq!(view.claim("old", claim("h", "old")), Err(Taken::Untold));
    view.forget("a");
    assert_eq!(view.claim("a", claim("h", "a")), Ok(()));
}

/// News of an end can be late: the id may have been started again, and the answer to that come first.
#[test]
fn an_end_is_of_what_was_there_when_it_came() {
    let view = View::default();
    put(&view, "g", "1", instance("a", 7));
    for (incarnation, revision) in [("1", 5), ("0", 9)] {
        assert!(!view.told_of_end("g", incarnation, "a", revision), "{incarnation} {revision}");
        assert!(view.get("a").is_some());
    }
    assert!(view.told_of_end("g", "1", "a", 7));
    assert_eq!(view.sighting("a"), Sighting::Absent);
}

#[test]
fn what_a_silent_worker_may_host_is_not_absent() {
    let view = View::default();
    view.is_silent("g", Ledger::Kept, vec![("a".into(), claim("g", "a")), ("b".into(), claim("g", "b"))]);
    assert_eq!(view.sighting("a"), Sighting::CannotTell);
    assert_eq!(view.sighting("c"), Sighting::Absent, "nobody has claimed it");
    assert!(view.claims().1, "and so there is no other");
    view.told_of_start("g", "1", "a").unwrap();
    assert_eq!(view.sighting("a"), Sighting::Starting);
    assert_eq!(view.synced("g", "1", 0, &HashSet::from(["a".to_owned()])), ["b"]);
    assert_eq!((view.sighting("a"), view.sighting("b")), (Sighting::Starting, Sighting::Absent));
    view.told("g", "1", instance("a", 1)).unwrap();
    assert_eq!(view.running_in("a").as_deref(), Some("g"));
    // One that fails, and one whose worker dies, come to nothing.
    view.is_silent("h", Ledger::Kept, vec![("c".into(), claim("h", "c")), ("d".into(), claim("h", "d"))]);
    view.told_of_start("h", "1", "c").unwrap();
    view.told_of_start("h", "1", "d").unwrap();
    assert!(view.told_of_end("h", "1", "c", 0));
    assert_eq!(view.lost("h", Dead::One("1"), &Exit::lost("it died"), now()), ["d"]);
    view.is_silent("i", Ledger::Kept, vec![("e".into(), claim("i", "e"))]);
    assert_eq!(view.has_no_worker("i"), ["e"]);
    assert_eq!(view.sighting("e"), Sighting::Absent);
}

/// The agent of a version that kept no claims has left this worker: what it hosts is what it says at first.
#[test]
fn the_first_picture_is_believed_where_no_claims_were_kept() {
    let view = View::default();
    view.is_silent("g", Ledger::Missing, Vec::new());
    put(&view, "h", "1", instance("elsewhere", 1));
    assert_eq!(view.sighting("a"), Sighting::CannotTell);
    assert!(!view.claims().1);
    view.told("g", "1", instance("a", 1)).unwrap();
    assert_eq!(view.told("g", "1", exited("elsewhere", 1)), Err(Foreign));
    view.synced("g", "1", 1, &HashSet::from(["a".to_owned()]));
    assert!(view.claims().1 && view.get("a").is_some());
    assert_eq!(view.claims_of("g").len(), 1);
    assert_eq!(view.told("g", "1", instance("b", 2)), Err(Foreign), "later ones were not started by anybody");
}

#[test]
fn an_instance_can_be_stopped_until_it_has_ended() {
    let view = View::default();
    view.claim("a", claim("g", "a")).unwrap();
    assert_eq!(view.running_in("a").as_deref(), Some("g"));
    assert_eq!((view.get("a"), view.sighting("a")), (None, Sighting::Starting), "asked for is not known");
    view.told("g", "1", instance("a", 1)).unwrap();
    assert_eq!(view.running_in("a").as_deref(), Some("g"));
    view.told("g", "1", exited("a", 2)).unwrap();
    assert_eq!(view.running_in("a"), None);
    assert_eq!(view.claim_on("a"), Some(claim("g", "a")));
    assert!(view.has("g") && !view.has("h"));
    view.forget("a");
    assert!(!view.has("g"));
}

#[tokio::test]
async fn pods_are_woken_by_what_is_told_and_by_what_is_gone() {
    let view = View::default();
    put(&view, "g", "1", instance("a", 1));
    let mut wakeups = view.wakeups().unwrap();
    assert!(view.wakeups().is_none());
    assert_eq!(wakeups.recv().await.unwrap(), "pod-a");
    view.synced("g", "1", 1, &HashSet::new());
    assert_eq!(wakeups.recv().await.unwrap(), "pod-a");
}
