//! Look-ups of names for components (`wasi:sockets/ip-name-lookup@0.2`), on threads of their own.
//!
//! ```text
//!   guest ─► resolve-addresses ─► [LOOKUPS_PER_GUEST at a time] ─► [LOOKUP_THREADS at a time] ─► thread: Resolver
//!                   │                                                                              │
//!                   └─► stream ◄── addresses, or an error after DEADLINE at the latest ◄───────────┘
//! ```
//!
//! The system's resolver blocks, and cannot be cancelled: asked for a name whose server says nothing, it keeps its
//! thread for half a minute. On the threads that wasmtime-wasi would take, which are those of file operations, a single
//! guest could stop everybody's files. Here a look-up keeps its guest's place and its thread for as long as it really
//! runs, whether or not the guest still wants to know.

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration, vec};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
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

use crate::{network::guard::Guard, state::GuestState};

/// Look-ups that run at a time in one host.
const LOOKUP_THREADS: usize = 64;
/// Look-ups of one guest that run at a time.
const LOOKUPS_PER_GUEST: usize = 2;
/// Look-ups of one guest that have no answer yet.
const PENDING_PER_GUEST: usize = 64;
/// How long a guest waits for an answer at most; what most resolvers take for a server that says nothing.
const DEADLINE: Duration = Duration::from_secs(10);
/// For how long the answer of a resolver counts that does not say.
const UNKNOWN_TTL: Duration = Duration::from_secs(5 * 60);
/// Stack of a thread. Modules of the name service switch are generous with it.
const STACK: usize = 512 << 10;

const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// How names become addresses. It is called on a thread that may block.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

/// Blocks until a name is resolved, or not.
type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl Resolver {
    /// Another way than the system's.
    pub fn new(resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(resolve))
    }
}

