use std::{collections::HashMap, sync::Mutex};

use serde_json::{Value, json};

use super::*;
use crate::signature::testing::{Signer, digest, payload, statement};

/// A registry in memory, which remembers what it was asked.
#[derive(Default)]
struct Documents {
    tags: HashMap<String, Bytes>,
    manifests: HashMap<Digest, Bytes>,
    blobs: HashMap<Digest, Bytes>,
    /// `None`: it has no lists of referrers.
    referrers: Option<HashMap<Digest, Vec<Bytes>>>,
    /// Asked for one of these (a tag or a digest), it answers that it is down.
    down: Vec<String>,
    asked: Mutex<Vec<String>>,
}

impl Documents {
    fn ask(&self, what: &str) -> Result<(), PullFailure> {
        self.asked.lock().unwrap().push(what.to_owned());
        match self.down.iter().any(|down| down == what) {
            true => Err(PullFailure::Unavailable("503".to_owned())),
            false => Ok(()),
        }
    }

    fn blob(&mut self, bytes: &[u8]) -> Value {
        self.blobs.insert(Digest::of(bytes), Bytes::copy_from_slice(bytes));
        json!({"digest": Digest::of(bytes), "size": bytes.len()})
    }

    /// Signatures under the tag for them.
    fn tag_simple(&mut self, image: &Digest, signatures: &[Evidence]) {
        let layers: Vec<Value> = signatures
            .iter()
            .map(|evidence| {
                let Evidence::Simple { payload, signature } = evidence else { panic!() };
                let mut layer = self.blob(payload.as_bytes());
                layer["mediaType"] = json!("application/vnd.dev.cosign.simplesigning.v1+json");
                layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
                layer
            })
            .collect();
        self.tags.insert(simple::tag(image), json!({"layers": layers}).to_string().into());
    }

    /// A bundle with its manifest; the entry in a list of referrers.
    fn push_bundle(&mut self, text: &str) -> Value {
        let mut layer = self.blob(text.as_bytes());
        layer["mediaType"] = json!("application/vnd.dev.sigstore.bundle.v0.3+json");
        self.push_manifest(&json!({"layers": [layer]}))
    }

    fn push_manifest(&mut self, manifest: &Value) -> Value {
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(&bytes);
        self.manifests.insert(digest, bytes);
        json!({"digest": digest, "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"})
    }

