//! Arguments as kubectl's commands take them. Pure.

use std::ffi::OsString;

use crate::{
    api::ListOptions,
    error::{Error, Result},
    output::Output,
};

/// What the host acts on: which cluster is asked, and as whom. It has done so before a plugin begins.
const OF_THE_HOST: [&str; 7] =
    ["--kubeconfig", "--context", "--cluster", "--user", "--as", "--as-uid", "--as-group"];

/// A flag of kubectl's that a plugin takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommonFlag {
    /// `-n`, `--namespace`
    Namespace,
    /// `-A`, `--all-namespaces`
    AllNamespaces,
    /// `-o`, `--output`
    Output,
    /// `-l`, `--selector`
    Selector,
    /// `--field-selector`
    FieldSelector,
    /// `-w`, `--watch`
    Watch,
    /// `--no-headers`
    NoHeaders,
}

/// What was said by kubectl's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommonFlags {
    /// `-n`
    pub namespace: Option<String>,
    /// `-A`
    pub all_namespaces: bool,
    /// `-o`
    pub output: Output,
    /// `-l` and `--field-selector`
    pub selected: ListOptions,
    /// `-w`
    pub watch: bool,
    /// `--no-headers`
    pub no_headers: bool,
}

/// An argument that is the plugin's own affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A flag as it is written, without its value: `--key`, `-k`
    Flag(String),
    /// A word that is no flag.
    Word(String),
}

/// The arguments of a plugin, one after the other.
///
/// ```
/// use kubectl_plugin::{Argument, Arguments, CommonFlag};
///
/// let mut arguments = Arguments::new(["web", "--key", "a", "-n", "shop"], &[CommonFlag::Namespace]);
/// let (mut names, mut key) = (Vec::new(), None);
/// while let Some(argument) = arguments.next()? {
///     match argument {
///         Argument::Word(name) => names.push(name),
///         Argument::Flag(flag) if flag == "--key" => key = Some(arguments.value()?),
///         Argument::Flag(flag) => return Err(Arguments::unknown(&flag)),
///     }
/// }
/// assert_eq!((names.join(" "), key.as_deref()), ("web".to_owned(), Some("a")));
/// assert_eq!(arguments.flags.namespace.as_deref(), Some("shop"));
/// # Ok::<(), kubectl_plugin::Error>(())
/// ```
#[derive(Debug)]
pub struct Arguments {
    parser: lexopt::Parser,
    /// The flag that was read last is one letter, behind which others may stand.
    is_short: bool,
    taken: &'static [CommonFlag],
    /// What kubectl's flags have said so far.
    pub flags: CommonFlags,
}

impl Arguments {
    /// Of words behind the plugin's name. `taken` are kubectl's flags that mean something to it.
    pub fn new(words: impl IntoIterator<Item = impl Into<OsString>>, taken: &'static [CommonFlag]) -> Self {
        let words = words.into_iter().map(Into::into).collect::<Vec<_>>();
        Self {
            parser: lexopt::Parser::from_args(words),
            is_short: false,
            taken,
            flags: CommonFlags::default(),
        }
    }

    /// The next argument that is neither a flag of kubectl's that the plugin takes nor one of the host's.
    ///
    /// # Errors
    /// When a flag has no value where it needs one or a wrong one, and [`Error::Help`] for `-h` and `--help`.
    // It lends nothing, but whoever calls it asks for values in between.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Argument>> {
        loop {
            let argument = self.parser.next().map_err(wrong)?;
            self.is_short = matches!(argument, Some(lexopt::Arg::Short(_)));
            let flag = match argument {
                None => return Ok(None),
                Some(lexopt::Arg::Value(word)) => {
                    return Ok(Some(Argument::Word(word.to_string_lossy().into_owned())));
                }
                Some(lexopt::Arg::Long(name)) => format!("--{name}"),
                Some(lexopt::Arg::Short(name)) => format!("-{name}"),
            };
            if flag == "-h" || flag == "--help" {
                return Err(Error::Help);
            }
            if OF_THE_HOST.contains(&flag.as_str()) {
                self.value()?;
            } else if !self.take(&flag)? {
                return Ok(Some(Argument::Flag(flag)));
            }
        }
    }

    /// The value of the flag that was returned last.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(&mut self) -> Result<String> {
        Ok(self.parser.value().map_err(wrong)?.to_string_lossy().into_owned())
    }

    /// Whether the flag that was returned last is set: it is, without `=false`, which the long forms may have.
    ///
    /// # Errors
    /// When it has another value.
    pub fn switch(&mut self) -> Result<bool> {
        if self.is_short {
            return Ok(true);
        }
        let value = self.parser.optional_value().map(|value| value.to_string_lossy().into_owned());
        match value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => Err(Error::usage(format!("invalid argument {value:?}: neither true nor false"))),
        }
    }

    /// The error about a flag that the plugin does not know.
    #[must_use]
    pub fn unknown(flag: &str) -> Error {
        match flag.strip_prefix("--") {
            Some(_) => Error::usage(format!("unknown flag: {flag}")),
            None => {
                Error::usage(format!("unknown shorthand flag: '{}' in {flag}", flag.trim_start_matches('-')))
            }
        }
    }

    /// Takes a flag of kubectl's, if the plugin takes it.
    fn take(&mut self, flag: &str) -> Result<bool> {
        let common = match flag {
            "-n" | "--namespace" => CommonFlag::Namespace,
            "-A" | "--all-namespaces" => CommonFlag::AllNamespaces,
            "-o" | "--output" => CommonFlag::Output,
            "-l" | "--selector" => CommonFlag::Selector,
            "--field-selector" => CommonFlag::FieldSelector,
            "-w" | "--watch" => CommonFlag::Watch,
            "--no-headers" => CommonFlag::NoHeaders,
            _ => return Ok(false),
        };
        if !self.taken.contains(&common) {
            return Ok(false);
        }
        match common {
            CommonFlag::Namespace => {
                self.flags.namespace = Some(self.value()?).filter(|name| !name.is_empty())
            }
            CommonFlag::AllNamespaces => self.flags.all_namespaces = self.switch()?,
            CommonFlag::Output => self.flags.output = self.value()?.parse()?,
            CommonFlag::Selector => self.flags.selected.labels = self.value()?,
            CommonFlag::FieldSelector => self.flags.selected.fields = self.value()?,
            CommonFlag::Watch => self.flags.watch = self.switch()?,
            CommonFlag::NoHeaders => self.flags.no_headers = self.switch()?,
        }
        Ok(true)
    }
}

