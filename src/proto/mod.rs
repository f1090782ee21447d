//! WIRE: bytes and headers to values and back. Knows no time but what it is given.

pub mod deadline;
