use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::*;

/// A certificate and how others are signed with it.
struct Made {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// One that is good from 2020 to `end`, by itself or by another.
fn made(name: &str, is_authority: bool, end: i32, by: Option<&Made>) -> Made {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(end, 1, 1);
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = match by {
        Some(by) => params.signed_by(&key, &by.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let (der, pem) = (certificate.der().to_vec(), certificate.pem());
    Made { der, pem, issuer: Issuer::new(params, key) }
}

impl Made {
    fn pem(&self) -> Value {
        json!({ "encoding": "Pem", "data": self.pem.as_bytes() })
    }

    fn der(&self) -> Value {
        json!({ "encoding": "Der", "data": self.der })
    }
}

async fn asked(question: Value) -> Result<Value, String> {
    let answer = call("v1/is_certificate_trusted", question.to_string().into()).await?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

async fn reason(question: Value) -> String {
    let answer = asked(question).await.unwrap();
    assert_eq!(answer["trusted"], json!(false), "{answer}");
    answer["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_certificate_is_trusted_by_its_chain() {
    let root = made("root", true, 2200, None);
    let middle = made("middle", true, 2200, Some(&root));
    let leaf = made("leaf", false, 2200, Some(&middle));
    let trusted = json!({ "trusted": true, "reason": "" });
    for chain in [json!([middle.pem(), root.pem()]), json!([middle.der(), root.der()])] {
        for cert in [leaf.pem(), leaf.der()] {
            let question = json!({ "cert": cert, "cert_chain": chain, "not_after": "" });
            assert_eq!(asked(question).await, Ok(trusted.clone()));
        }
    }
    let stranger = made("root", true, 2200, None);
    for chain in [json!([root.pem()]), json!([middle.pem(), stranger.pem()]), json!([])] {
        assert_eq!(reason(json!({ "cert": leaf.pem(), "cert_chain": chain })).await, NOT_BY_CHAIN);
    }
    // Nobody's authorities on this machine have signed it.
    assert_eq!(reason(json!({ "cert": leaf.pem(), "cert_chain": null })).await, NOT_BY_CHAIN);
}

#[tokio::test]
async fn it_counts_when_a_certificate_is_used() {
    let root = made("root", true, 2200, None);
    let leaf = made("leaf", false, 2100, Some(&root));
    let used = |when: &str| json!({ "cert": leaf.pem(), "cert_chain": [root.pem()], "not_after": when });
    assert_eq!(asked(used("2099-12-31T00:00:00Z")).await.unwrap()["trusted"], json!(true));
    assert_eq!(asked(used("2099-12-31T23:00:00-02:00")).await.unwrap()["trusted"], json!(false));
    assert_eq!(reason(used("2100-01-02T00:00:00Z")).await, EXPIRED);
    assert_eq!(reason(used("2019-12-31T00:00:00Z")).await, NOT_YET);
    for when in ["tomorrow", "2100-01-02", "1960-01-01T00:00:00Z"] {
        assert!(asked(used(when)).await.unwrap_err().starts_with("Timestamp not_after is"), "{when}");
    }
    let expired = made("old", false, 2021, Some(&root));
    assert_eq!(reason(json!({ "cert": expired.pem(), "cert_chain": [root.pem()] })).await, EXPIRED);
}

#[tokio::test]
async fn what_is_no_certificate_is_told() {
    let root = made("root", true, 2200, None);
    let text = |encoding: &str, data: &[u8]| json!({ "encoding": encoding, "data": data });
    for (cert, expected) in [
        (text("Pem", b"hello"), "Certificate PEM data is not valid"),
        (text("Der", b"hello"), "Certificate is not a valid end-entity certificate"),
        (json!({ "encoding": "der", "data": [] }), "cannot be read"),
        (json!({ "encoding": "Der", "data": [256] }), "cannot be read"),
    ] {
        let error = asked(json!({ "cert": cert, "cert_chain": [root.pem()] })).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let chain = vec![root.pem(); LONGEST_CHAIN + 1];
    let error = asked(json!({ "cert": root.pem(), "cert_chain": chain })).await.unwrap_err();
    assert!(error.contains("has 33 certificates"), "{error}");
    assert!(asked(json!("x")).await.is_err());
}
