//! argv of a container.

use k8s_openapi::api::core::v1::Container;

use super::expand::expand;
use crate::runtime::Image;

/// argv: `command` puts the image's ENTRYPOINT and CMD out of force, `args` alone its CMD. `$(VAR)` is
/// replaced from `environment`, in what the pod says and not in what the image says.
///
/// `None` when neither pod nor image names anything to run.
#[must_use]
pub fn argv(container: &Container, image: &Image, environment: &[(String, String)]) -> Option<Vec<String>> {
    let lookup = |name: &str| environment.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let expanded = |texts: &[String]| -> Vec<String> { texts.iter().map(|t| expand(t, lookup)).collect() };
    let command = container.command.as_deref().filter(|c| !c.is_empty());
    let args = container.args.as_deref().filter(|a| !a.is_empty());
    let argv = match (command, args) {
        (Some(command), args) => [expanded(command), expanded(args.unwrap_or_default())].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), expanded(args)].concat(),
        (None, None) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    };
    (!argv.is_empty()).then_some(argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_and_args_against_the_image() {
        type Texts = &'static [&'static str];
        let table: &[(Texts, Texts, Texts, Texts, Texts)] = &[
            // entrypoint, cmd, command, args, argv
            (&["/ep"], &["cmd"], &[], &[], &["/ep", "cmd"]),
            (&["/ep"], &["cmd"], &[], &["a"], &["/ep", "a"]),
            (&["/ep"], &["cmd"], &["c"], &[], &["c"]),
            (&["/ep"], &["cmd"], &["c"], &["a"], &["c", "a"]),
            (&[], &["/cmd", "x"], &[], &[], &["/cmd", "x"]),
            (&[], &["/cmd"], &[], &["$(V)"], &["1"]),
            (&["/$(V)"], &["$(V)"], &[], &[], &["/$(V)", "$(V)"]),
            (&["/ep"], &[], &["$(V)", "$$(V)"], &["$(W)"], &["1", "$(V)", "$(W)"]),
            (&[], &[], &[], &[], &[]),
        ];
        let texts = |t: Texts| -> Vec<String> { t.iter().map(|s| (*s).to_owned()).collect() };
        for (entrypoint, cmd, command, args, expected) in table {
            let image = Image { entrypoint: texts(entrypoint), cmd: texts(cmd), ..Image::default() };
            let container =
                Container { command: Some(texts(command)), args: Some(texts(args)), ..Container::default() };
            let argv = argv(&container, &image, &[("V".to_owned(), "1".to_owned())]);
            assert_eq!(
                argv.unwrap_or_default(),
                texts(expected),
                "{entrypoint:?} {cmd:?} {command:?} {args:?}"
            );
        }
    }
}
