use base64::{Engine as _, prelude::*};
use kubectl_plugin::testing::{self, Outcome, Server};
use serde_json::{Value, json};

use super::*;

const WEB: &str = include_str!("tests/web.pem");
const AUTHORITY: &str = include_str!("tests/ca.pem");
const SECRET: &str = "GET /api/v1/namespaces/default/secrets/s";

fn secret(kind: &str, data: &[(&str, &[u8])]) -> String {
    let data: serde_json::Map<_, _> =
        data.iter().map(|(key, bytes)| ((*key).to_owned(), json!(BASE64_STANDARD.encode(bytes)))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"}, "type": kind, "data": data})
        .to_string()
}

fn run(words: &[&str], server: &Server) -> Outcome {
    testing::run(&Decoder, "kubectl-decoder", words, server)
}

/// What is printed of a Secret, below its head.
fn text(kind: &str, data: &[(&str, &[u8])]) -> String {
    let server = Server::default().answer(SECRET, 200, secret(kind, data));
    let outcome = run(&["secret", "s"], &server);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let head = format!("Name:       s\nNamespace:  default\nType:       {kind}\n\n");
    outcome.out.strip_prefix(&head).unwrap_or_else(|| panic!("{}", outcome.out)).to_owned()
}

fn as_json(kind: &str, data: &[(&str, &[u8])]) -> Value {
    let server = Server::default().answer(SECRET, 200, secret(kind, data));
    serde_json::from_str(&run(&["secret", "s", "-o", "json"], &server).out).unwrap()
}

fn token(claims: &Value) -> String {
    let header = json!({"alg": "RS256", "kid": "k1"});
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(&header), part(claims))
}

#[test]
fn texts_are_printed_and_what_is_none_is_summed_up() {
    let data: &[(&str, &[u8])] =
        &[("a", b"plain"), ("b", b"with an end\n"), ("c", b""), ("d", b"two\nlines\n"), ("e", b"\x00\xff")];
    let sum = "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8";
    let text = text("Opaque", data);
    let (before, last) = text.trim_end().rsplit_once("\n\n").unwrap();
    assert_eq!(
        before,
        "a: plain\n\nb: with an end  (and the end of the line)\n\nc: (empty)\n\nd:\n  two\n  lines"
    );
    assert!(
        last.starts_with("e: 2 bytes that are no text, SHA-256 ") && last.len() == 37 + sum.len(),
        "{last}"
    );
}

#[test]
fn a_value_cannot_command_the_terminal() {
    let text = text("Opaque", &[("evil", b"\x1b]0;title\x07")]);
    assert!(text.starts_with("evil: 10 bytes that are no text"), "{text}");
    let registry = r#"{"auths": {"r\u001b[2J": {"username": "u", "password": "p\u0007"}}}"#;
    let shown = report::text(&decode::secret(
        serde_json::from_str(&secret(
            "kubernetes.io/dockerconfigjson",
            &[(".dockerconfigjson", registry.as_bytes())],
        ))
        .unwrap(),
        "2026-11-30T08:00:00Z".parse().unwrap(),
    ));
    assert!(!shown.contains(['\u{1b}', '\u{7}']), "{shown:?}");
}

#[test]
fn certificates_are_described_with_the_days_that_are_left() {
    let chain = format!("{WEB}{AUTHORITY}");
    let text = text(
        "kubernetes.io/tls",
        &[("tls.crt", chain.as_bytes()), ("tls.key", b"-----BEGIN PRIVATE KEY-----\n")],
    );
    let expected = "\
tls.crt: 2 certificates, 1197 bytes
  Subject:  CN=web.example, O=Example
  Issuer:   CN=Example CA
  Names:    web.example, *.web.example, 10.0.0.1, 2001:db8::1, spiffe://example/web
  Valid:    2026-01-01T00:00:00Z to 2027-01-01T00:00:00Z
  Expires:  in 31 days
  Serial:   10:01
  SHA-256:  1A:A1:59:A1:23:0D:0A:44:65:40:27:C9:22:98:71:C1:16:6A:16:8F:E7:83:D0:5A:AF:AA:22:ED:45:02:C2:13

  Subject:  CN=Example CA (an authority)
  Issuer:   CN=Example CA
  Names:    <none>
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("\ntls.key: -----BEGIN PRIVATE KEY-----  (and the end of the line)\n"), "{text}");
}

