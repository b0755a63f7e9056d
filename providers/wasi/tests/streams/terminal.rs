//! Callers at terminals.

use kubewasm_kubelet::runtime::{ContainerSpec, Runtime as _};

use super::world::{CAT, Node, at_terminal, failed};

/// Prints what its three streams are (2 is a terminal, 0 is none), and its environment.
pub(crate) const WHERE: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func $print (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (local $fd i32)
    (loop $each
      (drop (call $stat (local.get $fd) (i32.const 64)))
      (i32.store8 (i32.const 128) (i32.add (i32.const 48) (i32.load8_u (i32.const 64))))
      (call $print (i32.const 128) (i32.const 1))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $each (i32.lt_u (local.get $fd) (i32.const 3))))
    (drop (call $sizes (i32.const 256) (i32.const 260)))
    (drop (call $environ (i32.const 1024) (i32.const 65536)))
    (i32.store8 (i32.const 128) (i32.const 10))
    (call $print (i32.const 128) (i32.const 1))
    (call $print (i32.const 65536) (i32.load (i32.const 260)))))"#;

async fn with(node: &Node, wat: &str) -> [String; 2] {
    // Containers that wait: what is executed in them does not.
    for (id, image) in ["core", "component"].iter().zip(node.both(wat).await) {
        node.start(&ContainerSpec { stdin: true, ..node.spec(id, &image) }).await;
    }
    ["core", "component"].map(str::to_owned)
}

#[tokio::test]
async fn lines_are_typed_shown_and_ended() {
    let node = Node::new().await;
    for id in with(&node, CAT).await {
        let (mut caller, streams) = at_terminal(80, 24);
        let argv = ["cat".to_owned()];
        let exec = node.runtime.exec_stream(&id, &argv, streams);
        let talk = async {
            caller.send("h").await;
            caller.expect("h").await;
            caller.send("ix\x7f\r").await;
            caller.expect("ix\x08 \x08\r\nhi\r\n").await;
            caller.send("\x04").await;
            caller.rest().await.0
        };
        let (code, rest) = tokio::join!(exec, talk);
        assert_eq!((code.unwrap(), rest.as_str()), (failed(&id), ""), "{id}");
    }
}

#[tokio::test]
async fn ctrl_c_ends_what_is_executed_and_not_its_container() {
    let node = Node::new().await;
    for id in with(&node, CAT).await {
        let (mut caller, streams) = at_terminal(80, 24);
        let argv = ["cat".to_owned()];
        let exec = node.runtime.exec_stream(&id, &argv, streams);
        let talk = async {
            caller.send("abc\x03").await;
            caller.rest().await.0
        };
        let (code, rest) = tokio::join!(exec, talk);
        assert_eq!((code.unwrap(), rest.as_str()), (130, "abc^C\r\n"), "{id}");
        assert!(node.runs(&id));
    }
}

#[tokio::test]
async fn a_container_knows_what_its_streams_are() {
    let node = Node::new().await;
    for (generation, image) in ["core", "component"].iter().zip(node.both(WHERE).await) {
        for (tty, stdin, streams) in [(true, true, "222"), (false, true, "022"), (false, false, "022")] {
            let id = format!("{generation}-{tty}-{stdin}");
            node.start(&ContainerSpec { tty, stdin, ..node.spec(&id, &image) }).await;
            node.exit(&id).await;
            assert!(node.log(&id).starts_with(&format!("stdout F {streams}\n")), "{id}: {}", node.log(&id));
        }
    }
}
