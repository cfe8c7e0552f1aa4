//! Who has read and written a piece of shared memory, and may still do so.

use super::clock::Clock;
use super::phases::Event;

/// Who accesses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// A thread. Of a write, when it was fenced, by the clock of its role.
    Thread { fenced: Option<u32> },
    /// TMA or the tensor core, from this moment to a later one.
    Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// An access, done for all who know so many of `dim`.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub agent: Agent,
    pub access: Access,
    pub dim: usize,
    pub done: u32,
    /// The step that began it.
    pub event: Event,
}

/// Two accesses that may come in either order, or at once.
#[derive(Debug)]
pub enum Conflict {
    /// With this one.
    Unordered(Use),
    /// It has not been fenced, or that is not known.
    Unfenced(Use),
    /// Nobody has ever written what is read.
    Unwritten,
}

/// A piece of the shared memory of a CTA: the last use of each kind by everyone, since TMA wrote it last.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    uses: Vec<Use>,
}

impl Piece {
    /// `new` happens, by someone with this clock.
    pub fn touch(&mut self, new: Use, clock: &Clock) -> Result<(), Conflict> {
        let engine = new.agent == Agent::Engine;
        if new.access == Access::Read && !self.uses.iter().any(|old| old.access == Access::Write) {
            return Err(Conflict::Unwritten);
        }
        for &old in &self.uses {
            // What ordinary loads and stores do to each other is not asked here, nor what two readers do.
            let by_threads = !engine && old.agent != Agent::Engine;
            if by_threads || (old.access == Access::Read && new.access == Access::Read) {
                continue;
            }
            if clock.ordered(old.dim) < old.done {
                return Err(Conflict::Unordered(old));
            }
            if let (true, Access::Write, Agent::Thread { fenced }) = (engine, old.access, old.agent)
                && fenced.is_none_or(|fenced| clock.ordered(old.dim) < fenced)
            {
                return Err(Conflict::Unfenced(old));
            }
        }
        if engine && new.access == Access::Write {
            // Who knows of this knows of all before.
            self.uses.clear();
        }
        self.uses.retain(|old| (old.dim, old.access) != (new.dim, new.access));
        self.uses.push(new);
        Ok(())
    }

    /// A thread has fenced what it wrote.
    pub fn fence(&mut self, dim: usize, now: u32) {
        for old in &mut self.uses {
            if let (true, Access::Write, Agent::Thread { fenced: fenced @ None }) =
                (old.dim == dim, old.access, &mut old.agent)
            {
                *fenced = Some(now);
            }
        }
    }
}
