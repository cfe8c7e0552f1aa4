//! Vector clocks: what surely went before.

/// Of each kind of event that a program counts, how many surely went before; and how many of them are ordered for memory too. Bytes
/// that have landed tell that their load was issued, and all that its thread knew then: but they hand over nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    before: Vec<u32>,
    ordered: Vec<u32>,
}

impl Clock {
    pub fn new(dims: &Dims) -> Self {
        Self { before: vec![0; dims.count()], ordered: vec![0; dims.count()] }
    }

    pub fn before(&self, dim: usize) -> u32 {
        self.before[dim]
    }

    pub fn ordered(&self, dim: usize) -> u32 {
        self.ordered[dim]
    }

    pub fn raise(&mut self, dim: usize, to: u32) {
        self.before[dim] = self.before[dim].max(to);
        self.ordered[dim] = self.ordered[dim].max(to);
    }

    pub fn join(&mut self, other: &Self) {
        self.come_after(other);
        join(&mut self.ordered, &other.ordered);
    }

    /// What the other knows went before, which orders no memory.
    pub fn come_after(&mut self, other: &Self) {
        join(&mut self.before, &other.before);
    }

    pub fn clear(&mut self) {
        self.before.fill(0);
        self.ordered.fill(0);
    }
}

fn join(own: &mut [u32], other: &[u32]) {
    for (own, other) in own.iter_mut().zip(other) {
        *own = (*own).max(*other);
    }
}

/// Barriers of a CTA beside the mbarriers.
pub const CTA_BARRIERS: usize = 16;

/// Where in a clock each kind of event is counted.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    pub roles: usize,
    pub ctas: usize,
    pub bars: usize,
}

impl Dims {
    fn count(&self) -> usize {
        3 * self.roles + self.ctas * (self.bars + CTA_BARRIERS)
    }

    /// Steps of a role, the one it is at included.
    pub fn steps(&self, role: usize) -> usize {
        role
    }

    /// Groups of products of a role's that are done.
    pub fn products(&self, role: usize) -> usize {
        self.roles + role
    }

    /// Groups of stores of a role's that have been read.
    pub fn stores(&self, role: usize) -> usize {
        2 * self.roles + role
    }

    /// Phases of an mbarrier that are complete, and its init.
    pub fn bar(&self, cta: usize, bar: usize) -> usize {
        3 * self.roles + cta * self.bars + bar
    }

    /// Meetings at a barrier of a CTA.
    pub fn meetings(&self, cta: usize, id: usize) -> usize {
        3 * self.roles + self.ctas * self.bars + cta * CTA_BARRIERS + id
    }
}
