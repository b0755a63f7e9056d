//! Where blobs and credentials of a push go.

use super::*;

/// A registry that wants a login, and that takes uploads at `location`.
async fn taking_uploads_at(location: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        if !request.to_lowercase().contains("authorization: basic") {
            return answer("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", "");
        }
        match request.split(' ').next() {
            Some("HEAD") => answer("404 Not Found", "", ""),
            Some("POST") => answer("202 Accepted", &location(request), ""),
            _ => answer("201 Created", "", ""),
        }
    })
    .await
}

fn upload() -> Upload {
    let content = || BlobContent::Memory("blob".into());
    let blob = UploadBlob { digest: Digest::of(b"blob"), size: 4, content: content() };
    Upload { blobs: vec![blob], manifest: MANIFEST.into(), listing: None }
}

#[tokio::test]
async fn a_blob_goes_where_the_registry_says_and_the_credential_does_not() {
    let storage = Server::start(|_| answer("201 Created", "", "")).await;
    let place = format!("location: http://localhost:{}/x?signature=S\r\n", storage.address.port());
    let server = taking_uploads_at(move |_| place.clone()).await;
    let sent: Sent = Arc::new(|_| {});
    let taken =
        registry().upload(&server.reference(), &[credential("a", "b")], &upload(), &sent).await.unwrap();
    assert_eq!(taken, Some(0));
    let [put] = storage.requests().try_into().unwrap();
    let digest = Digest::of(b"blob").to_string().replace(':', "%3A");
    assert!(
        put.starts_with(&format!("PUT /x?signature=S&digest={digest} ")) && put.ends_with("\r\n\r\nblob"),
        "{put}"
    );
    assert!(!put.to_lowercase().contains("authorization"));
    let last = server.requests().pop().unwrap();
    assert!(last.starts_with("PUT /v2/team/app/manifests/v1 ") && last.ends_with(MANIFEST), "{last}");

    let own = taking_uploads_at(|_| "location: /v2/team/app/blobs/uploads/1\r\n".to_owned()).await;
    registry().upload(&own.reference(), &[credential("a", "b")], &upload(), &sent).await.unwrap();
    let put =
        own.requests().into_iter().find(|request| request.starts_with("PUT /v2/team/app/blobs/")).unwrap();
    assert!(put.to_lowercase().contains("authorization"), "{put}");
}

#[tokio::test]
async fn a_registry_that_does_not_say_where_a_blob_goes() {
    for location in ["", "location: ftp://127.0.0.1/x\r\n"] {
        let server = taking_uploads_at(move |_| location.to_owned()).await;
        let sent: Sent = Arc::new(|_| {});
        let error = registry()
            .upload(&server.reference(), &[credential("a", "b")], &upload(), &sent)
            .await
            .unwrap_err();
        assert!(matches!(&error, PullFailure::Malformed(text) if text.contains("Location")), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_says_nothing_of_an_upload_is_unavailable() {
    let server = Server::start(|request| match request.split(' ').next() {
        Some("HEAD") => answer("404 Not Found", "", ""),
        Some("POST") => answer("202 Accepted", "location: /x\r\n", ""),
        _ => Answer { head: String::new(), body: String::new(), endless: Endless::Stalls },
    })
    .await;
    let sent: Sent = Arc::new(|_| {});
    let error = registry_with(Duration::from_millis(300))
        .upload(&server.reference(), &[], &upload(), &sent)
        .await
        .unwrap_err();
    assert!(matches!(&error, PullFailure::Unavailable(text) if text.contains("of an upload")), "{error}");
}

#[tokio::test]
async fn a_token_for_a_push_allows_it() {
    let server = with_tokens(|request| request.contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush")).await;
    let sent: Sent = Arc::new(|_| {});
    // It answers everything with 200, which is no answer to an upload.
    let upload = Upload { blobs: vec![], ..upload() };
    let error =
        registry().upload(&server.reference(), &[credential("a", "b")], &upload, &sent).await.unwrap_err();
    assert!(matches!(error, PullFailure::Malformed(_)), "{error}");
    assert!(server.requests().last().unwrap().to_lowercase().contains("authorization: bearer t"));
}

/// A registry that takes everything; it keeps the list of referrers from the `keeps`th time on that it is put, as if
/// somebody else had overwritten it before.
async fn keeping_lists(listed: &'static str, keeps: usize) -> Server {
    let (list, puts) = (Mutex::new(None::<String>), Mutex::new(0));
    Server::start(move |request| {
        let is_list = request.contains(" /v2/team/app/manifests/sha256-");
        match request.split(' ').next() {
            Some("GET" | "HEAD") if !is_list => answer("200 OK", "", ""),
            Some("GET") => match list.lock().unwrap().as_deref() {
                Some(list) => answer("200 OK", "", list),
                None => answer("404 Not Found", "", ""),
            },
            Some("PUT") if is_list => {
                *puts.lock().unwrap() += 1;
                if *puts.lock().unwrap() >= keeps {
                    *list.lock().unwrap() = request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                }
                answer("201 Created", "", "")
            }
            _ => answer("201 Created", listed, ""),
        }
    })
    .await
}

#[tokio::test]
async fn a_referrer_is_listed_under_a_tag_where_the_registry_does_not_list_it_itself() {
    let subject = Digest::of(b"image");
    let entry = serde_json::json!({"digest": Digest::of(b"code"), "size": 4});
    let listing = Some(Listing { subject, entry: entry.clone() });
    let sent: Sent = Arc::new(|_| {});
    let tag = format!("/v2/team/app/manifests/sha256-{} ", subject.hex());
    for (listed, keeps, expected) in [
        ("oci-subject: sha256:1\r\n", 1, Some(0)),
        ("", 1, Some(1)),
        ("", 3, Some(3)),
        ("", usize::MAX, None),
    ] {
        let server = keeping_lists(listed, keeps).await;
        let upload = Upload { listing: listing.clone(), ..upload() };
        let taken = registry().upload(&server.reference(), &[], &upload, &sent).await;
        let puts: Vec<_> = server
            .requests()
            .into_iter()
            .filter(|request| request.starts_with(&format!("PUT {tag}")))
            .collect();
        match expected {
            Some(expected) => assert_eq!((taken.unwrap(), puts.len()), (None, expected)),
            None => {
                let error = taken.unwrap_err();
                let text = "others change the list";
                assert!(matches!(&error, PullFailure::Unavailable(told) if told.contains(text)), "{error}");
            }
        }
        for put in puts {
            assert!(put.to_lowercase().contains("content-type: application/vnd.oci.image.index.v1+json"));
            let list: serde_json::Value =
                serde_json::from_str(put.split_once("\r\n\r\n").unwrap().1).unwrap();
            assert_eq!(list["manifests"], serde_json::json!([entry]));
        }
    }
}
