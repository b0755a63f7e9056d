use super::*;

fn resolve(file: &str, flags: &Flags) -> Result<(Config, Vec<String>), ConfigError> {
    Config::resolve(file, flags, "Node-1.Example\n")
}

#[test]
fn defaults_are_those_of_upstream_and_ours() {
    let (config, warnings) = resolve("", &Flags::default()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.node_name, "node-1.example");
    assert_eq!(config.root_dir, Path::new("/var/lib/kubewasm"));
    assert_eq!(config.cert_dir, Path::new("/var/lib/kubewasm/pki"));
    assert_eq!(config.kubelet.pod_logs_dir, Path::new("/var/log/pods"));
    assert_eq!(config.kubelet.port, 10250);
    assert_eq!(config.container_log_max_bytes(), 10 << 20);
    let taints: Vec<_> = config.taints().into_iter().map(|t| (t.key, t.value.unwrap(), t.effect)).collect();
    let taint = |effect: &str| ("kubernetes.io/arch".to_owned(), "wasm32-wasi".to_owned(), effect.to_owned());
    assert_eq!(taints, [taint("NoSchedule"), taint("NoExecute")]);
}

#[test]
fn flags_win_over_the_file() {
    let flags = Flags {
        port: Some(0),
        max_pods: Some(7),
        register_with_taints: Some(String::new()),
        root_dir: Some("/srv/node".into()),
        hostname_override: Some("edge".into()),
        ..Flags::default()
    };
    let (config, _) = resolve("port: 4000\nmaxPods: 5\nsyncFrequency: 0s\n", &flags).unwrap();
    assert_eq!((config.kubelet.port, config.kubelet.max_pods), (0, 7));
    assert_eq!(config.taints(), []);
    assert_eq!(config.cert_dir, Path::new("/srv/node/pki"));
    assert_eq!(config.node_name, "edge");
    assert_eq!(config.kubelet.sync_frequency, Duration::from_secs(60), "zero is not set");
}

#[test]
fn folders_are_absolute() {
    let flags = Flags {
        root_dir: Some("node".into()),
        cert_dir: Some("keys".into()),
        pod_logs_dir: Some("logs".into()),
        ..Flags::default()
    };
    let (config, _) = resolve("", &flags).unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.root_dir, here.join("node"));
    assert_eq!(config.cert_dir, here.join("keys"));
    assert_eq!(config.kubelet.pod_logs_dir, here.join("logs"));
}

#[test]
fn the_room_for_pods_counts_where_nobody_says() {
    let flags = |max_pods, room_for_pods| Flags { max_pods, room_for_pods, ..Flags::default() };
    for (file, max_pods, room, expected) in [
        ("", None, None, 110),
        ("", None, Some(8776), 8776),
        ("maxPods: 0\n", None, Some(8776), 8776),
        ("maxPods: 500\n", None, Some(8776), 500),
        ("maxPods: 500\n", Some(7), Some(8776), 7),
        ("", Some(0), Some(8776), 0),
    ] {
        let (config, _) = resolve(file, &flags(max_pods, room)).unwrap();
        assert_eq!(config.kubelet.max_pods, expected, "{file:?}, {max_pods:?}, {room:?}");
    }
}

#[test]
fn a_field_without_effect_is_one_warning() {
    let flags = Flags { config: Some("/etc/node.yaml".into()), ..Flags::default() };
    let (_, warnings) = resolve("cgroupDriver: systemd\nmaxPods: 1\n", &flags).unwrap();
    assert_eq!(
        warnings,
        ["/etc/node.yaml: field \"cgroupDriver\" is known but has no effect on a Wasm node"]
    );
}

