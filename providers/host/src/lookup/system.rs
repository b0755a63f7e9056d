//! The system's resolver, on threads of its own.
//!
//! It blocks, and cannot be cancelled: asked for a name whose server says nothing, it keeps its thread for half a minute.
//! On the threads that wasmtime-wasi would take, which are those of file operations, a single guest could stop everybody's
//! files. Here a look-up keeps its guest's place and its thread for as long as it really runs, whether or not the guest
//! still wants to know.

use std::{fmt, io, net::IpAddr, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::{Found, UNKNOWN_TTL};

/// Stack of a thread. Modules of the name service switch are generous with it.
const STACK: usize = 512 << 10;

/// How names become addresses, for guests that bring no [`NameFiles`](super::NameFiles). It is called on a thread that may
/// block.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

/// Blocks until a name is resolved, or not.
type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl Resolver {
    /// Another way than the system's.
    pub fn new(resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(resolve))
    }

    /// Looks a name up on a thread of its own, which gives `places` back at its end.
    pub(super) async fn look_up(
        self,
        name: String,
        places: [OwnedSemaphorePermit; 2],
    ) -> Result<Found, ErrorCode> {
        match on_thread(self, name, places).await {
            Ok(Ok(addresses)) => Ok(Found { addresses, ttl: UNKNOWN_TTL }),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a name was not resolved");
                Err(ErrorCode::NameUnresolvable)
            }
            Err(_) => Err(ErrorCode::TemporaryResolverFailure),
        }
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

/// Asks the resolver. No answer comes where no thread can be started.
fn on_thread(
    resolver: Resolver,
    name: String,
    places: [OwnedSemaphorePermit; 2],
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
