//! Which policies are served, by their ids, and how they come to be.
//!
//! ```text
//!   put(id, Spec) ─► Modules::find ─► its kind ─► compile, load ─► its settings ─► replaces what was served under the id
//!      (a few at once)                                                 any failure ─► what was served goes on
//!   a request ─► get(id) ─► Arc<ServedPolicy>, which it keeps whatever becomes of the id meanwhile
//! ```

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::{OnceCell, Semaphore, watch},
    time::Instant,
};

use super::{
    failure::LoadFailure,
    served::{ServedGroup, ServedPolicy, ServedProgram},
};
use crate::{
    capabilities::Capabilities,
    evaluator::{Bounds, Call, Evaluator, Program, check_engine, check_mode},
    expression::Expression,
    modules::{FoundModule, Modules},
    spec::{GroupSpec, PolicySpec, ProgramSpec, Spec},
};

/// Policies that are loaded at once. Most of the time of one goes into its download and its compilation.
const LOADS: usize = 4;

/// What holds for all policies.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// What they may ask their host for.
    pub granted: Capabilities,
    /// What bounds a call, where the policy's own spec says nothing.
    pub bounds: Bounds,
}

/// The policies that are served.
#[derive(Debug)]
pub struct PolicyRegistry {
    evaluator: Arc<Evaluator>,
    modules: Arc<dyn Modules>,
    options: RegistryOptions,
    served: watch::Sender<HashMap<String, Arc<ServedPolicy>>>,
    puts: Mutex<Puts>,
    loads: Semaphore,
    /// The code of modules that are loaded or being loaded, by their digests.
    codes: Mutex<HashMap<String, Weak<OnceCell<Code>>>>,
}

/// Which put of an id is its newest, while it is under way.
#[derive(Debug, Default)]
struct Puts {
    count: u64,
    newest: HashMap<String, u64>,
}

/// Code that is loaded, and its files.
#[derive(Debug)]
pub(super) struct Code {
    program: Program,
    _module: Arc<dyn FoundModule>,
}

/// Code that several policies share; it goes with the last of them.
pub(super) type SharedCode = Arc<OnceCell<Code>>;

impl PolicyRegistry {
    /// Nothing is served yet.
    #[must_use]
    pub fn new(evaluator: Arc<Evaluator>, modules: Arc<dyn Modules>, options: RegistryOptions) -> Self {
        Self {
            evaluator,
            modules,
            options,
            served: watch::Sender::default(),
            puts: Mutex::default(),
            loads: Semaphore::new(LOADS),
            codes: Mutex::default(),
        }
    }

    /// Loads a policy and serves it under `id`, in place of what was served under it. Requests that are under way go on with
    /// that. May be called for several ids at once, and for one: the last call counts.
    ///
    /// # Errors
    /// [`LoadFailure`]; what was served under the id goes on.
    pub async fn put(&self, id: &str, spec: Spec) -> Result<(), LoadFailure> {
        let put = self.begin(id);
        let loaded = self.load(spec).await;
        // Until the end of it, nothing is removed, and no other put ends.
        let mut puts = self.puts();
        if puts.newest.get(id) != Some(&put) {
            return Err(LoadFailure::Superseded);
        }
        puts.newest.remove(id);
        self.serve(id, loaded?);
        Ok(())
    }

    /// Serves nothing under `id` any more, and lets no put of it that is under way change that.
    pub fn remove(&self, id: &str) {
        let mut puts = self.puts();
        puts.newest.remove(id);
        self.served.send_if_modified(|served| served.remove(id).is_some());
    }

    /// Refuses all requests to `id` with this message, unless a policy is served under it.
    pub fn refuse_unless_served(&self, id: &str, message: &str) {
        let _puts = self.puts();
        if self.get(id).is_none_or(|served| served.is_refusal()) {
            self.serve(id, ServedPolicy::refusal(message));
        }
    }

