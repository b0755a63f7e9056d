//! A component that is called, and its instances.
//!
//! ```text
//!   caller's host function ─► Slot: the version that counts ─► Callee ─► a place (max_concurrency)
//!                                                                │
//!                       kept instance (pool_size), or a new one ◄┤   ─► call, until the deadline
//!                                                                │
//!               back to the pool, if it has neither failed nor ◄─┘
//!               handed out resources, and may be called again
//! ```
//!
//! A call is polled by its caller, in the caller's turns and on its processor time, which costs the least; a component with a CPU
//! limit of its own has a task for each call, in turns of its own. Memory is always on the account of the component that has it.
//! Instances whose call failed, or was given up at its deadline or because the caller was, are dropped.

mod error;
mod pinned;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

pub use error::CallError;
use kubewasm_host::{Account, CallableInstance, Host, InstanceMaker, NotInstantiated};
pub(crate) use pinned::PinnedInstance;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{ComponentExportIndex, Val};

use crate::wit::InterfaceName;

/// How a component is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallSettings {
    /// Instances that are kept.
    pub(crate) pool_size: usize,
    /// Calls of one instance.
    pub(crate) max_invocations: u64,
    /// Calls at a time.
    pub(crate) max_concurrency: usize,
    /// For a call, from the moment at which it is asked for.
    pub(crate) deadline: Duration,
    /// It has a CPU limit of its own.
    pub(crate) has_own_turns: bool,
    /// There is one instance, which all callers share for as long as it does not fail: that of a plugin.
    pub(crate) is_single: bool,
}

/// A function that can be called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    pub(crate) export: ComponentExportIndex,
    pub(crate) results: usize,
}

/// One version of a component that is called.
pub(crate) struct Callee {
    name: Arc<str>,
    host: Arc<Host>,
    maker: InstanceMaker,
    settings: CallSettings,
    exports: Vec<InterfaceName>,
    /// By [`InterfaceName::series`] and name.
    functions: HashMap<String, Function>,
    places: Arc<Semaphore>,
    idle: Mutex<VecDeque<Kept>>,
    /// Of a component with a single one.
    single: tokio::sync::Mutex<Option<Arc<PinnedInstance>>>,
}

/// An instance between calls.
struct Kept {
    instance: CallableInstance,
    calls: u64,
}

/// An instance that is being called. Dropping it retires the instance.
pub(crate) struct Lease {
    kept: Kept,
    _place: OwnedSemaphorePermit,
}

/// A component of a workload: whichever version of it counts.
pub(crate) struct Slot {
    name: Arc<str>,
    current: RwLock<Option<Arc<Callee>>>,
    /// Numbers of its resources between components, by interface and name.
    resources: Mutex<HashMap<String, u32>>,
}

impl fmt::Debug for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callee")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The name by which a function is found in any version of its component.
pub(crate) fn function_key(interface: &InterfaceName, function: &str) -> String {
    format!("{}#{function}", interface.series())
}

impl Slot {
    pub(crate) fn new(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self { name, current: RwLock::default(), resources: Mutex::default() })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The version that is called.
    pub(crate) fn current(&self) -> Result<Arc<Callee>, CallError> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().ok_or_else(|| CallError::Ended { component: Arc::clone(&self.name) })
    }

    /// Has another version called from now on, or none.
    pub(crate) fn set(&self, callee: Option<Arc<Callee>>) {
        let before = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, callee)
        };
        drop(before);
    }

    /// The number of a resource, which is the same in each version.
    pub(crate) fn resource_number(&self, interface: &InterfaceName, resource: &str) -> u32 {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let mut numbers = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        let next = || NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *numbers.entry(function_key(interface, resource)).or_insert_with(next)
    }
}

