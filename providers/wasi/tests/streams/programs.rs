//! Other programs of a container's image, in a real image of a real registry.

use kubewasm_kubelet::runtime::{ContainerSpec, ExecIo, Runtime as _};
use kubewasm_tests::{
    guests::rust::as_command_component,
    home::Home,
    registry::{Registry, image::Content},
};

use super::{
    terminal::WHERE,
    world::{CAT, Node, at_terminal, caller},
};

const TRAPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

/// A toolbox, in which a container waits for input.
async fn toolbox(home: &Home) -> Node {
    kubewasm_tests::init();
    let mut registry = Registry::open(home, "toolbox").unwrap();
    registry.start().await.unwrap();
    let module = |wat: &str| wat::parse_str(wat).unwrap();
    let files = [
        ("bin/cat", module(CAT)),
        ("bin/where", module(WHERE)),
        ("bin/where-0.2", as_command_component(&module(WHERE)).unwrap()),
        ("usr/local/trap", module(TRAPS)),
        ("bin/script", b"#!/bin/sh\n".to_vec()),
        ("bin/embedded", module(r#"(module (func (export "f")))"#)),
    ];
    let content = Content::Image {
        files: files.map(|(name, bytes)| (name.to_owned(), bytes)).into(),
        entrypoint: vec!["/bin/cat".to_owned()],
        cmd: Vec::new(),
        env: vec!["PATH=/usr/local:/bin".to_owned()],
    };
    registry.push("toolbox:v1", &content).await.unwrap();
    let node = Node::new().await;
    let image = registry.name("toolbox:v1");
    node.runtime.pull(&image, &[]).await.unwrap();
    let argv = vec!["/bin/cat".to_owned()];
    node.start(&ContainerSpec { argv, stdin: true, ..node.spec("a", &image) }).await;
    node
}

#[tokio::test]
async fn commands_are_found_as_a_shell_finds_them() {
    let home = Home::temporary().unwrap();
    let node = toolbox(&home).await;
    for (command, code, err) in [
        ("cat", 3, ""),
        ("/bin/cat", 3, ""),
        ("trap", 134, "wasm trap: wasm `unreachable` instruction executed"),
        ("nothing", 127, "exec: \"nothing\": executable file not found in $PATH\n"),
        ("/bin/nothing", 127, "exec: \"/bin/nothing\": no such file or directory"),
        ("/bin", 127, "exec: \"/bin\": is a directory\n"),
        ("script", 126, "exec: \"script\": not a WebAssembly module: it looks like"),
        ("embedded", 126, "exec: \"embedded\": "),
    ] {
        let argv = [command.to_owned()];
        let (mut caller, streams) = caller();
        drop(std::mem::replace(&mut caller.stdin, tokio::io::duplex(1).0));
        let (ended, (out, text)) = tokio::join!(node.runtime.exec_stream("a", &argv, streams), caller.rest());
        assert_eq!((ended.unwrap(), out.as_str()), (code, ""), "{command}: {text}");
        assert!(text.starts_with(err) && text.is_empty() == err.is_empty(), "{command}: {text}");
        // A probe sees the same.
        let end = node.runtime.exec("a", &argv, ExecIo::Collect { limit: 10_000 }).await.unwrap();
        let seen = String::from_utf8(end.output).unwrap();
        // Of a trap that is the reason; what follows is where in the code it was.
        let first = |text: &str| text.lines().next().map(str::to_owned);
        assert_eq!((end.exit_code, first(&seen)), (code, first(&text)), "{command}");
    }
    assert!(node.runs("a"));
}

#[tokio::test]
async fn a_program_at_a_terminal_knows_how_large_it_is() {
    let home = Home::temporary().unwrap();
    let node = toolbox(&home).await;
    for program in ["where", "where-0.2"] {
        let argv = [program.to_owned()];
        let (mut user, streams) = at_terminal(132, 43);
        let (ended, (out, _)) = tokio::join!(node.runtime.exec_stream("a", &argv, streams), user.rest());
        assert_eq!(ended.unwrap(), 0);
        assert!(out.starts_with("222\r\n"), "{program}: {out}");
        for variable in ["TERM=xterm\0", "COLUMNS=132\0", "LINES=43\0"] {
            assert!(out.contains(variable), "{program}: {variable}: {out}");
        }
        let (mut user, streams) = caller();
        let (ended, (out, _)) = tokio::join!(node.runtime.exec_stream("a", &argv, streams), user.rest());
        assert_eq!(ended.unwrap(), 0);
        assert!(out.starts_with("000\n") && !out.contains("COLUMNS"), "{program}: {out}");
    }
}
