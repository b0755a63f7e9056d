//! `kubewasm policy serve` without a cluster: what it answers, and what it bears.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Version;
use kubewasm_tests::{ports, wait};
use serde_json::{Value, json};

use crate::{
    collector::Collector,
    policy_site::{
        Asker, PolicySite, accepts, annotations, identity, logged, loops, refuses, review, says, sleeps,
    },
    suite::SOON,
};

/// Each path, mode and mistake has its answer, by both protocols; what is judged is counted and logged, and its object is not.
#[tokio::test]
async fn each_policy_answers_under_its_name() {
    let identity = identity();
    let mut site = PolicySite::new(&[("go", annotations().await), ("refuses", refuses("no"))], &identity)
        .flag("--allowed-host-capabilities=net/*");
    let (go, refuses) = (site.module("go"), site.module("refuses"));
    let forbid = json!({ "forbiddenAnnotations": ["a"] });
    let set = json!({ "requiredAnnotations": { "cc": "x" } });
    site.policies(&json!({
        "forbids": { "module": go, "settings": forbid },
        "speaks": { "url": go, "settings": forbid, "message": "ask the platform team" },
        "watches": { "module": go, "settings": forbid, "policyMode": "monitor" },
        "sets": { "module": go, "settings": set, "allowedToMutate": true },
        "may-not-set": { "module": go, "settings": set },
        "looks-up": { "module": go, "settings": { "lookUp": "127.0.0.1" } },
        "group": {
            "policies": { "forbids": { "module": go, "settings": forbid }, "never": { "module": refuses } },
            "expression": "forbids() && (never() || !never())", "message": "the group refuses",
        },
        "no-change": { "policies": { "sets": { "module": go, "settings": set } }, "expression": "sets()", "message": "the group refuses" },
    }));
    site.start().await;
    let (good, bad) =
        (review(&json!({ "name": "a" })), review(&json!({ "annotations": { "a": "secret-of-the-object" } })));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let asker = Asker { version, ..site.asker(&[&identity]) };
        let accepted = json!({ "uid": "705a", "allowed": true, "auditAnnotations": null, "warnings": null });
        for path in
            ["/validate/forbids", "/audit/forbids", "/validate/group", "/validate/watches?timeout=10s"]
        {
            assert_eq!(asker.judge(path, &good).await, accepted, "{path}");
        }
        let refused = asker.judge("/validate/forbids", &bad).await;
        assert_eq!(refused["status"], json!({ "message": "forbidden annotation a", "code": 400 }));
        let spoken = asker.judge("/validate/speaks", &bad).await;
        let causes = json!({ "causes": [{ "message": "forbidden annotation a" }] });
        assert_eq!(
            spoken["status"],
            json!({ "message": "ask the platform team", "details": causes, "code": 400 })
        );
        assert_eq!(asker.judge("/validate/watches", &bad).await, accepted, "it only watches");
        assert_eq!(asker.judge("/audit/watches", &bad).await["allowed"], json!(false));

        let set = asker.judge("/validate/sets", &bad).await;
        let patch: Value =
            serde_json::from_slice(&BASE64_STANDARD.decode(set["patch"].as_str().unwrap()).unwrap()).unwrap();
        assert_eq!(patch, json!([{ "op": "add", "path": "/metadata/annotations/cc", "value": "x" }]));
        let unset = asker.judge("/validate/may-not-set", &bad).await;
        assert_eq!((&unset["allowed"], &unset["patch"]), (&json!(false), &Value::Null));
        assert!(
            unset["status"]["message"]
                .as_str()
                .unwrap()
                .contains("may-not-set. The policy attempted to mutate")
        );
        let group = asker.judge("/validate/group", &bad).await;
        let causes =
            json!({ "causes": [{ "field": "spec.policies.forbids", "message": "forbidden annotation a" }] });
        assert_eq!(group["status"], json!({ "message": "the group refuses", "details": causes }));
        let group = asker.judge("/validate/no-change", &bad).await;
        let cause = &group["status"]["details"]["causes"][0]["message"];
        assert_eq!(cause, "mutation is not allowed inside of policy group");
        let raw = json!({ "request": { "metadata": {} } });
        assert_eq!(
            asker.judge("/validate_raw/looks-up", &raw).await["status"]["message"],
            json!(r#"{"ips":["127.0.0.1"]}"#)
        );

        for (method, path, body, status) in [
            ("POST", "/validate/nobody", good.to_string(), 404),
            ("POST", "/validate_raw/nobody", raw.to_string(), 404),
            ("POST", "/audit/nobody", good.to_string(), 404),
            ("GET", "/validate/forbids", String::new(), 405),
            ("POST", "/validate/forbids", "{}".to_owned(), 422),
            ("POST", "/validate_raw/forbids", "{}".to_owned(), 422),
            ("POST", "/audit/forbids", "{}".to_owned(), 422),
            ("POST", "/validate/forbids", " ".repeat((16 << 20) + 1), 413),
        ] {
            let (answered, answer) = asker.send(method, path, body).await.unwrap();
            assert_eq!((answered, &answer["status"]), (status, &json!(status)), "{method} {path}: {answer}");
        }
    }
    // As large as it may be, of which an object of 3 MiB is held twice.
    let large = review(&json!({ "name": "a", "labels": { "large": "x".repeat((16 << 20) - 1024) } }));
    assert_eq!(
        site.asker(&[&identity]).judge("/validate/forbids?timeout=30s", &large).await["uid"],
        json!("705a")
    );

    let (status, metrics) = site.health("/metrics").await.unwrap();
    assert_eq!(status, 200);
    let counted = "kubewarden_policy_evaluations_total{policy_name=\"watches\",policy_mode=\"monitor\",accepted=\"false\",\
                   mutated=\"false\",request_origin=\"audit\",resource_kind=\"Pod\",resource_namespace=\"shop\",\
                   resource_request_operation=\"CREATE\",error_code=\"400\"} 2\n";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("kubewarden_policy_evaluation_latency_milliseconds_bucket{"), "{metrics}");
    let log = site.log();
    assert!(
        log.contains("policy=watches") && log.contains("uid=705a") && log.contains("only watches"),
        "{log}"
    );
    assert!(!log.contains("secret-of-the-object"), "{log}");
}

