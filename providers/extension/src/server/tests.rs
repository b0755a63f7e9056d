//! The server over real connections, with clients that are generated of the protocol's definitions.

mod client;
mod hostile;
mod tenants;

use std::collections::HashMap;

use bytes::Bytes;
use tonic::Code;

use self::client::{Case, DeltaClient, Over, SotwClient};
use super::*;
use crate::{
    name::ExtensionName,
    resource::InlineModule,
    selector::EnvoySelector,
    table::AfterDeletion,
    xds::testing::{extension, extension_with, name},
};

const BOTH: [Over; 2] = [Over::Extensions, Over::Aggregated];

#[tokio::test]
async fn state_of_the_world_is_pushed_and_answered() {
    let case = Case::open(ServerBounds::default()).await;
    for over in BOTH {
        let subject = format!("ns/{over:?}").to_lowercase();
        let mut envoy = SotwClient::open(case.channel().await, over).await;
        envoy.ask(&[&subject], "", "").await;
        case.table.publish(extension(&subject, "1"));
        let first = envoy.next().await.unwrap();
        assert_eq!(first.version_info, case.version(&subject));
        assert_eq!(client::names(&first), [&*subject]);
        envoy.ask(&[&subject], &first.version_info, &first.nonce).await;
        case.until(&subject, |extension| extension.acks == 1).await;

        case.table.publish(extension(&subject, "2"));
        let second = envoy.next().await.unwrap();
        envoy.refuse(&[&subject], &first.version_info, &second.nonce, "Unable to create Wasm plugin").await;
        let known = case.until(&subject, |extension| extension.nacks == 1).await;
        let refusal = known.last_refusal.unwrap();
        assert_eq!((&*refusal.node, &*refusal.message), ("envoy-1", "Unable to create Wasm plugin"));
        assert_eq!(refusal.version.as_str(), second.version_info);

        // The next that comes is the next version, and not the refused one again.
        case.table.publish(extension(&subject, "3"));
        assert_eq!(envoy.next().await.unwrap().version_info, case.version(&subject));
        drop(envoy);
        case.until(&subject, |extension| extension.count() == 0).await;
    }
    case.close().await;
}

#[tokio::test]
async fn delta_is_pushed_answered_and_told_of_deletions() {
    let case = Case::open(ServerBounds::default()).await;
    for over in BOTH {
        let subject = format!("ns/{over:?}").to_lowercase();
        let mut envoy = DeltaClient::open(case.channel().await, over).await;
        envoy.subscribe(&[&subject], HashMap::new()).await;
        case.table.publish(extension(&subject, "1"));
        let first = envoy.next().await.unwrap();
        let version = first.resources[0].version.clone();
        assert_eq!((&*first.resources[0].name, &*version), (&*subject, &*case.version(&subject)));
        envoy.answer(&first.nonce, None).await;
        case.until(&subject, |extension| extension.acks == 1).await;

        case.table.withdraw(&name(&subject));
        let gone = envoy.next().await.unwrap();
        assert_eq!((gone.resources.len(), gone.removed_resources), (0, vec![subject.clone()]));
        case.until(&subject, |extension| extension.count() == 0).await;

        // Whoever comes back with what it had is sent only what is another one now.
        case.table.publish(extension(&subject, "1"));
        let mut back = DeltaClient::open(case.channel().await, over).await;
        back.subscribe(&[&subject], HashMap::from([(subject.clone(), version)])).await;
        case.until(&subject, |extension| extension.count() == 2).await;
        case.table.publish(extension(&subject, "2"));
        let changed = back.next().await.unwrap();
        assert_eq!(changed.resources[0].version, case.version(&subject));
        back.answer(&changed.nonce, Some("no")).await;
        case.until(&subject, |extension| extension.nacks == 1).await;
    }
    case.close().await;
}

#[tokio::test]
async fn what_is_published_is_fetched() {
    let case = Case::open(ServerBounds::default()).await;
    case.table.publish(extension("ns/a", "1"));
    case.table.publish(extension("ns/b", "1"));
    let fetched = client::fetch(case.channel().await, &["ns/a", "ns/nobody"]).await.unwrap();
    assert_eq!(
        (client::names(&fetched), fetched.version_info),
        (vec!["ns/a".to_owned()], case.version("ns/a"))
    );
    let both = client::fetch(case.channel().await, &["ns/a", "ns/b"]).await.unwrap();
    assert_eq!(client::names(&both), ["ns/a", "ns/b"]);
    assert!(client::fetch(case.channel().await, &[]).await.unwrap().resources.is_empty());
    case.close().await;
}

#[tokio::test]
async fn a_large_module_comes_whole() {
    let case = Case::open(ServerBounds::default()).await;
    let module =
        InlineModule::new((0..20 << 20).map(|at: u32| at.to_le_bytes()[0]).collect::<Vec<_>>().into());
    let all = EnvoySelector::default();
    case.table.publish(extension_with("ns/a", "1", &module, all, AfterDeletion::Remove));
    let mut envoy = SotwClient::open(case.channel().await, Over::Extensions).await;
    envoy.ask(&["ns/a"], "", "").await;
    let response = envoy.next().await.unwrap();
    let expected = case.table.get(&name("ns/a")).unwrap().resource().parts().concat();
    assert!(response.resources[0].value == expected, "the bytes are others");
    case.close().await;
}

#[tokio::test]
async fn a_stop_asks_all_to_come_elsewhere() {
    let case = Case::open(ServerBounds::default()).await;
    case.table.publish(extension("ns/a", "1"));
    let mut sotw = SotwClient::open(case.channel().await, Over::Extensions).await;
    sotw.ask(&["ns/a"], "", "").await;
    let mut delta = DeltaClient::open(case.channel().await, Over::Aggregated).await;
    delta.subscribe(&["ns/a"], HashMap::new()).await;
    assert!(sotw.next().await.is_ok() && delta.next().await.is_ok());
    assert_eq!(case.health("/readyz").await, 200);
    // The server ends, long before its patience does.
    let ((), sotw, delta) = tokio::join!(case.close(), sotw.next(), delta.next());
    assert_eq!([sotw.unwrap_err().code(), delta.unwrap_err().code()], [Code::Unavailable; 2]);
}

#[tokio::test]
async fn health_tells_when_all_is_known() {
    let case = Case::open(ServerBounds::default()).await;
    case.ready.send_replace(false);
    for (path, expected) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 200), ("/", 404)] {
        assert_eq!(case.health(path).await, expected, "{path}");
    }
    case.ready.send_replace(true);
    assert_eq!(case.health("/readyz").await, 200);
    case.close().await;
}

/// A module of that many bytes.
fn module(len: usize) -> InlineModule {
    InlineModule::new(Bytes::from(vec![7; len]))
}

fn large(text: &str, root_id: &str) -> crate::table::PublishedExtension {
    let name: ExtensionName = name(text);
    extension_with(name.as_str(), root_id, &module(1 << 20), EnvoySelector::default(), AfterDeletion::Remove)
}
