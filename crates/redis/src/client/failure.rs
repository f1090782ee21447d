//! Why a command failed.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The failure of a command, with the words of Redis or of the connection.
pub(crate) enum CommandFailure {
    /// A working Redis, with the right settings, would not answer so.
    Lost(OutageCause),
    /// Redis refused this command.
    Refused(String),
}

/// The cause of an outage.
pub(crate) struct OutageCause {
    pub(crate) words: String,
    /// Redis said it, not the connection.
    pub(crate) is_by_redis: bool,
}

// === impl CommandFailure ===

impl CommandFailure {
    /// There is no connection: any reason is an outage, also a refused database.
    pub(crate) fn unconnected(why: &RedisError) -> Self {
        Self::Lost(OutageCause::of(why))
    }

    pub(crate) fn of(why: &RedisError) -> Self {
        if is_outage(why) { Self::Lost(OutageCause::of(why)) } else { Self::Refused(describe(why)) }
    }
}

// === impl OutageCause ===

impl OutageCause {
    pub(crate) fn silence() -> Self {
        Self { words: "no answer in time".to_owned(), is_by_redis: false }
    }

    fn of(why: &RedisError) -> Self {
        let is_by_redis = why.code().is_some() || why.kind() == ErrorKind::AuthenticationFailed;
        Self { words: describe(why), is_by_redis }
    }
}

/// Whether a working Redis would not answer so.
pub(crate) fn is_outage(why: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, NoPerm, ReadOnly};
    why.is_unrecoverable_error()
        || why.is_io_error()
        // It wants a password, and was given none.
        || why.code() == Some("NOAUTH")
        || matches!(why.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
        || matches!(why.kind(), ErrorKind::Server(BusyLoading | MasterDown | NoPerm | ReadOnly))
        || why.detail().is_some_and(is_missing_right)
}

/// How a script fails whose user may not run one of its commands, in Redis 6.2 and later.
fn is_missing_right(detail: &str) -> bool {
    detail.contains("The user executing the script") || detail.contains("ACL failure in script")
}

/// The words of Redis or of the system, without the command.
fn describe(why: &RedisError) -> String {
    let words = match (why.code(), why.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, Some(detail)) => format!("{}: {detail}", why.category()),
        (None, None) if why.is_io_error() => why.to_string(),
        (None, None) => why.category().to_owned(),
    };
    words.trim_end_matches(['.', ' ', '\r', '\n']).to_owned()
}
