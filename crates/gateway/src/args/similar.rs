//! Options of answers to similar requests.

use std::fmt;
use std::str::FromStr;

use clap::ArgAction::Append;

use super::Misfit;
use super::credentials::{Credential, NamedCredential};
use super::headings::LAST_GOOD;
use super::values::refuse_unused;
use crate::upstream::Upstream;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SimilarArgs {
    /// Return the last good answer to a similar request, marked as such.
    ///
    /// RATIO is the lowest cosine similarity of the two last messages, as 0.95. Everything else in the requests must be
    /// equal, and so must the numbers, names and negations in the messages. Needs --embeddings.
    #[arg(long, env = "GATEWAY_SIMILAR", value_name = "RATIO|off", default_value = "off", help_heading = LAST_GOOD)]
    pub(crate) similar: Ratio,

    /// Send the last message of each call to this embeddings URL.
    ///
    /// The server must accept requests of OpenAI's `/v1/embeddings`.
    #[arg(long, env = "GATEWAY_EMBEDDINGS", value_name = "URL", help_heading = LAST_GOOD)]
    pub(crate) embeddings: Option<Upstream>,

    /// Name this model in embeddings requests.
    #[arg(long, env = "GATEWAY_EMBEDDINGS_MODEL", value_name = "NAME", help_heading = LAST_GOOD)]
    pub(crate) embeddings_model: Option<String>,

    /// Send the `Authorization` in this variable with embeddings requests.
    ///
    /// They never carry the caller's credentials.
    #[arg(
        long, env = "GATEWAY_EMBEDDINGS_AUTHORIZATION_ENV", value_name = "VAR",
        help_heading = LAST_GOOD
    )]
    embeddings_authorization_env: Option<Credential>,

    /// Send this header, with the value of VAR, with embeddings requests.
    ///
    /// May be repeated.
    #[arg(
        long, env = "GATEWAY_EMBEDDINGS_HEADER", value_name = "NAME=VAR", action = Append, value_delimiter = ',',
        help_heading = LAST_GOOD
    )]
    embeddings_header: Vec<NamedCredential>,
}

/// A number above 0, up to 1, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio(pub(crate) Option<f32>);

// === impl SimilarArgs ===

impl SimilarArgs {
    /// The credentials of embeddings requests.
    pub(crate) fn credential(&self) -> Vec<NamedCredential> {
        let authorization = self.embeddings_authorization_env.iter().map(Credential::named);
        authorization.chain(self.embeddings_header.iter().cloned()).collect()
    }

    /// Refuses options that contradict each other.
    pub(super) fn check(&self, has_last_good: bool) -> Result<(), Misfit> {
        if self.similar.0.is_none() {
            let said = [
                ("embeddings", self.embeddings.is_some()),
                ("embeddings_model", self.embeddings_model.is_some()),
                ("embeddings_authorization_env", self.embeddings_authorization_env.is_some()),
                ("embeddings_header", !self.embeddings_header.is_empty()),
            ];
            return refuse_unused(said, "--similar RATIO");
        }
        let missing = if !has_last_good {
            "--similar needs --last-good on"
        } else if self.embeddings.is_none() {
            "--similar needs --embeddings URL"
        } else if self.embeddings_model.is_none() {
            "--embeddings needs --embeddings-model NAME"
        } else {
            return Ok(());
        };
        Err(Misfit::new(&["similar", "embeddings"], missing))
    }
}

// === impl Ratio ===

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        let ratio = text.parse::<f32>().ok().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
        ratio.map(|ratio| Self(Some(ratio))).ok_or_else(|| "not a number above 0, up to 1, and not off".to_owned())
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ratio) => ratio.fmt(f),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Args, Stop};
    use super::*;

    fn read(args: &str) -> Result<Args, String> {
        let args = ["gateway"].into_iter().chain(args.split_whitespace()).map(OsString::from);
        Args::read(args).map_err(|stop| match stop {
            Stop::Wrong(line) | Stop::Unfit(line) => line,
            Stop::Shown(text) => panic!("{text}"),
        })
    }

    #[test]
    fn a_missing_option_is_a_one_line_error() {
        let url = "--embeddings http://e/v1/embeddings";
        for (args, line) in [
            ("--similar 0.9".to_owned(), "--similar needs --last-good on"),
            ("--last-good on --similar 0.9".to_owned(), "--similar needs --embeddings URL"),
            (format!("--last-good on --similar 0.9 {url}"), "--embeddings needs --embeddings-model NAME"),
            (format!("--last-good on {url}"), "--embeddings needs --similar RATIO"),
            ("--embeddings-model small".to_owned(), "--embeddings-model needs --similar RATIO"),
            ("--embeddings-header x=CARGO_PKG_NAME".to_owned(), "--embeddings-header needs --similar RATIO"),
        ] {
            assert_eq!(read(&args).unwrap_err(), line, "{args}");
        }
        for wrong in ["0", "1.5", "-1", "NaN", "much"] {
            let line = read(&format!("--similar={wrong}")).unwrap_err();
            assert!(line.contains("not a number above 0, up to 1, and not off"), "{line}");
        }
        let whole = format!("--last-good on --similar 0.9 {url} --embeddings-model small");
        assert_eq!(read(&whole).unwrap().layers.similar.similar, Ratio(Some(0.9)));
    }

    #[test]
    fn a_credential_for_embeddings_is_the_operators() {
        // A variable that always exists.
        let args = "--last-good on --similar 0.9 --embeddings http://e --embeddings-model small \
                    --embeddings-header x-api-key=CARGO_PKG_NAME";
        assert!(read(args).unwrap_err().contains("--trust-callers"));
        let args = read(&format!("{args} --trust-callers")).unwrap();
        assert_eq!(args.layers.similar.credential().len(), 1);
    }
}
