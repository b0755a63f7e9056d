//! When guests let others have a turn.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures::task::AtomicWaker;
use tokio::time::timeout;

use super::*;
use crate::engine::TICK;

/// How often the guest of [`naps`] sleeps for three ticks, and then computes for a moment.
const NAPS: usize = 30;

fn naps() -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $naps i32) (local $steps i32)
    (i32.store (i32.const 16) (i32.const 1))                ;; monotonic clock
    (i64.store (i32.const 24) (i64.const {}))               ;; nanoseconds
    (loop $nap
      (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
      (local.set $steps (i32.const 1000))
      (loop $step
        (local.set $steps (i32.sub (local.get $steps) (i32.const 1)))
        (br_if $step (local.get $steps)))
      (local.set $naps (i32.add (local.get $naps) (i32.const 1)))
      (br_if $nap (i32.lt_u (local.get $naps) (i32.const {NAPS}))))))"#,
        (3 * TICK).as_nanos()
    )
}

/// Tells whether a future asks to go on before its poll returns.
#[derive(Default)]
struct Noted {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Runs a future to its end, and counts how often it has let others go first.
async fn yields<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let (noted, mut count) = (Arc::<Noted>::default(), 0);
    let waker = Waker::from(Arc::clone(&noted));
    let output = std::future::poll_fn(|cx: &mut Context<'_>| {
        noted.task.register(cx.waker());
        noted.woken.store(false, Ordering::Release);
        let poll = Pin::as_mut(&mut future).poll(&mut Context::from_waker(&waker));
        if poll.is_pending() && noted.woken.load(Ordering::Acquire) {
            count += 1;
        }
        poll
    })
    .await;
    (output, count)
}

/// A tick has come while it slept; it goes on all the same. On a busy machine, another may come while it computes.
#[tokio::test]
async fn a_guest_that_has_slept_does_its_work_in_one_turn() {
    let bench = Bench::new();
    let output: Arc<dyn Output> = Arc::new(Capture::new(CAPTURE));
    let guest = bench.instance(&bench.guest(&naps()), &output).await;
    let (exit, yields) = timeout(PATIENCE, yields(guest.run())).await.unwrap();
    assert_eq!(exit.code, 0, "{exit:?}");
    assert!(yields < NAPS / 2, "{yields}");
}

#[tokio::test]
async fn a_guest_that_computes_lets_others_go_first() {
    let bench = Bench::new();
    let output: Arc<dyn Output> = Arc::new(Capture::new(CAPTURE));
    let guest = bench.instance(&bench.guest(SPINS), &output).await;
    let mut guest = pin!(yields(guest.run()));
    for _ in 0..5 {
        assert!(futures::poll!(guest.as_mut()).is_pending(), "it computes for ever, and yields");
    }
}
