//! Whether the barriers of a kernel do what they are for, in whatever order its threads, TMA and the tensor core come.
//!
//! A program (`step`) is what the threads of a cluster do, step by step. It is no model that somebody wrote: it is read off
//! an operand trace (`extract`), so barriers, counts, parities, stages and bytes are the kernel's own. Nobody waits in a
//! trace, so it has every step of every thread, whatever would happen to them.
//!
//! `explore` runs a program and asks of every step whether it could come at another moment with another effect:
//!
//! * an arrival, or bytes that land, before the phase that they count for has begun, or after it has no more to come;
//! * a wait that an older phase of the same parity lets through, or that a phase and the next one pass by;
//! * bytes written before those who read them are done, or read before they have arrived, by TMA, by the tensor core or by
//!   threads; or without the fence that they need;
//! * threads that meet at a barrier which the last ones have not left;
//! * a CTA that is gone while somebody still signals, copies to or reads its shared memory;
//!
//! and at the end whether everybody has come through, and no barrier has half a phase. A launch makes its barriers anew, and a ring
//! goes on from tile to tile: that the next tile's waits name the right parity is asked of those waits.
//!
//! **Why one order answers for all.** It asks by vector clocks, which know of what surely went before. A thread's steps do
//! not depend on what others do: only moments do. If no step of this run could come at a moment at which its effect would be
//! another, then in every order each step has the effect that it has here: take the first step of another order of
//! which that is not so; all before it had the same effects, so a clock here knows which of them had to come first, and
//! what it asks fails. So all orders reach the same end, and an order that gets stuck would be stuck here. It is the
//! partial-order reduction of a state space in which all steps commute, together with the proof that they do. `interleave`
//! goes through all states of small programs and knows none of this: both must say the same.
//!
//! Threads of a warp that take the same steps are one role: what holds for one of them holds for each, since any two may
//! change places. Where one lane arrives for its warp, it is a role of its own, and what the others did counts only behind the barrier
//! of the warp that tells it. What ordinary loads and stores of different threads do to each other is left to the emulator's race
//! detector, and so are registers, and the waits that the lanes of a warp have for each other in a shuffle.

mod clock;
mod explore;
pub mod extract;
mod interleave;
mod meeting;
mod memory;
mod phases;
pub mod step;

pub use explore::{Explored, explore};
pub use interleave::interleave;
