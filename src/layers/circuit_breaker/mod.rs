//! Calls that fail at once while the upstream is down: see [`CircuitBreakerLayer`].

// | File | Holds |
// |---|---|
// | `config.rs` | the settings, as a plain value |
// | `layer.rs`, `gate.rs`, `service.rs` | what every layer that admits calls has; service, future and body are `src/admission` |
// | `call.rs` | one call: its result, counted once |
// | `classification.rs`, `caller.rs` | what an answer says about the upstream; the caller of a call |
// | `counters.rs`, `circuit.rs` | what a thread counts; leave to call, and the machine behind its lock |
// | `registry.rs`, `breaker_set.rs` | one circuit per key, and all that clones of a layer share |
// | `handle.rs`, `notify.rs`, `health.rs`, `health_layer.rs` | control by hand, events, health probes |
// | `peers.rs` | other processes |
//
// The decisions are in `policy::breaker`, a state machine without threads or clocks. This module shares it between
// threads.
//
// # Why not one lock, or one counter?
//
// Every thread would write its cache line at every call: two threads are then slower than one. Nearly all calls succeed
// in a closed circuit, and then the machine says (`Breaker::fast`) that successes may be counted elsewhere: a success
// cannot open the circuit, only a later outcome can. So each thread counts successes in its own `CounterShard`, with the
// generation and the count in one word. A thread with another outcome (a failure, the next bucket of the window, a change
// by hand) takes the lock and *drains* the shards: it takes their words away, adds their counts to the machine, asks the
// machine, and writes new words. While the shards are drained no thread can count there; it waits for the lock instead.
// So the machine sees every outcome, in an order that did happen, before it decides, and it alone decides.
//
// Two facts are published to all threads: the generation under which calls pass, and until when all calls are refused.
// Reading them needs no lock, and only a change of state writes them.

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
