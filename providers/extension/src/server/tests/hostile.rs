//! Envoys that are up to no good, or broken.

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::{client::node, *};

#[tokio::test]
async fn an_envoy_that_does_not_read_gets_the_newest_in_the_end_and_delays_nobody() {
    let case = Case::open(ServerBounds::default()).await;
    case.table.publish(large("ns/a", "0"));
    let narrow = case.endpoint().initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut slow = SotwClient::open(narrow.connect().await.unwrap(), Over::Extensions).await;
    slow.ask(&["ns/a"], "", "").await;
    let mut quick = SotwClient::open(case.channel().await, Over::Extensions).await;
    quick.ask(&["ns/a"], "", "").await;
    assert_eq!(quick.next().await.unwrap().version_info, case.version("ns/a"));
    case.until("ns/a", |extension| extension.count() == 2).await;
    for turn in 1..=20 {
        case.table.publish(large("ns/a", &turn.to_string()));
        assert_eq!(quick.next().await.unwrap().version_info, case.version("ns/a"));
    }
    // What was on its way, and then the newest: what was in between is sent to nobody.
    let newest = case.version("ns/a");
    let mut count = 1;
    while slow.next().await.unwrap().version_info != newest {
        count += 1;
    }
    assert!(count <= 3, "{count} responses were sent");
    case.close().await;
}

#[tokio::test]
async fn an_envoy_that_never_reads_is_ended() {
    let bounds = ServerBounds { stall: Duration::from_millis(200), ..ServerBounds::default() };
    let case = Case::open(bounds).await;
    case.table.publish(large("ns/a", "0"));
    let narrow = case.endpoint().initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut stuck = SotwClient::open(narrow.connect().await.unwrap(), Over::Extensions).await;
    stuck.ask(&["ns/a"], "", "").await;
    case.until("ns/a", |extension| extension.count() == 1).await;
    case.until("ns/a", |extension| extension.count() == 0).await;
    assert!(stuck.next().await.is_err());
    assert!(case.metrics().await.contains("refused_total{reason=\"stalled\"} 1"));
    case.close().await;
}

#[tokio::test]
async fn a_thousand_names_that_are_not_there_harm_nobody() {
    let case = Case::open(ServerBounds::default()).await;
    let names: Vec<_> = (0..1000).map(|number| format!("ns/x{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut envoy = SotwClient::open(case.channel().await, Over::Extensions).await;
    envoy.ask(&names, "", "").await;
    let mut delta = DeltaClient::open(case.channel().await, Over::Extensions).await;
    delta.subscribe(&names, HashMap::new()).await;
    case.table.publish(extension("ns/x500", "1"));
    assert_eq!(client::names(&envoy.next().await.unwrap()), ["ns/x500"]);
    assert_eq!(delta.next().await.unwrap().resources[0].name, "ns/x500");
    assert_eq!(case.subscribers.snapshot().len(), 1, "names that are not there take no memory");
    assert!(case.metrics().await.contains("kubewasm_extension_subscriptions 2000"));

    let more: Vec<_> = (0..=1024).map(|number| format!("ns/y{number}")).collect();
    envoy.ask(&more.iter().map(String::as_str).collect::<Vec<_>>(), "", "").await;
    let status = envoy.next().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "a stream may ask for 1024 names at most")
    );
    case.close().await;
}

#[tokio::test]
async fn what_is_too_much_or_no_request_ends_the_stream() {
    let bounds = ServerBounds { request_size: 4096, streams_of_client: 2, ..ServerBounds::default() };
    let case = Case::open(bounds).await;
    let channel = case.channel().await;
    let mut large = SotwClient::open(channel.clone(), Over::Extensions).await;
    large.ask(&[&"x".repeat(5000)], "", "").await;
    assert_eq!(large.next().await.unwrap_err().code(), Code::OutOfRange);

    let of_type = |type_url: &str| DiscoveryRequest {
        type_url: type_url.to_owned(),
        node: node(),
        ..DiscoveryRequest::default()
    };
    for (over, type_url) in
        [(Over::Extensions, "type.googleapis.com/envoy.config.cluster.v3.Cluster"), (Over::Aggregated, "")]
    {
        let mut other = SotwClient::open(channel.clone(), over).await;
        other.0.requests.send(of_type(type_url)).await.unwrap();
        assert_eq!(other.next().await.unwrap_err().code(), Code::InvalidArgument);
    }

    // Of the aggregated service it is the other types that are waited for in vain.
    case.table.publish(extension("ns/a", "1"));
    let mut aggregated = SotwClient::open(channel.clone(), Over::Aggregated).await;
    aggregated.0.requests.send(of_type("type.googleapis.com/envoy.config.cluster.v3.Cluster")).await.unwrap();
    aggregated.ask(&["ns/a"], "", "").await;
    assert_eq!(client::names(&aggregated.next().await.unwrap()), ["ns/a"]);

    let second = SotwClient::open(channel.clone(), Over::Extensions).await;
    let mut third = SotwClient::open(channel.clone(), Over::Extensions).await;
    assert_eq!(third.next().await.unwrap_err().code(), Code::ResourceExhausted);
    drop((aggregated, second));
    case.close().await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_is_ended() {
    let bounds = ServerBounds { first_message: Duration::from_millis(50), ..ServerBounds::default() };
    let case = Case::open(bounds).await;
    let mut silent = SotwClient::open(case.channel().await, Over::Extensions).await;
    assert_eq!(silent.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    case.close().await;
}

#[tokio::test]
async fn what_is_no_grpc_is_told_so() {
    let case = Case::open(ServerBounds::default()).await;
    let answer = case.http(case.address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
    case.close().await;
}
