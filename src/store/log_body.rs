//! The body of a response log.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};

use super::part::BodyPart;
use super::reader::LogReader;
use crate::body::boxed::Polled;
use crate::error::BoxError;

/// What a reader has still to read. Not to be polled after its end.
pub struct LogBody {
    reader: LogReader,
    size: SizeHint,
}

// === impl LogBody ===

impl LogBody {
    pub(crate) fn new(reader: LogReader, size: SizeHint) -> Self {
        Self { reader, size }
    }
}

impl Body for LogBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let part = ready!(self.reader.poll_part(cx));
        if let Some(Ok(BodyPart::Data(data))) = &part {
            self.size = less(&self.size, data.len() as u64);
        }
        Poll::Ready(part.map(|part| part.map(BodyPart::into_frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_at_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The rest of `size` after `read` bytes.
fn less(size: &SizeHint, read: u64) -> SizeHint {
    let mut left = SizeHint::new();
    if let Some(upper) = size.upper() {
        left.set_upper(upper.saturating_sub(read));
    }
    left.set_lower(size.lower().saturating_sub(read));
    left
}

impl fmt::Debug for LogBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.fmt(f)
    }
}
