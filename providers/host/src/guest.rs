//! A guest, from its first instruction to its end.

use std::{sync::Arc, time::Instant};

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
    pub async fn run(self) -> Exit {
        let (scheduler, account) = (Arc::clone(&self.scheduler), Arc::clone(&self.account));
        let began = Arc::clone(&self.began);
        cpu::Turns::new(self.run_alone(), scheduler, account, began).await
    }

    async fn run_alone(mut self) -> Exit {
        let mut phase = GuestPhase::Instantiate;
        let result = self.enter(&mut phase).await;
        let stack = Overflow { stack: self.loaded.linked.stack, advice: self.stack_advice };
        outcome::of(phase, &result, self.store.data().memory.refusal(), stack)
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
        }
    }
}
