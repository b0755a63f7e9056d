//! Key-value stores.

use std::{collections::BTreeSet, time::Duration};

use kubewasm_workload::interfaces::{
    Settings, Tenant,
    keyvalue::{KeyValueError, KeyValueStores, LimitedBucket},
};
use tokio::task::JoinSet;

use crate::{
    servers::{PASSWORD, Server},
    settings,
};

/// Longer than this no operation takes whose deadline is a second, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn stores(settings: &Settings) -> KeyValueStores {
    let mut stores = KeyValueStores::new();
    stores.add(None, settings).unwrap();
    stores
}

async fn on(server: &Server, bucket: &str) -> LimitedBucket {
    stores(&settings(&[("url", &server.url())])).open(None, bucket).await.unwrap()
}

async fn nats_client(server: &Server) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(server.nats_client().await)
}

async fn make_bucket(server: &Server, bucket: &str) -> async_nats::jetstream::kv::Store {
    let config = async_nats::jetstream::kv::Config { bucket: bucket.to_owned(), ..Default::default() };
    nats_client(server).await.create_key_value(config).await.unwrap()
}

pub(crate) fn redis_cli(server: &Server, arguments: &[&str]) -> String {
    let port = server.port().to_string();
    let mut command = std::process::Command::new("redis-cli");
    command.args(["-p", &port, "--no-auth-warning", "-a", PASSWORD]).args(arguments);
    String::from_utf8(command.output().unwrap().stdout).unwrap().trim_end().to_owned()
}

async fn all_keys(bucket: &LimitedBucket) -> (usize, Vec<String>) {
    let (mut pages, mut keys, mut cursor) = (0, Vec::new(), None);
    loop {
        let page = bucket.keys(cursor).await.unwrap();
        pages += 1;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return (pages, keys);
        }
    }
}

/// What all back ends do alike.
async fn behaves(bucket: &LimitedBucket) {
    assert_eq!(bucket.get("a").await, Ok(None));
    bucket.set("a", b"1\0\xff".to_vec()).await.unwrap();
    bucket.set("empty", Vec::new()).await.unwrap();
    assert_eq!(bucket.get("a").await, Ok(Some(b"1\0\xff".to_vec())));
    assert_eq!(bucket.get("empty").await, Ok(Some(Vec::new())));
    assert_eq!(bucket.exists("empty").await, Ok(true));
    bucket.delete("a").await.unwrap();
    bucket.delete("a").await.unwrap();
    assert_eq!(bucket.exists("a").await, Ok(false));
    assert_eq!(bucket.increment("n", 2).await, Ok(2));
    assert_eq!(bucket.increment("n", 3).await, Ok(5));
    bucket.delete("n").await.unwrap();
    assert_eq!(bucket.increment("n", 1).await, Ok(1), "a counter that was deleted begins again");
    assert!(matches!(bucket.increment("empty", 1).await, Err(KeyValueError::Other(_))));
    let pairs = vec![("x".to_owned(), b"1".to_vec()), ("y".to_owned(), b"2".to_vec())];
    bucket.set_many(pairs).await.unwrap();
    let keys = ["y", "nothing", "x"].map(str::to_owned);
    assert_eq!(bucket.get_many(&keys).await, Ok(vec![Some(b"2".to_vec()), None, Some(b"1".to_vec())]));
    bucket.delete_many(&keys).await.unwrap();
    assert_eq!(bucket.get_many(&keys).await, Ok(vec![None, None, None]));
    assert_eq!(bucket.get_many(&[]).await, Ok(vec![]));
    bucket.delete("empty").await.unwrap();
    bucket.delete("n").await.unwrap();

    let mut fill = JoinSet::new();
    for part in 0..25 {
        let bucket = bucket.clone();
        fill.spawn(async move {
            for number in 0..100 {
                bucket.set(&format!("key-{}", part * 100 + number), b"v".to_vec()).await.unwrap();
            }
        });
    }
    fill.join_all().await;
    let (pages, keys) = all_keys(bucket).await;
    assert!(pages >= 3, "{pages}");
    let unique: BTreeSet<_> = keys.into_iter().collect();
    assert_eq!(unique, (0..2500).map(|number| format!("key-{number}")).collect());
}

/// Counts from several connections at a time.
async fn counts(buckets: &[LimitedBucket]) {
    const TASKS: u64 = 4;
    const EACH: u64 = 25;
    let mut tasks = JoinSet::new();
    for bucket in buckets {
        for _ in 0..TASKS {
            let bucket = bucket.clone();
            tasks.spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..EACH {
                    seen.push(bucket.increment("counter", 1).await.unwrap());
                }
                seen
            });
        }
    }
    let seen: BTreeSet<u64> = tasks.join_all().await.into_iter().flatten().collect();
    let total = TASKS * EACH * buckets.len() as u64;
    assert_eq!(seen, (1..=total).collect(), "each sees a number of its own, and none is lost");
}

