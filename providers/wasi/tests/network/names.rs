//! Guests that look names up by their pod's files, at a real server (dnsmasq) on the node.

use std::{net::UdpSocket, process::Stdio};

use kubewasm_kubelet::runtime::{ContainerSpec, NameFiles};
use tokio::process::{Child, Command};

use super::{
    support::until,
    world::{Node, PATIENCE, on_node},
};

/// `name-unresolvable`, as the guest prints it.
const UNRESOLVABLE: &str = "refused 18";
/// `temporary-resolver-failure`.
const TEMPORARY: &str = "refused 19";
/// `permanent-resolver-failure`.
const REFUSED: &str = "refused 20";

/// What the server knows. It refuses what is not below `test`.
const RECORDS: [&str; 6] = [
    "--host-record=web.ns.svc.test,10.9.0.1",
    "--host-record=both.example.test,10.9.0.2,fd00::2",
    "--host-record=six.example.test,fd00::6",
    "--cname=alias.example.test,both.example.test",
    "--host-record=xn--bcher-kva.example.test,10.9.0.4",
    "--host-record=a.b.c.d.e.test,10.9.0.5",
];

/// A server, which ends when this is dropped, and the questions that it was asked.
struct Server {
    _process: Child,
    log: std::path::PathBuf,
}

/// Starts a server at an address, where it is installed.
async fn server(node: &Node, ip: &str) -> Option<Server> {
    let Some(program) = kubewasm_tests::process::find_program("dnsmasq") else {
        eprintln!("skipped: dnsmasq is not installed; `make setup` installs it");
        return None;
    };
    let log = node.path(&format!("dnsmasq-{ip}.log"));
    // More than fits into a datagram.
    let many = (1..=60).map(|n| format!("--host-record=many.example.test,10.9.1.{n}"));
    let process = Command::new(program)
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
            "--bind-interfaces",
        ])
        .args(["--no-resolv", "--no-hosts", "--local=/test/", "--log-queries"])
        .arg(format!("--listen-address={ip}"))
        .arg(format!("--log-facility={}", log.display()))
        .args(RECORDS)
        .args(many)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let server = Server { _process: process, log };
    until("the server", PATIENCE, || server.log().contains("started").then_some(())).await;
    Some(server)
}

impl Server {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What was asked: kind, name and by whom.
    fn questions(&self) -> Vec<String> {
        let log = self.log();
        let asked = log.lines().filter_map(|line| line.split_once("query[").map(|(_, asked)| asked));
        asked.map(|asked| asked.replace(']', "")).collect()
    }
}

struct Pod<'a> {
    node: &'a Node,
    image: String,
}

impl Pod<'_> {
    /// What a guest finds, name by name, in a pod with these files: in a slot, or with the node's address.
    async fn finds(&self, id: &str, slot: Option<u32>, files: (&str, &str), names: &[&str]) -> Vec<String> {
        let (resolv_conf, hosts) = files;
        let argv = std::iter::once("names").chain(names.iter().copied());
        let spec = ContainerSpec {
            image: self.image.clone(),
            argv: argv.map(str::to_owned).collect(),
            name_files: Some(NameFiles { resolv_conf: resolv_conf.to_owned(), hosts: hosts.to_owned() }),
            ..self.node.spec(id, id, "ns", "", "")
        };
        self.node.start_spec(slot, spec).await.unwrap();
        self.node.lines(id).await
    }
}

fn lines(found: &[(&str, &str)]) -> Vec<String> {
    found.iter().map(|(name, what)| format!("{name}: {what}")).collect()
}

const CLUSTER: &str =
    "search ns.svc.test svc.test test\nnameserver 192.0.2.1\noptions ndots:5 timeout:1 attempts:1\n";

