//! Components that call each other.

use std::time::Duration;

use kubewasm_workload::{
    CallError,
    error::{LinkError, UnservedImport, WorkloadError},
    types::Component,
};
use wasmtime::component::Val;

use crate::{
    guests,
    world::{World, component, workload},
};

/// The caller asks for 1.0.0, and 1.1.0 serves it.
fn two(math: Component) -> Vec<Component> {
    vec![component("caller", &guests::caller()), math]
}

fn math() -> Component {
    component("math", &guests::math("1.1.0"))
}

#[tokio::test]
async fn an_export_serves_a_siblings_import() {
    let world = World::new().await;
    world.start(workload("w", two(math()))).await.unwrap();
    assert_eq!(world.call("w", "add", &[2, 3]).await.unwrap(), Some(1005));
    let text = Val::List(vec![
        Val::String("a".into()),
        Val::String("grüße".repeat(1000)),
        Val::String(String::new()),
    ]);
    let echoed = world.call_as("w", "test:app/entry@1.0.0", "echo", vec![text.clone()]).await.unwrap();
    assert_eq!(echoed, [text]);
}

#[tokio::test]
async fn a_call_has_an_instance_of_its_own_or_one_of_the_pool() {
    let world = World::new().await;
    world.start(workload("fresh", two(math()))).await.unwrap();
    let pooled = Component { pool_size: 1, max_invocations: 3, ..math() };
    world.start(workload("pooled", two(pooled))).await.unwrap();
    let mut counts = Vec::new();
    for workload in ["fresh", "pooled"] {
        for _ in 0..5 {
            counts.push(world.call(workload, "count", &[]).await.unwrap().unwrap());
        }
    }
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 2, 3, 1, 2], "an instance is replaced after three calls");
}

#[tokio::test]
async fn a_callee_that_never_returns_ends_at_its_deadline_and_its_neighbour_answers() {
    let world = World::with(|builder| builder.with_deadline(Duration::from_millis(300))).await;
    let pooled = Component { pool_size: 2, max_concurrency: 2, ..math() };
    world.start(workload("w", two(pooled.clone()))).await.unwrap();
    world.start(workload("neighbour", two(pooled))).await.unwrap();
    // More often than it has places: each loses its instance, and gives its place back.
    for _ in 0..3 {
        let looping = world.call("w", "loop", &[]);
        let neighbour = async {
            let mut answers = 0;
            for _ in 0..20 {
                answers += usize::from(world.call("neighbour", "add", &[1, 1]).await.unwrap() == Some(1002));
            }
            answers
        };
        let (ended, answers) = tokio::join!(looping, neighbour);
        assert_eq!(answers, 20);
        let error = ended.unwrap_err();
        assert!(matches!(error, CallError::Deadline { .. } | CallError::Failed { .. }), "{error}");
    }
    assert_eq!(world.call("w", "add", &[2, 3]).await.unwrap(), Some(1005));
    assert_eq!(
        world.call("w", "count", &[]).await.unwrap(),
        Some(1),
        "no instance that has looped is called again"
    );
}

#[tokio::test]
async fn a_callee_with_a_share_of_the_processor_is_called_in_turns_of_its_own() {
    let world = World::with(|builder| builder.with_deadline(Duration::from_millis(300))).await;
    let mut limited = math();
    limited.local_resources.cpu_limit = 100;
    world.start(workload("w", two(limited))).await.unwrap();
    assert_eq!(world.call("w", "add", &[2, 3]).await.unwrap(), Some(1005));
    assert!(world.call("w", "loop", &[]).await.is_err());
    assert_eq!(world.call("w", "add", &[2, 3]).await.unwrap(), Some(1005));
}

#[tokio::test]
async fn a_callee_that_traps_ends_its_caller_with_the_reason_and_is_replaced() {
    let world = World::new().await;
    let pooled = Component { pool_size: 1, ..math() };
    world.start(workload("w", two(pooled))).await.unwrap();
    assert_eq!(world.call("w", "count", &[]).await.unwrap(), Some(1));
    let error = world.call("w", "trap", &[]).await.unwrap_err().to_string();
    assert!(
        error.contains("component `caller` has failed") && error.contains("component `math` has failed"),
        "{error}"
    );
    assert_eq!(world.call("w", "count", &[]).await.unwrap(), Some(1), "it is another instance");
}

#[tokio::test]
async fn a_memory_limit_is_each_components_own() {
    let world = World::new().await;
    let big = guests::encoded(
        r#"(component
          (core module $m (memory 100) (func (export "f")))
          (core instance $i (instantiate $m))
          (func $f (canon lift (core func $i "f")))
          (instance $e (export "f" (func $f)))
          (export "test:app/entry@1.0.0" (instance $e)))"#,
    );
    let mut big = component("big", &big);
    big.local_resources.memory_limit_mb = 1;
    // Its sibling is not held to it.
    world.start(workload("big", vec![big, component("math", &guests::math("1.0.0"))])).await.unwrap();
    let sum =
        world.call_as("big", "test:math/ops@1.0.0", "add", vec![Val::U32(1), Val::U32(1)]).await.unwrap();
    assert_eq!(sum, [Val::U32(2)]);
    let error = world.call("big", "f", &[]).await.unwrap_err();
    assert!(
        matches!(error, CallError::NoInstance { .. }) && error.to_string().contains("out of memory"),
        "{error}"
    );
}

