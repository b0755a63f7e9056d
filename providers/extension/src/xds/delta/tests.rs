use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    resource::FilterType,
    selector::EnvoySelector,
    table::AfterDeletion,
    xds::testing::{World, extension, extension_of, name},
};

struct Session<'a> {
    world: &'a World,
    stream: DeltaStream,
    /// What the Envoy has accepted.
    has: HashMap<String, String>,
    /// Events of what it had before it came.
    held: Vec<StreamEvent>,
}

impl<'a> Session<'a> {
    fn new(world: &'a World, names: &[&str]) -> Self {
        let mut session = Self { world, stream: DeltaStream::new(8), has: HashMap::new(), held: Vec::new() };
        session.request(DeltaRequest { subscribe: owned(names), ..DeltaRequest::default() });
        session
    }

    /// The same Envoy after its stream was lost.
    fn reconnect(&mut self, names: &[&str]) -> Vec<StreamEvent> {
        self.stream = DeltaStream::new(8);
        let initial_versions = self.has.clone();
        self.request(DeltaRequest { subscribe: owned(names), initial_versions, ..DeltaRequest::default() })
    }

    fn request(&mut self, request: DeltaRequest) -> Vec<StreamEvent> {
        self.world.see(|view| self.stream.request(request, view)).unwrap()
    }

    fn answer(&mut self, nonce: &str, error: Option<&str>) -> Vec<StreamEvent> {
        let error = error.map(str::to_owned);
        self.request(DeltaRequest { nonce: nonce.to_owned(), error, ..DeltaRequest::default() })
    }

    fn next(&mut self) -> Option<StreamUpdate> {
        loop {
            match self.world.see(|view| self.stream.next(view))? {
                (Some(update), _) => return Some(update),
                (None, event) => self.held.push(event),
            }
        }
    }

    /// Accepts the next response: the name in it, with a minus where it is an end.
    fn accept(&mut self) -> Option<String> {
        let update = self.next()?;
        let (events, text) = match update.content {
            UpdateContent::Extension(extension) => {
                let name = extension.name();
                self.has.insert(name.to_string(), extension.version().to_string());
                (vec![StreamEvent::Accepted(name.clone())], name.to_string())
            }
            UpdateContent::Removed(name) => {
                self.has.remove(name.as_str());
                (vec![], format!("-{name}"))
            }
        };
        assert_eq!(self.answer(&update.nonce, None), events);
        Some(text)
    }

    fn drain(&mut self) -> Vec<String> {
        self.stream.look_at_all();
        std::iter::from_fn(|| self.accept()).collect()
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_changes_is_sent_and_what_is_gone_is_said() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    let mut session = Session::new(&world, &["ns/a", "ns/c", "*", "no name"]);
    assert_eq!(session.drain(), ["ns/a"]);
    world.publish("ns/b", "2");
    assert_eq!(session.drain(), [""; 0]);
    world.publish("ns/a", "2");
    world.publish("ns/c", "1");
    assert_eq!(session.drain(), ["ns/a", "ns/c"]);
    world.table.withdraw(&name("ns/a"));
    assert_eq!(session.drain(), ["-ns/a"]);
    assert_eq!(session.drain(), [""; 0], "it is said once");
    world.publish("ns/a", "2");
    assert_eq!(session.drain(), ["ns/a"], "and comes again");
}

#[test]
fn what_is_refused_is_not_sent_again_until_it_changes() {
    let world = World::new([extension("ns/a", "bad")]);
    let mut session = Session::new(&world, &["ns/a"]);
    let update = session.next().unwrap();
    let refused = StreamEvent::Refused(name("ns/a"), "no".into());
    assert_eq!(session.answer(&update.nonce, Some("no")), [refused]);
    assert_eq!(session.answer(&update.nonce, Some("no")), []);
    assert_eq!(session.drain(), [""; 0]);
    world.publish("ns/a", "2");
    assert_eq!(session.drain(), ["ns/a"]);
}

#[test]
fn names_come_and_go() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    let mut session = Session::new(&world, &["ns/a"]);
    assert_eq!(session.drain(), ["ns/a"]);
    let more = DeltaRequest {
        subscribe: owned(&["ns/b"]),
        unsubscribe: owned(&["ns/a", "ns/x"]),
        ..DeltaRequest::default()
    };
    assert_eq!(session.request(more), [StreamEvent::Left(name("ns/a"))]);
    world.publish("ns/a", "2");
    assert_eq!(session.drain(), ["ns/b"]);
    // Whoever asks again is sent it again.
    let again = DeltaRequest { subscribe: owned(&["ns/b"]), ..DeltaRequest::default() };
    assert_eq!(session.request(again.clone()), []);
    assert_eq!(session.drain(), ["ns/b"]);
    assert_eq!(session.drain(), [""; 0]);
    world.table.withdraw(&name("ns/b"));
    session.request(again);
    assert_eq!(session.drain(), ["-ns/b"], "or told that it is gone");
}

