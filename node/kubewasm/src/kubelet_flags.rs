//! The kubelet's flags that are aliases of configuration fields, as a part of the command line.
//!
//! What there is, is the kubelet crate's table; here it becomes arguments.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use kubewasm_kubelet::config::flags::{FIELD_FLAGS, FieldFlag, FlagShape, GivenFlag, IDLE_FLAGS};

/// The flags that were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct KubeletFlagArgs(Vec<GivenFlag>);

impl KubeletFlagArgs {
    pub(crate) fn into_given(self) -> Vec<GivenFlag> {
        self.0
    }
}

impl FromArgMatches for KubeletFlagArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let names = FIELD_FLAGS.iter().map(|flag| flag.name).chain(IDLE_FLAGS);
        let given = names.filter_map(|name| {
            let values = matches.get_many::<String>(name)?.cloned().collect();
            Some(GivenFlag { name: name.to_owned(), values })
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for KubeletFlagArgs {
    fn augment_args(command: Command) -> Command {
        let command = FIELD_FLAGS.iter().fold(command, |command, flag| command.arg(field(flag)));
        IDLE_FLAGS.iter().fold(command, |command, name| {
            command.arg(any(name).num_args(0..=1).hide(true).help("Accepted, and without effect."))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn any(name: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::Append)
        .allow_hyphen_values(true)
        .default_missing_value("true")
        .help_heading("Flags of the kubelet, for fields of --config")
        .hide_short_help(true)
}

fn field(flag: &FieldFlag) -> Arg {
    let argument = any(flag.name).help(format!("Sets {}.", flag.field));
    let value = match flag.shape {
        // As in the kubelet: the flag alone, or the value behind a sign of equality.
        FlagShape::Bool => return argument.num_args(0..=1).require_equals(true).value_name("true|false"),
        FlagShape::Text => "TEXT",
        FlagShape::Number => "NUMBER",
        FlagShape::List => "ITEM,…",
        FlagShape::Pairs => "KEY=VALUE,…",
        FlagShape::Thresholds => "SIGNAL<VALUE,…",
        FlagShape::Gates => "GATE=true,…",
        FlagShape::Headers => "NAME:VALUE,…",
    };
    argument.num_args(1).value_name(value)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: KubeletFlagArgs,
    }

    fn given(arguments: &[&str]) -> Vec<(String, Vec<String>)> {
        let line = Line::try_parse_from([&["kubelet"], arguments].concat());
        line.map(|line| line.flags.into_given().into_iter().map(|flag| (flag.name, flag.values)).collect())
            .unwrap_or_default()
    }

    #[test]
    fn flags_are_taken_as_kubelets_are_given_them() {
        let flag = |name: &str, values: &[&str]| {
            (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(
            given(&[
                "--cluster-dns=10.0.0.1",
                "--cluster-dns",
                "10.0.0.2",
                "--register-node",
                "--anonymous-auth=false",
                "--oom-score-adj",
                "-999",
                "--pod-infra-container-image=registry.k8s.io/pause:3.10",
                "--exit-on-lock-contention",
            ]),
            [
                flag("anonymous-auth", &["false"]),
                flag("cluster-dns", &["10.0.0.1", "10.0.0.2"]),
                flag("oom-score-adj", &["-999"]),
                flag("register-node", &["true"]),
                flag("exit-on-lock-contention", &["true"]),
                flag("pod-infra-container-image", &["registry.k8s.io/pause:3.10"]),
            ]
        );
        assert_eq!(given(&["--register-node", "false"]), [], "is refused, as by the kubelet");
    }
}
