//! The format of an answer's log in Redis: a preamble that identifies it, then records.
//!
//! A record is `kind u8, length u32 LE, payload`. A whole log ends with a record of the number of records and bytes
//! before it, so that no truncation, gap or mixture of two answers is valid.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use tower_buttress::store::{BodyPart, Fingerprint, Head};
use tower_buttress::{Attempts, InvalidOutput, OutputFault, ServedBy};

const MAGIC: &[u8; 4] = b"TB1\0";

/// Magic, key and payload.
const PREAMBLE: usize = 4 + 32 + 32;

/// Longer data is split into several records.
const MAX_DATA: usize = 64 * 1024;

/// Limit of heads and trailers.
const MAX_RECORD: usize = 1024 * 1024;

const HEAD: u8 = 1;
const DATA: u8 = 2;
const TRAILERS: u8 = 3;
const END: u8 = 4;
const FAIL: u8 = 5;

/// The faults of an answer, with their encoding.
const FAULTS: [OutputFault; 3] = [OutputFault::Syntax, OutputFault::Schema, OutputFault::Empty];

/// Writes a log. The same answer always has the same bytes, so that it can be rewritten from any offset.
#[derive(Debug)]
pub(super) struct Encoder {
    records: u64,
    bytes: u64,
}

/// Reads a log in pieces of any size.
#[derive(Debug)]
pub(super) struct Decoder {
    key: Fingerprint,
    payload: Fingerprint,
    buffer: BytesMut,
    has_begun: bool,
    is_over: bool,
    records: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) enum LogRecord {
    Head(HeadRecord),
    Part(BodyPart),
    /// The answer is whole.
    End,
    /// The call failed.
    Fail,
}

/// The head of an answer, and how long after the claim it came.
#[derive(Debug)]
pub(super) struct HeadRecord {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) after: Duration,
    pub(super) served_by: Option<ServedBy>,
    pub(super) attempts: Attempts,
    pub(super) invalid: Option<InvalidOutput>,
}

/// The bytes are not a log of this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

// === impl Encoder ===

impl Encoder {
    /// Begins a log.
    pub(super) fn begin(key: &Fingerprint, payload: &Fingerprint, out: &mut BytesMut) -> Self {
        out.put_slice(MAGIC);
        out.put_slice(key.as_bytes());
        out.put_slice(payload.as_bytes());
        Self { records: 0, bytes: PREAMBLE as u64 }
    }

    /// `after`: the time since the claim. Returns whether the head is short enough to be read again.
    pub(super) fn head(&mut self, head: &Head, after: Duration, out: &mut BytesMut) -> bool {
        let mut record = BytesMut::new();
        record.put_u16_le(head.status().as_u16());
        record.put_u8(version_number(head.version()));
        record.put_u64_le(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        record.put_u32_le(head.attempts().0);
        let served_by = head.served_by().map_or("", ServedBy::as_str);
        put_bytes(served_by.as_bytes(), &mut record);
        put_headers(head.headers(), &mut record);
        if let Some(invalid) = head.invalid_output() {
            put_bytes(invalid.fault.as_str().as_bytes(), &mut record);
        }
        self.record(HEAD, &record, out);
        record.len() <= MAX_RECORD
    }

    /// Returns whether the part is short enough to be read again.
    pub(super) fn part(&mut self, part: &BodyPart, out: &mut BytesMut) -> bool {
        match part {
            BodyPart::Data(data) => {
                data.chunks(MAX_DATA).for_each(|data| self.record(DATA, data, out));
                true
            }
            BodyPart::Trailers(trailers) => {
                let mut record = BytesMut::new();
                put_headers(trailers, &mut record);
                self.record(TRAILERS, &record, out);
                record.len() <= MAX_RECORD
            }
            _ => false,
        }
    }

    pub(super) fn end(&mut self, out: &mut BytesMut) {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&self.records.to_le_bytes());
        record[8..].copy_from_slice(&self.bytes.to_le_bytes());
        self.record(END, &record, out);
    }

    pub(super) fn fail(&mut self, out: &mut BytesMut) {
        self.record(FAIL, &[], out);
    }

    fn record(&mut self, kind: u8, payload: &[u8], out: &mut BytesMut) {
        out.put_u8(kind);
        out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        out.put_slice(payload);
        self.records += 1;
        self.bytes += 5 + payload.len() as u64;
    }
}

// === impl Decoder ===

