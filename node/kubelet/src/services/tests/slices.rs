use super::*;
use kubewasm_rules::Protocol::Tcp;

fn addresses(slices: &Slices, service: &str) -> Vec<String> {
    let endpoints = slices.of(service).map(|own| own.endpoints("", Tcp, true)).unwrap_or_default();
    endpoints.keys().map(ToString::to_string).collect()
}

fn of(name: &str, address: &str) -> EndpointSlice {
    slice(name, vec![endpoint(address, "")])
}

#[test]
fn only_what_matters_is_a_change() {
    let mut slices = slices(vec![of("one", "10.0.0.1")]);
    let revision = slices.of("ns/web").unwrap().revision;
    let mut same = of("one", "10.0.0.1");
    same.metadata.resource_version = Some("7".into());
    same.metadata.annotations = Some([("a".into(), "b".into())].into());
    assert!(!slices.note(Event::Apply(same)));
    assert_eq!(slices.of("ns/web").unwrap().revision, revision);
    assert!(slices.note(Event::Apply(of("one", "10.0.0.2"))));
    assert!(slices.of("ns/web").unwrap().revision > revision);
    assert_eq!(addresses(&slices, "ns/web"), ["10.0.0.2:8080"]);
    assert!(!slices.note(Event::Delete(of("two", "10.0.0.2"))), "there is none");
    assert!(slices.note(Event::Delete(of("one", "10.0.0.2"))));
    assert!(slices.of("ns/web").is_none());
}

/// What was deleted while the watch was interrupted is not named by the next list.
#[test]
fn a_list_takes_the_place_of_what_was_known() {
    let mut slices = slices(vec![of("one", "10.0.0.1"), of("two", "10.0.0.2")]);
    assert_eq!(addresses(&slices, "ns/web"), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    slices.note(Event::Init);
    assert!(!slices.note(Event::InitApply(of("two", "10.0.0.2"))));
    assert_eq!(addresses(&slices, "ns/web").len(), 2, "until the list is complete, what was known counts");
    assert!(slices.note(Event::InitDone));
    assert_eq!(addresses(&slices, "ns/web"), ["10.0.0.2:8080"]);
    slices.note(Event::Init);
    slices.note(Event::InitApply(of("two", "10.0.0.2")));
    assert!(!slices.note(Event::InitDone), "nothing has changed");
}

#[test]
fn they_are_complete_with_the_first_list() {
    let mut slices = Slices::default();
    assert!(!slices.note(Event::Init) && !slices.are_complete());
    assert!(slices.note(Event::InitDone), "that there are none is something to tell");
    assert!(slices.are_complete());
}

#[test]
fn a_slice_can_pass_to_another_service() {
    let mut slices = slices(vec![of("one", "10.0.0.1")]);
    let labels = |name: &str| Some([("kubernetes.io/service-name".into(), name.into())].into());
    let mut moved = of("one", "10.0.0.1");
    moved.metadata.labels = labels("other");
    assert!(slices.note(Event::Apply(moved.clone())));
    assert!(slices.of("ns/web").is_none());
    assert_eq!(addresses(&slices, "ns/other"), ["10.0.0.1:8080"]);
    moved.metadata.labels = None;
    assert!(slices.note(Event::Apply(moved.clone())));
    assert!(slices.of("ns/other").is_none());
    assert!(!slices.note(Event::Apply(moved)));
}

/// A pod's address may be another's before the slice has forgotten the first.
#[test]
fn of_two_endpoints_with_one_address_the_one_that_stays_counts() {
    for order in [["ending", ""], ["", "ending"]] {
        let both = order.map(|words| endpoint("10.0.0.1", words)).into();
        let slices = slices(vec![slice("one", both)]);
        let endpoints = slices.of("ns/web").unwrap().endpoints("", Tcp, true);
        assert!(endpoints.values().all(|endpoint| endpoint.is_ready), "{order:?}");
    }
}