#[test]
fn certificates_have_fields_for_programs() {
    let json = as_json("kubernetes.io/tls", &[("tls.crt", WEB.as_bytes())]);
    let certificate = &json["data"]["tls.crt"]["certificates"][0];
    assert_eq!(certificate["daysLeft"], 31);
    assert_eq!(certificate["state"], "valid");
    assert_eq!(certificate["notAfter"], "2027-01-01T00:00:00Z");
    assert_eq!(json["data"]["tls.crt"]["text"], WEB);
}

#[test]
fn a_certificate_counts_between_its_times() {
    let state = |now: &str| {
        let (found, is_all) = certificate::of_pem(WEB, now.parse().unwrap());
        assert!(is_all);
        match &found[0] {
            certificate::CertificateDetails::Read(fields) => (fields.state, fields.days_left),
            unreadable => panic!("{unreadable:?}"),
        }
    };
    use certificate::Validity::{Expired, NotYetValid, Valid};
    assert_eq!(state("2025-12-31T23:59:59Z"), (NotYetValid, 365));
    assert_eq!(state("2026-01-01T00:00:00Z"), (Valid, 365));
    assert_eq!(state("2026-12-31T23:59:59Z"), (Valid, 0));
    assert_eq!(state("2027-01-01T00:00:01Z"), (Expired, -1));
    assert_eq!(state("2027-01-03T00:00:01Z"), (Expired, -3));
}

#[test]
fn what_only_looks_like_a_certificate_is_told_of() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let text = text("Opaque", &[("ca.crt", broken.as_bytes())]);
    assert!(text.starts_with("ca.crt: 1 certificate, ") && text.contains("\n  no certificate: "), "{text}");
    let mixed = format!("{WEB}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let (found, is_all) = certificate::of_pem(&mixed, "2026-11-30T08:00:00Z".parse().unwrap());
    assert_eq!((found.len(), is_all), (1, false), "the key is shown as well");
}

#[test]
fn tokens_say_whose_they_are_and_for_how_long() {
    let claims = json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:ns:sa", "aud": ["a", "b"],
        "exp": 1_796_025_600 + 7200, "kubernetes.io/serviceaccount/namespace": "ns"});
    let token = token(&claims);
    let text = text("kubernetes.io/service-account-token", &[("token", token.as_bytes())]);
    let expected = format!(
        "token: {token}
  Issuer:     kubernetes/serviceaccount
  Subject:    system:serviceaccount:ns:sa
  Audience:   a, b
  Expires:    in 120m
  Algorithm:  RS256
  Key:        k1
  Claim:      kubernetes.io/serviceaccount/namespace: \"ns\"
"
    );
    assert_eq!(text, expected);
}

#[test]
fn a_token_may_be_of_any_age_and_of_any_sense() {
    let now = "2026-11-30T08:00:00Z".parse().unwrap();
    let expires = |claims: Value| token::read(&token(&claims), now).unwrap().expires;
    assert_eq!(expires(json!({})), "never");
    assert_eq!(expires(json!({"exp": 1_796_025_600 - 90})), "90s ago");
    let far = (i64::MAX - 1_796_025_600) / (365 * 24 * 3600);
    assert_eq!(expires(json!({"exp": 1e300})), format!("in {far}y"));
    assert_eq!(expires(json!({"exp": "soon"})), "never");
    for text in ["", "a.b", "a.b.c", "a.b.c.d", "...", "e30.e30.x", "bm8.bm8.x"] {
        assert!(token::read(text, now).is_none(), "{text}");
    }
}

#[test]
fn logins_to_registries_are_in_the_clear() {
    let auth = BASE64_STANDARD.encode("user:pass:word");
    let config = json!({"auths": {"ghcr.io": {"auth": auth}, "quay.io": {"username": "u", "password": "p", "auth": auth},
        "x.example": {"identitytoken": "t"}}})
    .to_string();
    let text = text("kubernetes.io/dockerconfigjson", &[(".dockerconfigjson", config.as_bytes())]);
    let expected = "\
.dockerconfigjson: 3 logins
  REGISTRY    USERNAME   PASSWORD
  ghcr.io     user       pass:word
  quay.io     u          p
  x.example   <none>     t
";
    assert_eq!(text, expected);
    let old = registries::read(".dockercfg", &json!({"ghcr.io": {"auth": auth}}).to_string());
    assert_eq!((old.len(), old[0].username.as_deref()), (1, Some("user")));
    assert!(registries::read(".dockerconfigjson", "nothing").is_empty());
    assert!(registries::read("other", &config).is_empty());
}

