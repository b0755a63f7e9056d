//! Their sockets, by the rules of pods. The addresses here are of the loopback network, which needs no rights.

use std::net::{SocketAddr, SocketAddrV4};

use kubewasm_rules::Protocol;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, UdpSocket},
};

use super::*;
use crate::{
    PodAddresses,
    network::{Service, ServiceChanges, ServiceRule, TablesUpdate},
};

/// What the tests call a pod's own address, and its guests' 127.0.0.1.
const OWN: &str = "127.93.0.7";
const LOOPBACK: &str = "127.93.4.1";

/// Errors of `wasi:sockets/types`, and 1.
const ACCESS_DENIED: u8 = 1;
const ADDRESS_NOT_BINDABLE: u8 = 7;
const REMOTE_UNREACHABLE: u8 = 9;
const CONNECTION_REFUSED: u8 = 10;

fn pod() -> Network {
    Network::Pod(PodAddresses {
        own: vec![OWN.parse().unwrap()],
        loopback: "127.93.4.0/22".parse().unwrap(),
        loopback_v6: "fd6b::7:1".parse().unwrap(),
    })
}

/// An address as the arguments of a call.
fn flat(address: &str) -> String {
    let address: SocketAddrV4 = address.parse().unwrap();
    let [a, b, c, d] = address.ip().octets();
    let numbers = [0, u32::from(address.port()), a.into(), b.into(), c.into(), d.into(), 0, 0, 0, 0, 0, 0];
    numbers.map(|number| format!("(i32.const {number})")).join(" ")
}

/// A guest of one socket, `$socket`, of this kind.
fn with_socket(kind: &str, instructions: &str) -> String {
    component(&format!(
        r#"(data (i32.const 64) "?")
          (func $print-address (param $result i32) (local $n i32)
            (call $print-number (call $error (local.get $result)))
            (loop $next
              (call $print-number (i32.load8_u (i32.add (i32.add (local.get $result) (i32.const 10)) (local.get $n))))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $n) (i32.const 4))))
            (call $print-number (i32.load16_u (i32.add (local.get $result) (i32.const 8)))))
          (func (export "run") (result i32) (local $socket i32) (local $n i32)
            (call ${kind}-create (i32.const 0) (i32.const 32))
            (local.set $socket (i32.load (i32.const 36)))
            {instructions}
            (i32.const 0))"#
    ))
}

/// A guest that runs, and what it says.
struct Running {
    recorder: Arc<Recorder>,
    guest: tokio::task::JoinHandle<Exit>,
    said: usize,
}

impl Running {
    /// So many more numbers.
    async fn numbers(&mut self, count: usize) -> Vec<u32> {
        let all = || {
            let writes = self.recorder.0.lock().unwrap();
            let text: Vec<u8> = writes.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            let text = String::from_utf8(text).unwrap();
            text.split_terminator(' ').map(|number| number.parse().unwrap()).collect::<Vec<u32>>()
        };
        let told = async {
            while all().len() < self.said + count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("it says {:?}", all()));
        self.said += count;
        all()[self.said - count..self.said].to_vec()
    }

    /// An address, as `$print-address` prints it.
    async fn address(&mut self) -> String {
        let numbers = self.numbers(6).await;
        let [0, a, b, c, d, port] = numbers[..] else { panic!("an error: {numbers:?}") };
        format!("{a}.{b}.{c}.{d}:{port}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.guest.abort();
    }
}

async fn start(bench: &Bench, wat: &str) -> Running {
    let recorder = Arc::<Recorder>::default();
    let output: Arc<dyn Output> = recorder.clone();
    let spec = bench.guest(wat);
    let account = bench.account(&spec);
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let (network, denied) = (pod(), denied());
    let setup = Setup { network: &network, denied_networks: &denied, ..setup(&spec, &output, &account) };
    let guest = tokio::spawn(bench.host.prepare(loaded, setup).unwrap().run());
    Running { recorder, guest, said: 0 }
}

fn denied() -> DeniedNetworks {
    DeniedNetworks { networks: vec!["192.0.2.0/24".parse().unwrap()], host: false }
}

/// What must come, or the test has failed.
async fn soon<T>(what: impl Future<Output = io::Result<T>>) -> T {
    timeout(PATIENCE, what).await.expect("it comes").unwrap()
}

/// Connects from an address.
async fn connect_from(from: &str, to: &str) -> io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(to.parse().unwrap()).await
}

