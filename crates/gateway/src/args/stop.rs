/// What to print instead of starting.
#[derive(Debug)]
pub enum Stop {
    /// The text that was asked for: help or the version.
    Told(String),
    /// What is wrong: one line, or as many as there are errors in the configuration file.
    Wrong(String),
    /// The same, where only that was asked for.
    Unfit(String),
}

// === impl Stop ===

impl From<&clap::Error> for Stop {
    fn from(error: &clap::Error) -> Self {
        let text = error.to_string();
        if !error.use_stderr() {
            return Self::Told(text);
        }
        Self::Wrong(one_line(error))
    }
}

pub(super) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // What follows the first paragraph is a hint to read the help.
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