    fn list(&mut self, image: &Digest, entries: &[Value]) {
        let page = Bytes::from(json!({"manifests": entries}).to_string());
        self.referrers.get_or_insert_default().entry(*image).or_default().push(page);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

#[async_trait]
impl SignatureSource for Documents {
    async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, PullFailure> {
        self.ask(tag)?;
        Ok(self.tags.get(tag).cloned())
    }
    async fn manifest(&self, digest: &Digest) -> Result<Bytes, PullFailure> {
        self.ask(&digest.to_string())?;
        self.manifests.get(digest).cloned().ok_or_else(|| PullFailure::NotFound(digest.to_string()))
    }
    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, PullFailure> {
        self.ask(&digest.to_string())?;
        assert!(limit <= SIGNATURE_LIMIT);
        self.blobs.get(digest).cloned().ok_or_else(|| PullFailure::NotFound(digest.to_string()))
    }
    async fn referrers(&self, digest: &Digest) -> Result<Option<Vec<Bytes>>, PullFailure> {
        self.ask("referrers")?;
        Ok(self.referrers.as_ref().map(|known| known.get(digest).cloned().unwrap_or_default()))
    }
}

fn text_of(evidence: &Evidence) -> &str {
    let Evidence::Bundle(text) = evidence else { panic!() };
    text
}

async fn run(
    source: &Documents,
    images: &[Digest],
    keys: &[TrustedKey],
) -> Result<Vec<Evidence>, PullFailure> {
    verify(source, images, SignatureDemand::of_rule("r.io/team", keys))
        .await
        .map(|verified| verified.evidence)
}

async fn invalid(source: &Documents, images: &[Digest], keys: &[TrustedKey]) -> String {
    match run(source, images, keys).await {
        Err(PullFailure::SignatureInvalid(text)) => {
            assert!(text.contains("\"r.io/team\""), "{text}");
            text
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn either_form_is_found_on_the_index_and_on_what_was_chosen_from_it() {
    let (signer, other) = (Signer::new(), Signer::new());
    let images = ["index", "child"].map(digest);
    let keys = [other.key(), signer.key()];
    for image in &images {
        let mut registry = Documents::default();
        let signature = signer.simple(&payload(image));
        registry.tag_simple(image, std::slice::from_ref(&signature));
        assert_eq!(run(&registry, &images, &keys).await.unwrap(), [signature]);
        assert!(run(&registry, &images, &keys[..1]).await.is_err());

        let bundle = signer.bundle(&statement(image));
        for has_lists in [true, false] {
            let mut registry = Documents::default();
            let entry = registry.push_bundle(text_of(&bundle));
            match has_lists {
                true => registry.list(image, &[entry]),
                false => {
                    let index = json!({"manifests": [entry]}).to_string();
                    registry.tags.insert(fallback_tag(image), index.into());
                }
            }
            assert_eq!(run(&registry, &images, &keys).await.unwrap(), std::slice::from_ref(&bundle));
            assert!(run(&registry, &images, &keys[..1]).await.is_err());
        }
    }
}

#[tokio::test]
async fn one_good_signature_among_several_suffices_and_all_about_the_image_are_kept() {
    let (signer, other, image) = (Signer::new(), Signer::new(), digest("image"));
    let good = signer.bundle(&statement(&image));
    let by_other = other.bundle(&statement(&image));
    let mut registry = Documents::default();
    let entries: Vec<Value> = [
        "{}",
        "not json",
        text_of(&by_other),
        text_of(&signer.bundle(&statement(&digest("elsewhere")))),
        text_of(&good),
    ]
    .map(|text| registry.push_bundle(text))
    .into();
    let missing = json!({"digest": digest("missing")});
    registry.list(&image, &[vec![missing], entries].concat());
    assert_eq!(run(&registry, &[image], &[signer.key()]).await.unwrap(), [good, by_other]);
    assert!(!registry.asked().contains(&simple::tag(&image)), "the first good one ends the search");
}

#[tokio::test]
async fn an_image_without_signatures_says_how_to_sign_it() {
    let (signer, images) = (Signer::new(), ["index", "child"].map(digest));
    let registry = Documents::default();
    let text = invalid(&registry, &images, &[signer.key()]).await;
    assert!(text.contains("not signed") && text.contains("cosign sign"), "{text}");
    let expected: Vec<String> = images
        .iter()
        .flat_map(|image| ["referrers".to_owned(), fallback_tag(image), simple::tag(image)])
        .collect();
    assert_eq!(registry.asked(), expected);
}

#[tokio::test]
async fn what_is_wrong_with_the_signatures_is_told() {
    let (signer, other, image) = (Signer::new(), Signer::new(), digest("image"));
    let mut registry = Documents::default();
    let provenance = {
        let mut statement = statement(&image);
        statement["predicateType"] = json!("https://slsa.dev/provenance/v1");
        signer.bundle(&statement)
    };
    let entry = registry.push_bundle(text_of(&provenance));
    registry.list(&image, &[entry]);
    registry.tag_simple(
        &image,
        &[
            other.simple(&payload(&image)),
            other.simple(&payload(&image)),
            signer.simple(&payload(&digest("elsewhere"))),
        ],
    );
    let text = invalid(&registry, &[image], &[signer.key()]).await;
    for flaw in [
        "1 no signature of an image but \"https://slsa.dev/provenance/v1\"",
        "2 not by a trusted key, or tampered with",
        &format!("1 of another image ({})", digest("elsewhere")),
    ] {
        assert!(text.contains(flaw), "{text}");
    }
    registry.asked();
    assert!(run(&registry, &[image], &[other.key()]).await.is_ok());
    let payload_digest = digest(&payload(&image).to_string()).to_string();
    let fetched = registry.asked().iter().filter(|asked| **asked == payload_digest).count();
    assert_eq!(fetched, 1, "one payload that several have signed is fetched once");
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_names_is_no_signature() {
    let (signer, image) = (Signer::new(), digest("image"));
    let mut registry = Documents::default();
    registry.tag_simple(&image, &[signer.simple(&payload(&digest("elsewhere")))]);
    let promised = simple::layers(&registry.tags[&simple::tag(&image)]).unwrap()[0].digest;
    registry.blobs.insert(promised, Bytes::from(payload(&image).to_string()));
    let text = invalid(&registry, &[image], &[signer.key()]).await;
    assert!(text.contains(&format!("what came for its blob {promised} is something else")), "{text}");
}

#[tokio::test]
async fn a_registry_that_is_down_for_a_moment_is_no_verdict() {
    let (signer, image) = (Signer::new(), digest("image"));
    let keys = [signer.key()];
    let mut registry = Documents { down: vec!["referrers".to_owned()], ..Documents::default() };
    let failure = run(&registry, &[image], &keys).await.unwrap_err();
    assert!(matches!(&failure, PullFailure::Unavailable(text) if text.contains("503")), "{failure}");
    // What can be had suffices.
    registry.tag_simple(&image, &[signer.simple(&payload(&image))]);
    assert!(run(&registry, &[image], &keys).await.is_ok());
}

#[tokio::test]
async fn bounds_hold_whatever_a_registry_lists() {
    let (signer, image) = (Signer::new(), digest("image"));
    let keys = [signer.key()];
    // Too many.
    let mut registry = Documents::default();
    let entries: Vec<Value> =
        (0..1000).map(|number| registry.push_bundle(&format!("{{\"number\":{number}}}"))).collect();
    registry.list(&image, &entries);
    registry.list(&image, &entries);
    let many = vec![Signer::new().simple(&payload(&image)); 1000];
    registry.tag_simple(&image, &many);
    let text = invalid(&registry, &[image], &keys).await;
    assert!(text.contains("more than 32 of a kind are not looked at"), "{text}");
    assert_eq!(
        registry.asked().len(),
        1 + 2 * LOOKED_AT_LIMIT + 2,
        "lists, manifests with their blobs, the tag, its payload"
    );
    let newest = [many, vec![signer.simple(&payload(&image))]].concat();
    registry.tag_simple(&image, &newest);
    assert!(run(&registry, &[image], &keys).await.is_ok(), "many of one form do not hide the other");

    // Too large: the blob is not even asked for.
    let mut registry = Documents::default();
    let huge = json!({"digest": digest("huge"), "size": SIGNATURE_LIMIT + 1,
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"});
    let entry = registry.push_manifest(&json!({"layers": [huge]}));
    registry.list(&image, &[entry]);
    let text = invalid(&registry, &[image], &keys).await;
    assert!(text.contains("262145 bytes, and 262144 is the limit"), "{text}");
    assert!(!registry.asked().contains(&digest("huge").to_string()));

    // Not what was expected at all.
    for page in ["<html>", "{\"manifests\":[[]]}", "null"] {
        let mut registry = Documents::default();
        registry.referrers.get_or_insert_default().insert(image, vec![Bytes::from(page)]);
        registry.tags.insert(simple::tag(&image), Bytes::from(page));
        let text = invalid(&registry, &[image], &keys).await;
        assert!(text.contains("malformed"), "{text}");
    }
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up() {
    struct Silent;
    #[async_trait]
    impl SignatureSource for Silent {
        async fn tagged(&self, _: &str) -> Result<Option<Bytes>, PullFailure> {
            std::future::pending().await
        }
        async fn manifest(&self, _: &Digest) -> Result<Bytes, PullFailure> {
            std::future::pending().await
        }
        async fn blob(&self, _: &Digest, _: u64) -> Result<Bytes, PullFailure> {
            std::future::pending().await
        }
        async fn referrers(&self, _: &Digest) -> Result<Option<Vec<Bytes>>, PullFailure> {
            std::future::pending().await
        }
    }
    let (limit, keys) = (Duration::from_millis(1), [Signer::new().key()]);
    let (images, demand) = ([digest("image")], SignatureDemand::of_rule("default", &keys));
    let failure = verify_within(limit, &Silent, &images, demand).await.unwrap_err();
    assert!(matches!(&failure, PullFailure::Unavailable(text) if text.contains("did not come")), "{failure}");
}

#[test]
fn the_fallback_tag_of_a_signature_is_not_that_of_its_list() {
    let image = digest("image");
    assert_eq!(simple::tag(&image), format!("{}.sig", fallback_tag(&image)));
}
