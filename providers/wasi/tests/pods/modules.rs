//! Modules that take all that a compiler has, beside one that somebody else wants to run.
//!
//! `KUBEWASM_TEST_SIZE=full` makes them as large as they may be.

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::*;

/// One size for every day, another one where the real thing is asked for.
fn size(usual: usize, full: usize) -> usize {
    if std::env::var("KUBEWASM_TEST_SIZE").as_deref() == Ok("full") { full } else { usual }
}

fn leb(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let byte = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// A section of a module: how many entries, and the entries.
fn section(id: u8, count: usize, entries: &[u8], out: &mut Vec<u8>) {
    let mut content = Vec::new();
    leb(count, &mut content);
    content.extend_from_slice(entries);
    out.push(id);
    leb(content.len(), out);
    out.extend(content);
}

/// A module that exports the last of so many functions of this body (its locals and its end included) as `_start`.
fn functions(count: usize, body: &[u8]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(1, 1, &[0x60, 0, 0], &mut module);
    section(3, count, &vec![0; count], &mut module);
    let mut export = b"\x06_start\0".to_vec();
    leb(count - 1, &mut export);
    section(7, 1, &export, &mut module);
    let mut code = Vec::new();
    for _ in 0..count {
        leb(body.len(), &mut code);
        code.extend_from_slice(body);
    }
    section(10, count, &code, &mut module);
    module
}

/// A module that imports so many functions of a host that is not there.
fn imports(count: usize) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(1, 1, &[0x60, 0, 0], &mut module);
    section(2, count, &b"\x01m\x01f\0\0".repeat(count), &mut module);
    module
}

/// A module whose only function is so many blocks deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(b"\x02\x40".repeat(depth));
    body.extend(vec![0x0b; depth + 1]);
    functions(1, &body)
}

/// A module that takes long for its size: many functions with a loop and a table of branches each, no two modules the
/// same.
fn slow(number: u8) -> Vec<u8> {
    // (loop (br_table 1 … 1 (local.get 0))), with one local.
    let mut body = vec![1, 1, 0x7f, 0x41, number, 0x21, 0, 0x03, 0x40, 0x20, 0, 0x0e];
    leb(200, &mut body);
    body.extend([1; 201]);
    body.extend([0x0b, 0x0b]);
    functions(size(3000, 30_000), &body)
}

/// One namespace has more to compile than there is time for; another one's pod starts while it waits.
#[tokio::test]
async fn a_namespace_full_of_slow_modules_does_not_hold_up_another() {
    let node = Node::new().await;
    let crowd: Vec<_> = (0..8_u8)
        .map(|number| {
            let path = node.file(&format!("slow{number}.wasm"), &slow(number));
            ContainerSpec { pod_namespace: "crowd".into(), ..node.spec(&format!("slow{number}"), &path) }
        })
        .collect();
    let mut crowd: FuturesUnordered<_> = crowd.iter().map(|spec| node.runtime.start(spec)).collect();
    let path = node.module("hello.wasm", &exits(7));
    let spec = node.spec("neighbour", &path);
    let mut neighbour = Box::pin(node.runtime.start(&spec));
    let mut ended = 0;
    loop {
        tokio::select! {
            started = &mut neighbour => {
                started.unwrap();
                break;
            }
            Some(result) = crowd.next() => {
                result.unwrap();
                ended += 1;
                assert!(ended < 4, "the neighbour waits while the crowd goes on");
            }
        }
    }
    assert_eq!(node.exit("neighbour").await.exit_code, 7);
}

/// A container that is stopped while its module waits to be compiled, or is compiled, is not waited for.
#[tokio::test]
async fn a_start_that_waits_for_its_module_is_called_off() {
    let node = Node::new().await;
    let slow = node.spec("slow", &node.file("slow.wasm", &slow(0)));
    let start = node.runtime.start(&slow);
    // The start is polled first, and is under way when this is called.
    let stop = async { node.runtime.stop("slow", Duration::ZERO).await.unwrap() };
    let (started, ()) = futures::join!(start, stop);
    let error = started.unwrap_err();
    assert!(matches!(&error, StartError::Run(_)) && error.to_string().contains("stopped before"), "{error}");
    assert_eq!(node.runtime.observe("slow"), Presence::Absent);
}

/// What is too large, too deep or too much ends as a container that cannot be made, or runs; and what is beside it runs.
#[tokio::test]
async fn hostile_modules_are_refused_or_run_and_harm_nobody() {
    let node = Node::new().await;
    let path = node.module("spins.wasm", SPINS);
    node.runtime.start(&node.spec("neighbour", &path)).await.unwrap();
    for (name, bytes, expected) in [
        ("functions", functions(size(20_000, 1_000_000), &[0, 0x0b]), None),
        ("too many functions", functions(1_000_001, &[0, 0x0b]), Some("does not compile: ")),
        ("imports", imports(1_000_000), Some("imports `m::f`, which is not part of WASI 0.1")),
        ("nested", nested(size(10_000, 1_000_000)), None),
        ("cut off", nested(100_000)[..150_000].to_vec(), Some("is damaged: ")),
    ] {
        let spec = node.spec(name, &node.file(name, &bytes));
        let started = node.runtime.start(&spec).await;
        match (started, expected) {
            (Ok(_), None) => {}
            // The large ones take more than a compiler may have.
            (Err(StartError::Run(error)), None) => {
                assert!(error.to_string().contains("the compiler failed: "), "{name}: {error}");
            }
            (Err(StartError::Create(error)), Some(expected)) => {
                assert!(error.to_string().contains(expected), "{name}: {error}");
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
    assert!(runs(&node.runtime, "neighbour"));
}

/// Where the program of a node would have to compile a module to run it.
fn no_compiler(options: &mut WasiOptions) {
    options.allow_paths = true;
    options.program = support::as_process(kubewasm_host::program::Program::new("/nonexistent"));
}

/// What is known of a module is kept with its machine code: an agent that has both reads neither the module nor runs a
/// compiler. A refusal is remembered with its text.
#[tokio::test]
async fn what_is_known_of_a_module_is_found_out_once() {
    let node = Node::new().await;
    let (good, bad) = (node.module("good.wasm", &exits(0)), node.module("bad.wasm", "(module)"));
    node.runtime.start(&node.spec("good", &good)).await.unwrap();
    node.exit("good").await;
    let kept: Vec<_> = std::fs::read_dir(node.dir.path().join("modules/precompiled"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept[0]).unwrap()).unwrap();
    assert_eq!(facts["kind"], "core-command");
    assert_eq!(facts["imports"], serde_json::json!(["wasi_snapshot_preview1"]));

    let first = node.runtime.start(&node.spec("bad", &bad)).await.unwrap_err().to_string();
    assert!(first.contains("has no `_start` function"), "{first}");
    assert_eq!(node.runtime.start(&node.spec("bad", &bad)).await.unwrap_err().to_string(), first);

    // An agent without a compiler gets as far as the worker, which it does not have either.
    let store = Store::open(&node.dir.path().join("modules"), StoreOptions::default()).unwrap();
    let mut options = WasiOptions::new(store, node.dir.path().join("other"), support::program());
    options.with_parent = true;
    no_compiler(&mut options);
    let agent = WasiRuntime::new(options).await.unwrap();
    let error = agent.start(&node.spec("again", &good)).await.unwrap_err();
    assert!(matches!(&error, StartError::Run(_)) && !error.to_string().contains("compiler"), "{error}");
    let error = agent.start(&node.spec("again", &bad)).await.unwrap_err();
    assert!(error.to_string().contains("the compiler cannot be run"), "{error}");
}
