use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    resource::FilterType,
    selector::EnvoySelector,
    table::AfterDeletion,
    xds::testing::{World, extension, extension_of, name},
};

/// An Envoy: what it has, as the protocol says.
#[derive(Default)]
struct Envoy {
    names: Vec<String>,
    version_info: String,
    nonce: String,
}

struct Session<'a> {
    world: &'a World,
    stream: SotwStream,
    envoy: Envoy,
    /// Events of what it had before it came.
    held: Vec<StreamEvent>,
}

impl<'a> Session<'a> {
    fn new(world: &'a World, names: &[&str]) -> Self {
        let mut session = Self::of(world, Envoy::default());
        session.ask(names);
        session
    }

    /// An Envoy that has said nothing.
    fn of(world: &'a World, envoy: Envoy) -> Self {
        Self { world, stream: SotwStream::new(8), envoy, held: Vec::new() }
    }

    /// The same Envoy after its stream was lost.
    fn reconnect(&mut self) -> Vec<StreamEvent> {
        self.stream = SotwStream::new(8);
        self.envoy.nonce.clear();
        self.request(None)
    }

    fn ask(&mut self, names: &[&str]) -> Vec<StreamEvent> {
        self.envoy.names = names.iter().map(|name| (*name).to_owned()).collect();
        self.request(None)
    }

    fn request(&mut self, error: Option<&str>) -> Vec<StreamEvent> {
        let Envoy { names, version_info, nonce } = &self.envoy;
        let request = SotwRequest {
            names: names.clone(),
            version_info: version_info.clone(),
            nonce: nonce.clone(),
            error: error.map(str::to_owned),
        };
        self.world.see(|view| self.stream.request(request, view)).unwrap()
    }

    fn next(&mut self) -> Option<(StreamUpdate, ExtensionName)> {
        let (update, event) = loop {
            match self.world.see(|view| self.stream.next(view))? {
                (Some(update), event) => break (update, event),
                (None, event) => self.held.push(event),
            }
        };
        let UpdateContent::Extension(extension) = &update.content else { panic!("{update:?}") };
        let name = extension.name().clone();
        assert_eq!(event, StreamEvent::Sent(name.clone(), extension.version().clone()));
        Some((update, name))
    }

    /// Accepts the next response. The name in it.
    fn accept(&mut self) -> Option<String> {
        let (update, name) = self.next()?;
        (self.envoy.version_info, self.envoy.nonce) = (update.version_info, update.nonce);
        assert_eq!(self.request(None), [StreamEvent::Accepted(name.clone())]);
        Some(name.to_string())
    }

    fn refuse(&mut self, error: &str) -> Option<String> {
        let (update, name) = self.next()?;
        self.envoy.nonce = update.nonce;
        assert_eq!(self.request(Some(error)), [StreamEvent::Refused(name.clone(), error.to_owned())]);
        Some(name.to_string())
    }

    /// Accepts all that is due.
    fn drain(&mut self) -> Vec<String> {
        self.stream.look_at_all();
        std::iter::from_fn(|| self.accept()).collect()
    }
}

#[test]
fn an_extension_is_sent_once_and_again_when_it_changes() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    let mut session = Session::new(&world, &["ns/a"]);
    assert_eq!(session.drain(), ["ns/a"]);
    assert_eq!(session.envoy.version_info, world.version("ns/a").as_str());
    world.publish("ns/b", "2");
    assert_eq!(session.drain(), [""; 0], "it is not one of its names");
    world.publish("ns/a", "2");
    assert_eq!(session.drain(), ["ns/a"]);
    assert_eq!(session.drain(), [""; 0]);
}

#[test]
fn what_is_refused_is_not_sent_again_until_it_changes() {
    let world = World::new([extension("ns/a", "1")]);
    let mut session = Session::new(&world, &["ns/a"]);
    session.drain();
    let accepted = session.envoy.version_info.clone();
    world.publish("ns/a", "bad");
    session.stream.look_at_all();
    assert_eq!(session.refuse("Unable to create Wasm plugin").as_deref(), Some("ns/a"));
    assert_eq!(session.drain(), [""; 0]);
    assert_eq!(session.envoy.version_info, accepted);
    world.publish("ns/a", "3");
    assert_eq!(session.drain(), ["ns/a"]);
}