/// Policies that compute for ever and that sleep take their own time and nobody else's; who says how long he waits is answered
/// before that.
#[tokio::test]
async fn a_policy_without_an_end_holds_nobody_up() {
    let identity = identity();
    let mut site = PolicySite::new(
        &[("loops", loops()), ("sleeps", sleeps(600_000)), ("accepts", accepts())],
        &identity,
    );
    let endless = |name: &str| json!({ "module": site.module(name), "timeoutEvalSeconds": 30 });
    site.policies(&json!({
        "loops": endless("loops"), "sleeps": endless("sleeps"),
        "loops-soon": { "module": site.module("loops") }, "sleeps-soon": { "module": site.module("sleeps"), "timeoutEvalSeconds": 1 },
        "accepts": { "module": site.module("accepts"), "timeoutEvalSeconds": 30 },
    }));
    site.start().await;
    let asker = site.asker(&[&identity]);
    let pod = review(&json!({ "name": "a" }));
    let stuck: Vec<_> = ["/validate/loops", "/validate/sleeps"]
        .into_iter()
        .cycle()
        .take(24)
        .map(|path| {
            let (asker, pod) = (asker.clone(), pod.clone());
            tokio::spawn(async move { asker.judge(path, &pod).await })
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(asker.judge("/validate/accepts", &pod).await["allowed"], json!(true));
    }
    assert!(stuck.iter().all(|request| !request.is_finished()), "the others are still waited for");
    for path in [
        "/validate/loops?timeout=1s",
        "/validate/sleeps?timeout=1s",
        "/validate/loops-soon",
        "/validate/sleeps-soon",
    ] {
        let refused = asker.judge(path, &pod).await;
        assert_eq!(refused["status"]["code"], json!(500), "{path}");
        let message = refused["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("the policy came to no answer within "), "{path}: {message}");
    }
    for request in stuck {
        request.abort();
    }
}

/// Settings that a policy does not take stop the server, all of them told; or they make refusals of its verdicts.
#[tokio::test]
async fn what_cannot_be_loaded_is_told_at_the_start() {
    let identity = identity();
    let modules = [
        ("wants", says(&json!({ "accepted": true }))),
        ("go", annotations().await),
        ("silent", wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()),
    ];
    let mut site = PolicySite::new(&modules, &identity);
    let both = json!({ "requiredAnnotations": { "a": "1" }, "forbiddenAnnotations": ["a"] });
    let policies = json!({
        "good": { "module": site.module("wants") },
        "settings": { "module": site.module("go"), "settings": both },
        "silent": { "module": site.module("silent") },
        "absent": { "module": site.module("nothing") },
    });
    site.policies(&policies);
    site.spawn();
    let ended = site.process().await_end(SOON).await.unwrap();
    assert_eq!(ended.code(), Some(1));
    let log = site.log();
    for told in [
        "Error: 3 of 4 policies cannot be served:",
        "settings: Policy settings are invalid: annotation a is required and forbidden",
        "does not say how it is called",
        "nothing.wasm",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    site.replace("policies.yml", "good: { module: a, setting: {} }\nbad/id: { module: b }\n");
    site.spawn();
    assert_eq!(site.process().await_end(SOON).await.unwrap().code(), Some(1));
    let log = site.log();
    assert!(
        log.contains("good.setting: there is no such field") && log.contains("\"bad/id\": an id is"),
        "{log}"
    );

    let mut site = site.flag("--continue-on-errors");
    site.policies(&policies);
    site.start().await;
    let (asker, pod) = (site.asker(&[&identity]), review(&json!({ "name": "a" })));
    assert_eq!(asker.judge("/validate/good", &pod).await["allowed"], json!(true));
    for (path, expected) in [
        ("/validate/settings", "Policy settings are invalid: annotation a is required and forbidden"),
        ("/audit/absent", "nothing.wasm"),
    ] {
        let refused = asker.judge(path, &pod).await;
        assert_eq!((&refused["allowed"], &refused["status"]["code"]), (&json!(false), &json!(500)), "{path}");
        assert!(refused["status"]["message"].as_str().unwrap().contains(expected), "{path}: {refused}");
    }
}

/// A server without a certificate makes one.
#[tokio::test]
async fn a_certificate_is_made_where_none_is_given() {
    let mut site = PolicySite::new(&[("accepts", accepts())], &identity()).flag("--self-signed");
    site.policies(&json!({ "accepts": { "module": site.module("accepts") } }));
    site.start().await;
    let refused = site.asker(&[&identity()]).connect().await.unwrap_err().to_string();
    assert!(refused.contains("certificate"), "{refused}");
}

/// Told to stop, it is not ready any more, answers what it has taken in, and ends well.
#[tokio::test]
async fn a_server_that_stops_answers_what_it_has_taken_in() {
    let identity = identity();
    let mut site = PolicySite::new(&[("sleeps", sleeps(3_000))], &identity).flag("--shutdown-delay=1");
    site.policies(&json!({ "sleeps": { "module": site.module("sleeps"), "timeoutEvalSeconds": 30 } }));
    site.start().await;
    let pod = review(&json!({ "name": "a" }));
    let under_way: Vec<_> = [Version::HTTP_11, Version::HTTP_2, Version::HTTP_11, Version::HTTP_2]
        .into_iter()
        .map(|version| {
            let (asker, pod) = (Asker { version, ..site.asker(&[&identity]) }, pod.clone());
            tokio::spawn(async move { asker.judge("/validate/sleeps", &pod).await })
        })
        .collect();
    let open = async || match site.health("/metrics").await {
        // Nobody counts what is under way; what has come is on a connection.
        Ok(_) if connections(site.port) >= 4 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until("four connections", SOON, open).await.unwrap();
    site.process().signal(rustix::process::Signal::TERM).unwrap();
    let unready = async || match site.health("/readiness").await {
        Ok((503, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until("no readiness", SOON, unready).await.unwrap();
    for request in under_way {
        assert_eq!(request.await.unwrap()["allowed"], json!(true));
    }
    assert!(site.process().await_end(SOON).await.unwrap().success());
    logged(&site, "stopping").await;
}

/// Connections to a port of this machine that are established, as its server sees them.
fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let rows = table.lines().filter_map(|row| {
        let mut columns = row.split_whitespace().skip(1);
        Some((columns.next()?, columns.nth(1)?))
    });
    rows.filter(|(address, state)| address.ends_with(&local) && *state == "01").count()
}

/// Each request is a span at a collector, which says what came of it.
#[tokio::test]
async fn requests_are_traced() {
    let (identity, port) = (identity(), ports::free().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::of_traces(folder.path(), port).await;
    let modules = [("refuses", says(&json!({ "accepted": false, "message": "no" })))];
    let site = PolicySite::new(&modules, &identity);
    site.policies(&json!({ "refuses": { "module": site.module("refuses") } }));
    let mut site = site.flag(format!("--otlp-endpoint=127.0.0.1:{port}"));
    site.start().await;
    let judged = site.asker(&[&identity]).judge("/validate/refuses", &review(&json!({ "name": "a" }))).await;
    assert_eq!(judged["allowed"], json!(false));
    let span = wait::until("a span", SOON, async || {
        let spans = collector.spans();
        spans.into_iter().find(|span| span.name == "evaluatePolicy").ok_or_else(|| collector.log())
    })
    .await
    .unwrap();
    for (name, value) in
        [("policy.id", "refuses"), ("policy.allowed", "false"), ("service.name", "kubewasm-policy-server")]
    {
        assert_eq!(span.attributes.get(name).map(String::as_str), Some(value), "{span:#?}");
    }
    assert_eq!(
        (span.attributes.get("request.uid").map(String::as_str), span.error),
        (judged["uid"].as_str(), None)
    );
}
