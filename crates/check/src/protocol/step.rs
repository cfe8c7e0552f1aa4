//! What threads do to barriers and shared memory, step by step.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Some of the pieces of a launch's shared memory, ascending.
pub type Pieces = Arc<[usize]>;

/// One step of a thread. Barriers, pieces and CTAs are indices into the program's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Init {
        bar: usize,
        count: u32,
    },
    FenceInits,
    /// On the barrier of one CTA of the cluster, which from now on expects so many bytes more.
    Arrive {
        cta: usize,
        bar: usize,
        bytes: u32,
    },
    Await {
        bar: usize,
        parity: u32,
    },
    SyncWarp,
    /// At a barrier of the CTA; `None`: all its threads.
    Sync {
        id: usize,
        threads: Option<u32>,
        waits: bool,
    },
    ArriveAtCluster {
        relaxed: bool,
    },
    AwaitCluster,
    /// What was written is there for TMA and the tensor core.
    Fence,
    /// A box, for every one of these CTAs, each of which counts all bytes.
    Load {
        ctas: Vec<usize>,
        bar: usize,
        bytes: u32,
        to: Pieces,
    },
    /// Shared memory, to the same or another place in CTA `cta`, which counts the bytes.
    Copy {
        cta: usize,
        bar: usize,
        bytes: u32,
        from: Pieces,
        to: Pieces,
    },
    /// A box, out of shared memory.
    Store {
        from: Pieces,
    },
    CommitStores,
    /// Until at most so many groups of stores still read.
    AwaitStores {
        pending: usize,
    },
    /// Products, until their group is waited for.
    Multiply {
        reads: Pieces,
    },
    CommitProducts,
    AwaitProducts {
        pending: usize,
    },
}

/// What a thread does to memory itself between two steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    pub reads: Vec<usize>,
    pub writes: Vec<usize>,
}

/// Threads of a warp that take the same steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub cta: usize,
    pub warp: usize,
    /// Of the warp.
    pub lanes: Vec<usize>,
    pub steps: Vec<Step>,
    /// One before each step, and one behind the last.
    pub touches: Vec<Touch>,
}

impl Role {
    /// How many threads.
    pub fn threads(&self) -> u32 {
        self.lanes.len() as u32
    }
}

/// As reports call it.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CTA {} warp {}", self.cta, self.warp)?;
        match self.lanes[..] {
            [lane] => write!(f, " lane {lane}"),
            [first, .., last] if last - first + 1 == self.lanes.len() => {
                write!(f, " lanes {first} to {last}")
            }
            _ => write!(f, " lanes {:?}", self.lanes),
        }
    }
}

/// What the CTAs of a cluster do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub ctas: usize,
    /// Names of the mbarriers, which every CTA has.
    pub bars: Vec<String>,
    /// Bytes of shared memory that TMA or the tensor core touches, cut where one of their operands begins or ends.
    pub pieces: Vec<Range<u64>>,
    pub roles: Vec<Role>,
}

impl Program {
    /// A step as reports call it: what the role does, and where.
    pub fn describe(&self, role: usize, step: usize) -> String {
        let role = &self.roles[role];
        match role.steps.get(step) {
            None => format!("{role}, behind its last step"),
            Some(action) => format!("{role}, step {step}: {}", self.action(action)),
        }
    }

    fn action(&self, step: &Step) -> String {
        match step {
            Step::Init { bar, count } => format!("init of {} for {count} arrivals", self.bars[*bar]),
            Step::FenceInits => "fence of the inits".into(),
            Step::Arrive { cta, bar, bytes: 0 } => format!("arrival on {} of CTA {cta}", self.bars[*bar]),
            Step::Arrive { cta, bar, bytes } => {
                format!("arrival on {} of CTA {cta}, which expects {bytes} bytes", self.bars[*bar])
            }
            Step::Await { bar, parity } => format!("wait for {}, parity {parity}", self.bars[*bar]),
            Step::SyncWarp => "barrier of the warp".into(),
            Step::Sync { id, .. } => format!("barrier {id} of the CTA"),
            Step::ArriveAtCluster { relaxed: false } => "arrival at the cluster's barrier".into(),
            Step::ArriveAtCluster { relaxed: true } => "relaxed arrival at the cluster's barrier".into(),
            Step::AwaitCluster => "wait for the cluster's barrier".into(),
            Step::Fence => "fence between the proxies".into(),
            Step::Load { bar, bytes, .. } => format!("load of {bytes} bytes for {}", self.bars[*bar]),
            Step::Copy { cta, bar, bytes, .. } => {
                format!("copy of {bytes} bytes for {} of CTA {cta}", self.bars[*bar])
            }
            Step::Store { .. } => "store by TMA".into(),
            Step::CommitStores => "end of a group of stores".into(),
            Step::AwaitStores { pending } => format!("wait for all but {pending} groups of stores"),
            Step::Multiply { .. } => "products".into(),
            Step::CommitProducts => "end of a group of products".into(),
            Step::AwaitProducts { pending } => format!("wait for all but {pending} groups of products"),
        }
    }
}
