mod components;
mod modes;
mod wapc;

use kubewasm_host::compile;
use serde_json::json;

use super::*;
use crate::{capabilities::Capability, host::LocalHost};

/// The imports that the programs here take, and a memory.
const HEAD: &str = r#"
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "host" "call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  ;; Writes so many bytes at an address to a descriptor.
  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 8) (local.get $at)) (i32.store (i32.const 12) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 8) (i32.const 1) (i32.const 16))))
  ;; Reads standard input to its end, to an address, and says how much that was.
  (func $read_all (param $at i32) (result i32) (local $sum i32) (local $now i32)
    (loop $more
      (i32.store (i32.const 8) (i32.add (local.get $at) (local.get $sum))) (i32.store (i32.const 12) (i32.const 4096))
      (drop (call $fd_read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
      (local.set $now (i32.load (i32.const 16)))
      (local.set $sum (i32.add (local.get $sum) (local.get $now)))
      (br_if $more (local.get $now)))
    (local.get $sum))
"#;

/// A policy whose `_start` is this.
struct Case {
    _dir: tempfile::TempDir,
    evaluator: Evaluator,
    policy: Program,
}

/// A program that has texts of these at 1024, 1280, 1536, …, with this as the body of `_start`.
async fn case(texts: &[&str], body: &str) -> Case {
    case_of(texts, body, Arc::new(LocalHost)).await
}

async fn case_of(texts: &[&str], body: &str, host: Arc<dyn HostCapabilities>) -> Case {
    case_text(&format!("(module {HEAD} {} (func (export \"_start\") {body}))", data(texts)), host).await
}

/// Texts at 1024, 1280, 1536, ….
fn data(texts: &[&str]) -> String {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
            format!("(data (i32.const {}) \"{escaped}\")", 1024 + 256 * index)
        })
        .collect()
}

/// A policy of this text.
async fn case_text(text: &str, host: Arc<dyn HostCapabilities>) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let (module, code) = (dir.path().join("policy.wasm"), dir.path().join("policy.code"));
    std::fs::write(&module, wat::parse_str(text).unwrap()).unwrap();
    let kind = compile::compile_file(&module, &code).unwrap();
    let evaluator = Evaluator::new(&dir.path().join("empty"), host).unwrap();
    let policy = evaluator.load(&code, kind).await.unwrap();
    Case { _dir: dir, evaluator, policy }
}

impl Case {
    fn bounded(mut self, bounds: Bounds) -> Self {
        self.policy = self.policy.bounded(bounds);
        self
    }

    fn granted(mut self, patterns: &[&str]) -> Self {
        let granted = patterns.iter().map(|pattern| pattern.parse::<crate::capabilities::Pattern>().unwrap());
        self.policy = self.policy.granted(granted.collect());
        self
    }

    async fn call(&self, document: &str) -> Ended {
        self.evaluator.call(&self.policy, Call::Validate, document.as_bytes()).await
    }

    /// What it exits with, as text on standard output.
    async fn says(&self, document: &str) -> String {
        match self.call(document).await {
            Ended::Done { stdout } => String::from_utf8(stdout).unwrap(),
            Ended::Failed { reason } => panic!("failed: {reason}"),
        }
    }

    async fn fails(&self, document: &str) -> String {
        match self.call(document).await {
            Ended::Failed { reason } => reason,
            Ended::Done { stdout } => panic!("said {}", String::from_utf8_lossy(&stdout)),
        }
    }
}

const ECHO: &str = "(call $write (i32.const 1) (i32.const 65536) (call $read_all (i32.const 65536)))";

#[tokio::test]
async fn a_policy_reads_its_document_and_answers() {
    let case = case(&[], ECHO).await;
    let document = json!({ "request": { "a": "x".repeat(50_000) } }).to_string();
    for _ in 0..2 {
        assert_eq!(case.says(&document).await, document, "each call is a fresh instance");
    }
}

#[tokio::test]
async fn calls_at_once_are_kept_apart() {
    let case = case(&[], ECHO).await;
    let documents: Vec<String> = (0..50).map(|index| format!("{{\"request\":{index}}}")).collect();
    let said = futures::future::join_all(documents.iter().map(|document| case.says(document))).await;
    assert_eq!(said, documents);
}

