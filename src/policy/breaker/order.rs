//! An operator's orders to a circuit.

use std::fmt;
use std::str::FromStr;

/// An operator's order to a circuit, for every process that shares it: see
/// [`CircuitBreakerHandle::order_everywhere`](crate::CircuitBreakerHandle::order_everywhere).
///
/// ```
/// use tower_buttress::CircuitOrder;
///
/// assert_eq!("isolate".parse(), Ok(CircuitOrder::Isolate));
/// assert_eq!(CircuitOrder::MetricsOnly.to_string(), "metrics-only");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitOrder {
    /// Refuses every call, until [`Close`](Self::Close).
    Isolate,
    /// Lets every call pass, and counts nothing, until [`Close`](Self::Close).
    Disable,
    /// Lets every call pass, and counts all, until [`Close`](Self::Close).
    MetricsOnly,
    /// Closes the circuit from any state, and resets its counts. This ends the other orders.
    Close,
}

/// The error of a name that is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownOrder {}

// === impl CircuitOrder ===

impl CircuitOrder {
    /// A stable name: `"isolate"`, `"disable"`, `"metrics-only"` or `"close"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Disable => "disable",
            Self::MetricsOnly => "metrics-only",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for CircuitOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CircuitOrder {
    type Err = UnknownOrder;

    fn from_str(name: &str) -> Result<Self, UnknownOrder> {
        let all = [Self::Isolate, Self::Disable, Self::MetricsOnly, Self::Close];
        all.into_iter().find(|order| order.as_str() == name).ok_or(UnknownOrder {})
    }
}

// === impl UnknownOrder ===

impl fmt::Display for UnknownOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not isolate, disable, metrics-only or close")
    }
}

impl std::error::Error for UnknownOrder {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for (order, name) in [
            (CircuitOrder::Isolate, "isolate"),
            (CircuitOrder::Disable, "disable"),
            (CircuitOrder::MetricsOnly, "metrics-only"),
            (CircuitOrder::Close, "close"),
        ] {
            assert_eq!((order.as_str(), order.to_string().as_str(), name.parse()), (name, name, Ok(order)));
        }
        let unknown = "open".parse::<CircuitOrder>().unwrap_err();
        assert_eq!(unknown.to_string(), "not isolate, disable, metrics-only or close");
    }
}
