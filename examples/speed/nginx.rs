//! nginx as a streaming proxy.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tower_buttress::error::BoxError;

pub(crate) fn command(
    port: u16,
    upstream: SocketAddr,
    certificate: Option<&Path>,
    folder: &Path,
) -> Result<Command, BoxError> {
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let (ssl, tls) = match certificate.map(Path::display) {
        Some(party) => (
            " ssl",
            format!(
                "ssl_certificate {party}/cert.pem; ssl_certificate_key {party}/key.pem;\n\
                 proxy_ssl_trusted_certificate {party}/cert.pem; proxy_ssl_verify on; proxy_ssl_name 127.0.0.1;\n"
            ),
        ),
        None => ("", String::new()),
    };
    let place = folder.display();
    let config = format!(
        "pid {place}/pid; error_log /dev/null; daemon off; master_process off; worker_rlimit_nofile 65536;\n\
         events {{ worker_connections 32768; }}\n\
         http {{ access_log /dev/null; keepalive_requests 1000000000;\n\
         client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/f;\n\
         uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
         upstream origin {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen 127.0.0.1:{port}{ssl} backlog=4096; {tls}\
         location / {{ proxy_pass {scheme}://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 300s; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(file);
    Ok(command)
}
