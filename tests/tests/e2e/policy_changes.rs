//! What changes under a server of policies while it is asked: certificates, authorities of clients, policies. No request fails.

use kubewasm_tests::{
    certificates::{self, ServerIdentity},
    wait,
};
use rustix::process::Signal;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};

use crate::{
    policy_site::{Asker, Load, PolicySite, accepts, identity, logged, refuses, review, write_pem},
    suite::SOON,
};

fn is_accepted(status: u16, answer: &Value) -> bool {
    status == 200 && answer["response"]["allowed"] == json!(true)
}

/// New connections have the new certificate, those that stand go on, and what cannot be used changes nothing.
#[tokio::test]
async fn certificates_change_without_a_failed_request() {
    let identities = [identity(), identity(), identity()];
    let [first, second, third] = &identities;
    let mut site = PolicySite::new(&[("accepts", accepts())], first);
    site.policies(&json!({ "accepts": { "module": site.module("accepts") } }));
    site.start().await;
    let asker = site.asker(&[first, second, third]);
    let (load, tasks) = Load::start(&asker, "/validate/accepts", is_accepted);
    load.more(50).await;
    site.certificate(second);
    shown(&asker, second).await;
    load.more(50).await;

    // The certificate comes, and then its key.
    site.replace("tls.crt", &third.chain);
    site.process().signal(Signal::HUP).unwrap();
    logged(&site, "the new certificates cannot be used").await;
    shown(&asker, second).await;
    site.replace("tls.key", &third.key);
    site.process().signal(Signal::HUP).unwrap();
    shown(&asker, third).await;
    load.more(50).await;
    load.end(tasks).await;
    assert!(!site.log().contains("PRIVATE KEY"));
}

/// Waits until connections are answered with this certificate.
async fn shown(asker: &Asker, identity: &ServerIdentity) {
    let seen = async || {
        let stream = asker.connect().await.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
        if shown.as_ref() == Some(&identity.der) { Ok(()) } else { Err("another certificate".to_owned()) }
    };
    wait::until("the new certificate", SOON, seen).await.unwrap();
}

/// An asker with a client's certificate.
fn with_certificate(asker: &Asker, server: &ServerIdentity, client: &ServerIdentity) -> Asker {
    let roots = certificates::client(&[server], &[&TLS13, &TLS12], &[]).unwrap();
    let mut config = ClientConfig::clone(&roots);
    let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![client.der.clone()];
    let provider = rustls::crypto::ring::default_provider();
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
    config.client_auth_cert_resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    Asker { config: std::sync::Arc::new(config), ..asker.clone() }
}

/// With an authority of clients, nobody is served without a certificate of it; when it changes, new connections are judged by
/// the new one.
#[tokio::test]
async fn only_clients_of_the_authority_are_served() {
    let server = identity();
    let (ours, our_authority) = ServerIdentity::signed(&["api-server"]).unwrap();
    let (theirs, their_authority) = ServerIdentity::signed(&["api-server"]).unwrap();
    let mut site = PolicySite::new(&[("accepts", accepts())], &server);
    site.policies(&json!({ "accepts": { "module": site.module("accepts") } }));
    let stranger = site.asker(&[&server]);
    let (ours, theirs) =
        (with_certificate(&stranger, &server, &ours), with_certificate(&stranger, &server, &theirs));
    let body = review(&json!({ "name": "a" })).to_string();
    let is_served = async |asker: &Asker| asker.send("POST", "/validate/accepts", body.clone()).await.is_ok();

    // Nobody asks for certificates.
    site.start().await;
    for asker in [&stranger, &ours, &theirs] {
        assert!(is_served(asker).await);
    }
    assert!(site.process().stop(SOON).await.unwrap().success());

    write_pem(&site.path("clients.crt"), &our_authority);
    let clients = site.path("clients.crt").display().to_string();
    let mut site = site.flag(format!("--client-ca-file={clients}"));
    site.start().await;
    assert!(is_served(&ours).await);
    assert!(!is_served(&stranger).await && !is_served(&theirs).await);

    site.replace("clients.crt", &their_authority);
    let changed = async || if is_served(&theirs).await { Ok(()) } else { Err("refused".to_owned()) };
    wait::until("the new authority", SOON, changed).await.unwrap();
    assert!(!is_served(&stranger).await && !is_served(&ours).await);
}

/// Policies come, change and go with the file, requests in between are answered by the one or the other, and a file that cannot
/// be used changes nothing.
#[tokio::test]
async fn policies_change_without_a_failed_request() {
    let identity = identity();
    let modules = [("accepts", accepts()), ("one", refuses("one")), ("two", refuses("two"))];
    let mut site = PolicySite::new(&modules, &identity);
    let of = |module: &str| json!({ "module": site.module(module) });
    let (one, two, accepts) = (of("one"), of("two"), of("accepts"));
    site.policies(&json!({ "changes": one, "goes": accepts }));
    site.start().await;
    let asker = site.asker(&[&identity]);
    let is_one_or_two = |status: u16, answer: &Value| {
        status == 200 && ["one", "two"].iter().any(|said| answer["response"]["status"]["message"] == *said)
    };
    let (load, tasks) = Load::start(&asker, "/validate/changes", is_one_or_two);
    load.more(50).await;
    let pod = review(&json!({ "name": "a" }));
    let says = async |said: &str| {
        let seen = async || match asker.judge("/validate/changes", &pod).await {
            answer if answer["status"]["message"] == *said => Ok(()),
            answer => Err(answer.to_string()),
        };
        wait::until(said, SOON, seen).await.unwrap();
    };
    for round in 0..3 {
        site.policies(&json!({ "changes": two, "goes": accepts, "round": { "module": site.module("accepts"), "settings": { "round": round } } }));
        says("two").await;
        site.policies(&json!({ "changes": one, "goes": accepts }));
        site.process().signal(Signal::HUP).unwrap();
        says("one").await;
        load.more(20).await;
    }

    // A file that cannot be read as one, and one whose new version does not load.
    site.replace("policies.yml", "changes: [");
    logged(&site, "the new policies cannot be used; the old ones go on").await;
    assert_eq!(asker.judge("/validate/goes", &pod).await["allowed"], json!(true));
    site.policies(&json!({ "changes": of_nothing(&site), "comes": accepts }));
    logged(&site, "a policy cannot be loaded").await;
    let status = async |path: &str| asker.send("POST", path, pod.to_string()).await.unwrap().0;
    let gone = async || match status("/validate/goes").await {
        404 => Ok(()),
        other => Err(other.to_string()),
    };
    wait::until("the policy to be gone", SOON, gone).await.unwrap();
    assert_eq!(status("/validate/comes").await, 200);
    load.more(20).await;
    load.end(tasks).await;
}

fn of_nothing(site: &PolicySite) -> Value {
    json!({ "module": site.module("nothing") })
}
