//! A real Prometheus, from Debian's package, scrapes the gateway.

use std::process::Stdio;
use std::time::Duration;

use http::Request;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::super::client::{ask, full, read};
use super::super::figures;
use super::{free_port, listening, python, start};
use crate::support::secs;

#[tokio::test]
async fn prometheus_scrapes_the_figures() {
    if python().is_none() {
        return;
    }
    let gateway = figures::busy().await;
    let page = Request::get(format!("http://{}/-/metrics", gateway.addr)).body(full("")).unwrap();
    check(&read(ask(page).await.into_body()).await.0).await;

    let folder = format!("{}/prometheus-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    std::fs::create_dir_all(&folder).unwrap();
    let config = format!("{folder}/prometheus.yml");
    let job = "job_name: gateway\n    metrics_path: /-/metrics\n    scrape_interval: 200ms\n    scrape_timeout: 200ms";
    let target = format!("static_configs:\n      - targets: ['{}']\n", gateway.addr);
    std::fs::write(&config, format!("scrape_configs:\n  - {job}\n    {target}")).unwrap();
    let port = free_port().await;
    let (config, data) = (format!("--config.file={config}"), format!("--storage.tsdb.path={folder}/data"));
    let listen = format!("--web.listen-address=127.0.0.1:{port}");
    let mut prometheus = start("prometheus", &[&config, &data, &listen, "--log.level=error"]);
    let addr = listening(port).await;

    let query = async |query: &str| -> Vec<Value> {
        let request = Request::get(format!("http://{addr}/api/v1/query?query={query}")).body(full("")).unwrap();
        let answer: Value = serde_json::from_str(&read(ask(request).await.into_body()).await.0).unwrap_or_default();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    };
    let scraped = async {
        loop {
            let up = query("up").await;
            if up.first().is_some_and(|up| up["value"][1] == "1") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(secs(60), scraped).await.expect("it scrapes");
    for (series, labels) in [
        ("gateway_calls_total", &["status", "outcome"][..]),
        ("gateway_call_seconds_bucket", &["le"]),
        ("gateway_first_byte_seconds_count", &[]),
        ("gateway_circuit_state", &["upstream"]),
        ("tower_buttress_events_total", &["event", "detail"]),
        ("tower_buttress_queue_limit", &["layer"]),
    ] {
        let found = query(series).await;
        let first = found.first().unwrap_or_else(|| panic!("{series} is not there"));
        assert!(labels.iter().all(|label| first["metric"][label].is_string()), "{series}: {first}");
    }
    // The queries of a dashboard.
    let median = query("histogram_quantile(0.5,sum+by+(le)+(gateway_call_seconds_bucket))").await;
    assert!(median[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap() > 0.0, "{median:?}");
    prometheus.kill().await.unwrap();
    let _ = std::fs::remove_dir_all(folder);
}

/// The judgement of Prometheus's own tool on names, types and help texts.
async fn check(figures: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(figures.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
