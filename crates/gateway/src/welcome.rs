//! The text that the program prints at its start.

use super::Gateway;
use super::args::BackupArgs;
use super::checked_config::CheckedConfig;

/// The text for stdout: the address, the upstream, and requests to try.
pub(crate) fn welcome(gateway: &Gateway) -> String {
    let Gateway { config: CheckedConfig { args, server_tls, .. }, addr, upstream, provider, .. } = gateway;
    let layers = &args.layers;
    let scheme = if server_tls.is_some() { "https" } else { "http" };
    let before = match (upstream, args.routes.len()) {
        (Some(upstream), _) if provider.is_some() => format!("a simulated provider on {upstream}"),
        (Some(upstream), 0) => format!("the upstream {upstream}"),
        (Some(upstream), routes) => format!("the upstream {upstream} and {routes} routes"),
        (None, routes) => format!("{routes} routes"),
    };
    let shared = args.fleet.redis.as_ref().map_or_else(String::new, |url| format!("shared: through {url}\n"));
    let admin = gateway.admin_addr().map(|admin| format!("http://{admin}"));
    let pages = admin.as_ref().map_or_else(String::new, |url| format!("own pages: {url}/-/\n"));
    let limits = format!(
        "gateway on {scheme}://{addr}, before {before}\n{pages}\
             limits: connect {}, first byte {}, idle {}, deadline {} (header: {})\n\
             attempts: {}, then {}\n{shared}",
        layers.connect_timeout,
        layers.first_byte_timeout,
        layers.idle_timeout,
        layers.deadline,
        layers.deadline_header,
        layers.attempts,
        fallbacks(&args.upstreams.backups),
    );
    if provider.is_none() {
        return limits;
    }
    let pages = admin.unwrap_or_else(|| format!("{scheme}://{addr}"));
    // curl does not know the CA of a certificate of one's own.
    let (ca, of_ca) = match server_tls {
        Some(_) => (" --cacert CA.pem", " (CA.pem: the CA that signed --tls-cert)"),
        None => ("", ""),
    };
    let (first_byte, idle) = (layers.first_byte_timeout, layers.idle_timeout);
    let silent = match layers.begin_early() {
        Some(early) if layers.first_byte_timeout.0.is_none_or(|limit| early < limit) => {
            let early = humantime::format_duration(early);
            format!("the stream begins after {early}, and an error event ends it after {first_byte}")
        }
        _ => format!("504 after {first_byte}"),
    };
    format!(
        "{limits}\n\
             Stream an answer through it{of_ca}:\n\n  \
             curl -N{ca} {scheme}://{addr}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\":\"sim\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n\
             Add a fault and watch the effect:\n\n  \
             -H 'x-fault: silent'           no answer at all: {silent}\n  \
             -H 'x-fault: stall-after=5'    silence within the answer: an error event after {idle}\n  \
             -H 'x-fault: reset; times=1'   the connection is reset, once: the second attempt answers\n  \
             -H 'x-fault: status=429; retry-after=2; times=1'   the second attempt follows after 2 s\n  \
             -H 'x-deadline-ms: 500'        your own deadline: an error event ends the answer there\n\n\
             More faults, and live calls: {pages}/-/. Also /-/healthz, /-/readyz, /-/metrics, /-/breakers and /-/events.\n"
    )
}

fn fallbacks(backups: &[BackupArgs]) -> String {
    match backups {
        [] => "no fallback".to_owned(),
        [one] => format!("the fallback {}", one.upstream),
        chain => {
            let urls: Vec<_> = chain.iter().map(|backup| backup.upstream.to_string()).collect();
            format!("the fallbacks {}", urls.join(", "))
        }
    }
}
