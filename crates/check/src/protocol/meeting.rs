//! Barriers at which threads meet: of a warp, of a CTA, of a cluster.

use super::clock::Clock;

/// One of them.
#[derive(Clone, Debug)]
pub struct Meeting {
    pub arrived: u32,
    /// How many must come, as those who have come say.
    pub wanted: u32,
    arriving: Clock,
    /// What the last to come have told each other.
    pub done: Clock,
    pub generation: u32,
}

impl Meeting {
    pub fn new(clock: Clock) -> Self {
        Self { arrived: 0, wanted: 0, done: clock.clone(), arriving: clock, generation: 0 }
    }

    pub fn arrive(&mut self, threads: u32) {
        self.arrived += threads;
    }

    /// Somebody brings news.
    pub fn tell(&mut self, clock: &Clock) {
        self.arriving.join(clock);
    }

    /// Of one event alone.
    pub fn tell_of(&mut self, dim: usize, known: u32) {
        self.arriving.raise(dim, known);
    }

    /// Whether `wanted` have come; if so the next meeting begins. `dim` counts them.
    pub fn settle(&mut self, wanted: u32, dim: Option<usize>) -> bool {
        if self.arrived == 0 || self.arrived < wanted {
            return false;
        }
        self.arrived = 0;
        self.generation += 1;
        self.done.clear();
        self.done.join(&self.arriving);
        self.arriving.clear();
        if let Some(dim) = dim {
            self.done.raise(dim, self.generation);
        }
        true
    }
}
