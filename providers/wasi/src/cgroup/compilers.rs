//! Cgroups of compilers: one for each while it runs.

use kubewasm_host::compile::{Enclosed, Enclosure};

use super::{Cgroup, Parent};

/// Puts compilers below the cgroup of the node.
#[derive(Debug)]
pub(crate) struct Compilers(pub(crate) Parent);

impl Enclosure for Compilers {
    fn enclose(&self, pid: u32) -> Option<Box<dyn Enclosed>> {
        let cgroup = self.0.child(&format!("compile-{pid}"));
        match cgroup.and_then(|cgroup| cgroup.add(pid).map(|()| cgroup)) {
            Ok(cgroup) => Some(Box::new(One { cgroup, parent: self.0.clone() })),
            Err(error) => {
                tracing::warn!(%error, "a compiler has no cgroup of its own");
                None
            }
        }
    }
}

/// The cgroup of one compiler.
struct One {
    cgroup: Cgroup,
    parent: Parent,
}

impl Enclosed for One {
    fn ran_out_of_memory(&self) -> bool {
        self.cgroup.kills().is_some_and(|kills| kills > 0)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let (cgroup, parent) = (self.cgroup.clone(), self.parent.clone());
        let remove = move || {
            cgroup.remove().unwrap_or_else(|error| tracing::warn!(%error, "the cgroup of a compiler stays"));
            parent.leave();
        };
        // The last process may have been killed a moment ago, and its cgroup is busy until it is gone.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
