//! Every path, for every kind of caller: what is answered, and what the API server is asked about it.

use super::*;

/// What a path is, and to whom: its method, the subresources that are asked about in this order, and what a caller gets
/// who is let through.
const PATHS: &[(&str, &str, &[&str], u16)] = &[
    ("GET", "/healthz", &["healthz", "proxy"], 200),
    ("GET", "/healthz/", &["healthz", "proxy"], 200),
    ("GET", "/healthz/ping", &["healthz", "proxy"], 200),
    ("GET", "/healthz/log", &["healthz", "proxy"], 200),
    ("GET", "/healthz/syncloop", &["healthz", "proxy"], 200),
    ("GET", "/healthz/none", &["healthz", "proxy"], 404),
    ("GET", "/pods", &["pods", "proxy"], 200),
    ("GET", "/pods/", &["pods", "proxy"], 200),
    ("GET", "/pods/none", &["pods", "proxy"], 404),
    ("DELETE", "/pods", &["pods", "proxy"], 405),
    ("GET", "/runningpods", &["pods", "proxy"], 200),
    ("GET", "/runningpods/", &["pods", "proxy"], 200),
    ("GET", "/configz", &["configz", "proxy"], 200),
    ("POST", "/configz", &["configz", "proxy"], 405),
    ("GET", "/flagz", &["configz"], 200),
    ("GET", "/statusz", &["statusz"], 200),
    ("GET", "/metrics", &["metrics"], 200),
    ("GET", "/logs/", &["log"], 200),
    ("GET", "/logs", &["log"], 301),
    ("GET", "/logs/one.log", &["log"], 200),
    ("GET", "/logs/none.log", &["log"], 404),
    ("PUT", "/logs/one.log", &["log"], 405),
    ("POST", "/checkpoint/ns/p/c", &["checkpoint"], 404),
    ("GET", "/containerLogs/ns/p/c", &["proxy"], 200),
    ("GET", "/containerLogs/ns/p/none", &["proxy"], 404),
    ("GET", "/containerLogs/ns/p", &["proxy"], 404),
    ("POST", "/containerLogs/ns/p/c", &["proxy"], 405),
    ("POST", "/exec/ns/p/c", &["proxy"], 400),
    ("GET", "/exec/ns/p/c?command=a", &["proxy"], 400),
    ("POST", "/exec/ns/p/u1/c", &["proxy"], 400),
    ("POST", "/attach/ns/p/c", &["proxy"], 400),
    ("POST", "/portForward/ns/p", &["proxy"], 400),
    ("POST", "/run/ns/p/c", &["proxy"], 400),
    ("GET", "/run/ns/p/c", &["proxy"], 405),
    ("GET", "/debug/pprof/", &["proxy"], 404),
    ("PUT", "/debug/flags/v", &["proxy"], 404),
    ("GET", "/", &["proxy"], 404),
    ("GET", "/no/such/path", &["proxy"], 404),
    // Paths that are like others.
    ("GET", "/podsandmore", &["proxy"], 404),
    ("GET", "/healthzz", &["proxy"], 404),
    ("GET", "/metricsx", &["proxy"], 404),
    ("GET", "/logsx", &["proxy"], 404),
    ("GET", "//pods", &["proxy"], 404),
    ("GET", "/%70ods", &["proxy"], 404),
    ("GET", "/PODS", &["proxy"], 404),
    ("GET", "/x/../pods", &["proxy"], 404),
    // A method that is no verb of the API; without a body, as all answers to it.
    ("HEAD", "/pods", &["pods", "proxy"], 405),
];

fn verb(method: &str) -> &'static str {
    match method {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "DELETE" => "delete",
        _ => "",
    }
}

fn server() -> Running {
    let server = Running::start(SECURE);
    server.set_pod(&json!({ "running": {} }));
    server.write_log("2026-01-02T00:00:00Z stdout F one\n");
    std::fs::write(server.dir.path().join("system-logs/one.log"), "one\n").unwrap();
    server
}

