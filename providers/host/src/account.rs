//! What one container uses, and what it may use: shared by its instance, the instances that are executed in
//! it, and whoever asks.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::cpu::{Arrival, CpuBudget, CpuShare, Weight};
use crate::{
    engine::TICK,
    traffic::{Traffic, TrafficUsage},
};

/// What a container may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Bytes of everything that is counted; see [`Account`].
    pub memory_bytes: u64,
    /// Of the processors.
    pub cpu: CpuShare,
}

/// What a container has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since it started: of its guests, of the host on their behalf, and of writing its log.
    pub cpu: Duration,
    /// Time for which it was held back by its limit; of several guests at a time, the sum.
    pub throttled: Duration,
    /// How often a guest of it was made to let others go on.
    pub yields: u64,
    /// Bytes that it has now: linear memories and tables at their present size, touched or not, and what the
    /// host holds for it.
    pub memory_bytes: u64,
    /// What has gone through its sockets since it started.
    pub traffic: TrafficUsage,
    /// What its guests have read from files and written to them since it started.
    pub files: TrafficUsage,
}

/// The account of one container.
#[derive(Debug)]
pub struct Account {
    opened: Instant,
    cpu: Mutex<Cpu>,
    /// Bytes that are used.
    memory: AtomicU64,
    yields: AtomicU64,
    /// Bytes that may be used.
    memory_limit: AtomicU64,
    traffic: Arc<Traffic>,
    files: Arc<Traffic>,
}

#[derive(Debug)]
struct Cpu {
    share: CpuShare,
    weight: Weight,
    budget: CpuBudget,
    /// Virtual nanoseconds; places it in the line for turns.
    age: u128,
    used: Duration,
    throttled: Duration,
}

/// A memory limit is below what is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a memory limit of {limit} bytes is below the {used} bytes that are used")]
pub struct BelowUse {
    /// Bytes that are used.
    pub used: u64,
    /// Bytes that would have been the limit.
    pub limit: u64,
}

/// There is not as much memory left as was asked for: with it, so many bytes would be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// Bytes that would have been used in all.
    pub(super) wanted: u64,
    /// Bytes that may be used.
    pub(super) limit: u64,
}

impl Account {
    /// An account of which nothing is used yet.
    #[must_use]
    pub fn new(limits: GuestLimits) -> Self {
        let cpu = Cpu {
            share: limits.cpu,
            weight: Weight::of_request(limits.cpu.request_millis),
            budget: CpuBudget::of_limit(limits.cpu.limit_millis),
            age: 0,
            used: Duration::ZERO,
            throttled: Duration::ZERO,
        };
        Self {
            opened: Instant::now(),
            cpu: Mutex::new(cpu),
            memory: AtomicU64::new(0),
            memory_limit: AtomicU64::new(limits.memory_bytes),
            yields: AtomicU64::new(0),
            traffic: Arc::default(),
            files: Arc::default(),
        }
    }

    /// Where the container's sockets are counted.
    #[must_use]
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Where the container's files are counted.
    #[must_use]
    pub fn files(&self) -> &Arc<Traffic> {
        &self.files
    }

