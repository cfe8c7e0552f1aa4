//! What may go wrong, in words: the barrier or the bytes, the roles, and their steps.

use super::Run;
use crate::protocol::memory::{Access, Conflict, Use};
use crate::protocol::phases::{Event, Mbarrier, Untimely};
use crate::protocol::step::Step;

impl Run<'_> {
    pub(super) fn describe(&self, Event { role, step }: Event) -> String {
        self.program.describe(role, step)
    }

    pub(super) fn conflict(&self, cta: usize, piece: usize, new: Use, conflict: &Conflict) -> String {
        let bytes = &self.program.pieces[piece];
        let place = format!("bytes {:#x}..{:#x} of CTA {cta}", bytes.start, bytes.end);
        let does = match new.access {
            Access::Read => "reads",
            Access::Write => "writes",
        };
        let new_event = self.describe(new.event);
        match conflict {
            Conflict::Unwritten => format!("{new_event} {does} {place}, which nobody has written"),
            Conflict::Unfenced(old) => {
                format!(
                    "{new_event} {does} {place}, which were written without a fence by {}",
                    self.describe(old.event)
                )
            }
            Conflict::Unordered(old) => {
                let did = match old.access {
                    Access::Read => "read",
                    Access::Write => "written",
                };
                let by = match self.awaited(old.dim) {
                    Some(bar) => format!("; who waits for {bar} would know"),
                    None => String::new(),
                };
                format!(
                    "{new_event} {does} {place}, which may not have been {did} yet by {}{by}",
                    self.describe(old.event)
                )
            }
        }
    }

    /// The mbarrier that counts in this place of clocks.
    pub(super) fn awaited(&self, dim: usize) -> Option<String> {
        let first = self.dims.bar(0, 0);
        let index = dim.checked_sub(first).filter(|&index| index < self.dims.ctas * self.dims.bars)?;
        let (cta, bar) = (index / self.dims.bars, index % self.dims.bars);
        Some(format!("{} of CTA {cta}", self.program.bars[bar]))
    }

    pub(super) fn untimely(&self, event: Event, cta: usize, bar: usize, why: &Untimely) -> String {
        let (step, name) = (self.describe(event), &self.program.bars[bar]);
        match why {
            Untimely::Uninitialised => format!("{step} may come before the init of {name} of CTA {cta}"),
            Untimely::Early { complete, missing } => {
                let missing = self.describe(*missing);
                format!(
                    "{step} may come before phase {} of {name} of CTA {cta} is complete, {missing}",
                    complete - 1
                )
            }
            Untimely::Superfluous { arrivals, pending } => {
                let phase = self.bars[cta][bar].as_ref().map(Mbarrier::state).unwrap_or_default();
                format!("{step}: {arrivals} arrivals, where {name} of CTA {cta} takes {pending} ({phase})")
            }
            Untimely::Overtaken { wait } => {
                format!(
                    "{step} may complete a phase of {name} of CTA {cta} before the one ahead of it is seen by {}",
                    self.describe(*wait)
                )
            }
        }
    }

    pub(super) fn deadlock(&self, stuck: &[usize]) -> String {
        let waits = |&role: &usize| {
            let step = self.at[role].step;
            let state = match self.role(role).steps.get(step) {
                Some(&Step::Await { bar, .. }) => {
                    self.bars[self.role(role).cta][bar].as_ref().map(Mbarrier::state)
                }
                _ => None,
            };
            let state = state.map_or_else(String::new, |state| format!(" ({state})"));
            format!("\n  {}{state}", self.program.describe(role, step))
        };
        format!("nobody goes on:{}", stuck.iter().map(waits).collect::<String>())
    }
}
