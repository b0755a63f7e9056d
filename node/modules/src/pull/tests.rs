use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::*;
use crate::{PullFailure, digest::Digest};

fn key(reference: &str, password: &str) -> PullKey {
    let credential = Credential { username: "u".to_owned(), password: password.to_owned() };
    (reference.parse().unwrap(), vec![credential])
}

fn outcome(text: &str) -> PullOutcome {
    Err(PullError { image: text.to_owned(), reason: PullFailure::EmptyLayer(Digest::of(b"")) })
}

/// Starts downloads that end when told, and counts them.
#[derive(Default)]
struct Downloads {
    started: AtomicUsize,
}

impl Downloads {
    fn join(&self, flights: &Flights, key: PullKey) -> (Joined, oneshot::Sender<&'static str>) {
        let (end, ended) = oneshot::channel();
        let joined = flights.join(key, |progress| {
            self.started.fetch_add(1, Ordering::SeqCst);
            async move {
                progress.send_replace(PullProgress { done_bytes: 1, total_bytes: 2 });
                let text = ended.await.unwrap_or("dropped");
                progress.send_replace(PullProgress { done_bytes: 2, total_bytes: 2 });
                outcome(text)
            }
        });
        (joined, end)
    }

    fn count(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }
}

fn text(outcome: PullOutcome) -> String {
    outcome.unwrap_err().image
}

#[tokio::test]
async fn callers_share_and_any_of_them_may_leave() {
    let (flights, downloads) = (Flights::default(), Downloads::default());
    let (first, end) = downloads.join(&flights, key("a", "p"));
    let (second, _) = downloads.join(&flights, key("a", "p"));
    let (third, _) = downloads.join(&flights, key("a", "p"));
    assert_eq!(downloads.count(), 1);

    // The first drives the download a bit and is dropped in the middle of it.
    let mut first = Box::pin(first.wait(None));
    assert!(futures::poll!(&mut first).is_pending());
    drop(first);
    let waiting = tokio::spawn(second.wait(None));
    end.send("done").unwrap();
    assert_eq!(text(waiting.await.unwrap()), "done");
    assert_eq!(text(third.wait(None).await), "done");
}

#[tokio::test]
async fn a_download_that_nobody_waits_for_ends() {
    let (flights, downloads) = (Flights::default(), Downloads::default());
    let (first, mut end) = downloads.join(&flights, key("a", "p"));
    drop(first);
    end.closed().await;
    let (second, end) = downloads.join(&flights, key("a", "p"));
    end.send("again").unwrap();
    assert_eq!(text(second.wait(None).await), "again");
    assert_eq!(downloads.count(), 2);
}

#[tokio::test]
async fn other_references_and_other_credentials_are_other_downloads() {
    let (flights, downloads) = (Flights::default(), Downloads::default());
    let _all =
        [key("a", "p"), key("a", "q"), key("b", "p"), key("a", "p")].map(|key| downloads.join(&flights, key));
    assert_eq!(downloads.count(), 3);
}

#[tokio::test]
async fn a_finished_download_is_not_joined() {
    let (flights, downloads) = (Flights::default(), Downloads::default());
    let (first, end) = downloads.join(&flights, key("a", "p"));
    let (late, _) = downloads.join(&flights, key("a", "p"));
    end.send("old").unwrap();
    assert_eq!(text(first.wait(None).await), "old");
    let (fresh, end) = downloads.join(&flights, key("a", "p"));
    end.send("new").unwrap();
    assert_eq!(text(late.wait(None).await), "old");
    assert_eq!(text(fresh.wait(None).await), "new");
}

#[tokio::test]
async fn every_listener_hears_the_end() {
    let (flights, downloads) = (Flights::default(), Downloads::default());
    let (first, end) = downloads.join(&flights, key("a", "p"));
    let (second, _) = downloads.join(&flights, key("a", "p"));
    let heard = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
    let listen = |number: usize| {
        let heard = &heard[number];
        move |progress: PullProgress| heard.lock().unwrap().push(progress)
    };
    let (one, two) = (listen(0), listen(1));
    let ending = async { end.send("done").unwrap() };
    let _ = futures::join!(first.wait(Some(&one)), second.wait(Some(&two)), ending);
    for heard in heard {
        assert_eq!(heard.lock().unwrap().last(), Some(&PullProgress { done_bytes: 2, total_bytes: 2 }));
    }
}