#[tokio::test]
async fn resources_stay_where_they_are_made_and_are_dropped_there() {
    let world = World::new().await;
    for (name, pool_size) in [("fresh", 0), ("pooled", 1)] {
        let counters = Component { pool_size, ..component("counters", &guests::counters()) };
        world.start(workload(name, vec![component("user", &guests::counting()), counters])).await.unwrap();
        for _ in 0..3 {
            // 11, and 21 at its end; one is left when one was dropped, and none when the other was given back.
            assert_eq!(world.call(name, "use", &[]).await.unwrap(), Some(11_210_100), "{name}");
        }
        for _ in 0..3 {
            // What its user took along is in an instance that nobody is given again.
            assert_eq!(world.call(name, "leak", &[]).await.unwrap(), Some(1), "{name}");
        }
        assert_eq!(world.call(name, "use", &[]).await.unwrap(), Some(11_210_100), "{name}");
    }
}

#[tokio::test]
async fn what_nobody_serves_is_named_with_who_needs_it() {
    let world = World::new().await;
    let a = component("a", &guests::importing(&["test:one/x@1.0.0", "test:two/y"]));
    let b = component("b", &guests::importing(&["test:one/x@1.0.0"]));
    let mut wants = workload("w", vec![a, b]);
    wants.host_interfaces = vec!["test:three/z@0.1.0".into(), "wasi:http/outgoing-handler".into()];
    let error = world.start(wants).await.unwrap_err();
    let WorkloadError::Link(LinkError::Unserved(unserved)) = &error else { panic!("another error: {error}") };
    let mut found = unserved.clone();
    found.sort();
    let expected = [
        ("test:one/x@1.0.0", Some("a")),
        ("test:one/x@1.0.0", Some("b")),
        ("test:three/z@0.1.0", None),
        ("test:two/y", Some("a")),
    ];
    let expected = expected.map(|(import, component)| UnservedImport {
        import: import.to_owned(),
        component: component.map(str::to_owned),
    });
    assert_eq!(found, expected);
    let text = error.to_string();
    assert!(text.contains("`test:two/y`, which `a` imports") && text.contains("asks its host for"), "{text}");
}

#[tokio::test]
async fn a_version_that_does_not_go_together_serves_nobody() {
    let world = World::new().await;
    let error = world.start(workload("w", two(component("math", &guests::math("2.0.0"))))).await.unwrap_err();
    assert!(matches!(error, WorkloadError::Link(LinkError::Unserved(_))), "{error}");
}

#[tokio::test]
async fn another_type_is_an_error_that_names_the_function() {
    let other = guests::encoded(
        r#"(component
          (core module $m (func (export "add") (param i64 i64) (result i64) (i64.const 0)) (func (export "f")))
          (core instance $i (instantiate $m))
          (func $add (param "a" u64) (param "b" u64) (result u64) (canon lift (core func $i "add")))
          (func $f (canon lift (core func $i "f")))
          (instance $ops (export "add" (func $add)) (export "loop" (func $f)) (export "trap" (func $f)))
          (export "test:math/ops@1.0.0" (instance $ops)))"#,
    );
    let world = World::new().await;
    let error = world.start(workload("w", two(component("math", &other)))).await.unwrap_err();
    let WorkloadError::Link(LinkError::Type { item, .. }) = &error else { panic!("{error}") };
    assert_eq!((&*item.component, &*item.exporter), ("caller", "math"));
    assert!(error.to_string().contains("`caller` imports `test:math/ops@1.0.0` of `math`"), "{error}");
}

#[tokio::test]
async fn components_do_not_call_each_other_in_a_circle() {
    let circle = |exports: &str, imports: &str| {
        let import = format!(r#"(import "{imports}" (instance (export "f" (func))))"#);
        guests::exporting_f(exports, &import)
    };
    let world = World::new().await;
    let components = vec![
        component("a", &circle("test:one/x@1.0.0", "test:two/y@1.0.0")),
        component("b", &circle("test:two/y@1.0.0", "test:one/x@1.0.0")),
    ];
    let error = world.start(workload("w", components)).await.unwrap_err();
    assert!(matches!(error, WorkloadError::Link(LinkError::Circle(_))), "{error}");
}

#[tokio::test]
async fn many_calls_at_a_time_all_come_to_their_ends() {
    let world = World::new().await;
    let math = Component { pool_size: 4, max_concurrency: 4, ..math() };
    world.start(workload("w", two(math))).await.unwrap();
    let calls = (0..200).map(|number| {
        let world = &world;
        async move { world.call("w", "add", &[number, 1]).await.unwrap() == Some(number + 1001) }
    });
    let answers = futures::future::join_all(calls).await;
    assert_eq!(answers.into_iter().filter(|is_right| *is_right).count(), 200);
}