impl Callee {
    pub(crate) fn new(
        name: Arc<str>,
        host: Arc<Host>,
        maker: InstanceMaker,
        settings: CallSettings,
        exports: Vec<InterfaceName>,
        functions: HashMap<String, Function>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            host,
            maker,
            settings,
            exports,
            functions,
            places: Arc::new(Semaphore::new(settings.max_concurrency)),
            idle: Mutex::default(),
            single: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn account(&self) -> &Arc<Account> {
        self.maker.account()
    }

    pub(crate) fn settings(&self) -> &CallSettings {
        &self.settings
    }

    /// The interface that serves this one.
    pub(crate) fn export(&self, wanted: &InterfaceName) -> Option<&InterfaceName> {
        self.exports.iter().find(|export| export.serves(wanted))
    }

    pub(crate) fn function(&self, key: &str) -> Result<Function, CallError> {
        let no_function =
            || CallError::NoFunction { component: Arc::clone(&self.name), function: key.to_owned() };
        self.functions.get(key).copied().ok_or_else(no_function)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance, as soon as there is a place.
    pub(crate) async fn lease(&self) -> Result<Lease, CallError> {
        let ended = |_| CallError::Ended { component: Arc::clone(&self.name) };
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(ended)?;
        let kept = self.idle().pop_back();
        let kept = match kept {
            Some(kept) => kept,
            None => Kept { instance: self.make().await?, calls: 0 },
        };
        Ok(Lease { kept, _place: place })
    }

    async fn make(&self) -> Result<CallableInstance, CallError> {
        loop {
            let reason = match self.maker.make().await {
                Ok(instance) => return Ok(instance),
                Err(NotInstantiated::Refused(reason)) => reason.to_string(),
                Err(NotInstantiated::Failed(exit)) => exit.message,
            };
            // What is kept for others may be what is short.
            let given_up = self.idle().pop_front();
            if given_up.is_none() {
                return Err(CallError::NoInstance { component: Arc::clone(&self.name), reason });
            }
        }
    }

    /// Keeps an instance that has been called, if it may be called again.
    pub(crate) fn give_back(&self, lease: Lease) {
        let Lease { kept, _place } = lease;
        let mut idle = self.idle();
        let is_good = kept.calls < self.settings.max_invocations && idle.len() < self.settings.pool_size;
        let retired = if is_good {
            idle.push_back(kept);
            None
        } else {
            Some(kept)
        };
        drop(idle);
        drop(retired);
    }

    /// Calls a function whose parameters and results have no resources.
    pub(crate) async fn call(
        self: &Arc<Self>,
        key: &str,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<(), CallError> {
        let function = self.function(key)?;
        if self.settings.is_single {
            let single = self.single().await?;
            return single.call(key, &function, params, results, 0).await;
        }
        if self.settings.has_own_turns {
            return self.call_in_own_turns(key, function, params, results).await;
        }
        self.within_deadline(key, self.call_once(key, &function, params, results)).await
    }

    async fn call_once(
        &self,
        key: &str,
        function: &Function,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<(), CallError> {
        let mut lease = self.lease().await?;
        lease.call(&self.name, key, function, params, results).await?;
        self.give_back(lease);
        Ok(())
    }

    /// In a task, so that the caller's turns are not this component's.
    async fn call_in_own_turns(
        self: &Arc<Self>,
        key: &str,
        function: Function,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<(), CallError> {
        let (callee, key, params) = (Arc::clone(self), key.to_owned(), params.to_vec());
        let work = async move {
            let mut results = vec![Val::Bool(false); function.results];
            let called = callee.call_once(&key, &function, &params, &mut results);
            callee.within_deadline(&key, called).await.map(|()| results)
        };
        let task = AbortOnDropHandle::new(tokio::spawn(self.host.in_turns(self.account(), work)));
        let returned =
            task.await.unwrap_or_else(|_| Err(CallError::Ended { component: Arc::clone(&self.name) }))?;
        for (result, returned) in results.iter_mut().zip(returned) {
            *result = returned;
        }
        Ok(())
    }

    pub(crate) async fn within_deadline<T>(
        &self,
        key: &str,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let late = |_| CallError::Deadline {
            component: Arc::clone(&self.name),
            function: key.to_owned(),
            deadline: self.settings.deadline,
        };
        tokio::time::timeout(self.settings.deadline, work).await.map_err(late)?
    }

    /// Calls a function for a host interface.
    pub(crate) async fn call_from_host(
        self: &Arc<Self>,
        interface: &InterfaceName,
        function: &str,
        params: Vec<Val>,
    ) -> Result<Vec<Val>, CallError> {
        let key = function_key(interface, function);
        let mut results = vec![Val::Bool(false); self.function(&key)?.results];
        let work = async {
            self.call(&key, &params, &mut results).await?;
            Ok::<_, CallError>(results)
        };
        self.host.in_turns(self.account(), work).await
    }

    /// The one instance that all callers share, which is made if it is not there, or has failed.
    pub(crate) async fn single(self: &Arc<Self>) -> Result<Arc<PinnedInstance>, CallError> {
        let find = async {
            let mut single = self.single.lock().await;
            if let Some(known) = single.as_ref().filter(|known| known.is_usable()) {
                return Ok(Arc::clone(known));
            }
            // Its place with it.
            drop(single.take());
            let made = PinnedInstance::new(Arc::clone(self), self.lease().await?);
            *single = Some(Arc::clone(&made));
            Ok::<_, CallError>(made)
        };
        self.within_deadline("an instance of it", find).await
    }
}

impl Lease {
    pub(crate) async fn call(
        &mut self,
        component: &Arc<str>,
        key: &str,
        function: &Function,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<(), CallError> {
        self.kept.calls = self.kept.calls.saturating_add(1);
        let called = self.kept.instance.call(&function.export, params, results).await;
        called.map_err(|exit| CallError::failed(component, key, exit))
    }

    pub(crate) fn instance(&mut self) -> &mut CallableInstance {
        &mut self.kept.instance
    }
}
