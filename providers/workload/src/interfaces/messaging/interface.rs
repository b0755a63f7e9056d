//! `wasmcloud:messaging` as a host interface.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kubewasm_host::GuestState;
use wasmtime::component::{HasData, Linker, Val};

use super::{BrokerMessage, MessageHandler, NatsMessenger, Subscriptions};
use crate::{
    host_interface::{
        BoundInterface, ComponentBinding, GuestView, HostInterface, InterfaceError, LinkedImport,
        WorkloadIdentity, guest_view,
    },
    interfaces::{
        Settings,
        bindings::messaging::wasmcloud::messaging::{consumer, types},
        text,
    },
    resolved::{ExportedInterface, ResolvedWorkload},
    wit::{WitInterface, WitWorld},
};

/// Exported by components that take messages.
const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";

/// `wasmcloud:messaging`, over the server of NATS that the workload's entry names.
///
/// A component that exports the handler takes messages when [`resolved`](HostInterface::resolved) has found it.
#[derive(Debug, Default)]
pub struct WasmcloudMessaging {
    workloads: Mutex<HashMap<String, BoundSubscriptions>>,
}

/// What a workload has of it.
#[derive(Debug)]
struct BoundSubscriptions {
    messenger: Option<NatsMessenger>,
    subscriptions: Vec<Subscriptions>,
}

impl WasmcloudMessaging {
    /// The interface.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn workloads(&self) -> MutexGuard<'_, HashMap<String, BoundSubscriptions>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these take a workload's messages, and those before do not. Subscriptions are made before the others end.
    pub fn subscribe(&self, workload_id: &str, handlers: &[Arc<dyn MessageHandler>]) {
        let messenger = self.workloads().get(workload_id).and_then(|bound| bound.messenger.clone());
        let Some(messenger) = messenger else { return };
        let made = handlers.iter().map(|handler| messenger.subscribe(handler)).collect();
        if let Some(bound) = self.workloads().get_mut(workload_id) {
            bound.subscriptions = made;
        }
    }
}

#[async_trait]
impl HostInterface for WasmcloudMessaging {
    fn id(&self) -> &'static str {
        "wasmcloud-messaging"
    }

    fn world(&self) -> WitWorld {
        WitWorld {
            imports: vec![WitInterface::from(HANDLER)],
            exports: vec![WitInterface::from("wasmcloud:messaging/consumer,types@0.2.0")],
        }
    }

    async fn bind(
        &self,
        workload: &Arc<WorkloadIdentity>,
        interfaces: &[WitInterface],
    ) -> Result<(), InterfaceError> {
        let entry = interfaces.iter().find(|entry| entry.name.is_none()).or(interfaces.first());
        let messenger =
            entry.map(|entry| NatsMessenger::new(&Settings::new(entry.config.clone()))).transpose()?;
        let bound = BoundSubscriptions { messenger, subscriptions: Vec::new() };
        self.workloads().insert(workload.id.clone(), bound);
        Ok(())
    }

    async fn bind_component(
        &self,
        component: &ComponentBinding,
    ) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        let messenger =
            self.workloads().get(&component.workload.id).and_then(|bound| bound.messenger.clone());
        Ok(Arc::new(BoundMessenger(messenger)))
    }

    fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()> {
        for import in imports {
            let mut instance = linker.instance(&import.import)?;
            match &*import.interface.interface {
                "types" => types::add_to_linker_instance::<_, HasMessenger>(
                    &mut instance,
                    guest_view::<BoundMessenger>,
                )?,
                "consumer" => {
                    consumer::add_to_linker_instance::<_, HasMessenger>(
                        &mut instance,
                        guest_view::<BoundMessenger>,
                    )?;
                }
                other => wasmtime::bail!("wasmcloud:messaging has no interface {other} to import"),
            }
        }
        Ok(())
    }

    async fn resolved(&self, workload: &ResolvedWorkload) -> Result<(), InterfaceError> {
        let handlers = workload.exporters(HANDLER).into_iter();
        let handlers: Vec<Arc<dyn MessageHandler>> =
            handlers.map(|exported| Arc::new(ComponentHandler(exported)) as _).collect();
        self.subscribe(&workload.identity().id, &handlers);
        Ok(())
    }

    async fn unbind(&self, workload: &WorkloadIdentity) {
        self.workloads().remove(&workload.id);
    }
}

/// A component that takes messages.
#[derive(Debug)]
struct ComponentHandler(ExportedInterface);

#[async_trait]
impl MessageHandler for ComponentHandler {
    async fn handle(&self, message: BrokerMessage) -> Result<(), String> {
        let results = self.0.call("handle-message", vec![message.into()]).await;
        match results.map_err(|error| text::words(&error))?.into_iter().next() {
            Some(Val::Result(Err(Some(reason)))) => match *reason {
                Val::String(reason) => Err(reason),
                other => Err(format!("{other:?}")),
            },
            _ => Ok(()),
        }
    }
}

/// As the record that the interface has for it.
impl From<BrokerMessage> for Val {
    fn from(message: BrokerMessage) -> Self {
        let reply_to = message.reply_to.map(|reply_to| Box::new(Self::String(reply_to)));
        Self::Record(vec![
            ("subject".to_owned(), Self::String(message.subject)),
            ("body".to_owned(), Self::List(message.body.into_iter().map(Self::U8).collect())),
            ("reply-to".to_owned(), Self::Option(reply_to)),
        ])
    }
}

/// What a component has of it. `None` where its workload names no server.
#[derive(Clone, Debug)]
struct BoundMessenger(Option<NatsMessenger>);

impl BoundInterface for BoundMessenger {
    fn guest_state(&self) -> Box<dyn Any + Send> {
        Box::new(self.clone())
    }
}

struct HasMessenger;

impl HasData for HasMessenger {
    type Data<'a> = GuestView<'a, BoundMessenger>;
}

impl BoundMessenger {
    fn messenger(&self) -> Result<&NatsMessenger, String> {
        self.0
            .as_ref()
            .ok_or_else(|| "the workload has no entry about wasmcloud:messaging with a url".to_owned())
    }
}

impl types::Host for GuestView<'_, BoundMessenger> {}

impl consumer::Host for GuestView<'_, BoundMessenger> {
    async fn request(
        &mut self,
        subject: String,
        body: Vec<u8>,
        timeout_ms: u32,
    ) -> Result<types::BrokerMessage, String> {
        let wait = Duration::from_millis(timeout_ms.into());
        let answer = self.state.messenger()?.request(subject, body, wait).await?;
        Ok(types::BrokerMessage { subject: answer.subject, body: answer.body, reply_to: answer.reply_to })
    }

    async fn publish(&mut self, message: types::BrokerMessage) -> Result<(), String> {
        let types::BrokerMessage { subject, body, reply_to } = message;
        self.state.messenger()?.publish(BrokerMessage { subject, body, reply_to }).await
    }
}
