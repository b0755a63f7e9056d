//! Which images are removed, after upstream's `pkg/kubelet/images/image_gc_manager.go`. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::{runtime::ImageUse, supply::Disk};

/// When images are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImagePolicy {
    /// Percent of the file system in use above which images are removed; 100 never.
    pub(crate) high_percent: u32,
    /// Percent in use at which that ends.
    pub(crate) low_percent: u32,
    /// How long an image has been here at the least.
    pub(crate) minimum_age: Duration,
    /// How long an unused image stays at the most; zero is for ever.
    pub(crate) maximum_age: Duration,
}

impl ImagePolicy {
    /// Bytes to free so that the low threshold is met, when the high one is reached.
    pub(crate) fn excess(&self, disk: &Disk) -> Option<u64> {
        if disk.capacity == 0 || self.high_percent >= 100 {
            return None;
        }
        let (capacity, available) = (u128::from(disk.capacity), u128::from(disk.available));
        // Rounded as upstream does: the share that is free is cut to whole percents.
        let used_percent = 100 - (available * 100 / capacity).min(100);
        if used_percent < u128::from(self.high_percent) {
            return None;
        }
        let kept_free = capacity * u128::from(100_u32.saturating_sub(self.low_percent)) / 100;
        u64::try_from(kept_free.saturating_sub(available)).ok().filter(|bytes| *bytes > 0)
    }

    /// The images that may be removed at `now`, the least recently used first. `is_wanted` tells those that pods are
    /// about to use.
    pub(crate) fn removable(
        &self,
        images: Vec<ImageUse>,
        is_wanted: impl Fn(&ImageUse) -> bool,
        now: Timestamp,
    ) -> Vec<ImageUse> {
        let mut removable: Vec<ImageUse> = images
            .into_iter()
            .filter(|image| {
                !image.in_use && !is_wanted(image) && since(image.arrived_at, now) >= self.minimum_age
            })
            .collect();
        removable.sort_by_key(|image| (image.last_used_at, image.arrived_at));
        removable
    }

    /// The image has not been used for so long that it goes whatever room there is.
    pub(crate) fn is_too_old(&self, image: &ImageUse, now: Timestamp) -> bool {
        !self.maximum_age.is_zero() && since(image.last_used_at, now) > self.maximum_age
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Image;

    const POLICY: ImagePolicy = ImagePolicy {
        high_percent: 85,
        low_percent: 80,
        minimum_age: Duration::from_secs(120),
        maximum_age: Duration::from_secs(3600),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn image(id: &str, arrived: i64, used: i64) -> ImageUse {
        ImageUse {
            image: Image { id: id.to_owned(), ..Image::default() },
            arrived_at: at(arrived),
            last_used_at: at(used),
            in_use: false,
        }
    }

    #[test]
    fn from_the_high_threshold_down_to_the_low_one() {
        let disk = |available| Disk { capacity: 1000, available, ..Disk::default() };
        for (available, expected) in
            [(161, None), (160, None), (159, Some(41)), (150, Some(50)), (0, Some(200))]
        {
            assert_eq!(POLICY.excess(&disk(available)), expected, "{available}");
        }
        assert_eq!(ImagePolicy { high_percent: 100, ..POLICY }.excess(&disk(0)), None);
        assert_eq!(POLICY.excess(&Disk::default()), None, "it could not be read");
    }

    #[test]
    fn the_least_recently_used_go_first_and_what_is_needed_stays() {
        let images = vec![
            image("new", 950, 950),
            image("used", 0, 0),
            image("wanted", 0, 0),
            image("late", 0, 900),
            image("early", 10, 100),
            image("first", 0, 100),
        ];
        let images = images.into_iter().map(|image| ImageUse { in_use: image.image.id == "used", ..image });
        let wanted = |image: &ImageUse| image.image.id == "wanted";
        let removable = POLICY.removable(images.collect(), wanted, at(1000));
        let ids: Vec<_> = removable.iter().map(|image| image.image.id.as_str()).collect();
        assert_eq!(ids, ["first", "early", "late"]);
    }

    #[test]
    fn age_alone_removes_where_that_is_wanted() {
        let old = image("a", 0, 100);
        assert!(!POLICY.is_too_old(&old, at(3700)));
        assert!(POLICY.is_too_old(&old, at(3701)));
        assert!(!ImagePolicy { maximum_age: Duration::ZERO, ..POLICY }.is_too_old(&old, at(1 << 30)));
    }
}