#[tokio::test]
async fn what_it_is_called_for_is_its_argument() {
    let dir = tempfile::tempdir().unwrap();
    let (module, code) = (dir.path().join("policy.wasm"), dir.path().join("policy.code"));
    let text = r#"(module
      (import "wasi_snapshot_preview1" "args_get" (func $get (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environment (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $environment (i32.const 0) (i32.const 4)))
        (if (i32.load (i32.const 0)) (then (call $exit (i32.const 9))))
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $get (i32.const 64) (i32.const 256)))
        (i32.store (i32.const 8) (i32.const 256)) (i32.store (i32.const 12) (i32.load (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#;
    std::fs::write(&module, wat::parse_str(text).unwrap()).unwrap();
    let kind = compile::compile_file(&module, &code).unwrap();
    let evaluator = Evaluator::new(&dir.path().join("empty"), Arc::new(LocalHost)).unwrap();
    let policy = evaluator.load(&code, kind).await.unwrap();
    for (call, argument) in [(Call::Validate, "validate"), (Call::ValidateSettings, "validate-settings")] {
        let expected = format!("policy.wasm\0{argument}\0").into_bytes();
        assert_eq!(evaluator.call(&policy, call, b"{}").await, Ended::Done { stdout: expected });
    }
}

#[tokio::test]
async fn a_policy_that_fails_says_why_on_standard_error() {
    let says = "(call $write (i32.const 2) (i32.const 1024) (i32.const 5))";
    assert_eq!(
        case(&["boom\n"], &format!("{says} (call $exit (i32.const 7))")).await.fails("{}").await,
        "boom"
    );
    assert_eq!(case(&["boom\n"], &format!("{says} unreachable")).await.fails("{}").await, "boom");
    let silent = case(&[], "(call $exit (i32.const 7))").await.fails("{}").await;
    assert_eq!(silent, "the policy exited with 7 and said nothing");
    let trapped = case(&[], "unreachable").await.fails("{}").await;
    assert!(trapped.contains("unreachable"), "{trapped}");
    let warned = case(&["boom\n"], says).await;
    assert_eq!(warned.says("{}").await, "", "an exit of 0 is no failure");
}

#[tokio::test]
async fn a_policy_that_computes_or_sleeps_is_ended_in_time() {
    let sleeps = "
      (i32.store (i32.const 80) (i32.const 1))
      (i64.store (i32.const 88) (i64.const 3600000000000))
      (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))";
    for body in ["(loop $again (br $again))", sleeps] {
        let bounds = Bounds { timeout: Duration::from_millis(300), ..Bounds::default() };
        let case = case(&[], body).await.bounded(bounds);
        assert_eq!(case.fails("{}").await, "the policy came to no answer within 0.3 s");
        // Nothing of it is left behind that others would wait for.
        let many = (0..64).map(|_| case.fails("{}"));
        for reason in futures::future::join_all(many).await {
            assert!(reason.starts_with("the policy came to no answer"), "{reason}");
        }
    }
}

#[tokio::test]
async fn memory_and_answers_are_bounded() {
    let grows = "(loop $again
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (memory.fill (i32.mul (i32.sub (memory.size) (i32.const 16)) (i32.const 65536)) (i32.const 1) (i32.const 1048576))
      (br $again))";
    let bounds = Bounds { memory: 16 << 20, timeout: Duration::from_secs(60) };
    let reason = case(&[], grows).await.bounded(bounds).fails("{}").await;
    assert!(reason.contains("memory"), "{reason}");
    let floods = "(loop $again (call $write (i32.const 1) (i32.const 0) (i32.const 65536)) (br $again))";
    let bounds = Bounds { timeout: Duration::from_secs(60), ..Bounds::default() };
    let reason = case(&[], floods).await.bounded(bounds).fails("{}").await;
    assert_eq!(reason, "the policy's answer has more than 16 MiB");
    let whispers = "(local $n i32)
      (loop $again (call $write (i32.const 2) (i32.const 0) (i32.const 65536))
        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))";
    assert_eq!(case(&[], whispers).await.bounded(bounds).says("{}").await, "");
}

/// Calls its host with the four texts at 1024, 1280, 1536 and 1792, of these lengths, after it has read its input; then says
/// what the call came to, and what its input has become.
fn calls(texts: [&str; 4]) -> String {
    let [binding, namespace, operation, payload] = texts.map(str::len);
    format!(
        "(local $result i32)
        (drop (call $read_all (i32.const 65536)))
        (local.set $result (call $call (i32.const 1024) (i32.const {binding}) (i32.const 1280) (i32.const {namespace})
          (i32.const 1536) (i32.const {operation}) (i32.const 1792) (i32.const {payload})))
        (i32.store8 (i32.const 32) (i32.add (i32.const 48) (local.get $result)))
        (call $write (i32.const 1) (i32.const 32) (i32.const 1))
        (call $write (i32.const 1) (i32.const 65536) (call $read_all (i32.const 65536)))"
    )
}

#[tokio::test]
async fn the_hosts_answer_follows_the_document() {
    let texts = ["kubewarden", "net", "v1/dns_lookup_host", "\"127.0.0.1\""];
    let case = case(&texts, &calls(texts)).await;
    let denied = "1Policy has not been granted access to the 'net/v1/dns_lookup_host' host capability. The violation has been reported.";
    assert_eq!(case.says("{}").await, denied);
    let case = case.granted(&["net/*"]);
    assert_eq!(case.says("{}").await, "0{\"ips\":[\"127.0.0.1\"]}");
}

#[tokio::test]
async fn a_policys_log_needs_no_grant_and_other_bindings_are_not_there() {
    let texts = ["kubewarden", "tracing", "log", "{\"message\":\"hello\"}"];
    assert_eq!(case(&texts, &calls(texts)).await.says("{}").await, "0");
    let texts = ["other", "tracing", "log", "{}"];
    assert_eq!(
        case(&texts, &calls(texts)).await.says("{}").await,
        "1there is no binding \"other\"; it is \"kubewarden\""
    );
}

