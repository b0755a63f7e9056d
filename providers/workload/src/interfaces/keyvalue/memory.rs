//! Buckets in memory, which go with their workload.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{Bucket, KeyPage, KeyValue, KeyValueError, counter, sum};
use crate::interfaces::Limits;

/// Bytes that a key costs besides its own and its value's.
const OVERHEAD: u64 = 128;

/// Buckets in memory. Each of these has its own: whoever shares one shares its buckets.
#[derive(Clone, Debug)]
pub struct MemoryKeyValue {
    data: Arc<Mutex<MemoryData>>,
    most: u64,
    page_keys: usize,
}

#[derive(Debug, Default)]
struct MemoryData {
    buckets: HashMap<String, MemoryTable>,
    /// Bytes of all of them.
    used: u64,
}

/// One bucket. Keys are listed in the order in which they came, by numbers that go up.
#[derive(Debug, Default)]
struct MemoryTable {
    values: HashMap<String, (u64, Vec<u8>)>,
    order: BTreeMap<u64, String>,
    next: u64,
}

impl MemoryKeyValue {
    /// No buckets, of as much as the limits say.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { data: Arc::default(), most: limits.memory_bytes, page_keys: limits.page_keys }
    }

    fn data(&self) -> MutexGuard<'_, MemoryData> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyValue for MemoryKeyValue {
    async fn open(&self, bucket: &str) -> Result<Box<dyn Bucket>, KeyValueError> {
        Ok(Box::new(MemoryBucket { store: self.clone(), name: bucket.to_owned() }))
    }
}

#[derive(Debug)]
struct MemoryBucket {
    store: MemoryKeyValue,
    name: String,
}

impl MemoryData {
    fn get(&self, bucket: &str, key: &str) -> Option<&Vec<u8>> {
        Some(&self.buckets.get(bucket)?.values.get(key)?.1)
    }

    fn set(&mut self, bucket: &str, key: &str, value: Vec<u8>, most: u64) -> Result<(), KeyValueError> {
        let cost = |value: &[u8]| OVERHEAD + 2 * key.len() as u64 + value.len() as u64;
        let before = self.get(bucket, key).map_or(0, |value| cost(value));
        let used = self.used - before + cost(&value);
        if used > most {
            let text =
                format!("the store in memory is full: it holds {most} bytes at most (max_memory_bytes)");
            return Err(KeyValueError::Other(text));
        }
        self.used = used;
        if !self.buckets.contains_key(bucket) {
            self.buckets.insert(bucket.to_owned(), MemoryTable::default());
        }
        let Some(table) = self.buckets.get_mut(bucket) else { return Ok(()) };
        match table.values.get_mut(key) {
            Some((_, old)) => *old = value,
            None => {
                let place = table.next;
                table.next += 1;
                table.values.insert(key.to_owned(), (place, value));
                table.order.insert(place, key.to_owned());
            }
        }
        Ok(())
    }

    fn delete(&mut self, bucket: &str, key: &str) {
        let Some(table) = self.buckets.get_mut(bucket) else { return };
        if let Some((place, value)) = table.values.remove(key) {
            table.order.remove(&place);
            self.used -= OVERHEAD + 2 * key.len() as u64 + value.len() as u64;
        }
        if table.values.is_empty() {
            self.buckets.remove(bucket);
        }
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.store.data().get(&self.name, key).cloned())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.store.data().set(&self.name, key, value, self.store.most)
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.store.data().delete(&self.name, key);
        Ok(())
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        Ok(self.store.data().get(&self.name, key).is_some())
    }

    async fn keys(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let data = self.store.data();
        let Some(table) = data.buckets.get(&self.name) else { return Ok(KeyPage::default()) };
        let mut rest = table.order.range(cursor.unwrap_or(0)..);
        let keys = rest.by_ref().take(self.store.page_keys).map(|(_, key)| key.clone()).collect();
        Ok(KeyPage { keys, cursor: rest.next().map(|(place, _)| *place) })
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError> {
        let mut data = self.store.data();
        let number = counter(data.get(&self.name, key).map(Vec::as_slice))?;
        let number = sum(number, delta)?;
        data.set(&self.name, key, number.to_string().into_bytes(), self.store.most)?;
        Ok(number)
    }
}
