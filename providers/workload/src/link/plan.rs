//! Which import is served by whom. Pure, by names alone.

use super::Unit;
use crate::{
    error::LinkError,
    wit::{InterfaceName, WitInterface, WitWorld},
};

/// Who serves an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Another component, by its place.
    Sibling(usize),
    /// A plugin, by its place.
    Plugin(usize),
    /// What the host has for any component, or nobody: that is found when it is linked.
    Host,
}

/// What the planner knows of a component.
pub(crate) trait Named {
    fn name(&self) -> &str;
    /// The interfaces that it imports something of, in the order of its imports; `None` for what nobody but the host serves.
    fn imports(&self) -> Vec<Option<&InterfaceName>>;
    fn exports(&self) -> Vec<&InterfaceName>;
    /// Others may call it.
    fn is_callable(&self) -> bool;
}

impl Named for (&Unit, bool) {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn imports(&self) -> Vec<Option<&InterfaceName>> {
        self.0.imports.iter().map(|import| import.interface.as_ref().filter(|_| import.has_items)).collect()
    }

    fn exports(&self) -> Vec<&InterfaceName> {
        self.0.exports.iter().map(|export| &export.interface).collect()
    }

    fn is_callable(&self) -> bool {
        self.1
    }
}

/// Finds who serves each import of each component.
///
/// # Errors
/// [`LinkError::Ambiguous`] and [`LinkError::Circle`].
pub(crate) fn plan(units: &[impl Named], plugins: &[WitWorld]) -> Result<Vec<Vec<Source>>, LinkError> {
    let mut plans = Vec::with_capacity(units.len());
    for (index, unit) in units.iter().enumerate() {
        let sources = unit.imports().into_iter().map(|import| {
            let Some(import) = import else { return Ok(Source::Host) };
            let serves = |(at, other): &(usize, _)| is_served_by(*at != index, *other, import);
            let siblings: Vec<_> = units.iter().enumerate().filter(serves).collect();
            match siblings.as_slice() {
                [] => Ok(plugin(plugins, import).map_or(Source::Host, Source::Plugin)),
                [(at, _)] => Ok(Source::Sibling(*at)),
                several => Err(LinkError::Ambiguous {
                    component: unit.name().to_owned(),
                    import: import.to_string(),
                    exporters: several.iter().map(|(_, other)| format!("`{}`", other.name())).collect(),
                }),
            }
        });
        plans.push(sources.collect::<Result<Vec<_>, _>>()?);
    }
    match circle(&plans) {
        Some(circle) => {
            Err(LinkError::Circle(circle.into_iter().map(|at| format!("`{}`", units[at].name())).collect()))
        }
        None => Ok(plans),
    }
}

fn is_served_by(is_another: bool, unit: &impl Named, import: &InterfaceName) -> bool {
    is_another && unit.is_callable() && unit.exports().iter().any(|export| export.serves(import))
}

fn plugin(plugins: &[WitWorld], import: &InterfaceName) -> Option<usize> {
    plugins.iter().position(|world| world.exports.iter().any(|exported| exported.has(import)))
}

/// Components that call each other in a circle: the first of them once more at the end.
fn circle(plans: &[Vec<Source>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    fn visit(at: usize, plans: &[Vec<Source>], marks: &mut [Mark], path: &mut Vec<usize>) -> bool {
        match marks[at] {
            Mark::Done => return false,
            Mark::OnPath => {
                path.push(at);
                return true;
            }
            Mark::New => {}
        }
        marks[at] = Mark::OnPath;
        path.push(at);
        for source in &plans[at] {
            if let Source::Sibling(next) = source
                && visit(*next, plans, marks, path)
            {
                return true;
            }
        }
        path.pop();
        marks[at] = Mark::Done;
        false
    }
    let mut marks = vec![Mark::New; plans.len()];
    for at in 0..plans.len() {
        let mut path = Vec::new();
        if visit(at, plans, &mut marks, &mut path) {
            let last = path.last().copied();
            let from = path.iter().position(|at| Some(*at) == last).unwrap_or(0);
            return Some(path.split_off(from));
        }
    }
    None
}

/// Packages of WASI that the host has for any component.
const BUILT_IN: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];

/// Whether a workload gets an interface without a plugin.
pub(crate) fn is_built_in(interface: &WitInterface) -> bool {
    let is_run = interface.package == "http"
        && interface.interfaces.iter().any(|name| name == "incoming-handler" || name == "handler");
    interface.namespace == "wasi" && BUILT_IN.contains(&interface.package.as_str()) && !is_run
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(&'static str, Vec<InterfaceName>, Vec<InterfaceName>);

    impl Named for Fake {
        fn name(&self) -> &str {
            self.0
        }

        fn imports(&self) -> Vec<Option<&InterfaceName>> {
            self.1.iter().map(Some).collect()
        }

        fn exports(&self) -> Vec<&InterfaceName> {
            self.2.iter().collect()
        }

        fn is_callable(&self) -> bool {
            self.0 != "service"
        }
    }

    fn fake(name: &'static str, imports: &[&str], exports: &[&str]) -> Fake {
        let parse = |names: &[&str]| names.iter().map(|name| InterfaceName::parse(name).unwrap()).collect();
        Fake(name, parse(imports), parse(exports))
    }

    fn world(export: &str) -> WitWorld {
        WitWorld { exports: vec![export.into()], ..WitWorld::default() }
    }

    #[test]
    fn siblings_come_before_plugins_and_plugins_before_the_host() {
        let units = [
            fake("a", &["x:y/z@1.0.0", "x:y/w@1.0.0", "x:y/v@1.0.0"], &[]),
            fake("b", &[], &["x:y/z@1.2.0"]),
        ];
        let plugins = [world("x:y/other"), world("x:y/z,w@1.1.0")];
        let expected = vec![vec![Source::Sibling(1), Source::Plugin(1), Source::Host], vec![]];
        assert_eq!(plan(&units, &plugins).unwrap(), expected);
    }

    /// It stands between its callers and whoever else exports the same.
    #[test]
    fn no_component_serves_itself_and_nobody_calls_a_service() {
        let units = [fake("a", &["x:y/z"], &["x:y/z"]), fake("service", &[], &["x:y/z"])];
        assert_eq!(plan(&units, &[]).unwrap()[0], [Source::Host]);
        let units = [fake("a", &["x:y/z"], &["x:y/z"]), fake("b", &[], &["x:y/z"])];
        assert_eq!(plan(&units, &[]).unwrap()[0], [Source::Sibling(1)]);
    }

    #[test]
    fn what_two_components_serve_is_an_error_that_names_them() {
        let units = [fake("a", &["x:y/z"], &[]), fake("b", &[], &["x:y/z"]), fake("c", &[], &["x:y/z"])];
        let error = plan(&units, &[]).unwrap_err().to_string();
        assert_eq!(error, "`a` imports `x:y/z`, and `b`, `c` export it: leave one of them out");
    }

    #[test]
    fn a_circle_is_an_error_that_goes_around_it() {
        let units = [
            fake("a", &["x:y/b"], &[]),
            fake("b", &["x:y/c"], &["x:y/b"]),
            fake("c", &["x:y/d"], &["x:y/c"]),
            fake("d", &["x:y/b"], &["x:y/d"]),
        ];
        let LinkError::Circle(circle) = plan(&units, &[]).unwrap_err() else { panic!("another error") };
        assert_eq!(circle, ["`b`", "`c`", "`d`", "`b`"]);
    }
}
