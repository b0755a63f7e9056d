//! What a module says of itself as a plugin, in the annotations of its image, and what of it its user must agree to. Pure.

use std::collections::BTreeMap;

use crate::{
    access::{AccessRules, InvalidAccess},
    grants::{Grants, InvalidGrant},
    record::PluginRecord,
};

/// What it wants besides the API server: grants, with white space or commas between.
const GRANTS: &str = "plugin.kubewasm.dev/grants";
/// All that it asks of the API server: rules like those of a Role, in YAML or JSON.
const ACCESS: &str = "plugin.kubewasm.dev/access";
/// `true`: it answers `__complete` with completions, as Cobra's programs do.
const COMPLETIONS: &str = "plugin.kubewasm.dev/completions";

/// What a module wants as a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginWishes {
    /// Besides the API server.
    pub grants: Grants,
    /// Of the API server; `None` where it does not say.
    pub access: Option<AccessRules>,
    /// It knows completions.
    pub completions: bool,
}

/// An annotation that is not understood. The plugin is not taken: what it says is less than what it would get otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWish {
    /// Its grants.
    #[error("its annotation {GRANTS} is not right: {0}")]
    Grants(#[from] InvalidGrant),
    /// Its manifest.
    #[error("its annotation {ACCESS} is not right: {0}")]
    Access(#[from] InvalidAccess),
    /// Whether it knows completions.
    #[error("its annotation {COMPLETIONS} is neither true nor false")]
    Completions,
}

/// What a user must agree to before a plugin is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsentNeeded {
    /// Grants that it does not have yet.
    pub grants: Grants,
    /// It asks more of the API server than the version that is here.
    pub more_access: bool,
}

impl ConsentNeeded {
    /// Nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.grants.is_empty() && !self.more_access
    }
}

impl PluginWishes {
    /// Reads an image's annotations. Those of others are theirs.
    ///
    /// # Errors
    /// [`InvalidWish`].
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Self, InvalidWish> {
        let grants =
            annotations.get(GRANTS).map_or(Ok(Grants::default()), |text| Grants::parse_list(text))?;
        let access = annotations.get(ACCESS).map(|text| text.parse()).transpose()?;
        let completions = match annotations.get(COMPLETIONS).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(InvalidWish::Completions),
        };
        Ok(Self { grants, access, completions })
    }

    /// What is new in this for somebody who has agreed to `known` already, or to nothing, and grants these now. That a plugin
    /// asks things of the API server is why it is pulled; that it asks for more than it did is news.
    #[must_use]
    pub fn consent_needed(&self, known: Option<&PluginRecord>, granted: &Grants) -> ConsentNeeded {
        let more_access = match known.map(|known| (&known.access, &self.access)) {
            None | Some((None, _)) => false,
            Some((Some(_), None)) => true,
            Some((Some(known), Some(wanted))) => !known.cover(wanted),
        };
        ConsentNeeded { grants: granted.missing(&self.grants), more_access }
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_modules::Digest;

    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<PluginWishes, InvalidWish> {
        let owned = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        PluginWishes::read(&owned.collect())
    }

    const PODS: &str = "[{verbs: [get, list], apiGroups: [''], resources: [pods]}]";

    #[test]
    fn annotations_are_read_and_those_of_others_left_alone() {
        assert_eq!(read(&[("org.opencontainers.image.title", "x")]), Ok(PluginWishes::default()));
        let all = read(&[(GRANTS, "fs=ro:. env=A"), (ACCESS, PODS), (COMPLETIONS, "true")]).unwrap();
        assert_eq!(all.grants, Grants::parse_list("env=A,fs=ro:.").unwrap());
        assert_eq!(all.access, Some(PODS.parse().unwrap()));
        assert!(all.completions);
        for (name, value) in [(GRANTS, "everything"), (ACCESS, "{}"), (COMPLETIONS, "yes")] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_user_is_asked_about_what_is_new() {
        let known = |access: Option<&str>| PluginRecord {
            name: "x".parse().unwrap(),
            source: "r.example/x".to_owned(),
            pinned: "r.example/x".to_owned(),
            digest: Digest::of(b"x"),
            grants: Grants::default(),
            access: access.map(|text| text.parse().unwrap()),
            access_is_users: false,
            completions: false,
            signature_policy: None,
        };
        let wishes = |access: &str| read(&[(ACCESS, access), (GRANTS, "env=A env=B")]).unwrap();
        let granted = Grants::parse_list("env=A").unwrap();
        let first = wishes(PODS).consent_needed(None, &granted);
        let expected = ConsentNeeded { grants: Grants::parse_list("env=B").unwrap(), more_access: false };
        assert_eq!(first, expected);
        let all = Grants::parse_list("env=A env=B").unwrap();
        let again = |access: &str, before| wishes(access).consent_needed(Some(&known(before)), &all);
        assert!(again(PODS, Some(PODS)).is_nothing());
        assert!(again(PODS, None).is_nothing(), "it could ask for anything before");
        assert!(again("[{verbs: ['*'], apiGroups: [''], resources: [pods]}]", Some(PODS)).more_access);
        let silent = PluginWishes { access: None, ..PluginWishes::default() };
        assert!(
            silent.consent_needed(Some(&known(Some(PODS))), &all).more_access,
            "it could ask for anything now"
        );
    }
}
