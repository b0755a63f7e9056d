use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn file(name: &str, body: &str) -> ConfigFile {
    ConfigFile { path: name.into(), text: format!("{HEAD}{body}") }
}

fn given(name: &str, value: &str) -> GivenFlag {
    GivenFlag { name: name.to_owned(), values: vec![value.to_owned()] }
}

fn laid(main: &str, drop_ins: &[&str], flags: &[GivenFlag]) -> KubeletConfiguration {
    let drop_ins: Vec<_> = drop_ins.iter().map(|body| file("drop-in.conf", body)).collect();
    lay(Some(&file("main.yaml", main)), &drop_ins, flags).unwrap().configuration
}

fn thresholds(of: &KubeletConfiguration) -> Vec<(&str, &str)> {
    of.eviction_hard.iter().map(|(signal, value)| (signal.as_str(), value.as_str())).collect()
}

#[test]
fn flags_go_before_drop_ins_and_drop_ins_before_the_file() {
    let main = "maxPods: 1\nclusterDomain: main\nresolvConf: /main\n";
    let drop_ins = ["clusterDomain: first\nresolvConf: /first\n", "clusterDomain: second\n"];
    let laid = laid(main, &drop_ins, &[given("resolv-conf", "/flag")]);
    assert_eq!(
        (laid.max_pods, laid.cluster_domain.as_str(), laid.resolv_conf.as_path()),
        (1, "second", Path::new("/flag"))
    );
}

