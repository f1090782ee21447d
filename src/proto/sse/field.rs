//! Reads one line, in chunks of any size: blank, a comment, or a field.

/// The standard's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Field {
    Data,
    Event,
    Id,
    Retry,
}

/// How far a line was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proto) enum LineState {
    #[default]
    Start,
    Comment,
    /// An unknown field, to its end.
    Unknown,
    /// In the possible name of a field, with the number of its bytes so far.
    Name(Field, u8),
    /// Right after the colon: one space is not part of the value.
    Colon(Field),
    Value(Field),
}

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum LineKind {
    Blank,
    Comment,
    Unknown,
    Field(Field),
}

// === impl LineKind ===

impl LineKind {
    /// Reads a complete line: the result of [`LineState`], at a fraction of its cost.
    #[inline]
    pub(in crate::proto) fn whole(line: &[u8]) -> Self {
        match line {
            [] => Self::Blank,
            [b':', ..] => Self::Comment,
            b"data" | [b'd', b'a', b't', b'a', b':', ..] => Self::Field(Field::Data),
            b"event" | [b'e', b'v', b'e', b'n', b't', b':', ..] => Self::Field(Field::Event),
            b"id" | [b'i', b'd', b':', ..] => Self::Field(Field::Id),
            b"retry" | [b'r', b'e', b't', b'r', b'y', b':', ..] => Self::Field(Field::Retry),
            _ => Self::Unknown,
        }
    }
}

// === impl Field ===

impl Field {
    /// No two names begin with the same letter.
    const fn beginning_with(letter: u8) -> Option<Self> {
        match letter {
            b'd' => Some(Self::Data),
            b'e' => Some(Self::Event),
            b'i' => Some(Self::Id),
            b'r' => Some(Self::Retry),
            _ => None,
        }
    }

    const fn name(self) -> &'static [u8] {
        match self {
            Self::Data => b"data",
            Self::Event => b"event",
            Self::Id => b"id",
            Self::Retry => b"retry",
        }
    }
}

// === impl LineState ===

impl LineState {
    /// Reads on. Returns the part of `content` that belongs to the value of [`LineState::value_of`].
    pub(in crate::proto) fn read<'a>(&mut self, content: &'a [u8]) -> &'a [u8] {
        let Some(&first) = content.first() else { return &[] };
        match *self {
            Self::Value(_) => content,
            Self::Comment | Self::Unknown => &[],
            Self::Start => match Field::beginning_with(first) {
                Some(field) => self.read_name(field, 0, content),
                None => {
                    *self = if first == b':' { Self::Comment } else { Self::Unknown };
                    &[]
                }
            },
            Self::Name(field, seen) => self.read_name(field, seen, content),
            Self::Colon(field) => self.read_value(field, content),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "no name is longer than five bytes")]
    fn read_name<'a>(&mut self, field: Field, seen: u8, content: &'a [u8]) -> &'a [u8] {
        let rest = &field.name()[usize::from(seen)..];
        *self = match content.strip_prefix(rest) {
            Some([b':', value @ ..]) => return self.read_value(field, value),
            Some([]) => Self::Name(field, seen + content.len() as u8),
            None if rest.starts_with(content) => Self::Name(field, seen + content.len() as u8),
            _ => Self::Unknown,
        };
        &[]
    }

    fn read_value<'a>(&mut self, field: Field, value: &'a [u8]) -> &'a [u8] {
        let Some(&first) = value.first() else {
            *self = Self::Colon(field);
            return value;
        };
        *self = Self::Value(field);
        if first == b' ' { &value[1..] } else { value }
    }

    /// The line has ended; another one starts.
    pub(in crate::proto) fn end(&mut self) -> LineKind {
        match std::mem::take(self) {
            Self::Start => LineKind::Blank,
            Self::Comment => LineKind::Comment,
            Self::Colon(field) | Self::Value(field) => LineKind::Field(field),
            Self::Name(field, seen) if usize::from(seen) == field.name().len() => LineKind::Field(field),
            Self::Name(..) | Self::Unknown => LineKind::Unknown,
        }
    }

    /// The field whose value is being read.
    #[inline]
    pub(in crate::proto) fn value_of(self) -> Option<Field> {
        match self {
            Self::Colon(field) | Self::Value(field) => Some(field),
            _ => None,
        }
    }

    #[inline]
    pub(in crate::proto) fn at_start(self) -> bool {
        self == Self::Start
    }

    /// In a line that is neither blank nor a comment.
    #[inline]
    pub(in crate::proto) fn in_field(self) -> bool {
        !matches!(self, Self::Start | Self::Comment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a line at once, and byte by byte.
    #[track_caller]
    fn check(line: &str, ended: LineKind, value: &str) {
        let mut whole = LineState::default();
        assert_eq!(whole.read(line.as_bytes()), value.as_bytes());

        let mut cut = LineState::default();
        let mut read = Vec::new();
        for byte in line.as_bytes().chunks(1) {
            read.extend_from_slice(cut.read(byte));
        }
        assert_eq!(read, value.as_bytes());
        assert_eq!(cut.end(), ended);
        assert_eq!(LineKind::whole(line.as_bytes()), ended);
        assert_eq!(whole.end(), ended);
    }

    #[test]
    fn a_line_is_blank_a_comment_or_a_field() {
        check("", LineKind::Blank, "");
        check(":", LineKind::Comment, "");
        check(":data: x", LineKind::Comment, "");
        check("data: x", LineKind::Field(Field::Data), "x");
        check("event: x", LineKind::Field(Field::Event), "x");
        check("id: x", LineKind::Field(Field::Id), "x");
        check("retry: x", LineKind::Field(Field::Retry), "x");
    }

    #[test]
    fn only_one_space_behind_the_first_colon_is_dropped() {
        check("data:x", LineKind::Field(Field::Data), "x");
        check("data:  x ", LineKind::Field(Field::Data), " x ");
        check("data:\tx", LineKind::Field(Field::Data), "\tx");
        check("data: : x", LineKind::Field(Field::Data), ": x");
        check("data::x", LineKind::Field(Field::Data), ":x");
        check("data: ", LineKind::Field(Field::Data), "");
        check("data:", LineKind::Field(Field::Data), "");
    }

    #[test]
    fn a_name_without_a_colon_is_a_field_without_a_value() {
        check("data", LineKind::Field(Field::Data), "");
        check("id", LineKind::Field(Field::Id), "");
    }

    #[test]
    fn names_are_compared_literally() {
        for line in ["dat", "dat: x", "dataa: x", "data : x", " data: x", "Data: x", "ida", "r", "x", "\0", "d:ata"] {
            check(line, LineKind::Unknown, "");
        }
    }
}
