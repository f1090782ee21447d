//! Calls that fail at once while the upstream is down: see [`CircuitBreakerLayer`].

// | File | Holds |
// |---|---|
// | `config.rs` | the settings, as a plain value |
// | `layer.rs`, `gate.rs`, `service.rs` | what every layer that admits calls has; service, future and body are `src/admission` |
// | `call.rs` | one call: what came of it, counted once |
// | `classification.rs`, `caller.rs` | what an answer says about the upstream; the caller of a call |
// | `counters.rs`, `circuit.rs` | what a thread counts; leave to call, and the machine behind its lock |
// | `registry.rs`, `breaker_set.rs` | one circuit per key, and all that clones of a layer share |
// | `handle.rs`, `notify.rs`, `health.rs`, `health_layer.rs` | control by hand, events, health probes |
// | `peers.rs` | other processes |
//
// When a circuit opens, and how it closes again, is decided in `policy::breaker`, by a machine
// that knows neither threads nor clocks. Here it is shared by threads.
//
// # Why not one lock, or one counter?
//
// Either is a cache line that every thread writes at every call: two threads are then slower than one. Nearly all calls
// succeed in a closed circuit, and there the machine itself says (`Breaker::fast`) that successes may be counted elsewhere:
// they cannot open the circuit, only what comes after them can. So each thread counts them in a `CounterShard` of its own,
// with the generation and the count in one word. A thread that has something else to say (a failure, the next bucket of the
// window, a change by hand) takes the lock, and *drains* the shards: takes their words away, brings what they held into the
// machine, asks it, and puts new words in their place. While the shards are drained no thread can count there, and waits for
// the lock instead. So the machine sees every outcome, in an order that did happen, before it decides anything: it remains
// the only place where anything is decided.
//
// Besides, two facts are put where all threads can read them: the generation under which calls pass, and until when all of
// them are refused. Neither needs the lock, and neither is written except by a change of state.

mod breaker_set;
mod caller;
mod circuit;
mod classification;
mod config;
mod counters;
mod gate;
mod handle;
mod health;
mod health_layer;
mod layer;
mod notify;
mod peers;
mod permit;
mod registry;
mod service;

pub use self::config::{CircuitBreakerConfig, SlowCallBy};
pub use self::handle::CircuitBreakerHandle;
pub use self::health_layer::HealthProbeLayer;
pub use self::layer::CircuitBreakerLayer;
pub use self::peers::{CircuitPeers, PeerCircuit, ProbeHold};
pub use self::service::{CircuitBreaker, CircuitBreakerBody, CircuitBreakerFuture};