#[test]
fn whoever_comes_back_is_sent_only_what_has_changed() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1"), extension("ns/c", "1")]);
    let names = ["ns/a", "ns/b", "ns/c"];
    let mut session = Session::new(&world, &names);
    session.drain();
    // Another server, with the same extension, another one, and one that was deleted.
    let again = World::new([extension("ns/a", "1"), extension("ns/b", "2")]);
    session.world = &again;
    assert_eq!(session.reconnect(&names), []);
    assert_eq!(session.drain(), ["ns/b", "-ns/c"]);
    assert_eq!(session.drain(), [""; 0]);
    assert_eq!(session.held, [StreamEvent::Held(name("ns/a"), world.version("ns/a"))]);
    // What it has is asked in the first request alone.
    let initial_versions = HashMap::from([("ns/d".to_owned(), "x".to_owned())]);
    session.request(DeltaRequest {
        subscribe: owned(&["ns/d"]),
        initial_versions,
        ..DeltaRequest::default()
    });
    assert_eq!(session.drain(), [""; 0]);
}

#[test]
fn nothing_is_taken_before_all_is_known() {
    let world = World::new([extension("ns/a", "1"), extension("ns/b", "1")]);
    let mut session = Session::new(&world, &["ns/a", "ns/b"]);
    session.drain();
    let restarted = World::incomplete([]);
    session.world = &restarted;
    assert_eq!(session.reconnect(&["ns/a", "ns/b"]), []);
    assert_eq!(session.drain(), [""; 0]);
    restarted.table.announce(&name("ns/a"));
    restarted.table.complete();
    assert_eq!(session.drain(), ["-ns/b"]);
    assert_eq!(session.held, []);
    restarted.publish("ns/a", "1");
    assert_eq!(session.drain(), [""; 0], "it is the same");
    assert_eq!(session.held, [StreamEvent::Held(name("ns/a"), world.version("ns/a"))], "which is known then");
    assert_eq!(session.drain(), [""; 0]);
    assert_eq!(session.held.len(), 1);
}

#[test]
fn a_deletion_does_what_was_chosen_also_after_a_restart() {
    for (after, expected) in [
        (AfterDeletion::Remove, &["-ns/a"][..]),
        (AfterDeletion::Keep, &[]),
        (AfterDeletion::NoOp, &["ns/a"]),
    ] {
        let world = World::new([extension_of("ns/a", "1", EnvoySelector::default(), after)]);
        let mut session = Session::new(&world, &["ns/a"]);
        session.drain();
        let mut back = Session::new(&world, &[]);
        back.has.clone_from(&session.has);
        world.table.withdraw(&name("ns/a"));
        assert_eq!(session.drain(), expected, "{after:?}");
        let restarted = World::new([]);
        back.world = &restarted;
        back.reconnect(&["ns/a"]);
        assert_eq!(back.drain(), expected, "{after:?}");
        assert_eq!(back.drain(), [""; 0]);
        if after == AfterDeletion::NoOp {
            let no_op = PublishedExtension::no_op(name("ns/a"), FilterType::Http);
            assert_eq!(back.has["ns/a"], no_op.version().as_str());
            back.reconnect(&["ns/a"]);
            assert_eq!(back.drain(), [""; 0], "it keeps that");
        }
    }
}