#[test]
fn lists_replace_and_maps_merge() {
    let main = "clusterDNS: [10.0.0.1, 10.0.0.2]\nkubeReserved: {cpu: 100m, memory: 1Gi}\n\
                authentication: {x509: {clientCAFile: /ca}, webhook: {cacheTTL: 1m}}\n";
    let laid = laid(
        main,
        &[
            "clusterDNS: [10.0.0.3]\nkubeReserved: {memory: 2Gi}\nauthentication: {webhook: {enabled: false}}\n",
        ],
        &[],
    );
    assert_eq!(laid.cluster_dns, ["10.0.0.3".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((laid.kube_reserved["cpu"].as_str(), laid.kube_reserved["memory"].as_str()), ("100m", "2Gi"));
    assert_eq!(laid.authentication.x509.client_ca_file, Path::new("/ca"));
    assert_eq!(
        (laid.authentication.webhook.enabled, laid.authentication.webhook.cache_ttl.as_secs()),
        (false, 60)
    );
}

#[test]
fn null_goes_back_to_the_default() {
    let laid = laid(
        "maxPods: 5\nkubeReserved: {cpu: 1, memory: 1Gi}\n",
        &["maxPods: null\nkubeReserved: {cpu: null}\n"],
        &[],
    );
    assert_eq!((laid.max_pods, laid.kube_reserved.len()), (0, 1));
    assert_eq!(lay(Some(&file("a", "port: null\n")), &[], &[]).unwrap().configuration.port, 10250);
}

#[test]
fn a_flag_replaces_a_map() {
    let laid = laid("systemReserved: {cpu: 1, memory: 1Gi}\n", &[], &[given("system-reserved", "cpu=2")]);
    assert_eq!(laid.system_reserved.into_iter().collect::<Vec<_>>(), [("cpu".to_owned(), "2".to_owned())]);
}

#[test]
fn thresholds_of_drop_ins_join_those_of_the_file_or_the_defaults() {
    let drop_in = "evictionHard: {memory.available: 1Gi}\n";
    let joined = laid("", &[drop_in], &[]);
    assert!(thresholds(&joined).contains(&("nodefs.available", "10%")), "{joined:?}");
    assert!(thresholds(&joined).contains(&("memory.available", "1Gi")), "{joined:?}");
    let joined = laid("evictionHard: {nodefs.available: 5%}\n", &[drop_in], &[]);
    assert_eq!(thresholds(&joined), [("memory.available", "1Gi"), ("nodefs.available", "5%")]);
    let merged = laid("mergeDefaultEvictionSettings: true\nevictionHard: {nodefs.available: 5%}\n", &[], &[]);
    assert!(thresholds(&merged).contains(&("nodefs.available", "5%")), "{merged:?}");
    assert!(thresholds(&merged).contains(&("memory.available", "100Mi")), "{merged:?}");
    assert_eq!(thresholds(&laid("evictionHard: {}\n", &[], &[])), []);
}

#[test]
fn defaults_depend_on_other_fields_as_upstream() {
    let reported = |main: &str| laid(main, &[], &[]).node_status_report_frequency.as_secs();
    assert_eq!(reported(""), 300);
    assert_eq!(reported("nodeStatusUpdateFrequency: 20s\n"), 20);
    assert_eq!(reported("nodeStatusUpdateFrequency: 0s\n"), 300);
    assert_eq!(reported("nodeStatusUpdateFrequency: 20s\nnodeStatusReportFrequency: 1m\n"), 60);
    assert!(!laid("maxParallelImagePulls: 3\n", &[], &[]).without_effect.serialize_image_pulls);
    assert_eq!(laid("nodeLeaseDurationSeconds: 0\n", &[], &[]).node_lease_duration_seconds, 40);
}

#[test]
fn mistakes_name_the_file_or_the_flag() {
    let refused = |drop_in: &ConfigFile, flags: &[GivenFlag]| {
        lay(None, std::slice::from_ref(drop_in), flags).unwrap_err().to_string()
    };
    for (body, expected) in [
        ("maxPod: 1\n", "/etc/k/10.conf: line 3: unknown field `maxPod`"),
        ("maxPods: many\n", "/etc/k/10.conf: line 3: maxPods: invalid type"),
        ("maxPods: many\nport: null\n", "/etc/k/10.conf: maxPods: invalid type"),
        ("- a\n", "/etc/k/10.conf: "),
    ] {
        let message = refused(&file("/etc/k/10.conf", body), &[]);
        assert!(message.starts_with(expected), "{body:?}: {message}");
    }
    let nameless = ConfigFile { path: "/etc/k/10.conf".into(), text: "maxPods: 1\n".to_owned() };
    let message = refused(&nameless, &[]);
    assert!(message.starts_with("/etc/k/10.conf: it must say what it is"), "{message}");
    for (name, value, expected) in [
        ("cluster-dns", "a", "--cluster-dns: "),
        ("oom-score-adj", "x", "--oom-score-adj: \"x\" is not a whole number"),
        ("authorization-mode", "RBAC", "--authorization-mode: unknown variant `RBAC`"),
        ("no-such-flag", "x", "--no-such-flag: there is no such flag"),
    ] {
        let message = refused(&file("10.conf", ""), &[given(name, value)]);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn who_has_set_a_field_is_blamed_for_it() {
    let layered = lay(
        Some(&file("main.yaml", "maxPods: 1\nport: 1\n")),
        &[file("10.conf", "port: 2\n")],
        &[given("oom-score-adj", "1")],
    )
    .unwrap();
    for (message, blamed) in [
        ("maxPods is 1; no", "main.yaml: maxPods"),
        ("port: no", "10.conf: port"),
        ("oomScoreAdj.x is 1", "--oom-score-adj: oomScoreAdj"),
        ("syncFrequency", "syncFrequency"),
    ] {
        let text = layered.blame(message.to_owned()).to_string();
        assert!(text.starts_with(blamed), "{text}");
    }
    assert_eq!(layered.warnings, ["--oom-score-adj is known but has no effect on a Wasm node"]);
}

#[test]
fn drop_ins_are_conf_files_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in
        [("20.conf", "c"), ("10.conf/b.conf", "a"), ("README.md", "x"), ("15.conf", "b"), ("30.yaml", "x")]
    {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let texts: Vec<_> = read_drop_ins(dir.path()).unwrap().into_iter().map(|file| file.text).collect();
    assert_eq!(texts, ["a", "b", "c"]);
    let message = read_drop_ins(&dir.path().join("none")).unwrap_err().to_string();
    assert!(message.contains("/none"), "{message}");
    fs::write(dir.path().join("40.conf"), vec![b'#'; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
    let message = read_drop_ins(dir.path()).unwrap_err().to_string();
    assert!(message.contains("40.conf: 1048577 bytes are too much"), "{message}");
}
