//! Counts the attempts of a call and writes them into the headers of its answer.

use std::error::Error;
use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tower_buttress::error::BoxError;
use tower_buttress::{Attempts, Rejection, RejectionKind, RetryReport};

use super::answer_body::AnswerBody;
use super::decimal::Decimal;
use super::telemetry::Seldom;
use super::upstream::{self, UpstreamCalls};
use super::{problem, telemetry};

/// The number of attempts at the upstream that answered, or failed last.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-gateway-attempts");

/// Keeps the caller's SDK from repeating the gateway's retries.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The upstream's time to its head, and the gateway's time: queues, retries and waits included.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The attempts of a call so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallAttempts {
    asked: UpstreamCalls,
    report: RetryReport,
}

/// In a response's extensions: why no upstream answered, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Cause(pub(crate) String);

// === impl CallAttempts ===

impl CallAttempts {
    /// Makes the layers and upstreams record their work for this request here.
    pub(crate) fn follow(&self, request: &mut Extensions) {
        request.insert(self.asked.clone());
        request.insert(self.report.clone());
    }

    pub(crate) fn asked(&self) -> &UpstreamCalls {
        &self.asked
    }

    /// The answer to the call with this id when no upstream answered.
    pub(crate) fn failed(&self, error: &BoxError, id: &str) -> Response<AnswerBody> {
        static WARNINGS: Seldom = Seldom::new();
        let cause = cause(error.as_ref());
        WARNINGS.log(Instant::now(), |left_out| tracing::warn!(id, left_out, "the upstream did not answer: {cause}"));
        let attempts = Some(self.report.attempts()).filter(|attempts| *attempts > 0);
        let answer = match upstream::is_rejected_certificate(error.as_ref()) {
            true => problem::rejected_certificate(),
            false => problem::bad_gateway(error),
        };
        let mut response = count(attempts.unwrap_or(self.asked.times()), answer);
        response.extensions_mut().insert(Cause(cause));
        if self.report.is_final() {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// The answer when a layer refused.
    pub(crate) fn refused(&self, rejection: &Rejection, response: Response<AnswerBody>) -> Response<AnswerBody> {
        let extensions = response.extensions();
        let attempts = match (extensions.get::<UpstreamCalls>(), extensions.get::<Attempts>()) {
            // Of the call that this request joined.
            (Some(asked), _) => asked.times(),
            (None, Some(attempts)) if rejection.kind() == RejectionKind::SharedCallFailed => attempts.0,
            // The report also counts the attempts of a joined call.
            (None, _) => self.asked.times().max(self.report.attempts()),
        };
        let mut response = count(attempts, problem::of_rejection(rejection, response));
        // The layers inside mark their refusals. This one comes from a layer outside of the attempts.
        if rejection.kind() == RejectionKind::DeadlineExceeded && attempts > 0 {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// Writes the times to this head.
    pub(crate) fn time(&self, begun: Instant, headers: &mut HeaderMap) {
        let total = begun.elapsed();
        let took = self.asked.took();
        let mut timing = Vec::with_capacity("upstream;dur=180000.0, gateway;dur=180000.0".len());
        let mut add = |parts: &[&str]| parts.iter().for_each(|part| timing.extend_from_slice(part.as_bytes()));
        if let Some(took) = took {
            let [ms, tenth] = tenths(took).map(Decimal::new);
            add(&["upstream;dur=", ms.as_str(), ".", tenth.as_str(), ", "]);
        }
        let [ms, tenth] = tenths(total.saturating_sub(took.unwrap_or_default())).map(Decimal::new);
        add(&["gateway;dur=", ms.as_str(), ".", tenth.as_str()]);
        if let Ok(timing) = HeaderValue::try_from(timing) {
            headers.append(SERVER_TIMING, timing);
        }
    }
}

/// Logs why the server of embeddings did not answer.
pub(crate) fn embeddings_failed(error: &(dyn Error + 'static)) {
    static WARNINGS: Seldom = Seldom::new();
    WARNINGS.log(Instant::now(), |left_out| {
        tracing::warn!(left_out, "the server of embeddings did not answer: {}", cause(error));
    });
}

/// Logs a status with which the server of embeddings refuses.
pub(crate) fn embeddings_answered(status: StatusCode) {
    static WARNINGS: Seldom = Seldom::new();
    if !status.is_success() {
        WARNINGS.log(Instant::now(), |left_out| {
            tracing::warn!(left_out, "the server of embeddings answered {status}");
        });
    }
}

/// Why no upstream answered.
fn cause(error: &(dyn Error + 'static)) -> String {
    let chain = telemetry::chain(error);
    match upstream::tls_advice(error) {
        Some(advice) => format!("{chain}; {advice}"),
        None => chain,
    }
}

fn count(attempts: u32, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    if attempts > 0 {
        response.headers_mut().insert(ATTEMPTS, HeaderValue::from(attempts));
    }
    response
}

/// Milliseconds, and tenths of one.
fn tenths(time: Duration) -> [u64; 2] {
    let tenths = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).saturating_add(50) / 100;
    [tenths / 10, tenths % 10]
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Empty};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tower::{Layer, ServiceExt};
    use tower_buttress::ConnectTimeoutLayer;

    use super::*;
    use crate::tls;
    use crate::upstream::{Connectors, Forward, trust};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            io::Write::write(&mut *self.0.lock().unwrap(), data)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_warning_counts_only_those_that_were_left_out() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(lines.finish(), || {
            let (warnings, start) = (Seldom::new(), Instant::now());
            for millis in [0, 1, 2, 1_000] {
                let now = start + Duration::from_millis(millis);
                warnings.log(now, |left_out| tracing::warn!(left_out, "the upstream did not answer: lost"));
            }
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let [first, second] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(first.ends_with("the upstream did not answer: lost"), "{first}");
        assert!(second.ends_with("the upstream did not answer: lost left_out=2"), "{second}");
    }

    #[test]
    fn times_are_rounded_to_tenths_of_milliseconds() {
        for (micros, written) in [(0, [0, 0]), (49, [0, 0]), (51, [0, 1]), (1_000, [1, 0]), (12_960, [13, 0])] {
            assert_eq!(tenths(Duration::from_micros(micros)), written, "{micros}");
        }
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("gateway-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A certificate for `name` that signs itself, and its key.
    fn own(name: &str, is_ca: bool) -> (PathBuf, PathBuf) {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let number = fastrand::u64(..);
        let chain = file(&format!("{number}.pem"), &params.self_signed(&key).unwrap().pem());
        (chain, file(&format!("{number}.key"), &key.serialize_pem()))
    }

    /// The failure of a call to an upstream with this certificate; `None`: one without TLS.
    async fn failure(certificate: Option<&(PathBuf, PathBuf)>, ca: Option<&PathBuf>) -> BoxError {
        let server = certificate.map(|(chain, key)| tls::server(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            match server {
                Some(server) => TlsAcceptor::from(server).accept(stream).await.map(drop),
                None => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
            }
        });
        let connect = ConnectTimeoutLayer::new(Duration::from_secs(20));
        let connectors = Connectors::new(&trust(false, ca.map(PathBuf::as_path)).unwrap());
        let connectors = connectors.map(|connector| connect.layer(connector));
        let request = Request::get(format!("{url}/")).body(Empty::<Bytes>::new().map_err(BoxError::from)).unwrap();
        let failed = Forward::new(&connectors, url.parse().unwrap()).oneshot(request).await.map(drop);
        failed.unwrap_err().into()
    }

    async fn line(certificate: Option<&(PathBuf, PathBuf)>, ca: Option<&PathBuf>) -> String {
        cause(failure(certificate, ca).await.as_ref())
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_accepted_is_told_with_its_owner_or_the_remedy() {
        let (here, other) = (own("127.0.0.1", false), own("localhost", false));
        for ca in [None, Some(&other.0)] {
            let line = line(Some(&here), ca).await;
            assert!(line.contains("; no trusted CA signed it: name its CA with --upstream-ca"), "{line}");
        }
        let other = line(Some(&other), Some(&other.0)).await;
        assert!(other.contains("not valid for name"), "{other}");
        assert!(other.ends_with("; this is the upstream's certificate"), "{other}");
        let ca = own("127.0.0.1", true);
        let own = line(Some(&ca), Some(&ca.0)).await;
        assert!(own.contains("; the upstream shows a CA's certificate: make one for the server"), "{own}");
        let plain = line(None, None).await;
        assert!(plain.contains("; does the upstream speak TLS?"), "{plain}");
    }

    #[tokio::test]
    async fn a_caller_learns_that_the_upstreams_certificate_is_at_fault() {
        for (certificate, kind) in
            [(Some(&own("127.0.0.1", false)), "upstream-certificate"), (None, "upstream-unreachable")]
        {
            let answer = CallAttempts::default().failed(&failure(certificate, None).await, "some-id");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem["kind"], kind);
            let detail = problem["detail"].as_str().unwrap();
            assert_eq!(detail.contains("certificate"), certificate.is_some(), "{detail}");
            assert!(!detail.contains("try again later") || certificate.is_none(), "{detail}");
        }
    }
}
