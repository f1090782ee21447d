//! Trailers for callers over HTTP/1.1.
//!
//! hyper writes only trailers that the answer's head announces in `Trailer`, and few upstreams announce theirs. So the
//! gateway announces one field of its own, gives it to hyper in place of the trailers that the head did not announce, and
//! replaces its line when hyper writes it to the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_buttress::proto::list::members;

use super::answer_body::AnswerBody;
use super::headers::accepts_trailers;

const STAND_IN: &str = "x-gateway-trailers";

/// The trailers of a connection's answers that no head announced, until they are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnannouncedTrailers(Arc<Mutex<VecDeque<Replacement>>>);

#[derive(Debug)]
struct Replacement {
    /// The line that hyper writes. Its value is random, so no body has the same line.
    line: String,
    trailers: Bytes,
}

/// A connection that writes [`UnannouncedTrailers`].
#[derive(Debug)]
pub(crate) struct TrailerWriter<T> {
    io: T,
    unannounced: UnannouncedTrailers,
}

// === impl UnannouncedTrailers ===

impl UnannouncedTrailers {
    /// Lets the answer to this request have any trailers, if its client reads them and would get only announced ones.
    pub(crate) fn offer<B>(&self, request: &mut Request<B>) {
        if request.version() == Version::HTTP_11 && accepts_trailers(request.headers()) {
            request.extensions_mut().insert(self.clone());
        }
    }

    /// Sends all trailers of this answer.
    pub(crate) fn follow(self, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
        // A response with a length cannot have trailers.
        if response.headers().contains_key(CONTENT_LENGTH) || response.body().size_hint().exact().is_some() {
            return response;
        }
        let announced: Vec<HeaderName> =
            members(response.headers(), &TRAILER).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
        response.headers_mut().append(TRAILER, HeaderValue::from_static(STAND_IN));
        response.map(|body| {
            body.map_frame(move |frame| match frame.into_trailers() {
                Ok(trailers) => http_body::Frame::trailers(self.replace(&trailers, &announced)),
                Err(frame) => frame,
            })
            .boxed_unsync()
        })
    }

    /// The trailers with a stand-in for those that were not announced.
    fn replace(&self, trailers: &HeaderMap, announced: &[HeaderName]) -> HeaderMap {
        let (mut given, mut lines) = (HeaderMap::new(), Vec::new());
        for (name, value) in trailers {
            if announced.contains(name) {
                given.append(name, value.clone());
            } else if may_trail(name) {
                lines.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
            }
        }
        if !lines.is_empty() {
            let secret = format!("{:032x}", fastrand::u128(..));
            let line = format!("{STAND_IN}: {secret}\r\n");
            given.extend(HeaderValue::try_from(secret).map(|secret| (HeaderName::from_static(STAND_IN), secret)));
            self.waiting().push_back(Replacement { line, trailers: lines.into() });
        }
        given
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Replacement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(bytes: &[u8], line: &[u8]) -> Option<usize> {
    bytes.windows(line.len()).position(|window| window == line)
}

/// The fields that hyper forbids too (RFC 9110, 6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    let never = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        MAX_FORWARDS,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
    ];
    !never.contains(name)
}

// === impl TrailerWriter ===

impl<T> TrailerWriter<T> {
    pub(crate) fn new(io: T, unannounced: UnannouncedTrailers) -> Self {
        Self { io, unannounced }
    }
}

impl<T: AsyncWrite + Unpin> TrailerWriter<T> {
    /// Writes what stands before the line of the next replacement, or the replacement.
    fn poll_replaced(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut waiting = self.unannounced.waiting();
        let Some(next) = waiting.front_mut() else { return Pin::new(&mut self.io).poll_write(cx, buf) };
        match find(buf, next.line.as_bytes()) {
            None => Pin::new(&mut self.io).poll_write(cx, buf),
            Some(0) => {
                while next.trailers.has_remaining() {
                    let written = ready!(Pin::new(&mut self.io).poll_write(cx, &next.trailers))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    next.trailers.advance(written);
                }
                let line = next.line.len();
                waiting.pop_front();
                Poll::Ready(Ok(line))
            }
            Some(before) => Pin::new(&mut self.io).poll_write(cx, buf.get(..before).unwrap_or_default()),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for TrailerWriter<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for TrailerWriter<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_replaced(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.unannounced.waiting().is_empty() {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        // hyper writes all trailers of an answer in one piece.
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_replaced(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::AsyncWriteExt;

    fn fields<const N: usize>(fields: [(&'static str, &'static str); N]) -> HeaderMap {
        let parsed = fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        HeaderMap::from_iter(parsed)
    }

    /// What a client receives of these pieces, when the connection takes `room` bytes at a time.
    async fn received(unannounced: &UnannouncedTrailers, pieces: Vec<Vec<u8>>, room: usize) -> String {
        let (ours, mut theirs) = tokio::io::duplex(room);
        let mut writer = TrailerWriter::new(ours, unannounced.clone());
        let writes = async move {
            for piece in pieces {
                writer.write_all(&piece).await.unwrap();
            }
        };
        let mut all = String::new();
        let reads = tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut all);
        tokio::join!(writes, async { reads.await.unwrap() });
        all
    }

    fn line(given: &HeaderMap) -> String {
        format!("{STAND_IN}: {}\r\n", given[STAND_IN].to_str().unwrap())
    }

    #[test]
    fn announced_trailers_are_left_to_hyper_and_forbidden_ones_dropped() {
        let unannounced = UnannouncedTrailers::default();
        let sent = fields([("etag", "1"), ("content-length", "7")]);
        assert_eq!(unannounced.replace(&sent, &[http::header::ETAG]), fields([("etag", "1")]));
        assert!(unannounced.waiting().is_empty());
        let given = unannounced.replace(&sent, &[]);
        assert_eq!(given.keys().map(HeaderName::as_str).collect::<Vec<_>>(), [STAND_IN]);
        assert_eq!(unannounced.waiting()[0].trailers, "etag: 1\r\n");
    }

    #[tokio::test]
    async fn a_stand_in_is_replaced_however_little_the_connection_takes() {
        for room in [1, 2, 7, 1000] {
            let unannounced = UnannouncedTrailers::default();
            let first = line(&unannounced.replace(&fields([("x-sum", "1"), ("etag", "2")]), &[]));
            // Two answers that wait together, as after pipelined requests.
            let second = line(&unannounced.replace(&fields([("x-next", "3")]), &[]));
            let pieces =
                [format!("4\r\nbody\r\n0\r\n{first}\r\nHTTP/1.1 200 OK\r\n\r\n0\r\n"), second, "\r\n".to_owned()];
            let all = received(&unannounced, pieces.map(String::into_bytes).to_vec(), room).await;
            assert!(all.starts_with("4\r\nbody\r\n0\r\n"), "{all}");
            assert!(all.contains("x-sum: 1\r\n") && all.contains("etag: 2\r\n") && !all.contains(STAND_IN), "{all}");
            assert!(all.ends_with("\r\n\r\nHTTP/1.1 200 OK\r\n\r\n0\r\nx-next: 3\r\n\r\n"), "{all}");
            assert!(unannounced.waiting().is_empty());
        }
    }
}
