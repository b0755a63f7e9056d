//! Look-ups by the system's resolver, and what all have in common.

use std::{
    io,
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
    let guest = Lookups::new(resolver).of_guest(open(), None, None);
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
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let (resolver, end, most) = resolver();
    runtime.block_on(async {
        let lookups = Lookups::new(resolver);
        let (greedy, calm) = (lookups.of_guest(open(), None, None), lookups.of_guest(open(), None, None));
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
    assert!(most.load(Ordering::SeqCst) <= SYSTEM_PLACES.1, "{most:?}");
    drop(end);
}

#[tokio::test]
async fn who_is_not_answered_is_told_so_in_time() {
    let (resolver, end, _) = resolver();
    let guest =
        Lookups { system_deadline: Duration::ZERO, ..Lookups::new(resolver) }.of_guest(open(), None, None);
    let mut stream = guest.begin("silent").unwrap();
    assert_eq!(stream.next().unwrap_err(), ErrorCode::WouldBlock);
    assert_eq!(all(stream).await, Err(ErrorCode::TemporaryResolverFailure));
    drop(end);
}

/// Look-ups by a pod's files that nobody waits for any more are over: their places are free, though the server is still
/// silent.
#[tokio::test]
async fn a_look_up_ends_with_who_wants_it() {
    let silent = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let files = Arc::new(NameFiles::new("nameserver 127.0.0.1\noptions timeout:30\n", "10.9.9.9 known\n"));
    let resolver = PodResolver::new(Arc::clone(&files), None).at_port(port);
    let guest = Lookups::new(Resolver::default()).of_guest(open(), Some(&files), None);
    let guest = GuestLookups { way: Way::Pod(Arc::new(resolver)), ..guest };
    let asked: Vec<_> = (0..100).map(|n| guest.begin(&format!("silent{n}"))).collect();
    assert_eq!(asked.iter().filter(|stream| stream.is_ok()).count(), PENDING_PER_GUEST);
    while guest.running.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    drop(asked);
    while guest.pending.available_permits() < PENDING_PER_GUEST {
        tokio::task::yield_now().await;
    }
    assert_eq!(guest.running.available_permits(), POD_PLACES.1);
    assert_eq!(all(guest.begin("known").unwrap()).await, Ok(1));
}

/// A question is a message to whoever answers it.
#[tokio::test]
async fn what_is_not_on_the_guests_list_is_not_asked() {
    let (resolver, end, most) = resolver();
    let grants = crate::network::egress::NameGrants::new("example.org:443".parse().unwrap());
    let guard = Guard::new(crate::Network::Host, crate::DeniedNetworks::default(), None, Some(grants));
    let guest = Lookups::new(resolver).of_guest(Arc::clone(&guard), None, None);
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
