//! Whose turn it is to compile: a pure data structure, with no tasks and no clock.
//!
//! ```text
//!  enter(ticket, lane, work) ─► lane "a": t1 t4 t5 …        next() ─► the ticket that may begin
//!                               lane "b": t2            ◄── lanes take turns
//!                               lane "c": t3
//! ```
//!
//! A ticket is a caller who waits, a lane is whom it waits for (the store does not know what that is: a namespace, say),
//! and work is what it waits for. One work is done once at a time, whoever else waits for it; and one lane never has all
//! of the places, so that there is always one for the others.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// A caller who waits or works.
pub(super) type Ticket = u64;

/// Callers who wait, and works that are under way.
#[derive(Debug)]
pub(super) struct FairQueue {
    places: usize,
    /// Lanes in the order of their next turns, each with those who wait in it. None is empty.
    lanes: VecDeque<(String, VecDeque<Ticket>)>,
    waiting: HashMap<Ticket, String>,
    /// Who does which work, and for which lane.
    running: BTreeMap<String, (Ticket, String)>,
}

impl FairQueue {
    /// A queue for so many works at a time, and one at the least.
    pub(super) fn new(places: usize) -> Self {
        let places = places.max(1);
        Self { places, lanes: VecDeque::new(), waiting: HashMap::new(), running: BTreeMap::new() }
    }

    /// Puts a caller at the end of a lane.
    pub(super) fn enter(&mut self, ticket: Ticket, lane: &str, work: &str) {
        self.waiting.insert(ticket, work.to_owned());
        match self.lanes.iter_mut().find(|(name, _)| name == lane) {
            Some((_, tickets)) => tickets.push_back(ticket),
            None => self.lanes.push_back((lane.to_owned(), VecDeque::from([ticket]))),
        }
    }

    /// Whose turn it is, if a place is free and somebody waits who may have it. That caller then has the place.
    pub(super) fn next(&mut self) -> Option<Ticket> {
        if self.running.len() >= self.places {
            return None;
        }
        let most = self.places.saturating_sub(1).max(1);
        let (lane, at) = self.lanes.iter().enumerate().find_map(|(lane, (name, tickets))| {
            let has = self.running.values().filter(|(_, of)| of == name).count();
            if has >= most {
                return None;
            }
            // What is under way already is waited for, and not done again.
            let is_free =
                |ticket| self.waiting.get(ticket).is_some_and(|work| !self.running.contains_key(work));
            Some((lane, tickets.iter().position(is_free)?))
        })?;
        // The lane goes to the end: the others come first now.
        let (name, mut tickets) = self.lanes.remove(lane)?;
        let ticket = tickets.remove(at)?;
        if !tickets.is_empty() {
            self.lanes.push_back((name.clone(), tickets));
        }
        let work = self.waiting.remove(&ticket)?;
        self.running.insert(work, (ticket, name));
        Some(ticket)
    }

