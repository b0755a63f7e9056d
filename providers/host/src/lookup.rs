//! Look-ups of names for components (`wasi:sockets/ip-name-lookup`, of 0.2 here and of 0.3 in [`p3`]).
//!
//! ```text
//!   guest ─► resolve-addresses ─► its places ─► the host's places ─┬─► PodResolver: what the pod's files say
//!                   │                                              └─► thread: Resolver, the system's
//!                   └─► stream ◄── addresses, or an error ◄────────────┘
//! ```
//!
//! Guests that bring [`NameFiles`] are answered as these say ([`pod`]); that is how pods are run. The others are answered by
//! the host's [`Resolver`] ([`system`]).

mod files;
mod hosts;
pub(crate) mod p3;
mod pod;
mod resolv_conf;
mod system;
#[cfg(test)]
mod tests;
mod transport;

use std::{net::IpAddr, sync::Arc, time::Duration, vec};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceTable, ResourceType},
};
use wasmtime_wasi::{
    WasiView as _,
    p2::{
        DynPollable, Network, Pollable,
        bindings::sockets::network::{ErrorCode, IpAddress},
        subscribe,
    },
};

pub use files::NameFiles;
pub use system::Resolver;

use crate::{network::guard::Guard, sockets::Pod, state::GuestState};
use pod::PodResolver;
use transport::Sender;

const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// Look-ups by the system's resolver that run at a time in one host, and of one guest: each has a thread.
const SYSTEM_PLACES: (usize, usize) = (64, 2);
/// Look-ups by pods' files that run at a time in one host, and of one guest: each has two sockets or four.
const POD_PLACES: (usize, usize) = (256, 8);
/// Look-ups of one guest that have no answer yet.
const PENDING_PER_GUEST: usize = 64;
/// How long a guest waits for an answer of the system's at most; what most resolvers take for a server that says nothing.
const SYSTEM_DEADLINE: Duration = Duration::from_secs(10);
/// How long it waits for an answer by its pod's files at most. These say how long a server is waited for; three of them, asked
/// twice, are given up by then with what is usual.
const POD_DEADLINE: Duration = Duration::from_secs(30);

/// For how long an answer counts of which nobody says it: a resolver's of the system, and what stands in a hosts file.
const UNKNOWN_TTL: Duration = Duration::from_secs(5 * 60);

/// What has come of a look-up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    /// Never none, but of a [`Resolver`] that finds none.
    addresses: Vec<IpAddr>,
    /// For how long they count.
    ttl: Duration,
}

/// The look-ups of a host.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    system: Arc<Resolver>,
    system_places: Arc<Semaphore>,
    pod_places: Arc<Semaphore>,
    system_deadline: Duration,
}

/// The look-ups of one guest. Clones share what it may have at a time.
#[derive(Clone, Debug)]
pub(crate) struct GuestLookups {
    way: Way,
    /// Says which names it may look up, and hears what was answered.
    guard: Arc<Guard>,
    /// Of the host, for look-ups of this way.
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    deadline: Duration,
}

/// How a guest's names become addresses.
#[derive(Clone, Debug)]
enum Way {
    System(Arc<Resolver>),
    Pod(Arc<PodResolver>),
}

impl Lookups {
    pub(crate) fn new(system: Resolver) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self {
            system: Arc::new(system),
            system_places: semaphore(SYSTEM_PLACES.0),
            pod_places: semaphore(POD_PLACES.0),
            system_deadline: SYSTEM_DEADLINE,
        }
    }

    /// Those of a guest. By `files`, its questions leave as other things do that its pod sends.
    pub(crate) fn of_guest(
        &self,
        guard: Arc<Guard>,
        files: Option<&Arc<NameFiles>>,
        pod: Option<Pod>,
    ) -> GuestLookups {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        let (way, places, deadline) = match files {
            None => (Way::System(Arc::clone(&self.system)), &self.system_places, self.system_deadline),
            Some(files) => {
                let sender = pod.map(|pod| Sender { pod, guard: Arc::clone(&guard) });
                let resolver = PodResolver::new(Arc::clone(files), sender);
                (Way::Pod(Arc::new(resolver)), &self.pod_places, POD_DEADLINE)
            }
        };
        GuestLookups {
            guard,
            places: Arc::clone(places),
            running: semaphore(way.places()),
            pending: semaphore(PENDING_PER_GUEST),
            deadline,
            way,
        }
    }
}

impl Way {
    /// Look-ups that run at a time, of one guest.
    fn places(&self) -> usize {
        match self {
            Self::System(_) => SYSTEM_PLACES.1,
            Self::Pod(_) => POD_PLACES.1,
        }
    }
}

type Addresses = Result<vec::IntoIter<IpAddr>, ErrorCode>;