/// What was asked about a caller since the last time: verb and subresource, each with the attributes that all have.
fn asked(server: &Running, user: &str) -> Vec<(String, String)> {
    let reviews = std::mem::take(&mut lock(&server.reviewer).asked);
    let question = |review: &Value| {
        let attributes = &review["spec"]["resourceAttributes"];
        let text = |name: &str| attributes[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(review["kind"], "SubjectAccessReview");
        assert_eq!(review["spec"]["user"], user);
        let rest = ["group", "version", "resource", "name"].map(text);
        assert_eq!(rest, ["", "v1", "nodes", "edge"]);
        assert!(review["spec"].get("nonResourceAttributes").is_none_or(Value::is_null));
        (text("verb"), text("subresource"))
    };
    reviews.iter().map(question).collect()
}

#[tokio::test]
async fn whoever_is_not_known_gets_nothing_anywhere() {
    let server = server();
    let other = Authority::new();
    let callers: [(&str, &dyn Fn() -> Caller); 5] = [
        ("nobody", &Caller::default),
        ("wrong CA", &|| Caller { certificate: Some(other.client("admin", "system:masters")), token: None }),
        ("expired", &|| Caller {
            certificate: Some(server.authority.client_until("admin", "system:masters", 2020)),
            token: None,
        }),
        ("no name", &|| server.by_certificate("", "system:masters")),
        ("bad token", &|| Caller { token: Some("bad"), ..Caller::default() }),
    ];
    for (who, caller) in callers {
        for (method, path, _, _) in PATHS {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (status, body) = read(server.request(caller(), method.clone(), path).await).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{who}: {method} {path}");
            assert_eq!(body, if method == Method::HEAD { "" } else { "Unauthorized" }, "{who}: {path}");
        }
    }
    let asked = std::mem::take(&mut lock(&server.reviewer).asked);
    assert!(asked.iter().all(|review| review["kind"] == "TokenReview"), "nobody is asked what nobody may do");
    assert_eq!(asked.len(), 1, "about the one token, once");
}

#[tokio::test]
async fn who_may_not_is_told_what_is_missing_and_asked_about_once() {
    let server = server();
    for (method, path, subresources, _) in PATHS {
        // A user of their own for each, of whom nothing is remembered.
        let user = format!("bob {method} {path}");
        for round in 0..2 {
            let name = Method::from_bytes(method.as_bytes()).unwrap();
            let response = server.request(server.by_certificate(&user, "g"), name, path).await;
            let (status, body) = read(response).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
            let missing = subresources.join(" ");
            let verb = verb(method);
            let expected =
                format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{missing}])\n");
            assert_eq!(body, if *method == "HEAD" { "" } else { expected.as_str() });
            let questions: Vec<_> =
                subresources.iter().map(|what| (verb.to_owned(), (*what).to_owned())).collect();
            assert_eq!(asked(&server, &user), if round == 0 { questions } else { vec![] }, "{path}");
        }
    }
}

/// The finer right is enough, and so is the coarser one, where there are both; each alone, and asked about in that order.
#[tokio::test]
async fn any_of_the_rights_is_enough_and_no_other() {
    let server = server();
    for (method, path, subresources, expected) in PATHS {
        let verb = verb(method);
        for (place, subresource) in subresources.iter().enumerate() {
            let user = format!("eve {method} {path} {subresource}");
            server.allow(&format!("{user} {verb} {subresource}"));
            let name = Method::from_bytes(method.as_bytes()).unwrap();
            let response = server.request(server.by_certificate(&user, "g"), name, path).await;
            let (status, body) = read(response).await;
            assert_eq!(status.as_u16(), *expected, "{method} {path}: {body}");
            assert_eq!(asked(&server, &user).len(), place + 1, "{method} {path}");
        }
        let user = format!("mallory {method} {path}");
        let all = ["pods", "proxy", "healthz", "configz", "stats", "metrics", "log", "checkpoint", "statusz"];
        for other in all.iter().filter(|other| !subresources.contains(other)) {
            server.allow(&format!("{user} {verb} {other}"));
        }
        for other in ["get", "create", "update", "patch", "delete"].iter().filter(|other| **other != verb) {
            subresources.iter().for_each(|what| server.allow(&format!("{user} {other} {what}")));
        }
        let name = Method::from_bytes(method.as_bytes()).unwrap();
        let response = server.request(server.by_certificate(&user, "g"), name, path).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{method} {path}");
        asked(&server, &user);
    }
}

