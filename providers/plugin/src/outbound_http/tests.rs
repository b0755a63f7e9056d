use kubewasm_host::compile;

use crate::{
    access::AccessRules,
    cluster::{ClusterChoice, ClusterEnvironment},
    grants::Grants,
    kubeconfig::KubeconfigOverrides,
    run::{PluginProgram, PluginSetup, run},
    testing::TestServer,
};

/// A plugin as krew-wasm's are: it registers what it likes, sends a GET with a header to this address, and exits with the length of
/// the answer, or with 100 and the error.
fn plugin(uri: &str) -> String {
    format!(
        r#"(module
          (import "wasi-outbound-http" "request" (func $request (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (import "wasi-outbound-http" "register-request-config"
            (func $register (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (global $next (mut i32) (i32.const 4096))
          (data (i32.const 64) "{uri}")
          (data (i32.const 256) "authorization")
          (data (i32.const 272) "Bearer mine")
          (data (i32.const 288) "\00\01\00\00\0d\00\00\00\10\01\00\00\0b\00\00\00")
          (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $next)
            (global.set $next (i32.add (global.get $next) (local.get 3))))
          (func (export "canonical_abi_free") (param i32 i32 i32))
          (func (export "_start")
            ;; Whatever certificates are good, and no name.
            (call $register (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 600))
            (if (i32.ne (i32.load (i32.const 616)) (i32.const 4)) (then unreachable))
            (call $request (i32.const 0) (i32.const 64) (i32.const {length}) (i32.const 288) (i32.const 1)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
              (i32.const 1) (i32.load (i32.const 608)) (i32.load (i32.const 616)) (i32.const 512))
            (if (i32.load (i32.const 512)) (then (call $exit (i32.add (i32.const 100) (i32.load (i32.const 520))))))
            (if (i32.ne (i32.load (i32.const 520)) (i32.const 200)) (then unreachable))
            (call $exit (i32.load (i32.const 568)))))"#,
        length = uri.len()
    )
}

/// The exit code of a plugin that speaks to this server.
async fn exit_code(server: &TestServer, uri: &str, access: Option<AccessRules>) -> u8 {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("module"), wat::parse_str(plugin(uri)).unwrap()).unwrap();
    let kind = compile::compile_file(&at("module"), &at("code")).unwrap();
    std::fs::write(at("config"), server.kubeconfig("", "token: secret")).unwrap();
    let overrides = KubeconfigOverrides { kubeconfig: Some(at("config")), ..KubeconfigOverrides::default() };
    let setup = PluginSetup {
        name: "old".parse().unwrap(),
        argv: vec!["kubectl-old".to_owned()],
        grants: Grants::default(),
        access,
        cluster: ClusterChoice::read(&overrides, &ClusterEnvironment::default()),
        empty_root: at("empty"),
    };
    let imports = [super::OUTBOUND_HTTP.to_owned()];
    let program = PluginProgram::new(at("code"), [kind], &imports).unwrap();
    assert!(program.reads_kubeconfig);
    run(&program, setup).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_of_krew_wasms_is_held_to_what_others_are() {
    let server = TestServer::start(&["127.0.0.1"]).await;
    let api = format!("https://{}/api", server.address);
    for uri in ["https://kubernetes.default.svc/version", &api] {
        assert_eq!(exit_code(&server, uri, None).await, 2, "{uri}");
        assert_eq!(server.last().headers["authorization"], "Bearer secret", "and not the guest's own");
    }
    let sent = server.count();
    for (uri, error) in [("https://127.0.0.1:1/", 1), ("http://kubernetes.default.svc/", 1), ("not a URL", 2)]
    {
        assert_eq!(exit_code(&server, uri, None).await, 100 + error, "{uri}");
    }
    let nothing = Some(AccessRules::default());
    assert_eq!(exit_code(&server, "https://kubernetes.default.svc/version", nothing).await, 101);
    assert_eq!(server.count(), sent);
}
