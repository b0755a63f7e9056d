//! A guest, from its first instruction to its end.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use wasmtime_wasi::I32Exit;

use crate::{
    account::{self, Account},
    cache::{EntryPoint, Loaded},
    cpu,
    exit::Exit,
    outcome::{self, GuestPhase, Overflow},
    state::GuestState,
};

/// A guest that is ready to run: one instance of a module, with a store of its own.
pub struct Guest {
    pub(crate) store: wasmtime::Store<GuestState>,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) account: Arc<Account>,
    pub(crate) scheduler: Arc<cpu::Scheduler>,
    pub(crate) began: Arc<cpu::TurnStart>,
    pub(crate) stack_advice: &'static str,
    pub(crate) _held: account::HeldMemory,
}

/// An instance that is called.
#[derive(Clone, Copy, Debug)]
pub enum CalledInstance {
    /// Of a core module.
    Core(wasmtime::Instance),
    /// Of a component.
    Component(wasmtime::component::Instance),
}

/// The code with which a guest has exited, where that is why its call has ended.
#[must_use]
pub fn exited_with(error: &wasmtime::Error) -> Option<i32> {
    error.downcast_ref().map(|I32Exit(code)| *code)
}

/// What an embedder does with an instance that it calls.
#[async_trait]
pub trait GuestCall<T>: Send {
    /// Calls it. A `proc_exit` of the guest ends its call with an error, as a trap does.
    ///
    /// # Errors
    /// Those of the guest, which become its [`Exit`].
    async fn call(
        self,
        store: &mut wasmtime::Store<GuestState>,
        instance: CalledInstance,
    ) -> wasmtime::Result<T>;
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl Guest {
    /// Its state, for whoever gives the plugins of its host what they are to have for it.
    pub fn state_mut(&mut self) -> &mut GuestState {
        self.store.data_mut()
    }

    /// Runs the guest to its end, in its turns. Dropping the future ends the guest.
    pub async fn run(mut self) -> Exit {
        let mut phase = GuestPhase::Instantiate;
        let turns = self.turns();
        turns(async move {
            let result = self.enter(&mut phase).await;
            self.exit(phase, &result)
        })
        .await
    }

    /// Makes an instance of a guest that is not run but called ([`ModuleKind::is_embedded`](crate::ModuleKind::is_embedded)),
    /// and lets `call` call it, in its turns. Dropping the future ends the guest.
    ///
    /// # Errors
    /// How the guest ended, where it has not come to what `call` returns.
    pub async fn call<T: Send>(mut self, call: impl GuestCall<T>) -> Result<T, Exit> {
        let mut phase = GuestPhase::Instantiate;
        let turns = self.turns();
        turns(async move {
            match self.enter_call(call, &mut phase).await {
                Ok(answer) => Ok(answer),
                Err(error) => Err(self.exit(phase, &Err(error))),
            }
        })
        .await
    }

    /// What gives a future the turns of this guest.
    fn turns<F: Future>(&self) -> impl FnOnce(F) -> cpu::Turns<F> + use<F> {
        let (scheduler, account) = (Arc::clone(&self.scheduler), Arc::clone(&self.account));
        let began = Arc::clone(&self.began);
        move |future| cpu::Turns::new(future, scheduler, account, began)
    }

    fn exit(&self, phase: GuestPhase, result: &wasmtime::Result<i32>) -> Exit {
        let stack = Overflow { stack: self.loaded.linked.stack, advice: self.stack_advice };
        outcome::of(phase, result, self.store.data().memory.refusal(), stack)
    }

    async fn enter_call<T: Send>(
        &mut self,
        call: impl GuestCall<T>,
        phase: &mut GuestPhase,
    ) -> wasmtime::Result<T> {
        let begun = Instant::now();
        let store = &mut self.store;
        let instance = match &self.loaded.entry {
            EntryPoint::EmbeddedCore(pre) => CalledInstance::Core(pre.instantiate_async(&mut *store).await?),
            EntryPoint::EmbeddedComponent(pre) => {
                CalledInstance::Component(pre.instantiate_async(&mut *store).await?)
            }
            _ => wasmtime::bail!("it is run, and not called"),
        };
        self.scheduler.instantiations().took(begun.elapsed());
        *phase = GuestPhase::Run;
        call.call(store, instance).await
    }

    async fn enter(&mut self, phase: &mut GuestPhase) -> wasmtime::Result<i32> {
        let (begun, scheduler) = (Instant::now(), Arc::clone(&self.scheduler));
        let made = |phase: &mut GuestPhase| {
            scheduler.instantiations().took(begun.elapsed());
            *phase = GuestPhase::Run;
        };
        let store = &mut self.store;
        match &self.loaded.entry {
            EntryPoint::Core(pre) => {
                let state = store.data_mut();
                state.core_sockets.begin(state.guest_sockets.guard())?;
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                made(phase);
                start.call_async(store, ()).await?;
                Ok(0)
            }
            EntryPoint::Component(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                made(phase);
                let result = command.wasi_cli_run().call_run(store).await?;
                Ok(i32::from(result.is_err()))
            }
            EntryPoint::ComponentP3(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                made(phase);
                let result = store
                    .run_concurrent(async |store| command.wasi_cli_run().call_run(store).await)
                    .await??;
                Ok(i32::from(result.is_err()))
            }
            EntryPoint::Http(_) | EntryPoint::HttpP3(_) => {
                Err(wasmtime::format_err!("it serves HTTP, and is not run as a command"))
            }
            EntryPoint::EmbeddedCore(_) | EntryPoint::EmbeddedComponent(_) => {
                Err(wasmtime::format_err!("it is called, and not run as a command"))
            }
        }
    }
}
