//! Reads the reported usage of an answer.

#[cfg(feature = "llm")]
pub(super) use self::reading::UsageReader;
#[cfg(not(feature = "llm"))]
pub(super) use self::without::UsageReader;
use crate::body::request::Upload;

/// The state of a call whose tokens are counted.
#[derive(Debug)]
pub(super) struct TokenCount {
    /// The length of the request; zero if unknown.
    pub(super) length: u64,
    /// The most tokens of the answer, if known.
    pub(super) max_output: Option<u64>,
    pub(super) upload: Upload,
    pub(super) usage: UsageReader,
}

/// The known usage of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    /// The bytes of the body that were seen.
    pub(super) bytes: u64,
    /// The model has reported the end of its answer.
    pub(super) has_ended: bool,
    /// The bytes of text among them, plus one per piece, if read.
    pub(super) text: u64,
}

#[cfg(feature = "llm")]
mod reading {
    use std::any::Any;

    use http::{Request, Response, Uri};

    use super::Used;
    use crate::body::request::CallBody;
    use crate::proto::dialect::{AnswerReader, Fact, Framing, Kind, StreamReader, Usage as ReportedUsage};
    use crate::proto::media_type::{self, BodyForm};
    use crate::proto::prompt;

    /// A higher reported number is not believed: it would block a limit for years.
    const MOST_TOKENS: u64 = 1 << 24;

    /// Reads a passing answer. `None` inside: its dialect is unknown.
    #[derive(Debug)]
    pub(in super::super) struct UsageReader {
        kind: Option<Kind>,
        form: UsageFormat,
        used: Used,
    }

    #[derive(Debug)]
    enum UsageFormat {
        Unread,
        Stream(Box<StreamReader>),
        Answer(Box<AnswerReader>),
    }

    // === impl UsageReader ===

    impl UsageReader {
        pub(in super::super) fn of(uri: &Uri) -> Self {
            Self { kind: Kind::of_path(uri.path()), form: UsageFormat::Unread, used: Used::default() }
        }

        /// The most tokens of the answer, if the request sets it in a body in memory.
        pub(in super::super) fn output_limit<B: 'static>(request: &Request<B>) -> Option<u64> {
            Kind::of_path(request.uri().path())?;
            let body: &dyn Any = request.body();
            prompt::output_limit(body.downcast_ref::<CallBody>()?.peek()?)
        }

        /// Chooses the format of the answer by its head.
        pub(in super::super) fn head<B>(&mut self, response: &Response<B>) {
            let Some(kind) = self.kind else { return };
            let headers = response.headers();
            let stream = |framing| UsageFormat::Stream(Box::new(StreamReader::new(Some(kind), framing)));
            self.form = match BodyForm::of(headers) {
                _ if media_type::is_encoded(headers) => UsageFormat::Unread,
                BodyForm::EventStream => stream(Framing::EventStream),
                BodyForm::JsonLines => stream(Framing::Lines),
                BodyForm::Json => UsageFormat::Answer(Box::default()),
                BodyForm::Other => UsageFormat::Unread,
            };
        }

        pub(in super::super) fn read(&mut self, data: &[u8]) {
            self.used.bytes = self.used.bytes.saturating_add(data.len() as u64);
            let used = &mut self.used;
            match &mut self.form {
                UsageFormat::Unread => {}
                UsageFormat::Stream(reader) => {
                    reader.read(data, |fact, _| {
                        match fact {
                            Fact::Usage(usage) => used.note(usage),
                            // A piece is at least one token, or a part of one.
                            Fact::Delta { text, .. } => used.text = used.text.saturating_add(text.byte_len() + 1),
                            Fact::Ended(_) | Fact::Marker => used.has_ended = true,
                            _ => {}
                        }
                    });
                }
                UsageFormat::Answer(reader) => reader.read(data),
            }
        }

        pub(in super::super) fn end(mut self) -> Used {
            if let (UsageFormat::Answer(reader), Some(kind)) = (self.form, self.kind) {
                if let Some(usage) = reader.end(&mut *kind.dialect()).usage {
                    self.used.note(usage);
                }
            }
            self.used
        }
    }

    // === impl Used ===

    impl Used {
        /// Some streams report the prompt first, and the answer later.
        fn note(&mut self, usage: ReportedUsage) {
            let believed = |tokens: Option<u64>| tokens.map(|tokens| tokens.min(MOST_TOKENS));
            self.input = believed(usage.input).or(self.input);
            self.output = believed(usage.output).or(self.output);
        }
    }
}

#[cfg(not(feature = "llm"))]
mod without {
    use http::{Request, Response, Uri};

    use super::Used;

    /// Counts bytes: reading usage needs the feature `llm`.
    #[derive(Debug, Default)]
    pub(in super::super) struct UsageReader(Used);

    impl UsageReader {
        pub(in super::super) fn of(_: &Uri) -> Self {
            Self::default()
        }

        pub(in super::super) fn output_limit<B>(_: &Request<B>) -> Option<u64> {
            None
        }

        #[allow(clippy::unused_self, reason = "it is one interface with the one that reads")]
        pub(in super::super) fn head<B>(&mut self, _: &Response<B>) {}

        pub(in super::super) fn read(&mut self, data: &[u8]) {
            self.0.bytes = self.0.bytes.saturating_add(data.len() as u64);
        }

        pub(in super::super) fn end(self) -> Used {
            self.0
        }
    }
}