/// Accepts one connection, and says how both ends look to it.
const ACCEPTS: &str = r#"
  (call $tcp-listen (local.get $socket) (i32.const 32))
  (call $print-number (call $error (i32.const 32)))
  (call $tcp-local (local.get $socket) (i32.const 64))
  (call $print-address (i32.const 64))
  (drop (call $outcome (i32.load (i32.const 36))
    (call $connections.read (i32.load (i32.const 36)) (i32.const 96) (i32.const 1))))
  (call $tcp-local (i32.load (i32.const 96)) (i32.const 64))
  (call $print-address (i32.const 64))
  (call $tcp-remote (i32.load (i32.const 96)) (i32.const 64))
  (call $print-address (i32.const 64))
  (call $wait-for (i64.const 3600000000000))"#;

/// A listener is at its pod's address, whether or not its guest has bound it; who comes from another pod's loopback is not
/// let in, and who comes from the pod's own has come from 127.0.0.1.
#[tokio::test]
async fn a_listener_is_its_pods() {
    let bench = Bench::new();
    let bind = format!("(call $tcp-bind (local.get $socket) {} (i32.const 32))", flat("0.0.0.0:0"));
    for guest in [ACCEPTS.to_owned(), format!("{bind}{ACCEPTS}")] {
        let mut guest = start(&bench, &with_socket("tcp", &guest)).await;
        assert_eq!(guest.numbers(1).await, [0]);
        let local = guest.address().await;
        let port = local.strip_prefix("0.0.0.0:").unwrap();
        let at = format!("{OWN}:{port}");
        let mut stranger = connect_from("127.94.0.1", &at).await.unwrap();
        let answer = timeout(PATIENCE, stranger.read_u8()).await.expect("it is answered");
        assert!(answer.is_err(), "it is refused");
        let own = connect_from(LOOPBACK, &at).await.unwrap();
        assert_eq!(guest.address().await, format!("127.0.0.1:{port}"));
        assert_eq!(guest.address().await, format!("127.0.0.1:{}", own.local_addr().unwrap().port()));
    }
}

#[tokio::test]
async fn no_others_address_is_bound() {
    let bench = Bench::new();
    for (address, expected) in [
        ("127.93.0.8:0", ADDRESS_NOT_BINDABLE),
        ("127.93.4.1:0", ADDRESS_NOT_BINDABLE),
        ("127.0.4.0:0", ADDRESS_NOT_BINDABLE),
        ("192.0.2.9:0", ADDRESS_NOT_BINDABLE),
        ("127.0.0.1:0", 0),
    ] {
        let binds = format!(
            "(call $tcp-bind (local.get $socket) {} (i32.const 32))
                 (call $print-number (call $error (i32.const 32)))",
            flat(address)
        );
        let mut guest = start(&bench, &with_socket("tcp", &binds)).await;
        assert_eq!(guest.numbers(1).await, [u32::from(expected)], "{address}");
    }
}

/// What a guest connects to is the pod's own or outside; the host's loopback is out of reach.
#[tokio::test]
async fn connections_go_where_the_pods_may() {
    let bench = Bench::new();
    let of_host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let of_another = TcpListener::bind("127.93.0.8:0").await.unwrap();
    let port = of_host.local_addr().unwrap().port();
    for (address, expected) in [
        (format!("127.0.0.1:{port}"), CONNECTION_REFUSED),
        (of_another.local_addr().unwrap().to_string(), REMOTE_UNREACHABLE),
        ("192.0.2.1:80".to_owned(), ACCESS_DENIED),
        ("169.254.169.254:80".to_owned(), ACCESS_DENIED),
    ] {
        let connects = format!(
            "(call $tcp-connect (local.get $socket) {} (i32.const 32))
             (call $print-number (call $error (i32.const 32)))",
            flat(&address)
        );
        let mut guest = start(&bench, &with_socket("tcp", &connects)).await;
        assert_eq!(guest.numbers(1).await, [u32::from(expected)], "{address}");
    }
}

