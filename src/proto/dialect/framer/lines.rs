//! One JSON value per line.

use memchr::memchr;

use super::frame::{Frame, event};
use super::partial::{MAX_WHOLE, PartialEvent};

/// Reads on, like [`Framer::read`](super::Framer::read). `held`: the incomplete line.
pub(super) fn read(held: &mut PartialEvent, bytes: &[u8], found: &mut impl FnMut(Frame<'_>, usize)) -> usize {
    let mut start = 0;
    while let Some(end) = bytes.get(start..).and_then(|rest| memchr(b'\n', rest)) {
        let line = bytes.get(start..start + end).unwrap_or_default();
        if held.is_empty() && line.len() <= MAX_WHOLE {
            found(line_event(Some(line), false), start);
        } else {
            held.push(line);
            held.finish(|data, shortened| found(line_event(data, shortened), start));
        }
        start += end + 1;
    }
    held.push(bytes.get(start..).unwrap_or_default());
    start
}

/// The stream has ended. A line with truncated JSON stays.
pub(super) fn end(held: &mut PartialEvent, found: &mut impl FnMut(Frame<'_>, usize)) {
    if !held.is_empty() && !held.is_cut_json() {
        held.finish(|data, shortened| found(line_event(data, shortened), 0));
    }
}

fn line_event(data: Option<&[u8]>, shortened: bool) -> Frame<'_> {
    match data.map(<[u8]>::trim_ascii) {
        Some([]) => Frame::KeepAlive,
        data => event("", data, shortened, false),
    }
}