#[tokio::test]
async fn texts_beyond_the_memory_end_the_policy() {
    let of = |at: &str, length: &str| {
        format!(
            "(drop (call $call (i32.const {at}) (i32.const {length}) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))"
        )
    };
    for (at, length) in [("262143", "2"), ("-1", "2"), ("-1", "0"), ("262145", "0")] {
        let reason = case(&[], &of(at, length)).await.fails("{}").await;
        assert!(reason.contains("is not all within the policy's memory"), "{at} {length}: {reason}");
    }
    let reason = case(&[], &of("0", "-1")).await.fails("{}").await;
    assert!(reason.contains("the binding has 4294967295 bytes, and may have 256"), "{reason}");
    // A text may end where the memory does, and texts may overlap.
    let reason = case(&[], &of("262144", "0")).await.says("{}").await;
    assert_eq!(reason, "");
    let overlapping = "(drop (call $call (i32.const 1024) (i32.const 10) (i32.const 1024) (i32.const 10)
      (i32.const 1024) (i32.const 10) (i32.const 1024) (i32.const 10)))";
    assert_eq!(case(&["kubewarden"], overlapping).await.says("{}").await, "");
    let text = case(&["\u{0}"], "(i32.store8 (i32.const 1024) (i32.const 255))
      (drop (call $call (i32.const 1024) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))");
    let reason = text.await.fails("{}").await;
    assert!(reason.contains("the binding is no text of UTF-8"), "{reason}");
}

/// Kinds of objects are answered as far as they are granted, whatever the operations are.
#[tokio::test]
async fn a_policy_sees_no_kind_that_it_is_not_granted() {
    let ask = |payload: &str| {
        let texts = ["kubewarden", "kubernetes", "list_resources_all", payload].map(str::to_owned);
        async move {
            let texts = texts.each_ref().map(String::as_str);
            let case = case_of(&texts, &calls(texts), Arc::new(Echo)).await.granted(&["kubernetes/*"]);
            let resource = |kind: &str| ContextAwareResource { api_version: "v1".into(), kind: kind.into() };
            let policy = case.policy.clone().aware_of([resource("Pod"), resource("Node")]);
            Case { policy, ..case }.says("{}").await
        }
    };
    let pods = r#"{"api_version":"v1","kind":"Pod"}"#;
    assert_eq!(ask(pods).await, format!("0{pods}"));
    let secrets = r#"{"api_version":"v1","kind":"Secret"}"#;
    let denied = "1Policy has not been granted access to Kubernetes v1/Secret resources. The violation has been reported.";
    assert_eq!(ask(secrets).await, denied);
    let nonsense = ask("no JSON").await;
    assert!(nonsense.starts_with("1the payload of list_resources_all cannot be read"), "{nonsense}");
}

/// Answers with what it is asked.
#[derive(Debug)]
struct Echo;

#[async_trait::async_trait]
impl HostCapabilities for Echo {
    async fn call(&self, _: Capability<'_>, payload: bytes::Bytes) -> Result<Vec<u8>, String> {
        Ok(payload.into())
    }
}

/// Each answer waits in the policy's input, which is its host's memory.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let body = "(loop $again
      (drop (call $call (i32.const 1024) (i32.const 10) (i32.const 1280) (i32.const 1) (i32.const 1280) (i32.const 1)
        (i32.const 0) (i32.const 262144)))
      (br $again))";
    let bounds = Bounds { timeout: Duration::from_secs(60), ..Bounds::default() };
    let case = case_of(&["kubewarden", "x"], body, Arc::new(Echo)).await.granted(&["*"]).bounded(bounds);
    let reason = case.fails("{}").await;
    assert!(reason.contains("leaves more than 50331648 bytes of its input unread"), "{reason}");
}

/// Answers with more than is taken, or never.
#[derive(Debug)]
struct Unhelpful;

#[async_trait::async_trait]
impl HostCapabilities for Unhelpful {
    async fn call(&self, capability: Capability<'_>, _: bytes::Bytes) -> Result<Vec<u8>, String> {
        match capability.operation {
            "much" => Ok(vec![b'x'; (16 << 20) + 1]),
            _ => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn a_host_that_says_too_much_or_nothing_is_bounded_too() {
    let texts = ["kubewarden", "test", "much", ""];
    let case = case_of(&texts, &calls(texts), Arc::new(Unhelpful)).await.granted(&["*"]);
    let bounds = Bounds { timeout: Duration::from_secs(60), ..Bounds::default() };
    let said = case.bounded(bounds).says("{}").await;
    assert_eq!(said, "1the answer has 16777217 bytes, and may have 16777216; ask for less");
    let texts = ["kubewarden", "test", "never", ""];
    let bounds = Bounds { timeout: Duration::from_millis(300), ..Bounds::default() };
    let case = case_of(&texts, &calls(texts), Arc::new(Unhelpful)).await.granted(&["*"]).bounded(bounds);
    assert_eq!(case.fails("{}").await, "the policy came to no answer within 0.3 s");
}
