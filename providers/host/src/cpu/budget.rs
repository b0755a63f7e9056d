//! Holding a container to `limits.cpu`: so much processor time in each period, and no more.

use std::time::Duration;

/// A limit holds over each period of this length, as it does in the kernel's bandwidth control.
const PERIOD: Duration = Duration::from_millis(100);
/// Least processor time in a period; the kernel takes no less either. It is the limit of a container that
/// is limited to less than 10m.
const LEAST: Duration = Duration::from_millis(1);
/// Debt is forgiven beyond what this many periods pay, so that one long host call parks nobody for longer
/// than ten seconds.
const DEBT_PERIODS: u32 = 100;

/// Processor time that a container has left in the present period. What it overdraws, because a turn ends
/// at a tick and not at a nanosecond, is taken from the next periods; what it leaves is not kept.
///
/// Time is what has passed since some moment that the caller chooses once.
#[derive(Clone, Debug)]
pub(crate) struct CpuBudget {
    /// For each period; `None` is no limit.
    quota: Option<Duration>,
    left: Duration,
    debt: Duration,
    /// When the present period began.
    began: Duration,
}

impl CpuBudget {
    /// A budget for a limit in thousandths of a core, 0 for none. The first period begins at 0.
    pub(crate) fn of_limit(millis: u64) -> Self {
        let quota = quota(millis);
        Self { quota, left: quota.unwrap_or_default(), debt: Duration::ZERO, began: Duration::ZERO }
    }

    /// Another limit holds from now on. Debt stays, as far as the new limit knows so much of it.
    pub(crate) fn set_limit(&mut self, millis: u64) {
        let was_limited = self.quota.is_some();
        self.quota = quota(millis);
        let Some(quota) = self.quota else {
            (self.left, self.debt) = (Duration::ZERO, Duration::ZERO);
            return;
        };
        self.left = if was_limited { self.left.min(quota) } else { quota };
        self.debt = self.debt.min(quota.saturating_mul(DEBT_PERIODS));
    }

    /// Takes processor time out of the budget.
    pub(crate) fn spend(&mut self, used: Duration) {
        let Some(quota) = self.quota else { return };
        let over = used.saturating_sub(self.left);
        self.left = self.left.saturating_sub(used);
        self.debt = self.debt.saturating_add(over).min(quota.saturating_mul(DEBT_PERIODS));
    }

    /// How long the container must pause; nothing when it may run.
    pub(crate) fn pause(&mut self, now: Duration) -> Option<Duration> {
        let quota = self.quota?;
        self.refill(quota, now);
        if !self.left.is_zero() {
            return None;
        }
        // The period that pays the last of the debt, and leaves something.
        let periods = u32::try_from(self.debt.as_nanos() / quota.as_nanos()).unwrap_or(u32::MAX);
        let end = self.began.saturating_add(PERIOD.saturating_mul(periods.saturating_add(1)));
        Some(end.saturating_sub(now))
    }

    fn refill(&mut self, quota: Duration, now: Duration) {
        let periods = now.saturating_sub(self.began).as_nanos() / PERIOD.as_nanos();
        let Ok(periods) = u32::try_from(periods) else {
            // Years of sleep pay every debt.
            (self.left, self.debt, self.began) = (quota, Duration::ZERO, now);
            return;
        };
        if periods == 0 {
            return;
        }
        self.began = self.began.saturating_add(PERIOD.saturating_mul(periods));
        let pay = quota.saturating_mul(periods);
        self.left = pay.saturating_sub(self.debt).min(quota);
        self.debt = self.debt.saturating_sub(pay);
    }
}

/// Processor time for each period, by a limit in thousandths of a core.
fn quota(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| {
        let millis = u32::try_from(millis).unwrap_or(u32::MAX);
        (PERIOD / 1000).saturating_mul(millis).max(LEAST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A guest that computes all it may, `turn` at a time, for `seconds`: what it gets.
    fn spin(limit: u64, turn: Duration, seconds: u64) -> Duration {
        let mut budget = CpuBudget::of_limit(limit);
        let (mut now, mut used) = (Duration::ZERO, Duration::ZERO);
        while now < Duration::from_secs(seconds) {
            match budget.pause(now) {
                Some(pause) => {
                    assert!(!pause.is_zero(), "a pause of nothing would be asked for for ever");
                    now += pause;
                }
                None => {
                    budget.spend(turn);
                    now += turn;
                    used += turn;
                }
            }
        }
        used
    }

    #[test]
    fn a_share_is_held_whatever_the_length_of_turns() {
        for limit in [10, 50, 100, 333, 500, 900] {
            for turn in [ms(1), ms(7), ms(10), ms(35)] {
                let expected = Duration::from_secs(30) / 1000 * u32::try_from(limit).unwrap();
                let used = spin(limit, turn, 30);
                let error = used.abs_diff(expected);
                assert!(error <= expected / 20 + turn, "{limit}m in turns of {turn:?}: {used:?}");
            }
        }
    }

    #[test]
    fn without_a_limit_nobody_pauses() {
        let mut budget = CpuBudget::of_limit(0);
        budget.spend(Duration::from_secs(3600));
        assert_eq!(budget.pause(Duration::ZERO), None);
    }

    #[test]
    fn a_limit_of_all_there_is_pauses_nobody_who_has_one_thread() {
        assert_eq!(spin(1000, ms(10), 10), Duration::from_secs(10));
        assert_eq!(spin(u64::MAX, ms(10), 1), Duration::from_secs(1));
    }

    #[test]
    fn what_is_left_is_not_kept() {
        let mut budget = CpuBudget::of_limit(100);
        assert_eq!(budget.pause(Duration::from_secs(60)), None);
        budget.spend(ms(10));
        assert_eq!(budget.pause(Duration::from_secs(60)), Some(PERIOD));
    }

    #[test]
    fn debt_is_paid_by_the_periods_that_follow_and_bounded() {
        let mut budget = CpuBudget::of_limit(100);
        budget.spend(ms(35));
        assert_eq!(budget.pause(ms(40)), Some(ms(260)), "three periods pay 30, and the third leaves 5");
        assert_eq!(budget.pause(ms(300)), None);
        budget.spend(Duration::from_secs(3600));
        let pause = budget.pause(ms(300)).unwrap();
        assert!(pause > Duration::from_secs(9) && pause <= Duration::from_millis(10_100), "{pause:?}");
    }

    #[test]
    fn tiny_limits_are_the_least_that_the_kernel_takes() {
        let used = spin(1, ms(1), 10);
        assert_eq!(used, ms(100), "one millisecond in each of a hundred periods");
    }

    #[test]
    fn time_that_stands_still_or_leaps_is_no_harm() {
        let mut budget = CpuBudget::of_limit(100);
        budget.spend(ms(10));
        assert!(budget.pause(Duration::ZERO).is_some());
        assert_eq!(budget.pause(Duration::MAX), None);
        assert_eq!(budget.pause(Duration::ZERO), None, "the present period goes on");
    }
}
