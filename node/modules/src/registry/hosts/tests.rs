use super::*;

fn parsed(text: &str) -> HostsFile {
    parse(text, Path::new("/etc/hosts.d/r.io")).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn url(host: &RegistryHost) -> &str {
    host.url.as_ref().map_or("", Url::as_str)
}

#[test]
fn mirrors_come_in_the_order_of_the_file_and_then_the_server() {
    let file = parsed(
        r#"
        server = "https://registry-1.docker.io"
        capabilities = ["pull", "resolve", "push"]
        [host."https://z.lan"]
        [host."https://a.lan:5000"]
          capabilities = ["pull"]
        [host."http://m.lan/v2"]
        "#,
    );
    let urls: Vec<&str> = file.mirrors.iter().map(url).collect();
    assert_eq!(urls, ["https://z.lan/v2", "https://a.lan:5000/v2", "http://m.lan/v2"]);
    assert_eq!(url(&file.server), "https://registry-1.docker.io/v2");
    assert_eq!(file.mirrors[0].capabilities, HostCapabilities::default(), "all when none is named");
    assert_eq!(
        file.mirrors[1].capabilities,
        HostCapabilities { pull: true, resolve: false, referrers: false, push: false }
    );
    assert_eq!(file.unknown, [] as [&str; 0]);
    assert_eq!(parsed(""), HostsFile::default());
}

#[test]
fn urls_of_hosts() {
    for (text, override_path, expected) in [
        ("mirror.lan", false, "https://mirror.lan/v2"),
        ("mirror.lan:5000", false, "https://mirror.lan:5000/v2"),
        ("http://mirror.lan", false, "http://mirror.lan/v2"),
        ("https://mirror.lan/v2", false, "https://mirror.lan/v2"),
        ("https://mirror.lan/v2/", false, "https://mirror.lan/v2"),
        ("https://mirror.lan/proxy/hub", false, "https://mirror.lan/proxy/hub/v2"),
        ("https://mirror.lan/v2/proxy", true, "https://mirror.lan/v2/proxy"),
        ("https://mirror.lan", true, "https://mirror.lan/"),
    ] {
        let file = parsed(&format!("server = {text:?}\noverride_path = {override_path}\n"));
        assert_eq!(url(&file.server), expected, "{text}");
    }
}

#[test]
fn every_field_in_every_form() {
    let file = parsed(
        r#"
        [host."https://m.lan"]
          capabilities = ["pull", "resolve", "push", "referrers"]
          ca = ["a.crt", "/abs/b.crt"]
          client = [["c.cert", "c.key"]]
          skip_verify = true
          dial_timeout = "1m30s"
          [host."https://m.lan".header]
            x-one = "1"
            x-two = ["2", "3"]
        "#,
    );
    let host = &file.mirrors[0];
    let own = |name: &str| Path::new("/etc/hosts.d/r.io").join(name);
    assert_eq!(host.authorities, [own("a.crt"), PathBuf::from("/abs/b.crt")]);
    assert_eq!(host.client, Some(ClientFiles { certificate: own("c.cert"), key: Some(own("c.key")) }));
    assert!(host.skip_verify);
    assert_eq!(host.dial_timeout, Some(Duration::from_secs(90)));
    let headers: Vec<_> =
        host.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(headers, [("x-one", &b"1"[..]), ("x-two", b"2"), ("x-two", b"3")]);

    for (client, expected) in [
        (r#""c.pem""#, Some((own("c.pem"), None))),
        (r#"["c.pem"]"#, Some((own("c.pem"), None))),
        (r#"[["c.pem", ""]]"#, Some((own("c.pem"), None))),
        ("[]", None),
    ] {
        let found = parsed(&format!("client = {client}")).server.client;
        assert_eq!(found.map(|files| (files.certificate, files.key)), expected, "{client}");
    }
    assert_eq!(parsed("dial_timeout = '0s'").server.dial_timeout, None);
    assert_eq!(parsed("ca = 'x.crt'").server.authorities, [own("x.crt")]);
}

#[test]
fn errors_name_the_field() {
    for (text, expected) in [
        ("server = 1", "server: a string is wanted, and this is a integer"),
        ("server = 'ftp://x'", "server: \"ftp://x\" is neither"),
        ("server = 'https://u:p@x'", "server: a user name or password"),
        (
            "[host.'https://m.lan']\ncapabilities = ['fetch']",
            "host.\"https://m.lan\".capabilities: \"fetch\" is not known",
        ),
        ("[host.'https://m.lan']\nca = 1", "host.\"https://m.lan\".ca: a string"),
        ("[host.'https://']", "host.\"https://\": \"https://\" is no URL"),
        ("host = 'x'", "host: a table is wanted"),
        ("[host]\n'https://m.lan' = 1", "host.\"https://m.lan\": a table is wanted"),
        ("client = [['a', 'b', 'c']]", "client: not a pair"),
        ("client = ['a', 'b']", "client: more than one certificate"),
        ("skip_verify = 'yes'", "skip_verify: true or false"),
        ("override_path = 1", "override_path: true or false"),
        ("dial_timeout = '5'", "dial_timeout: \"5\" is no duration"),
        ("dial_timeout = 5", "dial_timeout: a string"),
        ("header = 'x'", "header: a table"),
        ("[header]\n'a b' = 'x'", "header.a b: that is no name"),
        ("[header]\nauthorization = \"Basic s3cret\\n\"", "header.authorization: its value cannot be sent"),
        ("server = 'x'\ncapabilities = [", "line 2: "),
    ] {
        let error =
            parse(text, Path::new("/")).err().unwrap_or_else(|| panic!("{text} was taken")).to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn fields_of_the_future_are_passed_over_and_named() {
    let file = parsed("new = 1\n[host.'https://m.lan']\nskip_verfiy = true\n");
    assert_eq!(file.unknown, ["new", "host.\"https://m.lan\".skip_verfiy"]);
}

#[test]
fn no_header_is_shown() {
    let file = parsed("[header]\nauthorization = 'Basic s3cret'");
    assert!(!format!("{file:?}").contains("s3cret"));
}

#[test]
fn durations_as_go_writes_them() {
    for (text, expected) in [
        ("30s", Some(Duration::from_secs(30))),
        ("1h2m3s", Some(Duration::from_secs(3723))),
        ("1.5s", Some(Duration::from_millis(1500))),
        ("500ms", Some(Duration::from_millis(500))),
        ("2µs", Some(Duration::from_micros(2))),
        ("0", Some(Duration::ZERO)),
        ("", None),
        ("5", None),
        ("s", None),
        ("-5s", None),
        ("1.2.3s", None),
        ("99999999999999999999h", None),
    ] {
        assert_eq!(duration(text), expected, "{text}");
    }
}

#[test]
fn directories_of_registries() {
    for (registry, expected) in [
        ("docker.io", &["docker.io", "_default"][..]),
        ("r.io:5000", &["r.io_5000_", "r.io:5000", "_default"]),
        ("[::1]:5000", &["[::1]_5000_", "[::1]:5000", "_default"]),
        ("[::1]", &["[::1]", "_default"]),
    ] {
        assert_eq!(directories(registry), expected, "{registry}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = parse(&text, Path::new("/"));
    }

    #[test]
    fn no_value_of_a_field_makes_it_panic(
        field in "capabilities|ca|client|header|dial_timeout|server|host",
        value in "[\\[\\]{}\"'0-9a-z.=, ]{0,40}",
    ) {
        let _ = parse(&format!("{field} = {value}"), Path::new("/"));
    }
}