#[test]
fn only_what_is_newest_is_sent() {
    let world = World::new([extension("ns/a", "1")]);
    let mut session = Session::new(&world, &["ns/a"]);
    for root_id in ["2", "3", "4"] {
        world.publish("ns/a", root_id);
        session.stream.look_at_all();
    }
    assert_eq!(session.drain(), ["ns/a"]);
    assert_eq!(session.envoy.version_info, world.version("ns/a").as_str());
}

#[test]
fn an_answer_to_what_was_sent_again_says_nothing() {
    let world = World::new([extension("ns/a", "1")]);
    let mut session = Session::new(&world, &["ns/a"]);
    let (first, _) = session.next().unwrap();
    world.publish("ns/a", "2");
    session.stream.look_at_all();
    let (second, _) = session.next().unwrap();
    assert_ne!(first.nonce, second.nonce);
    for stale in [&*first.nonce, "", "x", "99"] {
        session.envoy.nonce = stale.to_owned();
        assert_eq!(session.request(Some("no")), [], "{stale}");
    }
    session.envoy.nonce = second.nonce;
    assert_eq!(session.request(None), [StreamEvent::Accepted(name("ns/a"))]);
    assert_eq!(session.request(None), [], "once is enough");
}

#[test]
fn of_unknown_names_nothing_is_said_until_they_are_known() {
    let world = World::new([]);
    let mut session = Session::new(&world, &["ns/a", "ns/b", "no name", "*", "other/a"]);
    assert_eq!(session.drain(), [""; 0]);
    world.publish("ns/b", "1");
    world.publish("other/a", "1");
    assert_eq!(session.drain(), ["ns/b"]);
}

#[test]
fn a_forbidden_name_is_one_that_does_not_exist() {
    let world = World::new([extension("other/a", "1"), extension("granted/a", "1")]);
    let mut session = Session::of(&world, Envoy::default());
    assert_eq!(
        session.ask(&["granted/a", "other/a", "other/nobody"]),
        [StreamEvent::Forbidden(name("other/a")), StreamEvent::Forbidden(name("other/nobody")),]
    );
    assert_eq!(session.drain(), ["granted/a"]);
}

#[test]
fn a_name_that_is_dropped_and_asked_for_again_is_sent_again() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    let mut session = Session::new(&world, &["ns/a", "ns/b"]);
    assert_eq!(session.drain(), ["ns/a", "ns/b"]);
    assert_eq!(session.ask(&["ns/b"]), [StreamEvent::Left(name("ns/a"))]);
    world.publish("ns/a", "2");
    assert_eq!(session.drain(), [""; 0]);
    assert_eq!(session.ask(&["ns/a", "ns/b"]), []);
    assert_eq!(session.drain(), ["ns/a"]);
    let left = session.ask(&[]);
    assert_eq!(left.len(), 2, "no names are none: {left:?}");
    world.publish("ns/b", "2");
    assert_eq!(session.drain(), [""; 0]);
}

#[test]
fn whoever_comes_back_with_all_of_it_is_sent_nothing() {
    for names in [&["ns/a"][..], &["ns/a", "ns/b"], &["ns/a", "ns/b", "ns/nobody"]] {
        let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
        let mut session = Session::new(&world, names);
        session.drain();
        // Another server, with the same extensions.
        let again = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
        session.world = &again;
        assert_eq!(session.reconnect(), []);
        assert_eq!(session.drain(), [""; 0], "{names:?}");
        let held = ["ns/a", "ns/b"].into_iter().filter(|name| names.contains(name));
        let held: Vec<_> = held.map(|held| StreamEvent::Held(name(held), world.version(held))).collect();
        assert_eq!(session.held, held, "once, and of what there is");
        again.publish("ns/a", "2");
        assert_eq!(session.drain(), ["ns/a"], "{names:?}");
    }
}

