//! Names of interfaces: `namespace:package/interface@version`.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

/// Interfaces of one package, and how a workload wants them.
///
/// It is read from the text that names it, with any number of interfaces: `wasi:keyvalue/store,batch@0.2.0-draft`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitInterface {
    /// `wasi`.
    pub namespace: String,
    /// `keyvalue`.
    pub package: String,
    /// `store`, `batch`.
    pub interfaces: HashSet<String>,
    /// `0.2.0-draft`. Without one, any that the host has.
    pub version: Option<String>,
    /// Settings, which the host interface knows.
    pub config: HashMap<String, String>,
    /// Tells several of the same package apart, each with settings of its own: a component reaches this one by an import of
    /// this name, or where the interface takes a name, by that.
    pub name: Option<String>,
}

impl WitInterface {
    /// `namespace:package`.
    #[must_use]
    pub fn package_name(&self) -> String {
        format!("{}:{}", self.namespace, self.package)
    }

    /// Whether it has this interface of a component.
    #[must_use]
    pub fn has(&self, wanted: &InterfaceName) -> bool {
        self.namespace == wanted.namespace
            && self.package == wanted.package
            && self.interfaces.contains(&wanted.interface)
            && match (&self.version, &wanted.version) {
                (Some(version), Some(wanted)) => is_compatible(version, wanted),
                (None, _) | (_, None) => true,
            }
    }
}

impl From<&str> for WitInterface {
    fn from(text: &str) -> Self {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (text, None),
        };
        let (package, interfaces) = name.split_once('/').unwrap_or((name, ""));
        let (namespace, package) = package.split_once(':').unwrap_or(("", package));
        let interfaces = interfaces.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self {
            namespace: namespace.to_owned(),
            package: package.to_owned(),
            interfaces: interfaces.map(str::to_owned).collect(),
            version,
            ..Self::default()
        }
    }
}

impl From<String> for WitInterface {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl fmt::Display for WitInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.package)?;
        let mut interfaces: Vec<_> = self.interfaces.iter().map(String::as_str).collect();
        interfaces.sort_unstable();
        if !interfaces.is_empty() {
            write!(f, "/{}", interfaces.join(","))?;
        }
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "@{version}"))
    }
}

/// What a host interface is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitWorld {
    /// What it calls in components.
    pub imports: Vec<WitInterface>,
    /// What components get.
    pub exports: Vec<WitInterface>,
}

/// The full name of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName {
    /// `wasi`.
    pub namespace: String,
    /// `keyvalue`.
    pub package: String,
    /// `store`.
    pub interface: String,
    /// `0.2.0-draft`.
    pub version: Option<String>,
}

impl InterfaceName {
    /// Reads one; `None` for a text that names no interface.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (text, None),
        };
        let (package, interface) = name.split_once('/')?;
        let (namespace, package) = package.split_once(':')?;
        let [namespace, package, interface] = [namespace, package, interface].map(str::to_owned);
        Some(Self { namespace, package, interface, version })
    }

    /// Whether what is exported under this name serves an import of that one.
    #[must_use]
    pub fn serves(&self, wanted: &Self) -> bool {
        (&self.namespace, &self.package, &self.interface)
            == (&wanted.namespace, &wanted.package, &wanted.interface)
            && match (&self.version, &wanted.version) {
                (Some(version), Some(wanted)) => is_compatible(version, wanted),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

impl InterfaceName {
    /// Its name, with as much of the version as all have that go together with it: `wasi:http/types@0.2`.
    pub(crate) fn series(&self) -> String {
        let Self { namespace, package, interface, version } = self;
        let name = format!("{namespace}:{package}/{interface}");
        match version.as_deref().map(|version| (version, series(version))) {
            None => name,
            Some((version, None)) => format!("{name}@{version}"),
            Some((_, Some((0, 0, patch)))) => format!("{name}@0.0.{patch}"),
            Some((_, Some((0, minor, _)))) => format!("{name}@0.{minor}"),
            Some((_, Some((major, ..)))) => format!("{name}@{major}"),
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.namespace, self.package, self.interface)?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "@{version}"))
    }
}

/// Whether two versions promise to go together by the rules of semantic versioning: the same major number, or below 1.0 the
/// same minor one. Drafts promise nothing, and must be the same. What one of them has that the other lacks is found when they
/// are linked.
fn is_compatible(version: &str, wanted: &str) -> bool {
    version == wanted || series(version).is_some_and(|series_of| Some(series_of) == series(wanted))
}

/// The numbers of a version that must be the same; `None` for a draft.
fn series(version: &str) -> Option<(u64, u64, u64)> {
    let version = version.split('+').next()?;
    let mut numbers = version.split('.').map(|number| number.parse::<u64>().ok());
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    match (major, minor) {
        (0, 0) => Some((0, 0, patch)),
        (0, minor) => Some((0, minor, 0)),
        (major, _) => Some((major, 0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in
            ["wasi:http/incoming-handler@0.2.0", "wasi:keyvalue/batch,store@0.2.0-draft", "a:b", "a:b/c"]
        {
            assert_eq!(WitInterface::from(text).to_string(), text);
        }
        for (text, is_name) in [("a:b/c@1.0.0", true), ("a:b/c", true), ("a:b", false), ("run", false)] {
            assert_eq!(
                InterfaceName::parse(text).map(|name| name.to_string()).as_deref(),
                is_name.then_some(text)
            );
        }
    }

    #[test]
    fn versions_go_together_that_promise_to() {
        for (version, wanted, expected) in [
            ("1.0.0", "1.2.3", true),
            ("1.0.0", "2.0.0", false),
            ("0.2.0", "0.2.6", true),
            ("0.2.0", "0.3.0", false),
            ("0.0.1", "0.0.2", false),
            ("0.2.0-draft", "0.2.0-draft", true),
            ("0.2.0-draft", "0.2.0-draft2", false),
            ("0.2.0-draft", "0.2.0", false),
            ("1.0.0+a", "1.0.1+b", true),
        ] {
            let name = |version: &str| InterfaceName::parse(&format!("a:b/c@{version}")).unwrap();
            assert_eq!(name(version).serves(&name(wanted)), expected, "{version} for {wanted}");
        }
        let [with, without] = ["a:b/c@1.0.0", "a:b/c"].map(|text| InterfaceName::parse(text).unwrap());
        assert!(!with.serves(&without) && !without.serves(&with) && without.serves(&without));
    }
}