/// Connects, and says how both ends look to it.
fn connects(to: &str) -> String {
    format!(
        "(call $tcp-connect (local.get $socket) {} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $tcp-local (local.get $socket) (i32.const 64))
         (call $print-address (i32.const 64))
         (call $tcp-remote (local.get $socket) (i32.const 64))
         (call $print-address (i32.const 64))
         (call $wait-for (i64.const 3600000000000))",
        flat(to)
    )
}

#[tokio::test]
async fn a_connection_comes_from_its_pod() {
    let bench = Bench::new();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = format!("127.0.0.1:{port}");
    let mut guest = start(&bench, &with_socket("tcp", &connects(&to))).await;
    let (_accepted, from) = soon(listener.accept()).await;
    assert_eq!(guest.numbers(1).await, [0]);
    assert_eq!(from.ip().to_string(), LOOPBACK);
    assert_eq!(guest.address().await, format!("127.0.0.1:{}", from.port()));
    assert_eq!(guest.address().await, to);
}

/// A Service at 10.96.0.9:80, of TCP and of UDP, at which these answer.
fn add_service(bench: &Bench, tcp: SocketAddr, udp: SocketAddr) {
    let rule = |transport, endpoint| ServiceRule {
        transport,
        at: vec!["10.96.0.9:80".parse().unwrap()],
        endpoints: vec![endpoint],
        node_only: false,
        affinity: None,
        sources: Vec::new(),
    };
    let service = Service {
        key: "default/it".into(),
        cluster_ips: vec!["10.96.0.9".parse().unwrap()],
        rules: vec![rule(Protocol::Tcp, tcp), rule(Protocol::Udp, udp)],
    };
    let services = ServiceChanges { set: vec![service], removed: Vec::new() };
    bench.host.tables().apply(TablesUpdate { revision: 1, services, ..TablesUpdate::default() }).unwrap();
}