    /// What is served under `id`.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<ServedPolicy>> {
        self.served.borrow().get(id).cloned()
    }

    /// What is served under `id`, as soon as something is; none at the deadline.
    pub async fn wait_for(&self, id: &str, deadline: Instant) -> Option<Arc<ServedPolicy>> {
        let mut changes = self.served.subscribe();
        let served = changes.wait_for(|served| served.contains_key(id));
        let served = tokio::time::timeout_at(deadline, served).await.ok()?.ok()?;
        served.get(id).cloned()
    }

    /// The ids under which something is served, in their order.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.served.borrow().keys().cloned().collect();
        ids.sort();
        ids
    }

    /// What runs them.
    #[must_use]
    pub fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }

    fn begin(&self, id: &str) -> u64 {
        let mut puts = self.puts();
        puts.count += 1;
        let put = puts.count;
        puts.newest.insert(id.to_owned(), put);
        put
    }

    fn puts(&self) -> MutexGuard<'_, Puts> {
        self.puts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, id: &str, policy: ServedPolicy) {
        self.served.send_modify(|served| {
            served.insert(id.to_owned(), Arc::new(policy));
        });
    }

    async fn load(&self, spec: Spec) -> Result<ServedPolicy, LoadFailure> {
        // It is never closed.
        let _turn = self.loads.acquire().await;
        match spec {
            Spec::Policy(PolicySpec { program, mode, allowed_to_mutate, message }) => {
                let program = self.program(program).await?;
                Ok(ServedPolicy::policy(program, mode, allowed_to_mutate, message))
            }
            Spec::Group(GroupSpec { policies, expression, message, mode }) => {
                let expression = Expression::parse(&expression, policies.keys().map(String::as_str))?;
                let members = stream::iter(policies)
                    .map(|(member, spec)| async move {
                        let program = self.program(spec).await.map_err(|failure| LoadFailure::Member {
                            member: member.clone(),
                            failure: Box::new(failure),
                        })?;
                        Ok::<_, LoadFailure>((member, program))
                    })
                    .buffered(LOADS)
                    .try_collect::<BTreeMap<_, _>>()
                    .await?;
                Ok(ServedPolicy::group(ServedGroup { members, expression, message }, mode))
            }
        }
    }

    /// A program whose settings the policy takes.
    async fn program(&self, spec: ProgramSpec) -> Result<ServedProgram, LoadFailure> {
        let ProgramSpec { module, settings, context_aware_resources, timeout } = spec;
        let code = self.code(&module).await?;
        let Some(Code { program, .. }) = code.get() else {
            return Err(LoadFailure::Unusable { module, reason: "it was not loaded".to_owned() });
        };
        let bounds =
            Bounds { timeout: timeout.unwrap_or(self.options.bounds.timeout), ..self.options.bounds };
        let mut granted = self.options.granted.clone();
        // Whoever names kinds of objects means the policy to see them.
        if !context_aware_resources.is_empty() {
            granted = granted.with_cluster();
        }
        let program = program.clone().granted(granted).aware_of(context_aware_resources).bounded(bounds);
        let program = self.evaluator.apart(program);
        let called = self.evaluator.call(&program, Call::ValidateSettings, &settings.document()).await;
        let verdict = called.settings();
        if !verdict.valid {
            let message = verdict.message.unwrap_or_else(|| "the policy does not say why".to_owned());
            return Err(LoadFailure::Settings(message));
        }
        Ok(ServedProgram { program, settings, _code: code })
    }

    /// The code of a module, loaded once for all policies that have it.
    async fn code(&self, name: &str) -> Result<SharedCode, LoadFailure> {
        let module = self.modules.find(name).await?;
        let said = module.metadata().map(|metadata| metadata.execution_mode);
        let mode = |error| LoadFailure::Mode { module: name.to_owned(), error };
        // One for another engine may not even compile.
        check_engine(said).map_err(mode)?;
        let code = self.cell(&module.digest());
        code.get_or_try_init(|| async {
            let compiled = module.compile().await?;
            check_mode(said, compiled.kind).map_err(mode)?;
            let loaded = self.evaluator.load(&compiled.path, compiled.kind).await;
            let program = loaded.map_err(|error| LoadFailure::Unusable {
                module: name.to_owned(),
                reason: error.to_string(),
            })?;
            Ok::<_, LoadFailure>(Code { program, _module: Arc::clone(&module) })
        })
        .await?;
        Ok(code)
    }

    fn cell(&self, digest: &str) -> SharedCode {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, code| code.strong_count() > 0);
        let known = codes.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let code = SharedCode::default();
            codes.insert(digest.to_owned(), Arc::downgrade(&code));
            code
        })
    }
}
