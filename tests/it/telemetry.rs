//! What the features `tracing` and `metrics` tell of an event.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{Attempt, DeadlineLayer, ObserveLayer};

use crate::support::secs;

/// A call of the stack `chat` that is refused, on this thread.
fn refuse(at: u64) {
    refuse_within(at, &ObserveLayer::new("chat"));
}

/// The same within this layer, in an attempt.
fn refuse_within(at: u64, observe: &ObserveLayer) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        // Warnings of one kind are held back for a second, for all tests of this process together: each call has a time of its
        // own.
        tokio::time::advance(secs(26_017 + 10 * at)).await;
        let service = DeadlineLayer::new(secs(1))
            .layer(service_fn(|_: Request<()>| std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()));
        let service = observe.layer(ObserveLayer::attempts("first").layer(service));
        // The second at a backup, say, after more at the primary.
        let request = Request::get("http://model.example/").header("x-id", "a").extension(Attempt(2)).body(()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().status(), 504);
    });
}

/// A call of the stack `chat` that is answered in full.
#[cfg(feature = "metrics")]
fn answer() {
    use http_body_util::{BodyExt, Full};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let service = ObserveLayer::new("chat").layer(service_fn(|_: Request<()>| async {
            tokio::time::sleep(secs(2)).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
        }));
        service.oneshot(Request::new(())).await.unwrap().into_body().collect().await.unwrap();
    });
}

#[cfg(feature = "tracing")]
#[test]
fn an_event_is_a_line_with_its_name_and_detail() {
    use std::cell::RefCell;
    use std::io;

    thread_local! {
        static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps each thread's lines apart: the tests beside this one make events too.
    struct Lines;

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            LINES.with_borrow_mut(|lines| lines.extend_from_slice(line));
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // Global: whether there is a subscriber is remembered for all threads by the first event on any of them.
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Lines).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    refuse(0);
    let told = String::from_utf8(LINES.take()).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    let parts = [
        "WARN",
        "tower_buttress",
        "refused: deadline-exceeded",
        "event=\"refused\"",
        "detail=\"deadline-exceeded\"",
        "call{id=\"",
        "stack=\"chat\" method=\"GET\" host=\"model.example\"}",
    ];
    for part in parts {
        assert!(told.contains(part), "{part} is not in {told}");
    }

    // Without the time.
    let line = |at, late| {
        let observe = ObserveLayer::new("chat").request_id(http::HeaderName::from_static("x-id"));
        refuse_within(at, &observe.late_spans(late));
        let line = String::from_utf8(LINES.take()).unwrap();
        line.split_once(' ').map(|(_, line)| line.to_owned()).unwrap()
    };
    let late = line(5, true);
    assert!(late.contains("call{id=\"a\" ") && late.contains(":attempt{upstream=\"first\" attempt=2}: "), "{late}");
    // The target is where the line is written.
    assert_eq!(late, line(6, false));
}

#[cfg(feature = "metrics")]
#[test]
fn an_event_is_counted_by_name_and_detail() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        refuse(1);
        refuse(2);
    });
    let told = recorder.handle().render();
    let line = "tower_buttress_events_total{event=\"refused\",detail=\"deadline-exceeded\",stack=\"chat\"} 2";
    assert!(told.contains(line), "{told}");
}

#[cfg(feature = "metrics")]
#[test]
fn a_call_is_measured_by_its_status_and_its_end() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        answer();
        refuse(3);
    });
    let told = recorder.handle().render();
    for line in [
        "tower_buttress_first_data_seconds_sum{stack=\"chat\"} 2",
        "tower_buttress_first_data_seconds_count{stack=\"chat\"} 1",
        "tower_buttress_call_seconds_sum{stack=\"chat\",status=\"2xx\",end=\"complete\"} 2",
        "tower_buttress_call_seconds_sum{stack=\"chat\",status=\"5xx\",end=\"cancelled\"} 1",
    ] {
        assert!(told.contains(line), "{line} is not in {told}");
    }
}

#[test]
fn without_a_listener_nothing_breaks() {
    refuse(4);
}