impl Decoder {
    /// Reads the log of the answer to this request only.
    pub(super) fn new(key: Fingerprint, payload: Fingerprint) -> Self {
        let buffer = BytesMut::new();
        Self { key, payload, buffer, has_begun: false, is_over: false, records: 0, bytes: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next record; `None`: more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<LogRecord>, Damaged> {
        if !self.has_begun {
            if self.buffer.len() < PREAMBLE {
                return Ok(None);
            }
            let preamble = self.buffer.split_to(PREAMBLE);
            let expected = [MAGIC, &self.key.as_bytes()[..], &self.payload.as_bytes()[..]].concat();
            if preamble[..] != expected[..] {
                return Err(Damaged);
            }
            (self.has_begun, self.bytes) = (true, PREAMBLE as u64);
        }
        let Some((&[kind, a, b, c, d], rest)) = self.buffer.split_first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| Damaged)?;
        if self.is_over || length > MAX_RECORD {
            return Err(Damaged);
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(5);
        let payload = self.buffer.split_to(length).freeze();
        let record = self.read(kind, payload)?;
        self.records += 1;
        self.bytes += 5 + length as u64;
        Ok(Some(record))
    }

    fn read(&mut self, kind: u8, mut payload: Bytes) -> Result<LogRecord, Damaged> {
        let is_first = self.records == 0;
        match kind {
            HEAD if is_first => read_head(payload).map(LogRecord::Head).ok_or(Damaged),
            DATA if !is_first => Ok(LogRecord::Part(BodyPart::Data(payload))),
            TRAILERS if !is_first => {
                let trailers = get_headers(&mut payload).ok_or(Damaged)?;
                Ok(LogRecord::Part(BodyPart::Trailers(Arc::new(trailers))))
            }
            END if !is_first && payload.len() == 16 => {
                self.is_over = true;
                let whole = payload.get_u64_le() == self.records && payload.get_u64_le() == self.bytes;
                if whole { Ok(LogRecord::End) } else { Err(Damaged) }
            }
            FAIL => {
                self.is_over = true;
                Ok(LogRecord::Fail)
            }
            _ => Err(Damaged),
        }
    }
}

fn read_head(mut record: Bytes) -> Option<HeadRecord> {
    let status = StatusCode::from_u16(record.try_get_u16_le().ok()?).ok()?;
    let version = version_of(record.try_get_u8().ok()?)?;
    let after = Duration::from_millis(record.try_get_u64_le().ok()?);
    let attempts = Attempts(record.try_get_u32_le().ok()?);
    let served_by = get_bytes(&mut record)?;
    let served_by = std::str::from_utf8(&served_by).ok()?;
    let served_by = (!served_by.is_empty()).then(|| ServedBy::new(served_by));
    let headers = get_headers(&mut record)?;
    // Most heads end here.
    let invalid = if record.is_empty() { None } else { Some(get_invalid(&mut record)?) };
    record.is_empty().then_some(HeadRecord { status, version, headers, after, served_by, attempts, invalid })
}

fn get_invalid(record: &mut Bytes) -> Option<InvalidOutput> {
    let name = get_bytes(record)?;
    FAULTS.into_iter().find(|fault| fault.as_str().as_bytes() == name).map(InvalidOutput::new)
}

fn put_headers(headers: &HeaderMap, out: &mut BytesMut) {
    out.put_u32_le(u32::try_from(headers.len()).unwrap_or(u32::MAX));
    for (name, value) in headers {
        put_bytes(name.as_str().as_bytes(), out);
        put_bytes(value.as_bytes(), out);
        out.put_u8(value.is_sensitive().into());
    }
}

fn get_headers(record: &mut Bytes) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for _ in 0..record.try_get_u32_le().ok()? {
        let name = HeaderName::from_bytes(&get_bytes(record)?).ok()?;
        let mut value = HeaderValue::from_maybe_shared(get_bytes(record)?).ok()?;
        value.set_sensitive(record.try_get_u8().ok()? != 0);
        // A full map refuses more: this process did not write such a head.
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn get_bytes(record: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(record.try_get_u32_le().ok()?).ok()?;
    (length <= record.len()).then(|| record.split_to(length))
}

fn version_number(version: Version) -> u8 {
    match version {
        Version::HTTP_09 => 0,
        Version::HTTP_10 => 1,
        Version::HTTP_2 => 3,
        Version::HTTP_3 => 4,
        _ => 2,
    }
}

fn version_of(number: u8) -> Option<Version> {
    [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3]
        .get(usize::from(number))
        .copied()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    const KEY: Fingerprint = Fingerprint::from_bytes([1; 32]);
    const PAYLOAD: Fingerprint = Fingerprint::from_bytes([2; 32]);

    fn head() -> Head {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static("x-key"), secret),
            (HeaderName::from_static("x-model"), HeaderValue::from_static("m")),
        ]);
        let head = Head::new(StatusCode::CREATED, Version::HTTP_2, headers, Instant::now());
        head.with_served_by(ServedBy::new("eu")).with_attempts(Attempts(3))
    }

    fn log(parts: &[BodyPart], ended: bool) -> BytesMut {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::begin(&KEY, &PAYLOAD, &mut out);
        assert!(encoder.head(&head(), Duration::from_millis(70), &mut out));
        parts.iter().for_each(|part| assert!(encoder.part(part, &mut out)));
        if ended {
            encoder.end(&mut out);
        }
        out
    }