#[tokio::test]
async fn a_service_is_reached_at_its_endpoint_and_looks_like_itself() {
    let bench = Bench::new();
    let tcp = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let udp = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    add_service(&bench, tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    let mut guest = start(&bench, &with_socket("tcp", &connects("10.96.0.9:80"))).await;
    let (_accepted, from) = soon(tcp.accept()).await;
    assert_eq!(guest.numbers(1).await, [0]);
    assert_eq!(guest.address().await, from.to_string());
    assert_eq!(guest.address().await, "10.96.0.9:80");
    let mut refused = start(&bench, &with_socket("tcp", &connects("10.96.0.9:81"))).await;
    assert_eq!(refused.numbers(1).await, [u32::from(CONNECTION_REFUSED)], "it has no such port");

    let none = flat("0.0.0.0:0");
    let connected = format!(
        "(call $udp-connect (local.get $socket) {} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-send (local.get $socket) (i32.const 64) (i32.const 1) (i32.const 0) {none} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         {RECEIVES}",
        flat("10.96.0.9:80")
    );
    let mut guest = start(&bench, &with_socket("udp", &connected)).await;
    assert_eq!(guest.numbers(2).await, [0, 0]);
    let (mut buffer, stranger) = ([0; 8], UdpSocket::bind((LOOPBACK, 0)).await.unwrap());
    let (_, from) = soon(udp.recv_from(&mut buffer)).await;
    stranger.send_to(b"no", from).await.unwrap();
    udp.send_to(b"yes", from).await.unwrap();
    assert_eq!(guest.numbers(1).await, [3], "the answer of the Service, and of nobody else");
    assert_eq!(guest.address().await, "10.96.0.9:80");
}

/// Receives one datagram: its size, and whom it comes from.
const RECEIVES: &str = r#"
  (call $udp-receive (local.get $socket) (i32.const 32))
  (call $print-number (i32.load (i32.const 40)))
  ;; The address, where $print-address looks for that of a result.
  (i32.store (i32.const 64) (i32.const 0))
  (memory.copy (i32.const 68) (i32.const 44) (i32.const 32))
  (call $print-address (i32.const 64))"#;

/// A datagram leaves from the pod, also from a socket that was never bound, and the answer comes from where the question went.
#[tokio::test]
async fn datagrams_come_from_their_pod() {
    let bench = Bench::new();
    let peer = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let port = peer.local_addr().unwrap().port();
    let asks = format!(
        "(call $udp-send (local.get $socket) (i32.const 64) (i32.const 1) (i32.const 1) {} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-local (local.get $socket) (i32.const 128))
         (call $print-address (i32.const 128))
         {RECEIVES}
         (call $udp-send (local.get $socket) (i32.const 64) (i32.const 1) (i32.const 1) {} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))",
        flat(&format!("127.0.0.1:{port}")),
        flat("192.0.2.1:53"),
    );
    let mut guest = start(&bench, &with_socket("udp", &asks)).await;
    assert_eq!(guest.numbers(1).await, [0]);
    let mut buffer = [0; 8];
    let (_, from) = soon(peer.recv_from(&mut buffer)).await;
    assert_eq!(from.ip().to_string(), OWN);
    assert_eq!(guest.address().await, format!("0.0.0.0:{}", from.port()));
    peer.send_to(b"answer", from).await.unwrap();
    assert_eq!(guest.numbers(1).await, [6]);
    assert_eq!(guest.address().await, format!("127.0.0.1:{port}"));
    assert_eq!(guest.numbers(1).await, [u32::from(ACCESS_DENIED)]);
}

/// A socket that was connected and is not any more has another port when it sends again, is known by that one, and is its
/// pod's.
#[tokio::test]
async fn a_socket_that_was_disconnected_is_its_pods() {
    let bench = Bench::new();
    let peer = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let (to, none) = (flat(&format!("127.0.0.1:{}", peer.local_addr().unwrap().port())), flat("0.0.0.0:0"));
    let asks = format!(
        "(call $udp-disconnect (local.get $socket) (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-connect (local.get $socket) {to} (i32.const 32))
         (call $udp-send (local.get $socket) (i32.const 64) (i32.const 1) (i32.const 0) {none} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-disconnect (local.get $socket) (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-send (local.get $socket) (i32.const 64) (i32.const 1) (i32.const 0) {none} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-send (local.get $socket) (i32.const 64) (i32.const 1) (i32.const 1) {to} (i32.const 32))
         (call $print-number (call $error (i32.const 32)))
         (call $udp-local (local.get $socket) (i32.const 128))
         (call $print-address (i32.const 128))
         {RECEIVES}"
    );
    let mut guest = start(&bench, &with_socket("udp", &asks)).await;
    // 6 is `invalid-state` and 1, and 3 is `invalid-argument` and 1: nobody is sent to.
    assert_eq!(guest.numbers(5).await, [6, 0, 0, 3, 0]);
    let mut buffer = [0; 8];
    let (_, first) = soon(peer.recv_from(&mut buffer)).await;
    let (_, second) = soon(peer.recv_from(&mut buffer)).await;
    assert_eq!((first.ip().to_string(), second.ip()), (OWN.to_owned(), first.ip()));
    assert_eq!(guest.address().await, format!("0.0.0.0:{}", second.port()));
    peer.send_to(b"answer", second).await.unwrap();
    assert_eq!(guest.numbers(1).await, [6]);
    assert_eq!(guest.address().await, peer.local_addr().unwrap().to_string().replace(LOOPBACK, "127.0.0.1"));
}
