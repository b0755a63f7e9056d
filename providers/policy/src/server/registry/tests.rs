use std::{sync::atomic::Ordering, time::Duration};

use super::{
    super::testing::{ACCEPTS, CHANGES, REFUSES, Shelf, group, loops, metadata, policy, registry, says},
    *,
};
use crate::{
    metadata::ExecutionMode,
    request::Question,
    response::{AdmissionResponse, Cause},
    spec::Mode,
};

fn shelf() -> Shelf {
    Shelf::new([
        ("accepts", says(ACCEPTS)),
        ("refuses", says(REFUSES)),
        ("changes", says(CHANGES)),
        ("wants", says(r#"{"valid":false,"message":"x is missing"}"#)),
        ("loops", loops()),
        ("traps", says("")),
    ])
}

fn question() -> Question {
    Question::review(br#"{"uid":"u1","object":{"a":1}}"#).unwrap()
}

/// What a policy says, and what an API server is told of it.
async fn judge(registry: &PolicyRegistry, id: &str) -> (AdmissionResponse, AdmissionResponse) {
    let policy = registry.get(id).unwrap();
    let said = policy.judge(registry.evaluator(), &question(), None).await;
    (said.clone(), policy.constrain(id, said))
}

async fn put(registry: &PolicyRegistry, id: &str, module: &str) -> Result<(), LoadFailure> {
    registry.put(id, Spec::Policy(policy(module))).await
}

fn message(response: &AdmissionResponse) -> &str {
    response.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_put_is_served_until_it_is_removed() {
    let registry = registry(Arc::new(shelf()));
    assert!(registry.get("p").is_none());
    put(&registry, "p", "accepts").await.unwrap();
    put(&registry, "q", "refuses").await.unwrap();
    assert!(judge(&registry, "p").await.1.allowed);
    assert_eq!(message(&judge(&registry, "q").await.1), "no");
    assert_eq!(registry.ids(), ["p", "q"]);
    // Requests go on with the version that they have begun with.
    let begun = registry.get("p").unwrap();
    put(&registry, "p", "refuses").await.unwrap();
    assert!(!judge(&registry, "p").await.1.allowed);
    registry.remove("p");
    assert!(registry.get("p").is_none());
    assert!(begun.judge(registry.evaluator(), &question(), None).await.allowed);
}

#[tokio::test]
async fn a_version_that_fails_replaces_nothing() {
    let shelf = shelf()
        .with("opa", says(ACCEPTS), Some(metadata(ExecutionMode::Opa)))
        .with("silent", says(ACCEPTS), None)
        .with(
            "strange",
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)) (memory (export "memory") 1) (func (export "_start")))"#
                .into(),
            Some(metadata(ExecutionMode::Wasi)),
        );
    let registry = registry(Arc::new(shelf));
    put(&registry, "p", "accepts").await.unwrap();
    let served = registry.get("p").unwrap();
    for (module, expected, is_transient) in [
        ("wants", "Policy settings are invalid: x is missing", false),
        ("traps", "Policy settings are invalid: Cannot deserialize settings validation response: ", false),
        ("opa", "opa: it is a policy of executionMode opa, which is not run here", false),
        ("silent", "silent: it does not say how it is called", false),
        ("strange", "strange cannot be run: ", false),
        ("nowhere", "nowhere is not there", false),
        ("later", "later is not there", true),
    ] {
        let failure = put(&registry, "p", module).await.unwrap_err();
        assert!(failure.to_string().starts_with(expected), "{failure}");
        assert_eq!(failure.is_transient(), is_transient, "{failure}");
        assert!(put(&registry, "new", module).await.is_err());
    }
    let failure = registry.put("p", group(&["accepts", "wants"], "accepts()")).await.unwrap_err();
    assert_eq!(failure.to_string(), "policies.wants: Policy settings are invalid: x is missing");
    let failure = registry.put("p", group(&["accepts"], "refuses()")).await.unwrap_err();
    assert!(
        failure.to_string().starts_with("expression: at character 1: refuses() is no member"),
        "{failure}"
    );
    assert!(Arc::ptr_eq(&served, &registry.get("p").unwrap()));
    assert_eq!(registry.ids(), ["p"]);
    assert!(registry.puts().newest.is_empty(), "nothing is left of what has failed");
}

#[tokio::test]
async fn one_module_is_loaded_once() {
    // What is behind the @ makes another name of the same module.
    let shelf = shelf().with("accepts@2", says(ACCEPTS), Some(metadata(ExecutionMode::Wasi)));
    let registry = registry(Arc::new(shelf));
    let puts =
        [put(&registry, "p", "accepts"), put(&registry, "q", "accepts"), put(&registry, "r", "accepts@2")];
    assert!(futures::future::join_all(puts).await.iter().all(Result::is_ok));
    let users = || registry.codes.lock().unwrap().values().map(Weak::strong_count).collect::<Vec<_>>();
    assert_eq!(users(), [3]);
    for id in ["p", "q", "r"] {
        registry.remove(id);
    }
    assert_eq!(users(), [0], "the code goes with the last of them");
}

#[tokio::test]
async fn the_last_call_counts() {
    let shelf = Arc::new(shelf().closed());
    let registry = Arc::new(registry(Arc::clone(&shelf)));
    let put = |module: &'static str| {
        let registry = Arc::clone(&registry);
        tokio::spawn(async move { put(&registry, "p", module).await })
    };
    let (first, second) = (put("accepts"), put("refuses"));
    while shelf.most_waiting.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    shelf.turns.add_permits(2);
    let outcomes = [first.await.unwrap(), second.await.unwrap()];
    assert!(outcomes.contains(&Err(LoadFailure::Superseded)) && outcomes.contains(&Ok(())), "{outcomes:?}");
    let served = outcomes.iter().position(Result::is_ok).unwrap();
    assert_eq!(judge(&registry, "p").await.1.allowed, served == 0);

    let third = put("accepts");
    while registry.puts().newest.is_empty() {
        tokio::task::yield_now().await;
    }
    registry.remove("p");
    shelf.turns.add_permits(1);
    assert_eq!(third.await.unwrap(), Err(LoadFailure::Superseded));
    assert!(registry.get("p").is_none(), "what was removed does not come back");
}