#[test]
fn one_key_is_printed_byte_by_byte() {
    let server = Server::default()
        .answer(SECRET, 200, secret("Opaque", &[("a", b"no end"), ("b", b"x")]))
        .answer(SECRET, 200, secret("Opaque", &[("a", b"no end"), ("b", b"x")]));
    assert_eq!(run(&["secret", "s", "-k", "a"], &server).out, "no end");
    let missing = run(&["secret", "s", "--key=c"], &server);
    assert_eq!(
        (missing.code, missing.err.as_str()),
        (1, "error: secret \"s\" has no key \"c\"; it has: a, b\n")
    );
}

#[test]
fn the_secret_may_be_said_in_the_ways_of_kubectl() {
    for words in [&["secret", "s"][..], &["secrets", "s"], &["secret/s"]] {
        let server = Server::default().answer(SECRET, 200, secret("Opaque", &[]));
        let outcome = run(words, &server);
        assert!(outcome.out.ends_with("\nThere is nothing in it.\n"), "{outcome:?}");
    }
    let server =
        Server::default().answer("GET /api/v1/namespaces/shop/secrets/s", 200, secret("Opaque", &[]));
    assert_eq!(run(&["secret", "s", "-n", "shop", "-oname"], &server).out, "secret/s\n");
}

#[test]
fn mistakes_and_refusals_end_with_one_line_and_code_1() {
    for (words, expected) in [
        (&[][..], "error: say which secret: `secret NAME`"),
        (&["secret"], "error: the name of a secret is missing"),
        (&["configmap", "x"], "error: \"configmap\" is nothing that can be decoded: say `secret NAME`"),
        (&["x"], "error: \"x\" is nothing that can be decoded: say `secret NAME`"),
        (&["secret", "a", "b"], "error: one secret at a time"),
        (&["secret", "a", "-A"], "error: unknown shorthand flag: 'A' in -A"),
    ] {
        let outcome = run(words, &Server::default());
        assert_eq!(outcome.code, 1);
        assert_eq!(outcome.err, format!("{expected}\nSee 'kubectl decoder --help' for usage.\n"));
    }
    let not_found = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
        "message": "secrets \"s\" not found", "code": 404})
    .to_string();
    let outcome = run(&["secret", "s"], &Server::default().answer(SECRET, 404, not_found));
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert_eq!(outcome.err, "Error from server (NotFound): secrets \"s\" not found\n");
}

#[test]
fn completions_name_secrets_and_keys() {
    let complete = |words: &[&str], server: &Server| {
        testing::run(&Decoder, "kubectl_complete-decoder", words, server).out
    };
    let names = r#"{"metadata": {}, "items": [{"metadata": {"name": "db"}}, {"metadata": {"name": "web"}}]}"#;
    assert_eq!(complete(&["se"], &Server::default()), "secret\n:4\n");
    let list = Server::default().answer("GET /api/v1/namespaces/default/secrets?limit=500", 200, names);
    assert_eq!(complete(&["secret", ""], &list), "db\nweb\n:4\n");
    let of_shop = Server::default().answer("GET /api/v1/namespaces/shop/secrets?limit=500", 200, names);
    assert_eq!(complete(&["-n", "shop", "secret", "w"], &of_shop), "web\n:4\n");
    let keys = Server::default().answer(SECRET, 200, secret("Opaque", &[("user", b"u"), ("pass", b"p")]));
    assert_eq!(complete(&["secret", "s", "-k", ""], &keys), "pass\nuser\n:4\n");
    assert_eq!(complete(&["secret", "s", "-o", "j"], &Server::default()), "json\n:4\n");
    assert_eq!(complete(&["secret", "s", ""], &Server::default()), ":4\n");
    let refused = Server::default().answer("GET /api/v1/namespaces/default/secrets?limit=500", 403, "");
    assert_eq!(complete(&["secret", ""], &refused), ":4\n");
}
