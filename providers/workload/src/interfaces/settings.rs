//! Settings of an interface: what a workload's interface says in its `config`.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use super::{limits::Limits, server::ServerUrl};
use crate::host_interface::InterfaceError;

/// Whose data it is, in a back end that several share.
///
/// A server, a folder or a bucket that an interface's own settings name is that interface's own: what it keeps there has the
/// names that the guest gave, so that other programs find it, and whoever names the same place twice wants to share it. Where
/// the host offers a place to all of its workloads, each has a part of it: [`Tenant::of`] goes before all names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant(String);

impl Tenant {
    /// A workload's part of what all of them share; no two workloads have the same.
    #[must_use]
    pub fn of(namespace: &str, workload: &str) -> Self {
        Self(format!("{}_x_{}", segment(namespace), segment(workload)))
    }

    /// What goes before the names of buckets and containers. Empty for a place that is not shared.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    pub(super) fn is_alone(&self) -> bool {
        self.0.is_empty()
    }
}

/// A name of letters, digits, dashes and underscores, of which there are only those around the number of each other character,
/// so that what is between two names can be told from them. These are allowed in all names of all back ends but S3.
fn segment(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || c == '-' => c.to_string(),
            c => format!("_{:x}_", u32::from(c)),
        })
        .collect()
}

/// Settings of one interface that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct InvalidSettings {
    /// The setting.
    pub key: String,
    /// What is wrong with it. It does not hold the value, which may be secret.
    pub reason: String,
}

impl From<InvalidSettings> for InterfaceError {
    fn from(error: InvalidSettings) -> Self {
        Self::Setting { key: error.key, reason: error.reason }
    }
}

impl InvalidSettings {
    pub(super) fn new(key: &str, reason: impl Into<String>) -> Self {
        Self { key: key.to_owned(), reason: reason.into() }
    }
}

/// Settings of one interface, as they were written, and whose data it is about.
#[derive(Clone, Default)]
pub struct Settings {
    values: HashMap<String, String>,
    tenant: Tenant,
}

/// Names only: there are passwords among the values.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut keys: Vec<_> = self.values.keys().collect();
        keys.sort_unstable();
        f.debug_struct("Settings").field("keys", &keys).field("tenant", &self.tenant).finish()
    }
}

impl Settings {
    /// What an interface's `config` says.
    #[must_use]
    pub fn new(values: HashMap<String, String>) -> Self {
        Self { values, tenant: Tenant::default() }
    }