#[tokio::test]
async fn a_few_are_loaded_at_once() {
    let shelf = Arc::new(shelf().closed());
    let registry = registry(Arc::clone(&shelf));
    let ids: Vec<String> = (0..20).map(|index| format!("p{index}")).collect();
    let puts = futures::future::join_all(ids.iter().map(|id| put(&registry, id, "accepts")));
    let opening = async {
        while shelf.most_waiting.load(Ordering::SeqCst) < LOADS {
            tokio::task::yield_now().await;
        }
        shelf.turns.add_permits(20);
    };
    let (outcomes, ()) = tokio::join!(puts, opening);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!((shelf.most_waiting.load(Ordering::SeqCst), registry.ids().len()), (LOADS, 20));
}

#[tokio::test]
async fn a_policy_that_comes_is_waited_for() {
    let shelf = Arc::new(shelf().closed());
    let registry = registry(Arc::clone(&shelf));
    assert!(registry.wait_for("p", Instant::now()).await.is_none());
    let (waited, outcome, ()) = tokio::join!(
        registry.wait_for("p", Instant::now() + Duration::from_secs(60)),
        put(&registry, "p", "accepts"),
        async { shelf.turns.add_permits(1) },
    );
    outcome.unwrap();
    assert!(Arc::ptr_eq(&waited.unwrap(), &registry.get("p").unwrap()));
}

#[tokio::test]
async fn a_refusal_takes_the_place_of_nothing_else() {
    let registry = registry(Arc::new(shelf()));
    registry.refuse_unless_served("p", "its settings are wrong");
    assert_eq!(message(&judge(&registry, "p").await.1), "its settings are wrong");
    put(&registry, "p", "accepts").await.unwrap();
    registry.refuse_unless_served("p", "its settings are wrong");
    assert!(judge(&registry, "p").await.1.allowed);
}

