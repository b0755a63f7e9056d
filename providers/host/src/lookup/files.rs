//! What a pod's files say about names.

/// The texts of a pod's `/etc/resolv.conf` and `/etc/hosts`, by which look-ups of its guests go. They are values, not paths:
/// what a guest makes of the files that it sees changes nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFiles {
    resolv_conf: Box<str>,
    hosts: Box<str>,
}

impl NameFiles {
    /// Any texts. Lines that make no sense are passed over, as a C library does.
    pub fn new(resolv_conf: impl Into<Box<str>>, hosts: impl Into<Box<str>>) -> Self {
        Self { resolv_conf: resolv_conf.into(), hosts: hosts.into() }
    }

    /// The text of `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(&self) -> &str {
        &self.resolv_conf
    }

    /// The text of `/etc/hosts`.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// Bytes that are held for a guest.
    pub(crate) fn held(&self) -> u64 {
        (self.resolv_conf.len() + self.hosts.len()) as u64
    }
}