#[test]
fn whoever_comes_back_with_something_else_is_sent_what_there_is() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    let mut session = Session::new(&world, &["ns/a", "ns/b"]);
    session.drain();
    world.publish("ns/a", "2");
    assert_eq!(session.reconnect(), []);
    assert_eq!(session.drain(), ["ns/a", "ns/b"]);
    // One that it has refused is refused again, so that it is known.
    world.publish("ns/a", "bad");
    session.stream.look_at_all();
    session.refuse("no");
    session.reconnect();
    session.stream.look_at_all();
    assert_eq!(session.refuse("no").as_deref(), Some("ns/a"));
}

#[test]
fn a_deletion_is_said_by_what_comes_instead_or_not_at_all() {
    for (after, expected) in
        [(AfterDeletion::Remove, &[""; 0][..]), (AfterDeletion::Keep, &[]), (AfterDeletion::NoOp, &["ns/a"])]
    {
        let of = || extension_of("ns/a", "1", EnvoySelector::default(), after);
        let world = World::new([of()]);
        let mut session = Session::new(&world, &["ns/a"]);
        session.drain();
        world.table.withdraw(&name("ns/a"));
        // Also where the deletion was while it was away.
        let mut back = Session::of(&world, Envoy { nonce: String::new(), ..session.envoy });
        session.envoy = Envoy { names: vec!["ns/a".into()], ..Envoy::default() };
        back.request(None);
        for session in [&mut session, &mut back] {
            assert_eq!(session.drain(), expected, "{after:?}");
            assert_eq!(session.drain(), [""; 0]);
        }
        if after == AfterDeletion::NoOp {
            let no_op = PublishedExtension::no_op(name("ns/a"), FilterType::Http);
            assert_eq!(back.envoy.version_info, no_op.version().as_str());
            assert_eq!(back.reconnect(), [], "it keeps that");
            assert_eq!(back.drain(), [""; 0]);
        }
        // Whoever comes anew gets nothing.
        assert_eq!(Session::new(&world, &["ns/a"]).drain(), [""; 0]);
        world.table.publish(of());
        assert_eq!(session.drain().len(), expected.len(), "what it has is not sent again");
    }
}

#[test]
fn nothing_is_taken_before_all_is_known() {
    let noop = || extension_of("ns/a", "1", EnvoySelector::default(), AfterDeletion::NoOp);
    let world = World::new([noop()]);
    let mut session = Session::new(&world, &["ns/a"]);
    session.drain();
    let restarted = World::incomplete([]);
    session.world = &restarted;
    session.reconnect();
    assert_eq!(session.drain(), [""; 0]);
    restarted.table.announce(&name("ns/a"));
    restarted.table.complete();
    assert_eq!(session.drain(), [""; 0], "it exists, and is not published yet");
    assert_eq!(session.held, []);
    restarted.table.publish(noop());
    assert_eq!(session.drain(), [""; 0], "it is the same");
    assert_eq!(session.held, [StreamEvent::Held(name("ns/a"), world.version("ns/a"))], "which is known then");
    assert_eq!(session.drain(), [""; 0]);
    assert_eq!(session.held.len(), 1);
}

#[test]
fn of_several_nothing_is_sent_before_all_of_them_were_tried() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    for case in ["it has all", "one has changed", "one cannot be published", "one is not wanted any more"] {
        let mut session = Session::new(&world, &["ns/a", "ns/b", "ns/nobody"]);
        assert_eq!(session.drain(), ["ns/a", "ns/b"]);
        let restarted = World::incomplete([]);
        session.world = &restarted;
        assert_eq!(session.reconnect(), []);
        restarted.publish("ns/a", "1");
        assert_eq!(session.drain(), [""; 0], "{case}: it may have this");
        restarted.table.announce(&name("ns/b"));
        restarted.table.complete();
        assert_eq!(session.drain(), [""; 0], "{case}: the other one may come");
        let sent: &[&str] = match case {
            "it has all" => {
                restarted.publish("ns/b", "1");
                &[]
            }
            "one has changed" => {
                restarted.publish("ns/b", "2");
                &["ns/a", "ns/b"]
            }
            "one cannot be published" => {
                restarted.table.settle();
                &["ns/a"]
            }
            _ => {
                session.ask(&["ns/a", "ns/nobody"]);
                &["ns/a"]
            }
        };
        assert_eq!(session.drain(), sent, "{case}");
        let held = ["ns/a", "ns/b"].map(|held| StreamEvent::Held(name(held), world.version(held)));
        let expected: &[StreamEvent] = if sent.is_empty() { &held } else { &[] };
        assert_eq!(session.held, expected, "{case}");
        restarted.publish("ns/a", "3");
        assert_eq!(session.drain(), ["ns/a"], "{case}");
    }
}