impl Default for Resolver {
    /// The system's: `getaddrinfo`, with what `/etc/nsswitch.conf`, `/etc/hosts` and `/etc/resolv.conf` say.
    fn default() -> Self {
        Self::new(|name| {
            let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(name, 0))?;
            Ok(addresses.map(|address| address.ip().to_canonical()).collect())
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// The look-ups of a host.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    resolver: Resolver,
    threads: Arc<Semaphore>,
    deadline: Duration,
}

/// The look-ups of one guest.
#[derive(Debug)]
pub(crate) struct GuestLookups {
    of: Lookups,
    /// Says which names it may look up, and hears what was answered.
    guard: Arc<Guard>,
    running: Arc<Semaphore>,
    pending: Arc<Semaphore>,
}

impl Lookups {
    pub(crate) fn new(resolver: Resolver) -> Self {
        Self { resolver, threads: Arc::new(Semaphore::new(LOOKUP_THREADS)), deadline: DEADLINE }
    }

    pub(crate) fn of_guest(&self, guard: Arc<Guard>) -> GuestLookups {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        GuestLookups {
            of: self.clone(),
            guard,
            running: semaphore(LOOKUPS_PER_GUEST),
            pending: semaphore(PENDING_PER_GUEST),
        }
    }
}

type Addresses = Result<vec::IntoIter<IpAddr>, ErrorCode>;

impl GuestLookups {
    /// Begins to look up a name; what is an address is its own answer. Must be called within a tokio runtime.
    fn begin(&self, name: &str) -> Result<AddressStream, ErrorCode> {
        let domain = match url::Host::parse(name) {
            Ok(url::Host::Domain(domain)) => domain,
            Ok(url::Host::Ipv4(address)) => return Ok(AddressStream::ready(address.into())),
            Ok(url::Host::Ipv6(address)) => return Ok(AddressStream::ready(address.into())),
            Err(_) => match name.parse() {
                Ok(address) => return Ok(AddressStream::ready(IpAddr::V6(address))),
                Err(_) => return Err(ErrorCode::InvalidArgument),
            },
        };
        if !self.guard.may_look_up(&domain) {
            return Err(ErrorCode::AccessDenied);
        }
        let Ok(pending) = Arc::clone(&self.pending).try_acquire_owned() else {
            return Err(ErrorCode::TemporaryResolverFailure);
        };
        let (lookups, running) = (self.of.clone(), Arc::clone(&self.running));
        let guard = Arc::clone(&self.guard);
        let task = tokio::spawn(async move {
            let answer =
                tokio::time::timeout(lookups.deadline, lookups.look_up(domain.clone(), running)).await;
            drop(pending);
            let addresses = answer.unwrap_or(Err(ErrorCode::TemporaryResolverFailure))?;
            guard.looked_up(&domain, addresses.as_slice(), UNKNOWN_TTL);
            Ok(addresses)
        });
        Ok(AddressStream::Pending(AbortOnDropHandle::new(task)))
    }
}

impl Lookups {
    async fn look_up(self, name: String, running: Arc<Semaphore>) -> Addresses {
        // Neither is ever closed.
        let failed = |_| ErrorCode::TemporaryResolverFailure;
        let own = running.acquire_owned().await.map_err(failed)?;
        let thread = self.threads.acquire_owned().await.map_err(failed)?;
        let answer = on_thread(self.resolver, name, (own, thread));
        match answer.await {
            Ok(Ok(addresses)) => Ok(addresses.into_iter()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a name was not resolved");
                Err(ErrorCode::NameUnresolvable)
            }
            Err(_) => Err(ErrorCode::TemporaryResolverFailure),
        }
    }
}

/// Asks the resolver on a thread of its own, which gives the places back at its end. No answer comes where no thread
/// can be started.
fn on_thread(
    resolver: Resolver,
    name: String,
    places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
) -> oneshot::Receiver<io::Result<Vec<IpAddr>>> {
    let (sender, answer) = oneshot::channel();
    let thread =
        std::thread::Builder::new().name("name lookup".to_owned()).stack_size(STACK).spawn(move || {
            let addresses = (resolver.0)(&name);
            drop(places);
            // The guest may not be interested any more.
            let _ = sender.send(addresses);
        });
    if let Err(error) = thread {
        tracing::warn!(%error, "cannot start a thread to look up a name");
    }
    answer
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

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
    };

    use super::*;

    /// Nothing is refused.
    fn open() -> Arc<Guard> {
        Guard::new(crate::Network::Host, crate::DeniedNetworks::default(), None, None)
    }

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// A resolver that says nothing about names that begin with `silent` until the sender is gone, and how many it
    /// has been asked for at most at a time.
    fn resolver() -> (Resolver, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (end, ended) = mpsc::channel::<()>();
        let (ended, most) = (Arc::new(Mutex::new(ended)), Arc::new(AtomicUsize::new(0)));
        let (active, counted) = (AtomicUsize::new(0), Arc::clone(&most));
        let resolver = Resolver::new(move |name| {
            if name.starts_with("silent") {
                counted.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // All of them: whoever holds the lock waits, and the others wait for the lock.
                let _ = ended.lock().unwrap().recv();
                active.fetch_sub(1, Ordering::SeqCst);
            }
            if name == "nowhere" { Err(io::ErrorKind::NotFound.into()) } else { Ok(vec![ADDRESS]) }
        });
        (resolver, end, most)
    }

    /// All addresses, or the error.
    async fn all(mut stream: AddressStream) -> Result<usize, ErrorCode> {
        stream.ready().await;
        let mut count = 0;
        while stream.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    #[tokio::test]
    async fn names_and_addresses_are_resolved() {
        let (resolver, _end, _) = resolver();
        let guest = Lookups::new(resolver).of_guest(open());
        for (name, expected) in [
            ("example.org", Ok(1)),
            ("192.0.2.7", Ok(1)),
            ("::1", Ok(1)),
            ("[::1]", Ok(1)),
            ("nowhere", Err(ErrorCode::NameUnresolvable)),
            ("a b", Err(ErrorCode::InvalidArgument)),
            ("", Err(ErrorCode::InvalidArgument)),
        ] {
            let found = match guest.begin(name) {
                Ok(stream) => all(stream).await,
                Err(code) => Err(code),
            };
            assert_eq!(found, expected, "{name}");
        }
    }

    /// One guest that asks a silent server for everything it may, and asks again: it has its two threads, none of the
    /// runtime's, and a neighbour has its answers.
    #[test]
    fn a_silent_resolver_holds_up_nobody_but_who_asks_it() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (resolver, end, most) = resolver();
        runtime.block_on(async {
            let lookups = Lookups::new(resolver);
            let (greedy, calm) = (lookups.of_guest(open()), lookups.of_guest(open()));
            let asked: Vec<_> = (0..1000).map(|n| greedy.begin(&format!("silent{n}"))).collect();
            assert_eq!(asked.iter().filter(|stream| stream.is_ok()).count(), PENDING_PER_GUEST);
            tokio::task::yield_now().await;
            drop(asked);
            tokio::task::yield_now().await;
            let again: Vec<_> = (0..1000).map(|n| greedy.begin(&format!("silent{n}"))).collect();
            assert_eq!(all(calm.begin("example.org").unwrap()).await, Ok(1));
            assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7, "files have their threads");
            drop(again);
        });
        assert!(most.load(Ordering::SeqCst) <= LOOKUPS_PER_GUEST, "{most:?}");
        drop(end);
    }

    #[tokio::test]
    async fn who_is_not_answered_is_told_so_in_time() {
        let (resolver, end, _) = resolver();
        let guest = Lookups { deadline: Duration::ZERO, ..Lookups::new(resolver) }.of_guest(open());
        let mut stream = guest.begin("silent").unwrap();
        assert_eq!(stream.next().unwrap_err(), ErrorCode::WouldBlock);
        assert_eq!(all(stream).await, Err(ErrorCode::TemporaryResolverFailure));
        drop(end);
    }

    /// A question is a message to whoever answers it.
    #[tokio::test]
    async fn what_is_not_on_the_guests_list_is_not_asked() {
        let (resolver, end, most) = resolver();
        let grants = crate::network::egress::NameGrants::new("example.org:443".parse().unwrap());
        let guard = Guard::new(crate::Network::Host, crate::DeniedNetworks::default(), None, Some(grants));
        let guest = Lookups::new(resolver).of_guest(Arc::clone(&guard));
        assert!(matches!(guest.begin("silent.example"), Err(ErrorCode::AccessDenied)));
        let reaches = || {
            let to = std::net::SocketAddr::new(ADDRESS, 443);
            guard.may_reach(kubewasm_rules::Protocol::Tcp, to, to)
        };
        assert!(!reaches());
        assert_eq!(all(guest.begin("example.org").unwrap()).await, Ok(1));
        assert!(reaches());
        assert_eq!(most.load(Ordering::SeqCst), 0);
        drop(end);
    }
}
