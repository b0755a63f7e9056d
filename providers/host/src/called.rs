//! Instances of a component that are called many times, and made by the thousand.

use std::{fmt, sync::Arc, time::Instant};

use wasmtime::{
    Store,
    component::{ComponentExportIndex, Instance, ResourceAny, Val},
};

use crate::{
    account::Account,
    cache::{EntryPoint, Loaded},
    common::Common,
    cpu::{self, TurnStart},
    exit::Exit,
    guest::Guest,
    host::Host,
    http::InTurn,
    outcome::{self, GuestPhase},
    owned_setup::OwnedSetup,
    setup::{PrepareError, Setup},
    state::GuestState,
};

/// Makes instances of a component that are called. What they have in common is made once.
pub struct InstanceMaker {
    host: Arc<Host>,
    loaded: Arc<Loaded>,
    setup: OwnedSetup,
    common: Common,
}

/// An instance that can be called, any number of times, for as long as no call fails.
pub struct CallableInstance {
    store: Store<GuestState>,
    instance: Instance,
    began: Arc<TurnStart>,
    overflow: outcome::Overflow,
    _held: crate::account::HeldMemory,
}

impl fmt::Debug for InstanceMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceMaker").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl fmt::Debug for CallableInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallableInstance").finish_non_exhaustive()
    }
}

/// There is no instance.
#[derive(Debug, thiserror::Error)]
pub enum NotInstantiated {
    /// There was no room for it.
    #[error("{0}")]
    Refused(#[from] PrepareError),
    /// It failed while it was made.
    #[error("{}", .0.message)]
    Failed(Exit),
}

impl InstanceMaker {
    /// For a component that was linked to be called. The setup's ports are not listened on.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn new(host: &Arc<Host>, loaded: Arc<Loaded>, setup: &Setup<'_>) -> Result<Self, PrepareError> {
        let sockets = host.sockets_of(setup);
        let common = host.common(&loaded, setup, sockets)?;
        Ok(Self { host: Arc::clone(host), loaded, setup: OwnedSetup::from(setup), common })
    }

    /// Whose account its instances are on.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.setup.account
    }

    /// Makes an instance. To be polled in somebody's turns.
    ///
    /// # Errors
    /// [`NotInstantiated`].
    pub async fn make(&self) -> Result<CallableInstance, NotInstantiated> {
        let setup = self.setup.borrowed();
        let held = setup.held_by_instance().saturating_add(self.loaded.linked.stack.charge());
        let held = self.setup.account.hold(held).map_err(PrepareError::from)?;
        let guest = self.host.guest(Arc::clone(&self.loaded), setup, &self.common, Vec::new(), held);
        let overflow = self.host.overflow(&self.loaded);
        let Guest { mut store, began, _held, .. } = guest;
        let begun = Instant::now();
        let made = match &self.loaded.entry {
            EntryPoint::EmbeddedComponent(pre) => {
                let began = Arc::clone(&began);
                InTurn { began, work: Box::pin(pre.instantiate_async(&mut store)) }.await
            }
            _ => Err(wasmtime::format_err!("it was not linked to be called")),
        };
        match made {
            Ok(instance) => {
                self.host.scheduler().instantiations().took(begun.elapsed());
                Ok(CallableInstance { store, instance, began, overflow, _held })
            }
            Err(error) => {
                let refusal = store.data().memory.refusal();
                Err(NotInstantiated::Failed(outcome::of(
                    GuestPhase::Instantiate,
                    &Err(error),
                    refusal,
                    overflow,
                )))
            }
        }
    }
}

impl CallableInstance {
    /// Calls a function that its component exports. Whoever polls this does so in turns: those of the account that it is on, or of
    /// another one that pays for it. An instance whose call has failed, or was given up, must not be called again.
    ///
    /// # Errors
    /// How the guest ended, or what is wrong with the parameters.
    pub async fn call(
        &mut self,
        function: &ComponentExportIndex,
        params: &[Val],
        results: &mut [Val],
    ) -> Result<(), Exit> {
        let (store, instance) = (&mut self.store, self.instance);
        let work = async move {
            let function = instance.get_func(&mut *store, function);
            let function = function.ok_or_else(|| wasmtime::format_err!("there is no such function"))?;
            function.call_async(store, params, results).await
        };
        let called = InTurn { began: Arc::clone(&self.began), work: Box::pin(work) }.await;
        called.map_err(|error| self.exit(error))
    }

    /// Drops a resource that it has handed out; its destructor is called. As for [`Self::call`].
    ///
    /// # Errors
    /// As there.
    pub async fn drop_resource(&mut self, resource: ResourceAny) -> Result<(), Exit> {
        let work = Box::pin(resource.resource_drop_async(&mut self.store));
        let dropped = InTurn { began: Arc::clone(&self.began), work }.await;
        dropped.map_err(|error| self.exit(error))
    }

    fn exit(&self, error: wasmtime::Error) -> Exit {
        let refusal = self.store.data().memory.refusal();
        outcome::of(GuestPhase::Run, &Err(error), refusal, self.overflow)
    }

    /// Bytes of its memories and tables.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.store.data().memory.taken()
    }
}

impl Host {
    /// Runs something in the turns of an account: calls of an instance that nobody else's guest makes.
    pub fn in_turns<F: Future>(
        &self,
        account: &Arc<Account>,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let began = Arc::new(TurnStart::new(Arc::clone(account)));
        cpu::Turns::new(work, Arc::clone(self.scheduler()), Arc::clone(account), began)
    }
}