    /// The data, the trailers, and whether it is whole.
    fn read(decoder: &mut Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, bool), Damaged> {
        let (mut data, mut trailers, mut whole) = (Vec::new(), None, false);
        for piece in pieces {
            decoder.push(piece);
            while let Some(record) = decoder.next()? {
                match record {
                    LogRecord::Head(read) => {
                        assert_eq!((read.status, read.version), (StatusCode::CREATED, Version::HTTP_2));
                        assert_eq!(read.headers, *head().headers());
                        assert!(read.headers["x-key"].is_sensitive() && !read.headers["x-model"].is_sensitive());
                        assert_eq!(read.after, Duration::from_millis(70));
                        assert_eq!(read.served_by.as_ref().map(ServedBy::as_str), Some("eu"));
                        assert_eq!(read.attempts, Attempts(3));
                    }
                    LogRecord::Part(BodyPart::Data(bytes)) => data.extend_from_slice(&bytes),
                    LogRecord::Part(BodyPart::Trailers(last)) => trailers = Some((*last).clone()),
                    LogRecord::Part(_) => unreachable!(),
                    LogRecord::End => whole = true,
                    LogRecord::Fail => return Err(Damaged),
                }
            }
        }
        Ok((data, trailers, whole))
    }

    fn part() -> impl Strategy<Value = BodyPart> {
        prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| BodyPart::Data(data.into())),
            1 => (60_000..200_000_usize).prop_map(|length| BodyPart::Data(vec![7; length].into())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_whatever_pieces(parts in prop::collection::vec(part(), 0..8), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let trailers = BodyPart::Trailers(Arc::new(head().headers().clone()));
            let parts: Vec<BodyPart> = parts.into_iter().chain([trailers]).collect();
            let log = log(&parts, true);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len())).chain([0, log.len()]).collect();
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|at| &log[at[0]..at[1]]).collect();
            let (data, trailers, whole) = read(&mut Decoder::new(KEY, PAYLOAD), &pieces).unwrap();
            let sent: Vec<u8> = parts.iter().flat_map(|part| match part {
                BodyPart::Data(data) => data.to_vec(),
                _ => Vec::new(),
            }).collect();
            prop_assert_eq!(data, sent);
            prop_assert_eq!(trailers, Some(head().headers().clone()));
            prop_assert!(whole);
        }

        #[test]
        fn what_is_cut_is_never_whole(parts in prop::collection::vec(part(), 0..4), cut in any::<prop::sample::Index>()) {
            let log = log(&parts, true);
            let read = read(&mut Decoder::new(KEY, PAYLOAD), &[&log[..cut.index(log.len())]]);
            prop_assert!(!read.is_ok_and(|(_, _, whole)| whole));
        }

        #[test]
        fn no_bytes_make_it_panic_or_hold_much(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::new(KEY, PAYLOAD);
            decoder.push(&log(&[], false));
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_read_again() {
        for invalid in [None, Some(OutputFault::Syntax), Some(OutputFault::Schema), Some(OutputFault::Empty)] {
            let invalid = invalid.map(InvalidOutput::new);
            let head = invalid.map_or_else(head, |invalid| head().with_invalid_output(invalid));
            let mut log = BytesMut::new();
            assert!(Encoder::begin(&KEY, &PAYLOAD, &mut log).head(&head, Duration::ZERO, &mut log));
            let mut decoder = Decoder::new(KEY, PAYLOAD);
            decoder.push(&log);
            let Ok(Some(LogRecord::Head(read))) = decoder.next() else { panic!("no head") };
            assert_eq!(read.invalid, invalid);
        }
    }

    #[test]
    fn a_hole_is_no_record() {
        // Redis fills gaps with zeros.
        let part = BodyPart::Data(vec![7; 100].into());
        let (begin, end) = (log(&[], false).len(), log(std::slice::from_ref(&part), false).len());
        let mut log = log(&[part.clone(), part], true);
        log[begin..end].fill(0);
        assert_eq!(read(&mut Decoder::new(KEY, PAYLOAD), &[&log]).unwrap_err(), Damaged);
    }

    #[test]
    fn the_log_of_another_request_is_refused() {
        let log = log(&[], true);
        for (key, payload) in [(PAYLOAD, PAYLOAD), (KEY, KEY)] {
            assert_eq!(read(&mut Decoder::new(key, payload), &[&log]).unwrap_err(), Damaged);
        }
    }

    #[test]
    fn a_failure_is_read_as_one() {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::begin(&KEY, &PAYLOAD, &mut out);
        encoder.fail(&mut out);
        let mut decoder = Decoder::new(KEY, PAYLOAD);
        decoder.push(&out);
        assert!(matches!(decoder.next(), Ok(Some(LogRecord::Fail))));
        decoder.push(&[DATA, 0, 0, 0, 0]);
        assert_eq!(decoder.next().unwrap_err(), Damaged);
    }
}