#[test]
fn every_refusal_says_what_and_why() {
    for (file, expected) in [
        ("nodeLeaseDurationSeconds: 1", "nodeLeaseDurationSeconds is 1"),
        ("containerLogMaxFiles: 1", "containerLogMaxFiles is 1"),
        ("containerLogMaxSize: big", "containerLogMaxSize: \"big\" is not a quantity"),
        ("kubeReserved: {cpu: lots}", "kubeReserved.cpu: \"lots\""),
        ("evictionHard: {memory.available: 110%}", "evictionHard.memory.available"),
        ("evictionHard: {disk.available: 1Gi}", "evictionHard.disk.available: there is no such signal"),
        ("evictionSoft: {nodefs.available: 1Gi}", "set evictionSoftGracePeriod.nodefs.available"),
        ("imageGCHighThresholdPercent: 80", "imageGCLowThresholdPercent is 80"),
        ("imageMaximumGCAge: 1m", "imageMaximumGCAge is 1m0s; it must be 0s, or above imageMinimumGCAge"),
        (
            "allowedUnsafeSysctls: [kernel.panic]",
            "allowedUnsafeSysctls: the sysctls \"kernel.panic\" are not known",
        ),
        ("imagePullCredentialsVerificationPolicy: Sometimes", "imagePullCredentialsVerificationPolicy"),
        ("preloadedImagesVerificationAllowlist: [r.io/app]", "NeverVerifyAllowlistedImages alone"),
        ("tlsCertFile: /x", "tlsCertFile and tlsPrivateKeyFile"),
        ("tlsMinVersion: VersionTLS10", "tlsMinVersion"),
        ("tlsCipherSuites: [TLS_NULL]", "tlsCipherSuites: cipher suite TLS_NULL not supported"),
        ("tracing: {samplingRatePerMillion: 1000001}", "tracing.samplingRatePerMillion is 1000001"),
        ("tracing: {samplingRatePerMillion: -1}", "tracing.samplingRatePerMillion"),
        ("tracing: {endpoint: \"http://collector:4317\"}", "tracing.endpoint: "),
        ("tracing: {endpiont: x}", "unknown field `endpiont`"),
        ("kubeAPIQPS: -1", "kubeAPIQPS"),
        ("registryPullQPS: -1", "registryPullQPS"),
        ("volumeStatsAggPeriod: often", "volumeStatsAggPeriod: \"often\" is not a duration"),
        ("registerWithTaints: [{key: x, effect: Sometimes}]", "registerWithTaints: effect \"Sometimes\""),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 1h}", "must be from 1s to 5m0s"),
        ("nodeStatusUpdateFrequency: 10ms", "nodeStatusUpdateFrequency is 10ms"),
    ] {
        let message = resolve(file, &Flags::default()).expect_err(file).to_string();
        assert!(message.contains(expected), "{file}: {message}");
    }
    for (flags, expected) in [
        (Flags { hostname_override: Some("a b".into()), ..Flags::default() }, "--hostname-override"),
        (Flags { node_labels: Some("x".into()), ..Flags::default() }, "key=value"),
        (
            Flags { node_ip: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()], ..Flags::default() },
            "--node-ip",
        ),
        (Flags { register_with_taints: Some("x".into()), ..Flags::default() }, "key=value:Effect"),
    ] {
        let message = resolve("", &flags).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let flags = Flags { config: Some("/does/not/exist.yaml".into()), ..Flags::default() };
    let message = Config::load(&flags).unwrap_err().to_string();
    assert!(message.starts_with("cannot read the configuration file /does/not/exist.yaml:"), "{message}");
}

#[test]
fn limits_hold_where_they_are_given_and_are_not_shown_where_there_are_none() {
    let kubelet = |file: &str| resolve(file, &Flags::default()).unwrap().0.kubelet;
    let (none, shown) = (kubelet(""), kubelet("").effective());
    assert_eq!((none.kube_api_qps, none.registry_pull_qps, none.event_record_qps), (None, None, 50));
    assert!(
        shown.get("kubeAPIQPS").is_none()
            && shown.get("registryPullQPS").is_none()
            && shown.get("tracing").is_none()
    );
    let given =
        kubelet("kubeAPIQPS: 0\nregistryPullQPS: 5\nkubeAPIBurst: 0\ntracing: {samplingRatePerMillion: 7}");
    assert_eq!((given.kube_api_qps, given.registry_pull_qps, given.kube_api_burst), (Some(0), Some(5), 100));
    assert_eq!(given.effective()["tracing"], serde_json::json!({ "samplingRatePerMillion": 7 }));
}

#[test]
fn what_pods_have_written_is_measured_unless_the_period_is_below_zero() {
    for (file, expected) in [
        ("", Some(60)),
        ("volumeStatsAggPeriod: 5m", Some(300)),
        ("volumeStatsAggPeriod: 0s", Some(60)),
        ("volumeStatsAggPeriod: -1s", None),
    ] {
        let period = resolve(file, &Flags::default()).unwrap().0.kubelet.volume_stats_period();
        assert_eq!(period.map(|period| period.as_secs()), expected, "{file}");
    }
}
