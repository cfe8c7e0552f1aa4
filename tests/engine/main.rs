//! What an engine does to a GPU's context while it uses this crate: its own streams and graphs, cudarc's event tracking on
//! and off, memory dropped at once, threads, a second context, errors of others. Expected bits are those of the same
//! operation run alone, everything waited for before and after: what is tested is the host's part.
//!
//! Runs on a GPU and under the fake driver. Tests that make the driver fail need the fake driver's hooks, and say so
//! without them.

mod buffers;
mod calls;
mod captures;
mod contexts;
mod driver_errors;
mod engine;
mod hooks;
mod layers;
mod lifetimes;
mod operation;
mod planted;
mod process;
mod raw;
mod streams;
mod words;
