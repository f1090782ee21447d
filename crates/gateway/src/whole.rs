//! Detects a truncated file when it is read again. The rest of an interrupted write may parse, and say less than was
//! meant.

use std::fmt;
use std::sync::Arc;

/// How a file ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileEnd {
    has_line_break: bool,
    has_mark: bool,
}

/// The text of a file. It may hold a password.
#[derive(Clone, Default)]
pub(crate) struct FileText(Arc<str>);

/// A file whose last line was this must keep it.
const MARK: &str = "# end";

// === impl FileEnd ===

impl FileEnd {
    pub(crate) fn of(text: &str) -> Self {
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        Self { has_line_break: text.ends_with('\n'), has_mark: last.is_some_and(|last| last == MARK) }
    }

    /// Whether a file with this end may follow one with the end `before`.
    pub(crate) fn check(self, before: Self) -> Result<(), &'static str> {
        if before.has_mark && !self.has_mark {
            return Err("the last line is no longer \"# end\"; is the file complete?");
        }
        if before.has_line_break && !self.has_line_break {
            return Err("the last line no longer ends with a line break; is the file complete?");
        }
        Ok(())
    }
}

// === impl FileText ===

impl FileText {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        self.0.contains(text)
    }

    /// Whether this text may follow `before`.
    pub(crate) fn check(&self, before: &Self) -> Result<(), &'static str> {
        let says_something = |line: &str| !(line.trim().is_empty() || line.trim_start().starts_with('#'));
        if before.0.strip_prefix(&*self.0).is_some_and(|rest| rest.lines().any(says_something)) {
            return Err("the file is the beginning of the one in force; to drop the rest, end the file with a comment");
        }
        FileEnd::of(&self.0).check(FileEnd::of(&before.0))
    }
}

impl fmt::Debug for FileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileText").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follows(before: &str, text: &str) -> bool {
        FileText::new(text).check(&FileText::new(before)).is_ok()
    }

    #[test]
    fn no_beginning_of_a_file_follows_it() {
        let text = "# all\nqueue = 5\n\n[[route]]\nname = \"a\"\n# of the night\npath = \"/v1/\"\n";
        for end in 0..text.len() {
            assert!(!follows(text, &text[..end]), "{end}");
        }
        assert!(follows(text, text));
        assert!(follows(text, "# all\nqueue = 5\n# without the route\n"));
        assert!(follows(text, "queue = 5\n"), "another file");
        assert!(follows("queue = 5\n# a comment\n", "queue = 5\n"), "nothing is lost");
    }

    #[test]
    fn a_file_that_was_changed_and_cut_off_follows_none_that_says_where_it_ends() {
        let (before, after) = ("queue = 5\n[[route]]\n# end\n", "queue = 6\ndedup = false\n[[route]]\n# end\n");
        for end in 0..after.len() - 1 {
            assert_eq!(follows(before, &after[..end]), after[..end].ends_with("# end"), "{end}");
        }
        assert!(follows(before, after) && follows(before, "queue = 7\n  # end\n\n"));
        // Without the mark, a cut within a line is detected.
        assert!(!follows("queue = 5\n", "queue = 6\ndedup = fal"));
        assert!(follows("queue = 5", "queue = 6"));
    }
}
