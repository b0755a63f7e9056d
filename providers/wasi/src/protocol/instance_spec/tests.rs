use kubewasm_host::{DeniedNetwork, ExposedPort, ExposedPorts, http::ServerCertificate};
use kubewasm_rules::Protocol;

use super::*;

fn authority() -> PrivateAuthorities {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
    PrivateAuthorities::from_der([params.self_signed(&key).unwrap().der().to_vec()]).unwrap()
}

fn certificate() -> ServerCertificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap();
    ServerCertificate::from_der([chain.der().to_vec()], key.serialize_der()).unwrap()
}

fn spec() -> InstanceSpec {
    InstanceSpec {
        id: "1".into(),
        pod_uid: "u".into(),
        name: "ns/pod/c".into(),
        module: "/m".into(),
        kind: ModuleKind::CliComponent,
        argv: vec!["a".into(), "b".into()],
        env: vec![("A".into(), "1".into()), ("B".into(), String::new())],
        working_dir: Some("/srv".into()),
        root: RootSpec::default(),
        log_path: "/l".into(),
        network: Network::Host,
        denied_networks: ["192.0.2.0/24", "node"]
            .iter()
            .map(|text| text.parse::<DeniedNetwork>().unwrap())
            .collect(),
        egress: Some("example.com:443,*.example.org,10.0.0.0/8,[2001:db8::/32]:53".parse().unwrap()),
        authorities: Some(Arc::new(authority())),
        http_proxy: Some(Arc::new(proxy())),
        listen_ports: vec![ListenPort { port: 8080, name: "http".into() }],
        http: Some("max-requests=7,access-log=json".parse().unwrap()),
        tls: Some(Arc::new(certificate())),
        name_files: Some(Arc::new(NameFiles::new("nameserver 10.96.0.10\n", "127.0.0.1 localhost\n"))),
        stack: Stack::LARGEST,
        terminal: false,
        stdin: true,
        stdin_once: true,
        tty: true,
        memory_limit_bytes: 64 << 20,
        memory_volumes: MemoryVolumes {
            guest_paths: vec!["/m/a".into(), "/m/b".into()],
            pod_limit_bytes: 128 << 20,
        },
        cpu: CpuShare { limit_millis: 500, request_millis: 100 },
        stop_notice: true,
        label: "image".into(),
    }
}

fn proxy() -> HttpProxy {
    let past = ["*.svc", "10.0.0.0/8", "example.com:8443"].map(|entry| entry.parse().unwrap());
    HttpProxy::new("http://proxy.example:3128", Some("me:pass:word".parse().unwrap()), past.into()).unwrap()
}

fn pod_addresses() -> PodAddresses {
    PodAddresses {
        own: ["10.244.1.7", "fd00:10::7"].map(|ip| ip.parse().unwrap()).into(),
        loopback: "127.0.28.0/22".parse().unwrap(),
        loopback_v6: "fd6b::7:1".parse().unwrap(),
    }
}

fn exposed() -> ExposedPorts {
    let port = |protocol, host_ip: Option<&str>| ExposedPort {
        protocol,
        container_port: 8080,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port: 18080,
    };
    ExposedPorts {
        own: ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into(),
        ports: vec![port(Protocol::Tcp, None), port(Protocol::Udp, Some("::"))],
    }
}

#[test]
fn specs_survive_the_wire() {
    for spec in [
        spec(),
        InstanceSpec {
            working_dir: None,
            network: Network::Outgoing,
            denied_networks: DeniedNetworks::default(),
            egress: None,
            authorities: None,
            http_proxy: None,
            listen_ports: Vec::new(),
            http: None,
            tls: None,
            name_files: None,
            stack: Stack::DEFAULT,
            terminal: true,
            kind: ModuleKind::CoreCommand,
            ..spec()
        },
        InstanceSpec { network: Network::Pod(pod_addresses()), egress: Some("".parse().unwrap()), ..spec() },
        InstanceSpec { network: Network::Namespace, ..spec() },
        InstanceSpec { network: Network::Exposed(exposed()), ..spec() },
    ] {
        assert_eq!(InstanceSpec::try_from(wire::InstanceSpec::from(&spec)), Ok(spec));
    }
}

