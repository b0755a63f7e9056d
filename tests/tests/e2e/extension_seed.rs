//! What users of the program that this one follows have: an Envoy as its example configures it, and an extension as its example
//! asks for it.

use std::fs;

use kubewasm_tests::{envoy::Envoy, ports};
use serde_json::{Value, json};

use crate::{
    extension_modules::filter,
    extension_site::{ExtensionSite, is_filtered},
    suite::{suite, with_temp_ns},
};

/// That configuration: no prefix before the type, no time limit for the first answer, HTTP/2 by the old field of a cluster, and an
/// access log of the administration. Today's Envoy wants the router's type, which is the one line that is another; and the ports.
fn configuration(server: u16, port: u16, admin: u16) -> Value {
    let at = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let services = json!([{ "envoy_grpc": { "cluster_name": "wasmxds" } }]);
    let source = json!({ "api_config_source": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services } });
    let discovery =
        json!({ "config_source": source, "type_urls": ["envoy.extensions.filters.http.wasm.v3.Wasm"] });
    let router = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" });
    let answer = json!({ "status": 200, "body": { "inline_string": "hello\n" } });
    let routes = json!([{ "match": { "prefix": "/" }, "direct_response": answer }]);
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "auto",
        "stat_prefix": "ingress_http",
        "route_config": { "name": "local_route", "virtual_hosts": [{ "name": "static", "domains": ["*"], "routes": routes }] },
        "http_filters": [
            { "name": "default/sample-filter", "config_discovery": discovery },
            { "name": "envoy.filters.http.router", "typed_config": router },
        ],
    });
    let filters = json!([{ "name": "example", "typed_config": manager }]);
    let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": at(server) } }] }]);
    json!({
        "static_resources": {
            "listeners": [{ "address": at(port), "filter_chains": [{ "filters": filters }] }],
            "clusters": [{
                "connect_timeout": "1s", "http2_protocol_options": {}, "name": "wasmxds",
                "load_assignment": { "cluster_name": "wasmxds", "endpoints": endpoints },
            }],
        },
        "admin": { "access_log_path": "/dev/null", "address": at(admin) },
        "node": { "id": "test", "cluster": "test" },
    })
}

/// The two examples go together, with a grant for each of the objects in other namespaces.
#[tokio::test]
async fn the_examples_of_the_program_before_this_run() {
    with_temp_ns(async |client, ns| {
        let (secrets, maps) = ("my-secret-space", "my-config-space");
        let site = ExtensionSite::new(&client, ns).await.also("default").open();
        fs::write(site.modules().join("filter.wasm"), filter("local_fs")).unwrap();
        let server = site.start("a").await;
        site.namespace(secrets).await;
        site.namespace(maps).await;
        site.put("Secret", secrets, "my-secret", "my-config-key", "from-a-secret").await;
        site.put("ConfigMap", maps, "my-configmap", "my-config-key", "from-a-config-map").await;
        let of = |name: &str, namespace: &str| json!({ "name": name, "namespace": namespace, "key": "my-config-key" });
        let spec = json!({
            "runtime": "v8", "vm_id": "vm_id_foo", "root_id": "root_id_foo",
            "plugin_configuration": { "valueFrom": { "secretKeyRef": of("my-secret", secrets) } },
            "vm_configuration": { "valueFrom": { "configMapKeyRef": of("my-configmap", maps) } },
            "image": { "protocol": "local_fs", "uri": "filter.wasm" },
        });
        site.apply_in("default", "sample-filter", spec).await;

        let (port, admin) = (ports::free().unwrap(), ports::free().unwrap());
        let file = site.write("envoy.json", configuration(server.port, port, admin).to_string());
        let envoy = Envoy::start_with(&suite().await.home, &file, port, admin).await.unwrap();
        let refused = |state: &crate::extension_site::ExtensionState| state.is("ConfigResolved", "False");
        site.until_in("default", "sample-filter", "a lack of grants", refused).await;
        site.grant("default", secrets, "Secret").await;
        site.grant("default", maps, "ConfigMap").await;
        envoy
            .until("the filter", |answer| is_filtered(answer, "local_fs", "from-a-config-map", "from-a-secret"))
            .await
            .unwrap();
        site.put("Secret", secrets, "my-secret", "my-config-key", "from-another").await;
        envoy
            .until("a change", |answer| is_filtered(answer, "local_fs", "from-a-config-map", "from-another"))
            .await
            .unwrap();
        site.delete_in("default", "sample-filter").await;
        site.delete_namespaces(&[secrets, maps]).await;
        site.end().await;
    })
    .await;
}