/// With addresses of its own and with the node's: what the pod's files say, and not what the node's do.
#[test]
fn names_are_what_the_pods_files_and_servers_say() {
    on_node(|| async {
        let node = Node::new().await;
        let Some(server) = server(&node, "192.0.2.1").await else { return };
        let pod = Pod { image: node.have("names-0.2.c").await, node: &node };
        let hosts = "127.0.0.1 localhost\n::1 localhost\n10.9.9.9 one two.example\n";
        let names = [
            ("web", "10.9.0.1"),
            ("web.ns.svc.test.", "10.9.0.1"),
            ("web.", REFUSED),
            ("both.example", "10.9.0.2 [fd00:0:0:0:0:0:0:2]"),
            ("both.example.test", "10.9.0.2 [fd00:0:0:0:0:0:0:2]"),
            ("six.example.test", "[fd00:0:0:0:0:0:0:6]"),
            ("alias.example.test", "10.9.0.2 [fd00:0:0:0:0:0:0:2]"),
            ("bücher.example.test", "10.9.0.4"),
            ("a.b.c.d.e.test", "10.9.0.5"),
            ("nowhere.test", UNRESOLVABLE),
            ("one", "10.9.9.9"),
            ("TWO.example", "10.9.9.9"),
            ("localhost", "127.0.0.1 [0:0:0:0:0:0:0:1]"),
            ("192.0.2.7", "192.0.2.7"),
            ("::1", "[0:0:0:0:0:0:0:1]"),
            ("a b", "refused 3"),
        ];
        let (asked, _): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
        let expected = lines(&names);
        assert_eq!(pod.finds("own", Some(2), (CLUSTER, hosts), &asked).await, expected);
        // Every question has come from the pod's own address.
        let questions = server.questions();
        assert!(!questions.is_empty() && questions.iter().all(|asked| asked.ends_with(" from 10.244.1.2")));
        assert_eq!(questions[..2].iter().filter(|asked| asked.contains("web.ns.svc.test")).count(), 2);
        for name in ["one", "two.example", "localhost", "192.0.2.7"] {
            assert!(!questions.iter().any(|asked| asked.contains(&format!(" {name}."))), "{name}");
        }
        // A host without a way to addresses of IPv6 has those of IPv4 first.
        let found = pod.finds("nodes", None, (CLUSTER, hosts), &asked).await;
        let sorted = |lines: &[String]| -> Vec<Vec<String>> {
            let words = lines.iter().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
            words
                .map(|mut words| {
                    words.sort();
                    words
                })
                .collect()
        };
        assert_eq!(sorted(&found), sorted(&expected));
    });
}

/// More than a datagram holds is asked for once more by TCP.
#[test]
fn long_answers_come_by_tcp() {
    on_node(|| async {
        let node = Node::new().await;
        let Some(_server) = server(&node, "192.0.2.1").await else { return };
        let pod = Pod { image: node.have("names-0.2.c").await, node: &node };
        for (id, slot, option) in
            [("udp", Some(2), ""), ("edns", Some(3), "options edns0\n"), ("tcp", None, "options use-vc\n")]
        {
            let conf = format!("nameserver 192.0.2.1\n{option}");
            let found = pod.finds(id, slot, (&conf, ""), &["many.example.test"]).await;
            let [line] = &found[..] else { panic!("{found:?}") };
            assert_eq!(line.matches(" 10.9.1.").count(), 60, "{id}: {line}");
        }
    });
}

/// A server that says nothing is followed by the next. A sidecar may be the server, on the pod's own loopback; the node's is
/// another one.
#[test]
fn every_server_of_the_pod_is_asked() {
    on_node(|| async {
        let node = Node::new().await;
        let Some(_server) = server(&node, "192.0.2.1").await else { return };
        let Some(_other) = server(&node, "127.0.0.1").await else { return };
        let silent = UdpSocket::bind("[2001:db8::1]:53").unwrap();
        let pod = Pod { image: node.have("names-0.2.c").await, node: &node };
        let names = ["web.ns.svc.test"];
        let options = "options timeout:1 attempts:1\n";
        let known = lines(&[(names[0], "10.9.0.1")]);
        let unknown = lines(&[(names[0], TEMPORARY)]);
        for (id, slot, servers, expected) in [
            ("second", Some(2), "nameserver 2001:db8::1\nnameserver 192.0.2.1\n", &known),
            ("silent", Some(3), "nameserver 2001:db8::1\n", &unknown),
            ("loopback", Some(4), "nameserver 127.0.0.1\n", &unknown),
            ("none", Some(5), "", &unknown),
            ("nodes", None, "nameserver 127.0.0.1\n", &known),
        ] {
            let conf = format!("{servers}{options}");
            assert_eq!(pod.finds(id, slot, (&conf, ""), &names).await, *expected, "{id}");
        }
        drop(silent);
    });
}
