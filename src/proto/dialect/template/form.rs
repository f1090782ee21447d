//! The places of an event's variable values.

use super::parts::{Delta, ValueRole};
use super::scan::{digits, string};

use crate::proto::dialect::event::StreamEvent;
use crate::proto::dialect::fact::Text;
use crate::proto::dialect::kind::Kind;

/// An event with the places of its variable values.
#[derive(Debug)]
pub(super) struct Form {
    /// The event without those values.
    pub(super) text: Vec<u8>,
    pub(super) values: Vec<VariableValue>,
}

/// A variable value.
#[derive(Debug)]
pub(super) struct VariableValue {
    pub(super) hole: Hole,
    pub(super) seen: Vec<u8>,
    pub(super) differs: bool,
}

/// The place of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// The end of the text before it.
    pub(super) at: usize,
    pub(super) role: ValueRole,
    pub(super) is_string: bool,
}

/// With more, comparing costs as much as parsing.
pub(super) const MAX_HOLES: usize = 24;
pub(super) const MAX_EVENT: usize = 4 * 1024;

// === impl Form ===

impl Form {
    pub(super) fn of(kind: Kind, event: &StreamEvent<'_>, said: &Delta) -> Option<Self> {
        if event.shortened || event.misplaced || event.data.len() > MAX_EVENT {
            return None;
        }
        let mut form = Self { text: Vec::with_capacity(event.data.len()), values: Vec::new() };
        let mut rest = event.data;
        let mut role = ValueRole::Literal;
        let (mut counters, mut texts): (Vec<&[u8]>, u32) = (Vec::new(), 0);
        while let Some((&first, behind)) = rest.split_first() {
            let length = match first {
                b'"' => {
                    let inside = string(behind)?;
                    let after = behind.get(inside + 1..)?;
                    if after.trim_ascii_start().first() == Some(&b':') {
                        let key = behind.get(..inside)?;
                        role = kind.role(key);
                        let counts = matches!(role, ValueRole::Input | ValueRole::Output | ValueRole::Sequence);
                        if key.contains(&b'\\') || counts && counters.contains(&key) {
                            return None;
                        }
                        if counts {
                            counters.push(key);
                        }
                        inside + 2
                    } else {
                        let value = behind.get(..inside)?;
                        texts += u32::from(Text::escaped(value).decode() == said.text);
                        form.text.push(b'"');
                        form.value(role, value, true)?;
                        form.text.push(b'"');
                        rest = after;
                        continue;
                    }
                }
                b'0'..=b'9' => {
                    let length = digits(rest)?;
                    form.value(role, rest.get(..length)?, false)?;
                    rest = rest.get(length..)?;
                    continue;
                }
                // Objects inside brackets have their own keys; array elements have none.
                b'{' | b'[' => {
                    role = ValueRole::Literal;
                    1
                }
                _ => 1,
            };
            let (taken, behind) = rest.split_at_checked(length)?;
            form.text.extend_from_slice(taken);
            rest = behind;
        }
        let places = form.values.iter().filter(|value| value.hole.role == ValueRole::Text).count();
        (texts == 1 && places == 1).then_some(form)
    }

    /// Leaves a value out, or keeps it if it must be equal. `None`: there are too many.
    fn value(&mut self, role: ValueRole, value: &[u8], is_string: bool) -> Option<()> {
        if role == ValueRole::Literal {
            self.text.extend_from_slice(value);
        } else if self.values.len() < MAX_HOLES {
            let hole = Hole { at: self.text.len(), role, is_string };
            self.values.push(VariableValue { hole, seen: value.to_vec(), differs: role != ValueRole::Any });
        } else {
            return None;
        }
        Some(())
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        let holes = |form: &Self| form.values.iter().map(|value| value.hole).collect::<Vec<_>>();
        self.text == other.text && holes(self) == holes(other)
    }

    /// Notes which values differ from an earlier event's.
    pub(super) fn compare(&mut self, earlier: &Self) {
        for (value, earlier) in self.values.iter_mut().zip(&earlier.values) {
            value.differs |= earlier.differs || value.seen != earlier.seen;
        }
    }
}