#[tokio::test]
async fn modes_and_messages_are_held_to() {
    let registry = registry(Arc::new(shelf()));
    let mut watching = policy("refuses");
    watching.mode = Mode::Monitor;
    registry.put("watching", Spec::Policy(watching)).await.unwrap();
    let (said, told) = judge(&registry, "watching").await;
    assert_eq!((said.allowed, told), (false, AdmissionResponse::allow("u1")));

    put(&registry, "changing", "changes").await.unwrap();
    let (said, told) = judge(&registry, "changing").await;
    assert!(said.allowed && said.patch.is_some());
    assert!(message(&told).contains("configured to not allow mutations"), "{told:?}");
    assert!(!told.allowed && told.patch.is_none());
    let mut changing = policy("changes");
    changing.allowed_to_mutate = true;
    registry.put("changing", Spec::Policy(changing)).await.unwrap();
    let (said, told) = judge(&registry, "changing").await;
    assert_eq!(said, told);

    let mut speaking = policy("refuses");
    speaking.message = Some("not like this".to_owned());
    registry.put("speaking", Spec::Policy(speaking)).await.unwrap();
    let (said, told) = judge(&registry, "speaking").await;
    assert_eq!((message(&said), message(&told)), ("no", "not like this"));
    let causes = told.status.unwrap().details.unwrap().causes;
    assert_eq!(causes, [Cause { field: None, message: Some("no".to_owned()) }]);
}

#[tokio::test]
async fn a_group_is_as_its_members_are() {
    let registry = registry(Arc::new(shelf()));
    let members = ["accepts", "refuses", "changes", "loops"];
    for (expression, expected) in [
        ("accepts()", Ok(())),
        ("refuses() || accepts()", Ok(())),
        ("accepts() || loops()", Ok(())),
        ("!refuses()", Ok(())),
        ("false", Err(vec![])),
        ("accepts() && refuses()", Err(vec![("refuses", "no")])),
        ("!(accepts() || refuses())", Err(vec![])),
        (
            "refuses() || (accepts() && changes())",
            Err(vec![("changes", "mutation is not allowed inside of policy group"), ("refuses", "no")]),
        ),
        // Who comes to no verdict has neither accepted nor refused.
        ("!changes()", Err(vec![("changes", "mutation is not allowed inside of policy group")])),
        ("!loops()", Err(vec![("loops", "the policy came to no answer within 0.2 s")])),
        ("loops() || accepts()", Ok(())),
    ] {
        let mut spec = group(&members, expression);
        if let Spec::Group(group) = &mut spec
            && let Some(loops) = group.policies.get_mut("loops")
        {
            loops.timeout = Some(Duration::from_millis(200));
        }
        registry.put("g", spec).await.unwrap();
        let (_, told) = judge(&registry, "g").await;
        assert_eq!((told.allowed, &told.patch), (expected.is_ok(), &None), "{expression}");
        let Err(causes) = expected else {
            assert_eq!(told, AdmissionResponse::allow("u1"), "{expression}");
            continue;
        };
        assert_eq!(message(&told), "the group refuses");
        let cause = |(member, message): &(&str, &str)| Cause {
            field: Some(format!("spec.policies.{member}")),
            message: Some((*message).to_owned()),
        };
        let expected: Vec<Cause> = causes.iter().map(cause).collect();
        assert_eq!(told.status.unwrap().details.unwrap().causes, expected, "{expression}");
    }
}

#[tokio::test]
async fn an_answer_is_there_at_the_deadline() {
    let registry = registry(Arc::new(shelf()));
    let mut slow = policy("loops");
    slow.program.timeout = Some(Duration::from_secs(600));
    registry.put("slow", Spec::Policy(slow)).await.unwrap();
    let policy = registry.get("slow").unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(200));
    let said = policy.judge(registry.evaluator(), &question(), deadline).await;
    assert!(
        !said.allowed && message(&said).starts_with("the policy came to no answer within 0."),
        "{said:?}"
    );
    let late = policy.judge(registry.evaluator(), &question(), Some(Instant::now())).await;
    assert!(!late.allowed, "{late:?}");
}
