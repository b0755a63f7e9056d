use super::*;

const TIMES: RotationTimes =
    RotationTimes { life: Duration::from_secs(900), settle: Duration::from_secs(10) };

/// A rotation in a world whose clock stands still until somebody moves it.
struct World {
    rotation: Rotation,
    certificates: Certificates,
    hosts: Vec<String>,
    now: SystemTime,
    instant: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            rotation: Rotation::new(TIMES),
            certificates: Certificates::default(),
            hosts: vec!["h".to_owned()],
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            instant: Instant::now(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.instant += time;
    }

    fn step(&mut self, bundles: &[&str], shown: &[Option<&str>]) -> RotationStep {
        let surroundings =
            Surroundings { hosts: &self.hosts, bundles: bundles.to_vec(), shown: shown.to_vec() };
        let step = self.rotation.step(&self.certificates, &surroundings, self.now, self.instant).unwrap();
        if let RotationStep::Write(certificates) = &step {
            self.certificates = certificates.clone();
        }
        step
    }

    /// One with a current certificate and nothing else.
    fn settled() -> Self {
        let mut world = Self::new();
        world.step(&[], &[]);
        world.step(&[], &[]);
        world
    }

    fn current(&self) -> ServingPair {
        self.certificates.current.clone().unwrap()
    }
}

fn waits(step: &RotationStep) -> bool {
    matches!(step, RotationStep::Wait(_))
}

#[test]
fn the_first_certificate_waits_for_nobody() {
    let mut world = World::new();
    world.step(&[], &[]);
    assert!(world.certificates.current.is_none() && world.certificates.next.is_some());
    let made = world.certificates.next.clone();
    world.step(&[], &[None]);
    assert_eq!(world.certificates, Certificates { current: made, ..Certificates::default() });
    assert_eq!(world.step(&[], &[None]), RotationStep::Wait(TIMES.life / 3 * 2));
}

#[test]
fn the_next_certificate_is_made_after_two_thirds_of_a_life() {
    let mut world = World::settled();
    let first = world.current();
    world.pass(TIMES.life / 3 * 2 - Duration::from_secs(1));
    assert_eq!(world.step(&[], &[]), RotationStep::Wait(Duration::from_secs(1)));
    world.pass(Duration::from_secs(1));
    world.step(&[], &[]);
    assert_eq!(world.certificates.current, Some(first));
    assert!(world.certificates.next.is_some());
}

/// First every webhook knows the new authority, then replicas show the certificate, then the authority before is forgotten.
#[test]
fn nobody_meets_a_certificate_that_he_does_not_know() {
    let mut world = World::settled();
    let first = world.current();
    world.pass(TIMES.life / 3 * 2);
    world.step(&[first.authority()], &[]);
    let both = world.certificates.authorities();
    assert!(contains(&both, first.authority()));

    assert!(waits(&world.step(&[&both, first.authority()], &[])), "one webhook does not know it");
    assert!(waits(&world.step(&[&both, &both], &[])));
    world.pass(TIMES.settle - Duration::from_secs(1));
    assert!(waits(&world.step(&[&both], &[])), "nobody knows whether API servers have seen it");
    assert!(waits(&world.step(&[first.authority()], &[])), "a webhook was put back");
    world.pass(Duration::from_secs(1));
    assert!(waits(&world.step(&[&both], &[])), "the time begins anew");
    world.pass(TIMES.settle);
    world.step(&[&both], &[]);
    let second = world.current();
    assert_ne!(second, first);
    assert_eq!(world.certificates.previous, bundle([first.authority()]));
    assert!(contains(&world.certificates.authorities(), first.authority()));

    let (old, new) = (first.fingerprint(), second.fingerprint());
    for shown in [[Some(&*old), Some(&*new)], [None, Some(&*new)]] {
        assert!(waits(&world.step(&[&both], &shown)));
        world.pass(TIMES.settle);
        assert!(waits(&world.step(&[&both], &shown)), "a replica does not show it");
    }
    assert!(waits(&world.step(&[&both], &[Some(&new)])));
    world.pass(TIMES.settle);
    world.step(&[&both], &[Some(&new)]);
    let expected = Certificates { current: Some(second), ..Certificates::default() };
    assert_eq!(world.certificates, expected);
}

/// Replicas show what was in the Secret until there is another one, and webhooks know its authority all the while.
#[test]
fn a_secret_that_is_removed_is_a_rotation() {
    let mut world = World::settled();
    let first = world.current();
    world.certificates = Certificates::default();
    world.step(&[first.authority()], &[]);
    assert!(world.certificates.current.is_none());
    assert!(contains(&world.certificates.authorities(), first.authority()));
    let both = world.certificates.authorities();
    assert!(waits(&world.step(&[&both], &[])));
    world.pass(TIMES.settle);
    world.step(&[&both], &[]);
    assert_ne!(world.current(), first);
    assert!(contains(&world.certificates.authorities(), first.authority()));
}

#[test]
fn a_certificate_for_others_or_from_long_ago_is_replaced() {
    let mut world = World::settled();
    world.hosts = vec!["other".to_owned()];
    world.step(&[], &[]);
    assert!(world.certificates.next.as_ref().unwrap().covers(&world.hosts));

    let mut world = World::settled();
    let first = world.current();
    world.pass(TIMES.life * 10);
    world.step(&[], &[]);
    world.step(&[], &[]);
    assert_ne!(world.current(), first);
}

#[test]
fn a_webhook_that_cannot_be_told_is_not_waited_for_until_the_end() {
    let mut world = World::settled();
    let first = world.current();
    world.pass(TIMES.life / 3 * 2);
    world.step(&[first.authority()], &[]);
    world.pass(TIMES.life / 6 - Duration::from_secs(1));
    assert_eq!(world.step(&[first.authority()], &[]), RotationStep::Wait(Duration::from_secs(1)));
    world.pass(Duration::from_secs(1));
    assert!(waits(&world.step(&[first.authority()], &[])), "those that were told may need a while");
    world.pass(TIMES.settle);
    world.step(&[first.authority()], &[]);
    assert_ne!(world.current(), first);
}
