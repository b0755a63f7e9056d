use super::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn parsed(text: &str) -> ModuleUrl {
    ModuleUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn urls_are_normalised_and_stay_what_they_are() {
    for (text, whole, scheme) in [
        ("https://Modules.LAN:443/a/x.wasm", "https://modules.lan/a/x.wasm", UrlScheme::Https),
        ("https://modules.lan", "https://modules.lan/", UrlScheme::Https),
        ("http://127.0.0.1:8000/x.wasm", "http://127.0.0.1:8000/x.wasm", UrlScheme::Http),
        ("https://h/@scope/x.wasm", "https://h/@scope/x.wasm", UrlScheme::Https),
        ("https://h/a/../x.wasm", "https://h/x.wasm", UrlScheme::Https),
        ("s3://my-bucket/team/My App.wasm", "s3://my-bucket/team/My App.wasm", UrlScheme::S3),
        ("file:///srv/x.wasm", "file:///srv/x.wasm", UrlScheme::File),
    ] {
        let url = parsed(text);
        assert_eq!((url.to_string().as_str(), url.scheme(), url.digest()), (whole, scheme, None), "{text}");
        assert_eq!(parsed(whole), url, "the whole form is stable");
        let pinned = parsed(&format!("{text}@{A}"));
        assert_eq!(pinned.to_string(), format!("{whole}@{A}"));
        assert_eq!((pinned.url(), pinned.digest()), (whole, A.parse().ok()), "{text}");
        assert_eq!(pinned.key(), url.key_of(&A.parse().unwrap()));
    }
}

#[test]
fn parts_of_a_url() {
    assert_eq!(parsed("https://h/a/x.wasm").file_name(), "x.wasm");
    assert_eq!(parsed("https://h/a/").file_name(), "a");
    assert_eq!(parsed("s3://bucket/a/b.wasm").object(), Some(("bucket", "a/b.wasm")));
    assert_eq!(parsed("file:///a%20b/c.wasm").path(), Some(PathBuf::from("/a b/c.wasm")));
    assert_eq!(parsed("https://h/x").path(), None);
}

#[test]
fn texts_that_are_no_modules_urls_and_why() {
    for (text, why) in [
        ("ftp://h/x.wasm", "\"ftp\" is not known; oci, https, http, s3 and file are"),
        ("HTTPS://h/x.wasm", "is not known"),
        ("https://", "empty host"),
        ("https://user:pass@h/x.wasm", "user name or password"),
        ("https://user@h/x.wasm", "user name or password"),
        ("https://h/x.wasm?token=1", "query string"),
        ("https://h/x.wasm#sha256:aa", "@sha256:"),
        ("https://h/x.wasm@sha512:aa", "pin it by @sha256:"),
        ("https://h/x.wasm@sha256:aa", "pin it by @sha256:"),
        (&format!("https://h/x.wasm@sha\t256:{}", &A[7..]), "white space"),
        (&format!("https://h/x.wasm@\nsha256:{}", &A[7..]), "white space"),
        (&format!("https://h/x.wasm@{A}@{A}"), "cannot be told from a pin"),
        ("https://h/x.wasm ", "white space"),
        ("file:///x.wasm?a", "query string"),
        ("file:///x\t.wasm", "white space"),
        ("s3://bucket", "s3://, the bucket"),
        ("s3://bucket/", "s3://, the bucket"),
        ("s3://B/x", "no name of a bucket"),
        ("s3://bucket/a//b", "empty parts"),
        ("s3://bucket/../b", "empty parts"),
        ("file://host/x.wasm", "absolute path"),
        ("file:///", "absolute path"),
        ("file://x.wasm", "absolute path"),
        (&format!("https://h/{}", "x".repeat(3000)), "longer than"),
    ] {
        let error = ModuleUrl::parse(text).err().unwrap_or_else(|| panic!("{text:?} was taken"));
        assert!(error.contains(why), "{text}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn what_is_taken_is_stable_and_shows_no_secret(text in r"(https|http|s3|file)://[a-z0-9.:@/?#%~_ \t\\-]{0,40}(@sha256:a{64})?") {
        if let Ok(url) = ModuleUrl::parse(&text) {
            let whole = url.to_string();
            proptest::prop_assert_eq!(ModuleUrl::parse(&whole), Ok(url));
            let is_web = text.starts_with("http");
            proptest::prop_assert!(!is_web || !whole.contains(['?', '#']));
        }
    }
}
