//! Option values that name the environment variable or file of a secret, never the secret.

use std::fmt;
use std::str::FromStr;

use http::{HeaderName, HeaderValue};

use crate::callers::Keys;

/// An `Authorization` header with its value from an environment variable.
#[derive(Clone, Debug)]
pub(crate) struct Credential(NamedCredential);

/// A header with its value from an environment variable. `Debug` and `Display` hide the value.
#[derive(Clone, Debug)]
pub(crate) struct NamedCredential {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
    variable: String,
}

/// Reads caller keys from an environment variable.
pub(super) fn keys_in_variable(variable: &str) -> Result<Keys, String> {
    variable_value(variable)?.parse()
}

/// Reads caller keys from a file.
pub(super) fn keys_in_file(path: &str) -> Result<Keys, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?.parse()
}

fn variable_value(variable: &str) -> Result<String, String> {
    std::env::var(variable).map_err(|_| "no environment variable of this name is set".to_owned())
}

fn secret(variable: &str) -> Result<HeaderValue, String> {
    let value = variable_value(variable)?;
    let mut value = HeaderValue::try_from(value.trim())
        .map_err(|_| "the variable does not hold a valid header value".to_owned())?;
    if value.is_empty() {
        return Err("the variable is empty".to_owned());
    }
    value.set_sensitive(true);
    Ok(value)
}

// === impl Credential ===

impl FromStr for Credential {
    type Err = String;

    fn from_str(variable: &str) -> Result<Self, String> {
        NamedCredential::new(http::header::AUTHORIZATION, variable).map(Self)
    }
}

impl Credential {
    /// The header with its name.
    pub(crate) fn named(&self) -> NamedCredential {
        self.0.clone()
    }
}

// === impl NamedCredential ===

impl NamedCredential {
    fn new(name: HeaderName, variable: &str) -> Result<Self, String> {
        Ok(Self { name, value: secret(variable)?, variable: variable.to_owned() })
    }
}

/// As the option is written: the header's name and the variable, not its value.
impl fmt::Display for NamedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.variable)
    }
}

impl FromStr for NamedCredential {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, variable) = text.split_once('=').ok_or("not NAME=VAR, a header and a variable")?;
        let name = name.parse().map_err(|_| "not a header's name".to_owned())?;
        Self::new(name, variable)
    }
}