fn wrong(error: lexopt::Error) -> Error {
    match error {
        lexopt::Error::MissingValue { option: Some(flag) } => {
            Error::usage(format!("flag needs an argument: {flag}"))
        }
        lexopt::Error::UnexpectedValue { option, value } => {
            Error::usage(format!("flag {option} takes no value, not {:?}", value.to_string_lossy()))
        }
        other => Error::usage(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[CommonFlag] = &[
        CommonFlag::Namespace,
        CommonFlag::AllNamespaces,
        CommonFlag::Output,
        CommonFlag::Selector,
        CommonFlag::FieldSelector,
        CommonFlag::Watch,
        CommonFlag::NoHeaders,
    ];

    fn read(words: &[&str], taken: &'static [CommonFlag]) -> Result<(Vec<String>, CommonFlags)> {
        let mut arguments = Arguments::new(words.iter().copied(), taken);
        let mut own = Vec::new();
        while let Some(argument) = arguments.next()? {
            match argument {
                Argument::Word(word) => own.push(word),
                Argument::Flag(flag) if flag == "--key" => own.push(format!("key {}", arguments.value()?)),
                Argument::Flag(flag) => return Err(Arguments::unknown(&flag)),
            }
        }
        Ok((own, arguments.flags))
    }

    #[test]
    fn kubectls_flags_are_understood_in_all_their_forms() {
        let flags = |words: &[&str]| read(words, ALL).unwrap().1;
        for words in
            [&["-n", "shop"][..], &["-nshop"], &["-n=shop"], &["--namespace", "shop"], &["--namespace=shop"]]
        {
            assert_eq!(flags(words).namespace.as_deref(), Some("shop"), "{words:?}");
        }
        let all = flags(&["-Aw", "-o", "yaml", "-lapp=web,tier=x", "--field-selector=a=b", "--no-headers"]);
        let selected = ListOptions { labels: "app=web,tier=x".to_owned(), fields: "a=b".to_owned() };
        let expected = CommonFlags {
            namespace: None,
            all_namespaces: true,
            output: Output::Yaml,
            selected,
            watch: true,
            no_headers: true,
        };
        assert_eq!(all, expected);
        assert!(!flags(&["-A", "--all-namespaces=false"]).all_namespaces);
    }

    #[test]
    fn words_and_flags_may_be_mixed_and_the_hosts_are_passed_over() {
        let (own, flags) =
            read(&["a", "--context", "c", "--as=u", "--key", "k", "-n", "x", "b", "--", "--key"], ALL)
                .unwrap();
        assert_eq!(own, ["a", "key k", "b", "--key"]);
        assert_eq!(flags.namespace.as_deref(), Some("x"));
    }

    #[test]
    fn mistakes_are_told_as_kubectl_tells_them() {
        let told = |words: &[&str], taken| read(words, taken).unwrap_err().to_string();
        assert_eq!(told(&["--nope"], ALL), "error: unknown flag: --nope");
        assert_eq!(told(&["-x"], ALL), "error: unknown shorthand flag: 'x' in -x");
        assert_eq!(told(&["-A"], &[]), "error: unknown shorthand flag: 'A' in -A");
        assert_eq!(told(&["-n"], ALL), "error: flag needs an argument: -n");
        assert_eq!(told(&["--key"], ALL), "error: flag needs an argument: --key");
        let perhaps = told(&["--all-namespaces=perhaps"], ALL);
        assert_eq!(perhaps, "error: invalid argument \"perhaps\": neither true nor false");
        assert_eq!(told(&["-A=perhaps"], ALL), "error: flag -A takes no value, not \"perhaps\"");
        assert!(told(&["-o", "xml"], ALL).contains("allowed formats"));
        assert!(told(&["--server", "https://elsewhere"], ALL).contains("unknown flag: --server"));
    }

    #[test]
    fn help_is_asked_for_anywhere() {
        for words in [&["-h"][..], &["a", "--help"], &["-Ah"]] {
            assert!(matches!(read(words, ALL), Err(Error::Help)), "{words:?}");
        }
    }
}