    /// What is used now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let cpu = self.cpu();
        Usage {
            cpu: cpu.used,
            throttled: cpu.throttled,
            yields: self.yields.load(Ordering::Relaxed),
            memory_bytes: self.memory.load(Ordering::Relaxed),
            traffic: self.traffic.usage(),
            files: self.files.usage(),
        }
    }

    /// What may be used.
    #[must_use]
    pub fn limits(&self) -> GuestLimits {
        GuestLimits { memory_bytes: self.memory_limit.load(Ordering::Relaxed), cpu: self.cpu().share }
    }

    /// Changes what may be used, while guests run: growth of memory and turns are decided by it from now on. Processor time
    /// that was overdrawn is paid back at the new rate.
    ///
    /// # Errors
    /// [`BelowUse`] when more memory than that is used; nothing is changed.
    pub fn resize(&self, limits: GuestLimits) -> Result<(), BelowUse> {
        // Whoever takes memory reads the limit after what is used, so that what was granted by the old one is seen here.
        let before = self.memory_limit.swap(limits.memory_bytes, Ordering::SeqCst);
        let used = self.memory.load(Ordering::SeqCst);
        if used > limits.memory_bytes && limits.memory_bytes < before {
            self.memory_limit.store(before, Ordering::SeqCst);
            return Err(BelowUse { used, limit: limits.memory_bytes });
        }
        let mut cpu = self.cpu();
        if cpu.share != limits.cpu {
            cpu.share = limits.cpu;
            cpu.weight = Weight::of_request(limits.cpu.request_millis);
            cpu.budget.set_limit(limits.cpu.limit_millis);
        }
        Ok(())
    }

    /// Takes memory, if the limit allows it. It is the caller's to give back.
    pub(super) fn take_memory(&self, bytes: u64) -> Result<(), Exceeded> {
        let limit = || self.memory_limit.load(Ordering::SeqCst);
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit());
        match self.memory.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits) {
            Ok(_) => Ok(()),
            Err(used) => Err(Exceeded { wanted: used.saturating_add(bytes), limit: limit() }),
        }
    }

    /// Gives memory back that was taken.
    pub(super) fn give_memory(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes memory until the value is dropped.
    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Result<HeldMemory, Exceeded> {
        self.take_memory(bytes)?;
        Ok(HeldMemory { account: Arc::clone(self), bytes })
    }

    /// Processor time was used.
    pub fn charge(&self, used: Duration) {
        let mut cpu = self.cpu();
        cpu.used = cpu.used.saturating_add(used);
        cpu.age = cpu.age.saturating_add(cpu.weight.virtual_time(used));
        cpu.budget.spend(used);
    }

    /// It was held back by its limit for so long.
    pub(super) fn was_parked(&self, time: Duration) {
        let mut cpu = self.cpu();
        cpu.throttled = cpu.throttled.saturating_add(time);
    }

    /// A guest of it has let others go on at a tick.
    pub(super) fn has_yielded(&self) {
        self.yields.fetch_add(1, Ordering::Relaxed);
    }

    /// How long its guests must pause; nothing when they may run.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.cpu().budget.pause(self.opened.elapsed())
    }

    /// Virtual nanoseconds.
    pub(super) fn age(&self) -> u128 {
        self.cpu().age
    }

    /// It wants a turn again, or for the first time: its age becomes what `arrive` says, which is told who comes
    /// and what a tick is in its virtual time.
    pub(super) fn arrive(&self, arrive: impl FnOnce(Arrival, u128) -> u128) -> u128 {
        let mut cpu = self.cpu();
        let arrival = if cpu.used.is_zero() { Arrival::New } else { Arrival::Back(cpu.age) };
        cpu.age = arrive(arrival, cpu.weight.virtual_time(TICK));
        cpu.age
    }

    fn cpu(&self) -> MutexGuard<'_, Cpu> {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that the host holds for a container.
#[derive(Debug)]
pub(super) struct HeldMemory {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.account.give_memory(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(memory_bytes: u64) -> Arc<Account> {
        Arc::new(Account::new(GuestLimits { memory_bytes, cpu: CpuShare::default() }))
    }

    #[test]
    fn memory_is_taken_up_to_the_limit_and_given_back() {
        let account = account(1000);
        let held = account.hold(600).unwrap();
        account.take_memory(400).unwrap();
        assert_eq!(account.take_memory(1), Err(Exceeded { wanted: 1001, limit: 1000 }));
        assert_eq!(account.usage().memory_bytes, 1000);
        drop(held);
        assert_eq!(account.usage().memory_bytes, 400);
        assert!(account.hold(u64::MAX).is_err(), "no overflow");
    }

    #[test]
    fn limits_change_while_memory_is_used_and_never_to_less_than_that() {
        let account = account(1000);
        account.take_memory(800).unwrap();
        let limits = |memory_bytes| GuestLimits { memory_bytes, cpu: CpuShare::default() };
        assert_eq!(account.resize(limits(799)), Err(BelowUse { used: 800, limit: 799 }));
        account.take_memory(200).unwrap();
        account.resize(limits(2000)).unwrap();
        account.take_memory(1000).unwrap();
        account.give_memory(1900);
        account.resize(limits(100)).unwrap();
        assert_eq!(account.take_memory(1), Err(Exceeded { wanted: 101, limit: 100 }));
        let share = CpuShare { limit_millis: 500, request_millis: 1000 };
        account.resize(GuestLimits { memory_bytes: 100, cpu: share }).unwrap();
        assert_eq!(account.limits(), GuestLimits { memory_bytes: 100, cpu: share });
        account.charge(Duration::from_millis(100));
        assert!(account.pause().is_some(), "it is held back by the limit that it has now");
        account.resize(limits(100)).unwrap();
        assert_eq!(account.pause(), None, "and by none when it has none");
    }

    #[test]
    fn processor_time_adds_up_and_ages_by_weight() {
        let one = account(0);
        one.charge(Duration::from_millis(3));
        one.charge(Duration::from_millis(4));
        assert_eq!(one.usage().cpu, Duration::from_millis(7));
        let share = CpuShare { limit_millis: 0, request_millis: 1000 };
        let heavy = Account::new(GuestLimits { memory_bytes: 0, cpu: share });
        heavy.charge(Duration::from_millis(7));
        assert!(heavy.age() < one.age());
    }

    #[test]
    fn who_has_used_nothing_is_new() {
        let account = account(0);
        assert_eq!(
            account.arrive(|arrival, tick| if arrival == Arrival::New { tick } else { 0 }),
            account.age()
        );
        assert_eq!(account.age(), TICK.as_nanos() * 512);
        account.charge(Duration::from_millis(1));
        let age = account.age();
        account.arrive(|arrival, _| {
            assert_eq!(arrival, Arrival::Back(age));
            age
        });
    }
}
