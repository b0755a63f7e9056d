//! Versions of the CNI specification.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A version of the specification that is spoken here. Earlier ones have results of another shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum SpecVersion {
    /// The first with chains of plugins.
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// Brings CHECK, and the previous result for DEL.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// Addresses do not tell their family any more.
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// Brings GC and STATUS.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl SpecVersion {
    pub(crate) const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Plugins can be asked whether what they have made is still there, and learn on DEL what they had made.
    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Plugins can be asked whether they are ready, and told which attachments there are.
    pub(crate) fn has_status_and_gc(self) -> bool {
        self >= Self::V1_1_0
    }

    /// An address in a result says whether it is `"4"` or `"6"`.
    pub(crate) fn has_families(self) -> bool {
        self < Self::V1_0_0
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version that is not spoken here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version {0:?} of the CNI specification is not supported, only 0.3.0 to 1.1.0 are")]
pub(crate) struct UnknownVersion(String);

impl FromStr for SpecVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| UnknownVersion(text.chars().take(20).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        for version in SpecVersion::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
            assert_eq!(serde_json::to_value(version).unwrap(), version.as_str());
        }
        for text in ["", "0.2.0", "1.2.0", "1.0", "v1.0.0"] {
            assert_eq!(text.parse::<SpecVersion>(), Err(UnknownVersion(text.to_owned())));
        }
    }

    #[test]
    fn what_came_later_is_not_asked_of_earlier_ones() {
        let with = |has: fn(SpecVersion) -> bool| SpecVersion::ALL.into_iter().filter(|v| has(*v)).count();
        assert_eq!(with(SpecVersion::has_check), 3);
        assert_eq!(with(SpecVersion::has_status_and_gc), 1);
        assert_eq!(with(SpecVersion::has_families), 3);
        assert_eq!(SpecVersion::ALL.iter().max(), Some(&SpecVersion::NEWEST));
    }
}