/// A yes and a no are remembered for as long as the configuration says, each for its own time.
#[tokio::test]
async fn decisions_are_remembered_for_their_time() {
    for (allowed_ttl, denied_ttl) in [("1h", "1ns"), ("1ns", "1h")] {
        let file = format!(
            "{SECURE}authorization: {{webhook: {{cacheAuthorizedTTL: {allowed_ttl}, cacheUnauthorizedTTL: {denied_ttl}}}}}\n"
        );
        let server = Running::start(&file);
        server.allow("alice get metrics");
        for (user, status, ttl) in [("alice", 200, allowed_ttl), ("bob", 403, denied_ttl)] {
            for round in 0..3 {
                let answer = server.get(server.by_certificate(user, "g"), "/metrics").await;
                assert_eq!(answer.0.as_u16(), status, "{}", answer.1);
                let is_new = round == 0 || ttl == "1ns";
                assert_eq!(asked(&server, user).len(), usize::from(is_new), "{user} {ttl} {round}");
            }
        }
        // Groups are part of the question: who is in others is asked about anew.
        server.get(server.by_certificate("alice", "other"), "/metrics").await;
        assert_eq!(asked(&server, "alice").len(), 1);
    }
}

/// So is whose a token is.
#[tokio::test]
async fn tokens_are_remembered_for_their_time() {
    for (ttl, times) in [("1h", 1), ("1ns", 3)] {
        let file =
            format!("authentication: {{webhook: {{cacheTTL: {ttl}}}, x509: {{clientCAFile: FILE}}}}\n");
        let server = Running::start(&file);
        lock(&server.reviewer).tokens.insert("good".to_owned(), "prometheus".to_owned());
        server.allow("prometheus get metrics");
        for token in ["good", "bad"] {
            for _ in 0..3 {
                server.get(Caller { token: Some(token), ..Caller::default() }, "/metrics").await;
            }
            let is_about = |review: &&Value| review["spec"]["token"] == token;
            let asked = lock(&server.reviewer).asked.iter().filter(is_about).count();
            assert_eq!(asked, times, "{token} {ttl}");
        }
    }
}

/// The plain port is for `/healthz` alone, whoever asks.
#[tokio::test]
async fn the_plain_port_shows_health_and_nothing_else() {
    let server = server();
    for (method, path, _, _) in PATHS.iter().filter(|(method, ..)| *method == "GET") {
        let known = ["/healthz", "/healthz/", "/healthz/ping", "/healthz/log", "/healthz/syncloop"];
        let expected = if known.contains(path) { 200 } else { 404 };
        assert_eq!(server.health(path).await.0.as_u16(), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn statusz_and_flagz_are_for_people_and_for_programs() {
    let server = server();
    for what in ["statusz", "configz"] {
        server.allow(&format!("admin get {what}"));
    }
    let admin = || server.by_certificate("admin", "g");
    let (_, text) = server.get(admin(), "/statusz").await;
    assert!(text.starts_with("\nkubelet statusz\nWarning: "), "{text}");
    assert!(text.contains("\nBinary version: ") && text.contains("\nUp: 0 hr 00 min "), "{text}");
    let (_, text) = server.get(admin(), "/flagz").await;
    assert!(text.contains("\nnode-ip=10.0.0.1\n"), "{text}");

    let mut connection = server.connect([127, 0, 0, 1], admin().certificate).await;
    let request = Request::get("/flagz")
        .header("host", "edge")
        .header("accept", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let (_, body) = read(connection.send_request(request).await.unwrap()).await;
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap(),
        json!({
            "kind": "Flagz", "apiVersion": "config.k8s.io/v1beta1", "metadata": { "name": "kubelet" },
            "flags": { "node-ip": "10.0.0.1" },
        })
    );
}

#[tokio::test]
async fn system_logs_can_be_closed() {
    let server = Running::start(&format!("enableSystemLogHandler: false\n{SECURE}"));
    server.allow("admin get log");
    for path in ["/logs/", "/logs/one.log"] {
        let (status, body) = server.get(server.by_certificate("admin", "g"), path).await;
        assert_eq!((status.as_u16(), body.as_str()), (405, "logs endpoint is disabled.\n"));
    }
}

#[tokio::test]
async fn what_debugging_has_is_not_there_without_it() {
    let server = Running::start(&format!("enableDebuggingHandlers: false\n{SECURE}"));
    for what in ["proxy", "configz", "statusz", "log", "metrics"] {
        server.allow(&format!("admin get {what}"));
    }
    for (path, status) in [
        ("/configz", 404),
        ("/flagz", 404),
        ("/statusz", 404),
        ("/logs/", 405),
        ("/run/ns/p/c", 405),
        ("/runningpods/", 405),
        ("/healthz", 200),
        ("/metrics", 200),
    ] {
        let answer = server.get(server.by_certificate("admin", "g"), path).await;
        assert_eq!(answer.0.as_u16(), status, "{path}");
    }
}
