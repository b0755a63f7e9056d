//! Pages of keys, where a back end has no order of its own that a number can point into.
//!
//! Keys are in the order of a hash, so that a page goes on where the one before it ended, whatever was added or deleted in
//! between: a key that is there all the time is listed once. Only a page of them is held.

use std::collections::BinaryHeap;

use sha2::{Digest as _, Sha256};

use super::keyvalue::KeyPage;

/// Collects one page of all keys.
#[derive(Debug)]
pub(super) struct PageOfKeys {
    from: u64,
    length: usize,
    /// The first ones, the last of them on top; one more than the page has tells that there are more.
    first: BinaryHeap<(u64, String)>,
}

impl PageOfKeys {
    /// The page that this cursor points to.
    pub(super) fn new(cursor: Option<u64>, length: usize) -> Self {
        Self { from: cursor.unwrap_or(0), length: length.max(1), first: BinaryHeap::new() }
    }

    /// Looks at a key.
    pub(super) fn add(&mut self, key: String) {
        let place = place(&key);
        if place < self.from {
            return;
        }
        self.first.push((place, key));
        if self.first.len() > self.length + 1 {
            self.first.pop();
        }
    }

    /// The page, when all keys were looked at.
    pub(super) fn page(self) -> KeyPage {
        let mut sorted = self.first.into_sorted_vec();
        sorted.dedup();
        let next = (sorted.len() > self.length).then(|| sorted.pop()).flatten();
        let keys = sorted.into_iter().map(|(_, key)| key).collect();
        KeyPage { keys, cursor: next.map(|(place, _)| place) }
    }
}

fn place(key: &str) -> u64 {
    let digest = Sha256::digest(key);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pages_have_each_key_once_while_others_come_and_go() {
        let mut keys: BTreeSet<String> = (0..2500).map(|n| format!("key-{n}")).collect();
        let stays: BTreeSet<String> = keys.iter().filter(|key| !key.ends_with('7')).cloned().collect();
        let (mut listed, mut cursor, mut sizes) = (Vec::new(), None, Vec::new());
        loop {
            let mut page = PageOfKeys::new(cursor, 1000);
            keys.iter().for_each(|key| page.add(key.clone()));
            let page = page.page();
            sizes.push(page.keys.len());
            listed.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
            keys.retain(|key| !key.ends_with('7'));
            keys.insert(format!("new-{}", listed.len()));
        }
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert_eq!(sizes.first(), Some(&1000));
        let unique: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(unique.len(), listed.len(), "a key was listed twice");
        assert!(stays.is_subset(&unique), "a key that was there all the time is missing");
    }
}