#[test]
fn roots_survive_the_wire() {
    for root in [
        RootSpec::default(),
        RootSpec {
            image: Some("/image".into()),
            scratch: Some("/scratch".into()),
            read_only: true,
            mounts: vec![Mount { host_path: "/h".into(), guest_path: "/g".into(), read_only: true }],
        },
    ] {
        assert_eq!(RootSpec::from(wire::Root::from(&root)), root);
    }
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    let good = wire::InstanceSpec::from(&spec());
    let of_pod = wire::InstanceSpec { network: wire::Network::Pod.into(), ..good.clone() };
    let unreadable = wire::PodAddresses { own: vec!["x".into()], ..(&pod_addresses()).into() };
    let outgoing = wire::InstanceSpec { network: wire::Network::Outgoing.into(), ..good.clone() };
    let exposing = |change: fn(&mut wire::ExposedPorts)| {
        let mut ports = wire::ExposedPorts::from(&exposed());
        change(&mut ports);
        wire::InstanceSpec { exposed: Some(ports), ..outgoing.clone() }
    };
    for (bad, expected) in [
        (wire::InstanceSpec { kind: 99, ..good.clone() }, "the kind of module"),
        (wire::InstanceSpec { network: 0, ..good.clone() }, "the network"),
        (of_pod.clone(), "the addresses of the pod are missing"),
        (wire::InstanceSpec { pod_addresses: Some(unreadable), ..of_pod }, "an address of the pod"),
        (wire::InstanceSpec { stack_bytes: u64::MAX, ..good.clone() }, "the stack"),
        (wire::InstanceSpec { denied_networks: vec!["x".into()], ..good.clone() }, "a denied network"),
        (wire::InstanceSpec { authorities: vec![b"x".to_vec()], ..good.clone() }, "a certificate"),
        (
            wire::InstanceSpec {
                listen_ports: vec![wire::ListenPort { port: 70_000, name: String::new() }],
                ..good.clone()
            },
            "a port to listen on",
        ),
        (exposing(|exposed| exposed.own[0] = "x".into()), "an address of the pod"),
        (exposing(|exposed| exposed.ports[0].transport = 0), "what a port carries"),
        (exposing(|exposed| exposed.ports[0].host_ip = "x".into()), "the address of a port"),
        (exposing(|exposed| exposed.ports[0].host_port = 0), "a port of the node"),
        (exposing(|exposed| exposed.ports[0].container_port = 70_000), "a port of the node"),
        (wire::InstanceSpec { http: Some("x".into()), ..good.clone() }, "settings of HTTP"),
        (
            wire::InstanceSpec { tls: Some(wire::TlsCertificate::default()), ..good.clone() },
            "a certificate with its key",
        ),
        (wire::InstanceSpec { id: String::new(), ..good.clone() }, "the id"),
        (wire::InstanceSpec { argv: Vec::new(), ..good }, "argv"),
    ] {
        let error = InstanceSpec::try_from(bad).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn values_of_the_environment_and_credentials_of_proxies_stay_out_of_debug_texts() {
    let mut spec = spec();
    spec.env = vec![("PASSWORD".into(), "hunter2".into())];
    let credentials = Some("me:swordfish".parse().unwrap());
    let proxy = HttpProxy::new("http://proxy.example:3128", credentials, Vec::new()).unwrap();
    spec.http_proxy = Some(Arc::new(proxy));
    let start = wire::StartRequest { spec: Some((&spec).into()), ..wire::StartRequest::default() };
    for text in [format!("{spec:?}"), format!("{start:?}")] {
        assert!(text.contains("PASSWORD") && text.contains("proxy.example"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("swordfish"), "{text}");
    }
}

#[test]
fn no_text_of_a_spec_has_the_key_in_it() {
    let spec = spec();
    let key = spec.tls.as_ref().unwrap().key_der().to_vec();
    let middle = format!("{:?}", &key[key.len() / 3..key.len() / 2]);
    let middle = middle.trim_matches(['[', ']']);
    let wire = wire::InstanceSpec::from(&spec);
    let tls = wire.tls.clone();
    assert!(tls.is_some_and(|tls| tls.key == key));
    for text in [format!("{spec:?}"), format!("{wire:?}"), format!("{wire:#?}").replace(['\n', ' '], "")] {
        assert!(text.contains("tls") && !text.contains(middle) && !text.contains(&middle.replace(' ', "")));
    }
}
