//! Envoy as a streaming proxy.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tower_buttress::error::BoxError;

pub(crate) fn command(
    program: &Path,
    port: u16,
    upstream: SocketAddr,
    certificate: Option<&Path>,
    folder: &Path,
) -> Result<Command, BoxError> {
    let address = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": typed("extensions.filters.http.router.v3.Router", json!({})),
    });
    let manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "in",
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": typed("extensions.access_loggers.file.v3.FileAccessLog", json!({ "path": "/dev/null" })),
            }],
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "origin", "timeout": "0s" } }],
            }] },
            "http_filters": [router],
        }),
    );
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    let most = json!({ "max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536 });
    let mut cluster = json!({
        "name": "origin",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [most] },
        "load_assignment": { "cluster_name": "origin", "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": address(upstream.port()) } },
        ] }] },
    });
    if let Some(party) = certificate {
        let file = |name: &str| json!({ "filename": party.join(name) });
        let ours = json!([{ "certificate_chain": file("cert.pem"), "private_key": file("key.pem") }]);
        let theirs = json!({ "trusted_ca": file("cert.pem") });
        chain["transport_socket"] = json!({ "name": "tls", "typed_config": typed(
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            json!({ "common_tls_context": { "tls_certificates": ours } }),
        ) });
        cluster["transport_socket"] = json!({ "name": "tls", "typed_config": typed(
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            json!({ "common_tls_context": { "validation_context": theirs } }),
        ) });
    }
    let listener = json!({ "name": "in", "address": address(port), "filter_chains": [chain] });
    let config = json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } });
    let file = folder.join("envoy.json");
    fs::write(&file, config.to_string())?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file).args(["--log-level", "off", "--disable-hot-restart"]);
    Ok(command)
}

/// A value with the name of its type.
fn typed(name: &str, mut value: Value) -> Value {
    value["@type"] = format!("type.googleapis.com/envoy.{name}").into();
    value
}
