//! attach: several callers, one container, and its log.

use std::time::Duration;

use kubewasm_kubelet::runtime::{CallerStreams, ContainerSpec, Runtime as _};
use kubewasm_wasi::provider::WasiRuntime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    support::until,
    world::{CAT, Node, PATIENCE, YES, at_terminal, caller, failed, options, spec},
};

#[tokio::test]
async fn several_callers_talk_to_one_container() {
    let node = Node::new().await;
    for (id, image) in ["core", "component"].iter().zip(node.both(CAT).await) {
        node.start(&ContainerSpec { stdin: true, ..node.spec(id, &image) }).await;
        let (mut first, streams) = caller();
        let first_attach = node.runtime.attach(id, streams);
        let talk = async {
            first.send("one\n").await;
            first.expect("one\n").await;
            let (mut second, streams) = caller();
            {
                let mut second_attach = Box::pin(node.runtime.attach(id, streams));
                let talk = async {
                    second.send("two\n").await;
                    second.expect("two\n").await;
                };
                tokio::select! {
                    ended = &mut second_attach => panic!("it has ended: {ended:?}"),
                    () = talk => {}
                }
            }
            first.expect("two\n").await;
            // The second one has gone; the first one's input has ended, and the container's has not.
            first.stdin.shutdown().await.unwrap();
            let (mut third, streams) = caller();
            let mut third_attach = Box::pin(node.runtime.attach(id, streams));
            let talk = async {
                third.send("three\n").await;
                third.expect("three\n").await;
            };
            tokio::select! {
                ended = &mut third_attach => panic!("it has ended: {ended:?}"),
                () = talk => {}
            }
            node.runtime.stop(id, Duration::ZERO).await.unwrap();
            third_attach.await.unwrap();
            first.rest().await.0
        };
        let (ended, rest) = tokio::join!(first_attach, talk);
        ended.unwrap();
        assert_eq!(rest, "three\n");
        node.exit(id).await;
        assert_eq!(node.log(id), "stdout F one\nstdout F two\nstdout F three\n", "{id}");
    }
}

#[tokio::test]
async fn input_that_is_there_once_ends_with_its_caller() {
    let node = Node::new().await;
    for (id, image) in ["core", "component"].iter().zip(node.both(CAT).await) {
        node.start(&ContainerSpec { stdin: true, stdin_once: true, ..node.spec(id, &image) }).await;
        let (mut caller, streams) = caller();
        let talk = async {
            caller.send("all of it\n").await;
            caller.stdin.shutdown().await.unwrap();
            caller.rest().await.0
        };
        let (ended, rest) = tokio::join!(node.runtime.attach(id, streams), talk);
        ended.unwrap();
        assert_eq!(rest, "all of it\n");
        assert_eq!(node.exit(id).await.exit_code, failed(id), "{id}");
    }
}

#[tokio::test]
async fn a_container_without_input_is_at_the_end_of_it() {
    let node = Node::new().await;
    for (id, image) in ["core", "component"].iter().zip(node.both(CAT).await) {
        node.start(&node.spec(id, &image)).await;
        assert_eq!(node.exit(id).await.exit_code, failed(id), "{id}");
    }
}

#[tokio::test]
async fn who_only_sends_is_done_when_all_was_sent() {
    let node = Node::new().await;
    let [image, _] = node.both(CAT).await;
    node.start(&ContainerSpec { stdin: true, ..node.spec("a", &image) }).await;
    let (mut caller, streams) = caller();
    caller.send("heard\n").await;
    caller.stdin.shutdown().await.unwrap();
    node.runtime.attach("a", CallerStreams { stdout: None, stderr: None, ..streams }).await.unwrap();
    until("what was sent in the log", PATIENCE, || (node.log("a") == "stdout F heard\n").then_some(())).await;
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_dropped_and_the_container_goes_on() {
    let node = Node::new().await;
    let image = node.have("yes.wasm", &wat::parse_str(YES).unwrap()).await;
    node.start(&node.spec("a", &image)).await;
    let (mut deaf, streams) = caller();
    let mut attach = Box::pin(node.runtime.attach("a", streams));
    let grows = async {
        // All buffers on the way to the caller hold less. The log is rotated, and begins anew, again and again.
        let size = || std::fs::metadata(node.dir.path().join("a.log")).map_or(0, |log| log.len());
        let (mut grown, mut before) = (0, size());
        while grown < 16 << 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = size();
            grown += now.saturating_sub(before);
            before = now;
        }
    };
    tokio::select! {
        ended = &mut attach => panic!("it has ended: {ended:?}"),
        done = tokio::time::timeout(PATIENCE, grows) => done.unwrap(),
    }
    let (ended, (_, errors)) = tokio::join!(attach, deaf.rest());
    ended.unwrap();
    assert!(errors.contains("does not read") && errors.contains("attach again"), "{errors}");
    assert!(node.runs("a"));
}

#[tokio::test]
async fn a_terminal_is_shown_its_unfinished_line_and_ends_its_container() {
    let node = Node::new().await;
    for (id, image) in ["core", "component"].iter().zip(node.both(CAT).await) {
        node.start(&ContainerSpec { stdin: true, tty: true, ..node.spec(id, &image) }).await;
        let (mut first, streams) = at_terminal(80, 24);
        {
            let mut attach = Box::pin(node.runtime.attach(id, streams));
            let talk = async {
                first.send("> \x04").await;
                first.expect("> > ").await;
            };
            tokio::select! {
                ended = &mut attach => panic!("it has ended: {ended:?}"),
                () = talk => {}
            }
        }
        let (mut second, streams) = at_terminal(80, 24);
        let talk = async {
            second.expect("> > ").await;
            second.send("\x03").await;
            second.rest().await.0
        };
        let (ended, rest) = tokio::join!(node.runtime.attach(id, streams), talk);
        ended.unwrap();
        assert_eq!((rest.as_str(), node.exit(id).await.exit_code), ("^C\r\n", 130), "{id}");
    }
}

#[tokio::test]
async fn callers_find_a_container_that_an_earlier_agent_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cat.wasm");
    std::fs::write(&path, wat::parse_str(CAT).unwrap()).unwrap();
    let image = path.display().to_string();
    let first = WasiRuntime::new(options(dir.path())).await.unwrap();
    first.pull(&image, &[]).await.unwrap();
    first.start(&ContainerSpec { stdin: true, ..spec(dir.path(), "a", &image) }).await.unwrap();
    let (mut before, streams) = caller();
    {
        let mut attach = Box::pin(first.attach("a", streams));
        let talk = async {
            before.send("before\n").await;
            before.expect("before\n").await;
        };
        tokio::select! {
            ended = &mut attach => panic!("it has ended: {ended:?}"),
            () = talk => {}
        }
    }
    drop(first);
    let second = WasiRuntime::new(options(dir.path())).await.unwrap();
    let (mut after, streams) = caller();
    let talk = async {
        after.send("after\n").await;
        after.expect("after\n").await;
        second.stop("a", Duration::ZERO).await.unwrap();
        let mut rest = String::new();
        after.stdout.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let (ended, rest) = tokio::join!(second.attach("a", streams), talk);
    ended.unwrap();
    assert_eq!(rest, "");
    second.shutdown(Duration::ZERO).await;
}