    /// The same in a place that several share.
    #[must_use]
    pub fn of_tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// The same with more settings, where nothing is said yet.
    #[must_use]
    pub fn or(mut self, more: &HashMap<String, String>) -> Self {
        for (key, value) in more {
            self.values.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self
    }

    /// Whether they say where data is kept.
    pub(super) fn has_place(&self) -> bool {
        ["backend", "url", "path", "endpoint"].iter().any(|key| self.get(key).is_some())
    }

    pub(super) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// A setting, unless it is empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A setting without which it does not work.
    pub(super) fn required(&self, key: &str, why: &str) -> Result<&str, InvalidSettings> {
        self.get(key).ok_or_else(|| InvalidSettings::new(key, format!("it is missing; {why}")))
    }

    /// The address of a server.
    pub(super) fn server(&self) -> Result<ServerUrl, InvalidSettings> {
        let url = self.required("url", "it says where the server is")?;
        ServerUrl::parse(url).map_err(|reason| InvalidSettings::new("url", reason))
    }

    /// A folder of this machine.
    pub(super) fn path(&self) -> Result<PathBuf, InvalidSettings> {
        let path = PathBuf::from(self.required("path", "it names the folder for the files")?);
        if !path.is_absolute() {
            return Err(InvalidSettings::new("path", "it is not absolute"));
        }
        Ok(path)
    }

    /// The names of a list that is separated by commas. `None` where nothing is said.
    pub(super) fn list(&self, key: &str) -> Option<Vec<String>> {
        let text = self.get(key)?;
        Some(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// `true` or `false`; false where nothing is said.
    pub(super) fn flag(&self, key: &str) -> Result<bool, InvalidSettings> {
        match self.get(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(InvalidSettings::new(key, "it is neither true nor false")),
        }
    }

    /// `buckets` and `read_only`.
    pub(super) fn access(&self) -> Result<Access, InvalidSettings> {
        Ok(Access { buckets: self.list("buckets"), is_read_only: self.flag("read_only")? })
    }

    /// [`Limits`], with what is said of them.
    ///
    /// # Errors
    /// Where a number is none, or is 0.
    pub fn limits(&self) -> Result<Limits, InvalidSettings> {
        let mut limits = Limits::default();
        let number = |key: &str| {
            let positive = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
            let wrong = || InvalidSettings::new(key, "it is not a whole number above 0");
            self.get(key).map(|text| positive(text).ok_or_else(wrong)).transpose()
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(milliseconds) = number("timeout_ms")? {
            limits.deadline = Duration::from_millis(milliseconds.min(LONGEST_DEADLINE_MS));
        }
        if let Some(most) = number("max_in_flight")? {
            limits.in_flight = size(most);
        }
        if let Some(most) = number("max_value_bytes")? {
            limits.value_bytes = size(most);
        }
        if let Some(most) = number("max_page_keys")? {
            limits.page_keys = size(most).min(Limits::default().page_keys);
        }
        if let Some(most) = number("max_blob_bytes")? {
            limits.blob_bytes = most;
        }
        if let Some(most) = number("max_memory_bytes")? {
            limits.memory_bytes = most;
        }
        Ok(limits)
    }
}

/// Longer than this nobody waits, in milliseconds: five minutes.
const LONGEST_DEADLINE_MS: u64 = 300_000;

/// What of a back end a guest gets at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// Names of buckets or containers; all of them where there is no list.
    pub(super) buckets: Option<Vec<String>>,
    pub(super) is_read_only: bool,
}

impl Access {
    pub(super) fn allows(&self, bucket: &str) -> bool {
        self.buckets.as_ref().is_none_or(|buckets| buckets.iter().any(|allowed| allowed == bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn limits_are_read_and_wrong_ones_named() {
        let limits = settings(&[("timeout_ms", "250"), ("max_value_bytes", "10"), ("max_page_keys", "5000")]);
        let limits = limits.limits().unwrap();
        assert_eq!((limits.deadline.as_millis(), limits.value_bytes, limits.page_keys), (250, 10, 1000));
        for wrong in ["0", "-1", "many", "1.5"] {
            let error = settings(&[("max_in_flight", wrong)]).limits().unwrap_err();
            assert_eq!(error.key, "max_in_flight");
        }
        assert_eq!(settings(&[("timeout_ms", "")]).limits().unwrap(), Limits::default());
    }

    #[test]
    fn settings_show_no_values() {
        let settings = settings(&[("url", "redis://user:secret@host")]);
        assert!(!format!("{settings:?}").contains("secret"));
        assert!(!settings.server().unwrap().to_string().contains("secret"));
    }

    #[test]
    fn no_two_workloads_are_one_tenant() {
        let names = [
            ("a", "b.c"),
            ("a.b", "c"),
            ("a", "b_2e_c"),
            ("a", "b-c"),
            ("a-b", "c"),
            ("", "a.b"),
            ("a", "b/c"),
            ("a_x_b", "c"),
            ("a", "b_x_c"),
        ];
        let tenants: Vec<_> = names.iter().map(|(namespace, name)| Tenant::of(namespace, name)).collect();
        for (index, tenant) in tenants.iter().enumerate() {
            assert!(!tenants[..index].contains(tenant), "{tenant:?}");
            assert!(
                tenant.name().chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)),
                "{tenant:?}"
            );
        }
    }

    #[test]
    fn access_is_to_what_is_listed() {
        let access = settings(&[("buckets", "a, b"), ("read_only", "true")]).access().unwrap();
        assert!(access.allows("a") && access.allows("b") && !access.allows("c") && access.is_read_only);
        assert!(settings(&[]).access().unwrap().allows("c"));
        assert!(settings(&[("read_only", "yes")]).access().is_err());
    }
}
