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
use crate::engine::TICK;

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
}

/// The account of one container.
#[derive(Debug)]
pub struct Account {
    limits: GuestLimits,
    opened: Instant,
    cpu: Mutex<Cpu>,
    memory: AtomicU64,
    yields: AtomicU64,
}

#[derive(Debug)]
struct Cpu {
    weight: Weight,
    budget: CpuBudget,
    /// Virtual nanoseconds; places it in the line for turns.
    age: u128,
    used: Duration,
    throttled: Duration,
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
            weight: Weight::of_request(limits.cpu.request_millis),
            budget: CpuBudget::of_limit(limits.cpu.limit_millis),
            age: 0,
            used: Duration::ZERO,
            throttled: Duration::ZERO,
        };
        Self {
            limits,
            opened: Instant::now(),
            cpu: Mutex::new(cpu),
            memory: AtomicU64::new(0),
            yields: AtomicU64::new(0),
        }
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
        }
    }

    /// What may be used.
    #[must_use]
    pub fn limits(&self) -> GuestLimits {
        self.limits
    }

    /// Takes memory, if the limit allows it. It is the caller's to give back.
    pub(super) fn take_memory(&self, bytes: u64) -> Result<(), Exceeded> {
        let limit = self.limits.memory_bytes;
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        match self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(used) => Err(Exceeded { wanted: used.saturating_add(bytes), limit }),
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
