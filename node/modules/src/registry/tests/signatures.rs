//! What the search for signatures gets of registries, good and bad.

use super::*;
use crate::signature::SignatureSource;

const IMAGE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A session with a registry that answers requests for referrers and for tags of signatures by `answers`.
async fn session(
    answers: impl Fn(&str) -> Answer + Send + Sync + 'static,
) -> (Server, RegistrySource<'static>) {
    let server = Server::start(move |request| match request.contains("/manifests/v1 ") {
        true => answer("200 OK", "", MANIFEST),
        false => answers(request),
    })
    .await;
    let (registry, reference) = (Box::leak(Box::new(registry())), Box::leak(Box::new(server.reference())));
    let mut source = RegistrySource::new(registry, reference, &[]);
    source.resolve(None).await.unwrap();
    (server, source)
}

async fn referrers(session: &RegistrySource<'_>) -> Result<Option<Vec<String>>, PullFailure> {
    let pages = session.referrers(&IMAGE.parse().unwrap()).await?;
    Ok(pages.map(|pages| pages.iter().map(|page| String::from_utf8_lossy(page).into_owned()).collect()))
}

#[tokio::test]
async fn lists_of_referrers_are_read_page_by_page() {
    let (server, session) = session(|request| {
        let page = |number: &str, link: &str| answer("200 OK", link, number);
        match request.split_once("n=").map(|(_, rest)| rest.split(' ').next().unwrap_or_default()) {
            None => page("1", &format!("link: </v2/team/app/referrers/{IMAGE}?n=2>; rel=\"next\"\r\n")),
            Some("2") => page("2", "link: <?n=3>; rel=next\r\n"),
            Some(_) => page("3", "link: <?n=1>; rel=\"first\"\r\n"),
        }
    })
    .await;
    assert_eq!(referrers(&session).await.unwrap().unwrap(), ["1", "2", "3"]);
    let first = &server.requests()[1];
    assert!(first.starts_with(&format!("GET /v2/team/app/referrers/{IMAGE} ")), "{first}");
    assert!(first.contains("accept: application/vnd.oci.image.index.v1+json\r\n"), "{first}");
}

#[tokio::test]
async fn a_list_without_end_and_one_that_goes_on_elsewhere_end() {
    let (server, endless) = session(|_| answer("200 OK", "link: <?n=1>; rel=\"next\"\r\n", "{}")).await;
    assert_eq!(referrers(&endless).await.unwrap().unwrap().len(), 4);
    assert_eq!(server.requests().len(), 1 + 4);

    let elsewhere = Server::start(|_| answer("200 OK", "", "{}")).await;
    let link = format!("link: <http://{}/>; rel=\"next\"\r\n", elsewhere.address);
    let (_server, session) = session(move |_| answer("200 OK", &link, "{}")).await;
    assert_eq!(referrers(&session).await.unwrap().unwrap(), ["{}"]);
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn registries_without_lists_say_so_in_several_ways() {
    for status in ["404 Not Found", "400 Bad Request", "405 Method Not Allowed", "406 Not Acceptable"] {
        let (_server, session) = session(move |_| answer(status, "", "")).await;
        assert_eq!(referrers(&session).await.unwrap(), None, "{status}");
    }
    for status in ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests"] {
        let (_server, session) = session(move |_| answer(status, "", "")).await;
        let failure = referrers(&session).await.unwrap_err();
        assert!(matches!(failure, PullFailure::Unavailable(_)), "{status}: {failure}");
    }
}

#[tokio::test]
async fn documents_that_are_too_large_or_not_there() {
    let (_server, session) = session(|request| match request.contains(".sig ") {
        true => answer("404 Not Found", "", ""),
        false => Answer {
            head: "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
            body: String::new(),
            endless: Endless::Sends,
        },
    })
    .await;
    assert_eq!(session.tagged("sha256-00.sig").await.unwrap(), None);
    let digest: Digest = IMAGE.parse().unwrap();
    let blob = session.blob(&digest, 1000).await.unwrap_err();
    assert!(matches!(&blob, PullFailure::TooLarge(text) if text.contains("1000 bytes")), "{blob}");
    let list = referrers(&session).await.unwrap_err();
    assert!(matches!(list, PullFailure::TooLarge(_)), "{list}");
    let manifest = session.tagged("other").await.unwrap_err();
    assert!(matches!(manifest, PullFailure::TooLarge(_)), "{manifest}");
}