#[test]
fn what_is_forbidden_does_not_exist_even_for_whoever_had_it() {
    let world = World::new([extension("other/a", "1")]);
    let mut session = Session::new(&world, &[]);
    session.has = HashMap::from([("other/a".to_owned(), world.version("other/a").to_string())]);
    assert_eq!(session.reconnect(&["other/a"]), [StreamEvent::Forbidden(name("other/a"))]);
    assert_eq!(session.drain(), ["-other/a"], "as of any name that does not exist");
    world.publish("other/a", "2");
    assert_eq!(session.drain(), [""; 0]);
}

#[test]
fn an_envoy_that_is_selected_no_more_loses_it() {
    let world = World::new([extension("ns/a", "1")]);
    let mut session = Session::new(&world, &["ns/a"]);
    session.drain();
    let selector = EnvoySelector { node_ids: vec!["another".into()], ..EnvoySelector::default() };
    world.table.publish(extension_of("ns/a", "1", selector, AfterDeletion::Remove));
    assert_eq!(session.drain(), ["-ns/a"]);
}

#[test]
fn too_many_names_are_an_error() {
    let world = World::new([]);
    let mut stream = DeltaStream::new(8);
    for (count, expected) in [(8, Ok(Vec::<StreamEvent>::new())), (9, Err(TooManyNames(8)))] {
        let subscribe = (0..count).map(|number| format!("ns/x{number}")).collect();
        let unsubscribe = (0..8).map(|number| format!("ns/x{number}")).collect();
        let request = DeltaRequest { subscribe, unsubscribe, ..DeltaRequest::default() };
        let events = world.see(|view| stream.request(request, view));
        assert_eq!(events.map(|_| vec![]), expected);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(&'static str, &'static str),
    Withdraw(&'static str),
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    Accept,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(vec!["ns/a", "ns/b", "granted/c", "other/d"]);
    prop_oneof![
        4 => (name(), select(vec!["1", "2", "3"])).prop_map(|(name, root)| Step::Publish(name, root)),
        2 => name().prop_map(Step::Withdraw),
        2 => name().prop_map(Step::Subscribe),
        1 => name().prop_map(Step::Unsubscribe),
        4 => Just(Step::Accept),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever happens, an Envoy that accepts all has in the end what there is of its names, and nothing that is gone.
    #[test]
    fn in_the_end_an_envoy_has_what_there_is(steps in vec(step(), 0..40)) {
        let world = World::new([]);
        let mut session = Session::new(&world, &[]);
        let mut names = std::collections::BTreeSet::new();
        for step in steps {
            session.stream.look_at_all();
            match step {
                Step::Publish(name, root_id) => world.publish(name, root_id),
                Step::Withdraw(name) => drop(world.table.withdraw(&super::super::testing::name(name))),
                Step::Subscribe(name) => {
                    names.insert(name);
                    session.request(DeltaRequest { subscribe: owned(&[name]), ..DeltaRequest::default() });
                }
                Step::Unsubscribe(name) => {
                    names.remove(name);
                    session.has.remove(name);
                    session.request(DeltaRequest { unsubscribe: owned(&[name]), ..DeltaRequest::default() });
                }
                Step::Accept => drop(session.accept()),
                Step::Reconnect => {
                    let all: Vec<_> = names.iter().copied().collect();
                    drop(session.reconnect(&all));
                }
            }
        }
        session.drain();
        prop_assert_eq!(session.drain(), Vec::<String>::new());
        let there = names.iter().filter(|name| **name != "other/d").filter_map(|name| {
            let extension = world.table.get(&super::super::testing::name(name))?;
            Some(((*name).to_owned(), extension.version().to_string()))
        });
        prop_assert_eq!(session.has, there.collect::<HashMap<_, _>>());
    }
}