/// An operation fails within its deadline while the server is away, and works again when it is back.
async fn survives(mut server: Server, bucket: LimitedBucket) {
    bucket.set("kept", b"1".to_vec()).await.unwrap();
    server.kill();
    let failed = tokio::time::timeout(PATIENCE, bucket.get("kept")).await.expect("the deadline holds");
    let Err(KeyValueError::Other(text)) = failed else { panic!("{failed:?}") };
    assert!(!text.contains(PASSWORD), "{text}");
    server.start().await;
    recovers(&bucket).await;
    // A server that does not answer, and whose connections stay.
    server.freeze();
    let failed =
        tokio::time::timeout(PATIENCE, bucket.set("other", b"2".to_vec())).await.expect("the deadline holds");
    assert!(matches!(failed, Err(KeyValueError::Other(_))), "{failed:?}");
    server.thaw();
    recovers(&bucket).await;
}

async fn recovers(bucket: &LimitedBucket) {
    let recovered = async {
        while bucket.get("kept").await != Ok(Some(b"1".to_vec())) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, recovered).await.expect("it recovers by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behaves_and_others_read_it() {
    let server = Server::redis().await;
    let bucket = on(&server, "b*").await;
    behaves(&bucket).await;
    on(&server, "bx").await.set("not-mine", b"1".to_vec()).await.unwrap();
    assert_eq!(
        all_keys(&bucket).await.1.iter().filter(|key| *key == "not-mine").count(),
        0,
        "a name is no pattern"
    );

    bucket.set("text", b"hello".to_vec()).await.unwrap();
    bucket.increment("n", 41).await.unwrap();
    assert_eq!(redis_cli(&server, &["GET", "b*:text"]), "hello");
    assert_eq!(redis_cli(&server, &["INCR", "b*:n"]), "42");
    assert_eq!(bucket.get("n").await, Ok(Some(b"42".to_vec())));
    let colon = stores(&settings(&[("url", &server.url())])).open(None, "b:c").await;
    assert_eq!(colon.unwrap_err(), KeyValueError::NoSuchStore);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_behaves_and_others_read_it() {
    let server = Server::nats().await;
    let missing = stores(&settings(&[("url", &server.url())])).open(None, "values").await.unwrap_err();
    assert!(missing.to_string().starts_with("failed to get keyvalue from JetStream"), "{missing}");
    let raw = make_bucket(&server, "values").await;
    let bucket = on(&server, "values").await;
    behaves(&bucket).await;

    bucket.set("text", b"hello".to_vec()).await.unwrap();
    assert_eq!(raw.get("text").await.unwrap().unwrap(), "hello");
    bucket.increment("n", 258).await.unwrap();
    assert_eq!(raw.get("n").await.unwrap().unwrap(), [0, 0, 0, 0, 0, 0, 1, 2].as_slice());
    raw.put("n", vec![0, 0, 0, 0, 0, 0, 0, 9].into()).await.unwrap();
    assert_eq!(bucket.increment("n", 1).await, Ok(10));
    for escape in ["*", ">", "a.>", "../b", "a b", ".a"] {
        if escape != "../b" {
            assert!(bucket.set(escape, b"1".to_vec()).await.is_err(), "{escape}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_behave() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root");
    let files = settings(&[("backend", "files"), ("path", path.to_str().unwrap())]);
    behaves(&stores(&files).open(None, "b").await.unwrap()).await;
    counts(&[stores(&files).open(None, "c").await.unwrap(), stores(&files).open(None, "c").await.unwrap()])
        .await;
    for key in ["..", "../x", "/etc/passwd", "a/../../x", ".lock-1", "%2e"] {
        let bucket = stores(&files).open(None, "..").await.unwrap();
        bucket.set(key, b"1".to_vec()).await.unwrap();
        assert_eq!(bucket.get(key).await, Ok(Some(b"1".to_vec())), "{key}");
    }
    let outside: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside, ["root"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_are_not_lost() {
    let redis = Server::redis().await;
    counts(&[on(&redis, "b").await, on(&redis, "b").await]).await;
    let nats = Server::nats().await;
    make_bucket(&nats, "b").await;
    counts(&[on(&nats, "b").await, on(&nats, "b").await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_go_and_come_back() {
    let server = Server::redis().await;
    let quick = settings(&[("url", &server.url()), ("timeout_ms", "1000")]);
    let bucket = stores(&quick).open(None, "b").await.unwrap();
    survives(server, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_go_and_come_back() {
    let server = Server::nats().await;
    make_bucket(&server, "b").await;
    let quick = settings(&[("url", &server.url()), ("timeout_ms", "1000")]);
    let bucket = stores(&quick).open(None, "b").await.unwrap();
    survives(server, bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_that_refuses_says_so() {
    let refuses = |error: &KeyValueError| {
        let text = error.to_string();
        assert!(!text.contains(PASSWORD) && !text.contains("wr0ng"), "{text}");
        text.contains("refuses who asks")
    };
    let mut server = Server::nats().await;
    let token = ("token", "wr0ng");
    let nobody = server.url_of("");
    for pairs in [
        &[("url", server.url_of("us%40er:wr0ng@").as_str())][..],
        &[("url", server.url_of(&format!("user:{PASSWORD}@")).as_str())],
        &[("url", server.url_of("wr0ng@").as_str())],
        &[("url", nobody.as_str())],
        &[("url", nobody.as_str()), token],
    ] {
        let stores = stores(&settings(pairs));
        // One that waits for the connection, and one that finds it refused.
        for _ in 0..2 {
            let error = stores.open(None, "b").await.unwrap_err();
            assert!(refuses(&error), "{error}");
        }
    }

    // A password that is taken back, and given again.
    make_bucket(&server, "b").await;
    let bucket = on(&server, "b").await;
    bucket.set("kept", b"1".to_vec()).await.unwrap();
    server.restart_with_password("an0ther").await;
    let refused = async {
        while !bucket.get("kept").await.is_err_and(|error| refuses(&error)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("it is refused");
    server.restart_with_password(PASSWORD).await;
    recovers(&bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_takes_tokens() {
    let server = Server::nats_with_token().await;
    let nobody = server.url_of("");
    for pairs in [&[("url", server.url().as_str())][..], &[("url", nobody.as_str()), ("token", PASSWORD)]] {
        // It gets as far as to ask for a bucket, of which there is none.
        let missing = stores(&settings(pairs)).open(None, "values").await.unwrap_err();
        assert!(missing.to_string().starts_with("failed to get keyvalue from JetStream"), "{missing}");
    }
    let error = stores(&settings(&[("url", nobody.as_str())])).open(None, "values").await.unwrap_err();
    assert!(error.to_string().contains("refuses who asks"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_do_not_see_each_others_values() {
    let (redis, nats) = (Server::redis().await, Server::nats().await);
    let dir = tempfile::tempdir().unwrap();
    for tenant in ["test_x_one", "test_x_other"] {
        make_bucket(&nats, &format!("{tenant}_x_b")).await;
    }
    for place in [
        settings(&[("url", &redis.url())]),
        settings(&[("url", &nats.url())]),
        settings(&[("path", dir.path().to_str().unwrap())]),
        settings(&[]),
    ] {
        let of = |workload| stores(&place.clone().of_tenant(Tenant::of("test", workload)));
        let one = of("one").open(None, "b").await.unwrap();
        let other = of("other").open(None, "b").await.unwrap();
        one.set("key", b"1".to_vec()).await.unwrap();
        assert_eq!(other.get("key").await, Ok(None), "{place:?}");
        assert_eq!(all_keys(&other).await.1, Vec::<String>::new(), "{place:?}");
        assert_eq!(other.increment("key", 1).await, Ok(1), "{place:?}");
        assert_eq!(one.get("key").await, Ok(Some(b"1".to_vec())), "{place:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_back_ends_are_told_apart_and_limited() {
    let redis = Server::redis().await;
    let mut stores = stores(&settings(&[("max_value_bytes", "10")]));
    stores.add(Some("cache"), &settings(&[("url", &redis.url()), ("max_value_bytes", "10")])).unwrap();
    for name in ["plain", "cache", "cache/more"] {
        let bucket = stores.open(None, name).await.unwrap();
        bucket.set("name", name.as_bytes().to_vec()).await.unwrap();
        let error = bucket.set("large", vec![0; 11]).await.unwrap_err();
        assert!(error.to_string().contains("max_value_bytes"), "{error}");
    }
    assert_eq!(redis_cli(&redis, &["GET", "cache:name"]), "cache");
    assert_eq!(redis_cli(&redis, &["GET", "more:name"]), "cache/more");
    assert_eq!(redis_cli(&redis, &["GET", "plain:name"]), "");
    let labelled = stores.open(Some("cache"), "more").await.unwrap();
    assert_eq!(labelled.get("name").await, Ok(Some(b"cache/more".to_vec())));
    assert_eq!(stores.open(Some("nothing"), "more").await.unwrap_err(), KeyValueError::NoSuchStore);
    // What others have put there is not taken whole either.
    redis_cli(&redis, &["SET", "cache:large", &"x".repeat(1000)]);
    let error = stores.open(None, "cache").await.unwrap().get("large").await.unwrap_err();
    assert!(error.to_string().contains("max_value_bytes"), "{error}");
}