    /// A caller has done its work, or gives up waiting for it or doing it. Its place is free then.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if self.waiting.remove(&ticket).is_some() {
            for (_, tickets) in &mut self.lanes {
                tickets.retain(|waits| *waits != ticket);
            }
            self.lanes.retain(|(_, tickets)| !tickets.is_empty());
        } else {
            self.running.retain(|_, (works, _)| *works != ticket);
        }
    }

    /// Who waits for a work.
    pub(super) fn waiting_for(&self, work: &str) -> Vec<Ticket> {
        self.waiting.iter().filter(|(_, waits)| *waits == work).map(|(ticket, _)| *ticket).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    /// Everyone whose turn it is now.
    fn turns(queue: &mut FairQueue) -> Vec<Ticket> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn lanes_take_turns_however_many_wait_in_one() {
        let mut queue = FairQueue::new(1);
        for ticket in 0..100 {
            queue.enter(ticket, "crowd", &format!("c{ticket}"));
        }
        queue.enter(100, "one", "x");
        queue.enter(101, "other", "y");
        let mut order = Vec::new();
        while let Some(ticket) = queue.next() {
            queue.leave(ticket);
            order.push(ticket);
        }
        assert_eq!(order.get(..5), Some(&[0, 100, 101, 1, 2][..]));
        assert_eq!(order.len(), 102);
    }

    #[test]
    fn one_lane_leaves_a_place_for_the_others() {
        let mut queue = FairQueue::new(3);
        for ticket in 0..10 {
            queue.enter(ticket, "crowd", &format!("c{ticket}"));
        }
        assert_eq!(turns(&mut queue), [0, 1]);
        queue.enter(10, "one", "x");
        assert_eq!(turns(&mut queue), [10]);
        queue.leave(10);
        assert!(turns(&mut queue).is_empty());
        queue.leave(0);
        assert_eq!(turns(&mut queue), [2]);
    }

    #[test]
    fn a_work_that_is_wanted_in_two_lanes_is_done_in_the_first_that_has_its_turn() {
        let mut queue = FairQueue::new(2);
        for ticket in 0..10 {
            queue.enter(ticket, "crowd", &format!("c{ticket}"));
        }
        queue.enter(10, "crowd", "wanted");
        queue.enter(11, "one", "wanted");
        assert_eq!(turns(&mut queue), [0, 11], "not behind all of the crowd");
        assert_eq!(queue.waiting_for("wanted"), [10]);
        // It gives up: who waits for the same takes over, in its turn.
        queue.leave(11);
        queue.enter(12, "one", "wanted");
        assert_eq!(turns(&mut queue), [12]);
    }

    #[test]
    fn who_gives_up_is_in_nobodys_way() {
        let mut queue = FairQueue::new(1);
        for ticket in 0..3 {
            queue.enter(ticket, "a", &format!("{ticket}"));
        }
        queue.leave(0);
        queue.leave(7);
        assert_eq!(turns(&mut queue), [1]);
        queue.leave(1);
        queue.leave(2);
        assert!(turns(&mut queue).is_empty());
        assert!(queue.lanes.is_empty() && queue.waiting.is_empty() && queue.running.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Deed {
        Enter { lane: u8, work: u8 },
        Leave(usize),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let enter = (0..4_u8, 0..12_u8).prop_map(|(lane, work)| Deed::Enter { lane, work });
        prop::collection::vec(prop_oneof![3 => enter, 2 => any::<usize>().prop_map(Deed::Leave)], 0..200)
    }

    proptest! {
        /// Whatever comes and goes: no more at once than there are places, no work twice at once, no lane with all
        /// of several places, no place free for which somebody may be called, and in the end everybody was.
        #[test]
        fn places_are_given_out_rightly(places in 1..4_usize, deeds in deeds()) {
            let mut queue = FairQueue::new(places);
            let mut all: Vec<(String, String)> = Vec::new();
            let (mut running, mut waiting) = (BTreeSet::new(), BTreeSet::new());
            for deed in deeds {
                match deed {
                    Deed::Enter { lane, work } => {
                        let ticket = all.len() as Ticket;
                        all.push((format!("l{lane}"), format!("w{work}")));
                        queue.enter(ticket, &format!("l{lane}"), &format!("w{work}"));
                        waiting.insert(ticket);
                    }
                    Deed::Leave(which) => {
                        let known: Vec<Ticket> = running.union(&waiting).copied().collect();
                        if let Some(ticket) = known.get(which % known.len().max(1)) {
                            queue.leave(*ticket);
                            running.remove(ticket);
                            waiting.remove(ticket);
                        }
                    }
                }
                while let Some(ticket) = queue.next() {
                    prop_assert!(waiting.remove(&ticket));
                    running.insert(ticket);
                }
                let of = |ticket: &Ticket| &all[usize::try_from(*ticket).unwrap()];
                prop_assert!(running.len() <= places);
                let works: HashSet<_> = running.iter().map(|ticket| &of(ticket).1).collect();
                prop_assert_eq!(works.len(), running.len());
                let has = |lane: &str| running.iter().filter(|ticket| of(ticket).0 == lane).count();
                prop_assert!(places == 1 || running.iter().all(|ticket| has(&of(ticket).0) < places));
                let may = |ticket: &Ticket| {
                    has(&of(ticket).0) < places.saturating_sub(1).max(1) && !works.contains(&of(ticket).1)
                };
                prop_assert!(running.len() == places || !waiting.iter().any(may));
            }
            for _ in 0..=all.len() {
                for ticket in std::mem::take(&mut running) {
                    queue.leave(ticket);
                }
                while let Some(ticket) = queue.next() {
                    waiting.remove(&ticket);
                    running.insert(ticket);
                }
            }
            prop_assert!(waiting.is_empty());
        }

        /// Between two turns of a lane in which somebody waits, no other lane has two.
        #[test]
        fn no_lane_is_passed_over(sizes in prop::collection::vec(1..20_usize, 1..6)) {
            let mut queue = FairQueue::new(1);
            let mut lane_of = Vec::new();
            for (lane, size) in sizes.iter().enumerate() {
                for _ in 0..*size {
                    let ticket = lane_of.len();
                    queue.enter(ticket as Ticket, &format!("l{lane}"), &format!("w{ticket}"));
                    lane_of.push(lane);
                }
            }
            let mut left = sizes.clone();
            let mut since: Vec<Vec<usize>> = sizes.iter().map(|_| vec![0; sizes.len()]).collect();
            while let Some(ticket) = queue.next() {
                queue.leave(ticket);
                let lane = lane_of[usize::try_from(ticket).unwrap()];
                left[lane] -= 1;
                for (other, turns) in since.iter_mut().enumerate().filter(|(other, _)| left[*other] > 0) {
                    turns[lane] += 1;
                    prop_assert!(turns[lane] <= 2, "lane {} waits while {} goes on", other, lane);
                }
                since[lane].fill(0);
            }
            prop_assert_eq!(left.iter().sum::<usize>(), 0);
        }
    }
}