#[test]
fn an_envoy_that_is_not_selected_has_none() {
    let selector = EnvoySelector { clusters: vec!["elsewhere".into()], ..EnvoySelector::default() };
    let world = World::new([extension_of("ns/a", "1", selector, AfterDeletion::NoOp)]);
    let mut session = Session::new(&world, &["ns/a"]);
    assert_eq!(session.drain(), [""; 0]);
    world.table.publish(extension_of("ns/a", "1", EnvoySelector::default(), AfterDeletion::NoOp));
    assert_eq!(session.drain(), ["ns/a"]);
}

#[test]
fn too_many_names_are_an_error() {
    let world = World::new([]);
    let mut stream = SotwStream::new(8);
    let names = (0..9).map(|number| format!("ns/{number}")).collect();
    let request = SotwRequest { names, ..SotwRequest::default() };
    assert_eq!(world.see(|view| stream.request(request, view)), Err(TooManyNames(8)));
    // What is no name does not count.
    let names = (0..9).map(|number| format!("{number}")).collect();
    let request = SotwRequest { names, ..SotwRequest::default() };
    assert_eq!(world.see(|view| SotwStream::new(8).request(request, view)), Ok(vec![]));
}

#[derive(Clone, Debug)]
enum Step {
    Publish(&'static str, &'static str),
    Withdraw(&'static str),
    Ask(Vec<&'static str>),
    Accept,
    Refuse,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(vec!["ns/a", "ns/b", "granted/c", "other/d"]);
    prop_oneof![
        4 => (name(), select(vec!["1", "2", "3"])).prop_map(|(name, root)| Step::Publish(name, root)),
        1 => name().prop_map(Step::Withdraw),
        2 => vec(name(), 0..4).prop_map(Step::Ask),
        4 => Just(Step::Accept),
        1 => Just(Step::Refuse),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever happens, an Envoy that accepts all ends with the newest of what it asks for, and nothing of others.
    #[test]
    fn in_the_end_an_envoy_has_what_is_newest(steps in vec(step(), 0..40)) {
        let world = World::new([]);
        let mut session = Session::new(&world, &["ns/a"]);
        let mut has = std::collections::BTreeMap::<String, String>::new();
        for step in steps {
            session.stream.look_at_all();
            match step {
                Step::Publish(name, root_id) => world.publish(name, root_id),
                Step::Withdraw(name) => drop(world.table.withdraw(&super::super::testing::name(name))),
                Step::Ask(names) => {
                    session.ask(&names);
                    has.retain(|name, _| names.contains(&name.as_str()));
                }
                Step::Accept => {
                    if let Some(name) = session.accept() {
                        prop_assert!(!name.starts_with("other/"), "{} is another one's", name);
                        let version = world.version(&name).to_string();
                        prop_assert_ne!(has.insert(name.clone(), version.clone()), Some(version), "{} was sent twice", name);
                    }
                }
                Step::Refuse => {
                    if let Some(name) = session.refuse("no") {
                        // It is not sent this one again, so it would have to change.
                        world.publish(&name, "4");
                        world.publish(&name, "5");
                    }
                }
                Step::Reconnect => {
                    // On a new stream all may be sent once more.
                    has.clear();
                    drop(session.reconnect());
                }
            }
        }
        let last = session.drain();
        prop_assert!(last.iter().all(|name| !name.starts_with("other/")), "{:?}", last);
        prop_assert_eq!(session.drain(), Vec::<String>::new());
        for (name, held) in session.stream.names.iter() {
            if let (Some(extension), false) = (world.table.get(name), name.namespace() == "other") {
                prop_assert_eq!(held.version.as_ref(), Some(extension.version()));
            }
        }
    }
}
