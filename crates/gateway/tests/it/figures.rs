//! The metrics of `/-/metrics` are those of the table in the README, by name, kind and labels.

use std::collections::{BTreeMap, BTreeSet};

use http::Request;

use super::client::{ask, chat, full, read};
use super::{Running, gateway};

/// The name, with kind and labels.
type Table = BTreeMap<String, (String, BTreeSet<String>)>;

fn documented() -> Table {
    let words = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = include_str!("../../README.md").lines().filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, _] = cells[..] else { return None };
        let is_figure = ["counter", "gauge", "histogram"].contains(&kind);
        is_figure.then(|| (words(name).remove(0), (kind.to_owned(), words(labels).into_iter().collect())))
    });
    rows.collect()
}

/// Parses a scrape. A histogram is one metric, without its `le`.
fn scraped(text: &str) -> Table {
    let kinds: BTreeMap<_, _> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut table = Table::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let name = name.strip_suffix(end)?;
            (kinds.get(name) == Some(&"histogram")).then_some(name)
        });
        let name = name.unwrap_or(series.split('{').next().unwrap());
        let kind = kinds.get(name).unwrap_or_else(|| panic!("{name} has no type"));
        let of = table.entry(name.to_owned()).or_insert_with(|| ((*kind).to_owned(), BTreeSet::new()));
        // No value of these tests contains a comma or a brace.
        let names = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        of.1.extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
    }
    table
}

async fn scrape(gateway: &Running) -> String {
    let answer = ask(Request::get(format!("http://{}/-/metrics", gateway.addr)).body(full("")).unwrap()).await;
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    read(answer.into_body()).await.0
}

/// A gateway with a value for every metric.
pub(super) async fn busy() -> Running {
    let options = [
        "--concurrency",
        "5",
        "--caller-concurrency",
        "5",
        "--supersede-header",
        "x-chat",
        "--supersede",
        "enqueue",
        "--pace-requests",
        "1/200ms",
        "--dedup",
        "off",
        "--backoff-base",
        "5ms",
        // No such Redis exists, which is measured too.
        "--redis",
        "redis://127.0.0.1:1",
    ];
    let gateway = gateway(&options).await;
    for fault in ["gap=0s", "gap=50ms; chunks=3", "status=429; retry-after-ms=100; times=1"] {
        let say = || {
            let mut request = chat(gateway.addr, true, fault);
            request.headers_mut().insert("x-chat", "7".parse().unwrap());
            request.headers_mut().insert("authorization", "Bearer alice".parse().unwrap());
            request
        };
        let (one, other) = (tokio::spawn(ask(say())), say().map(|_| full(OTHER)));
        assert!(read(ask(other).await.into_body()).await.1);
        assert!(read(one.await.unwrap().into_body()).await.1);
    }
    gateway
}

const OTHER: &str = r#"{"model":"sim","stream":true,"messages":[{"role":"user","content":"Another"}]}"#;

#[tokio::test]
async fn every_figure_is_in_the_table_and_every_row_is_measured() {
    let gateway = busy().await;
    let text = scrape(&gateway).await;
    let (documented, scraped) = (documented(), scraped(&text));
    for (name, figure) in &scraped {
        let row = documented.get(name).unwrap_or_else(|| panic!("{name} is in no table"));
        // Some labels exist only with a value.
        assert!(row.0 == figure.0 && figure.1.is_subset(&row.1), "{name}: {row:?}, scraped {figure:?}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} says what it is");
    }
    let missing: Vec<_> = documented.keys().filter(|name| !scraped.contains_key(*name)).collect();
    assert!(missing.is_empty() && !documented.is_empty(), "not measured: {missing:?}");
}

#[tokio::test]
async fn models_that_callers_name_are_no_labels_until_they_were_answered() {
    let gateway = gateway(&["--dedup", "off", "--attempts", "1"]).await;
    let of = |model: &str, fault| {
        let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
        chat(gateway.addr, false, fault).map(|_| full(body.to_string()))
    };
    let strange = "a\"b\\c}\nd";
    for (model, fault) in [("never-answered", "status=404"), (strange, ""), ("plain", "")] {
        ask(of(model, fault)).await;
        ask(of(model, fault)).await;
    }
    let text = scrape(&gateway).await;
    let keys: Vec<_> = text.lines().filter(|line| line.starts_with("gateway_circuit_state{")).collect();
    assert!(keys.iter().any(|line| line.contains("plain\"}")), "{keys:?}");
    assert!(!text.contains("never-answered"), "{keys:?}");
    // The gateway accepts no name with a line break. With any accepted name, each line is valid.
    assert!(keys.iter().all(|line| line.ends_with("} 0")), "{keys:?}");
}