impl GuestLookups {
    /// Those of another guest of the same setup, who may have as many at a time.
    pub(crate) fn for_another(&self) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self { running: semaphore(self.way.places()), pending: semaphore(PENDING_PER_GUEST), ..self.clone() }
    }

    /// The addresses of a name, in the order in which they should be tried. Must be called within a tokio runtime.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ErrorCode> {
        let answer = match self.begin(name)? {
            AddressStream::Pending(task) => task.await.unwrap_or(Err(ErrorCode::TemporaryResolverFailure)),
            AddressStream::Ready(answer) => answer,
        };
        answer.map(Iterator::collect)
    }

    /// The addresses of a name that the guest does not know of, and its host asks for on its behalf: no list of the guest's is
    /// asked whether it may be, nor does it hear what was answered.
    pub(crate) async fn addresses_for_host(&self, name: &str) -> Result<Vec<IpAddr>, ErrorCode> {
        let domain = match asked(name)? {
            Asked::Address(address) => return Ok(vec![address]),
            Asked::Name(domain) => domain,
        };
        let found = tokio::time::timeout(self.deadline, self.look_up(domain)).await;
        Ok(found.unwrap_or(Err(ErrorCode::TemporaryResolverFailure))?.addresses)
    }

    /// Looks up a name, in its turn.
    fn look_up(&self, domain: String) -> impl Future<Output = Result<Found, ErrorCode>> + Send + 'static {
        let (way, running, places) = (self.way.clone(), Arc::clone(&self.running), Arc::clone(&self.places));
        async move {
            // Neither is ever closed.
            let failed = |_| ErrorCode::TemporaryResolverFailure;
            let own = running.acquire_owned().await.map_err(failed)?;
            let place = places.acquire_owned().await.map_err(failed)?;
            way.look_up(domain, [own, place]).await
        }
    }

    /// Begins to look up a name; what is an address is its own answer. Must be called within a tokio runtime.
    fn begin(&self, name: &str) -> Result<AddressStream, ErrorCode> {
        let domain = match asked(name)? {
            Asked::Address(address) => return Ok(AddressStream::ready(address)),
            Asked::Name(domain) => domain,
        };
        if !self.guard.may_look_up(&domain) {
            return Err(ErrorCode::AccessDenied);
        }
        let Ok(pending) = Arc::clone(&self.pending).try_acquire_owned() else {
            return Err(ErrorCode::TemporaryResolverFailure);
        };
        let (guard, name, deadline) = (Arc::clone(&self.guard), domain.clone(), self.deadline);
        let look_up = self.look_up(domain);
        let task = tokio::spawn(async move {
            let answer = tokio::time::timeout(deadline, look_up).await;
            drop(pending);
            let Found { addresses, ttl } = answer.unwrap_or(Err(ErrorCode::TemporaryResolverFailure))?;
            guard.looked_up(&name, &addresses, ttl);
            Ok(addresses.into_iter())
        });
        Ok(AddressStream::Pending(AbortOnDropHandle::new(task)))
    }
}

/// What somebody asks for who asks for the addresses of something.
enum Asked {
    /// That is one already.
    Address(IpAddr),
    Name(String),
}

fn asked(name: &str) -> Result<Asked, ErrorCode> {
    match url::Host::parse(name) {
        Ok(url::Host::Domain(domain)) => Ok(Asked::Name(domain)),
        Ok(url::Host::Ipv4(address)) => Ok(Asked::Address(address.into())),
        Ok(url::Host::Ipv6(address)) => Ok(Asked::Address(address.into())),
        Err(_) => match name.parse() {
            Ok(address) => Ok(Asked::Address(IpAddr::V6(address))),
            Err(_) => Err(ErrorCode::InvalidArgument),
        },
    }
}

impl Way {
    async fn look_up(self, name: String, places: [OwnedSemaphorePermit; 2]) -> Result<Found, ErrorCode> {
        match self {
            Self::System(resolver) => Resolver::clone(&resolver).look_up(name, places).await,
            Self::Pod(resolver) => {
                let answer = resolver.look_up(&name).await;
                drop(places);
                answer
            }
        }
    }
}

/// What a guest has of a look-up.
enum AddressStream {
    Pending(AbortOnDropHandle<Addresses>),
    Ready(Addresses),
}

impl AddressStream {
    fn ready(address: IpAddr) -> Self {
        Self::Ready(Ok(vec![address].into_iter()))
    }

    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        // Takes the answer over if there is one.
        let _ = futures::FutureExt::now_or_never(self.ready());
        match self {
            Self::Pending(_) => Err(ErrorCode::WouldBlock),
            Self::Ready(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Self::Ready(Err(code)) => Err(*code),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for AddressStream {
    async fn ready(&mut self) {
        if let Self::Pending(task) = self {
            let answer = task.await.unwrap_or(Err(ErrorCode::TemporaryResolverFailure));
            *self = Self::Ready(answer);
        }
    }
}

/// Links the interface over wasmtime-wasi's own. The linker must allow shadowing.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type Stream = Resource<AddressStream>;
    let mut names = linker.instance(INTERFACE)?;
    names.resource("resolve-address-stream", ResourceType::host::<AddressStream>(), |mut store, rep| {
        table(&mut store).delete(Stream::new_own(rep))?;
        Ok(())
    })?;
    names.func_wrap("resolve-addresses", |mut store, (network, name): (Resource<Network>, String)| {
        // Having one is the permission to ask.
        table(&mut store).get(&network)?;
        Ok((match store.data().lookups.begin(&name) {
            Ok(stream) => Ok(table(&mut store).push(stream)?),
            Err(code) => Err(code),
        },))
    })?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store, (stream,): (Stream,)| Ok((table(&mut store).get_mut(&stream)?.next(),)),
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store, (stream,): (Stream,)| -> wasmtime::Result<(Resource<DynPollable>,)> {
            Ok((subscribe(table(&mut store), stream)?,))
        },
    )
}

fn table<'a>(store: &'a mut StoreContextMut<'_, GuestState>) -> &'a mut ResourceTable {
    store.data_mut().ctx().table
}
