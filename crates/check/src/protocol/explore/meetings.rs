//! Where threads wait for each other: the barriers of warps, CTAs and the cluster, and the end of a role.

use super::Run;
use crate::protocol::phases::Event;
use crate::protocol::step::{Role, Step};

impl Run<'_> {
    /// Threads that have not gone, of those that `counts` says.
    pub(super) fn alive(&self, counts: impl Fn(&Role) -> bool) -> u32 {
        let roles = self.program.roles.iter().zip(&self.at);
        roles.filter(|(role, at)| !at.gone && counts(role)).map(|(role, _)| role.threads()).sum()
    }

    pub(super) fn meet(&mut self, event: Event, step: &Step) -> Result<bool, String> {
        let role = self.role(event.role);
        let (id, wanted, waits) = match *step {
            Step::Sync { id, threads, waits } => {
                (Some(id), threads.unwrap_or_else(|| self.alive(|other| other.cta == role.cta)), waits)
            }
            _ => (None, self.alive(|other| (other.cta, other.warp) == (role.cta, role.warp)), true),
        };
        let dim = id.map(|id| self.dims.meetings(role.cta, id));
        let describe = self.describe(event);
        let at = &mut self.at[event.role];
        let meeting = match id {
            Some(id) => &mut self.meetings[role.cta][id],
            None => &mut self.warps[role.cta][role.warp],
        };
        match at.met {
            Some(generation) if generation < meeting.generation => {
                at.clock.join(&meeting.done);
                return Ok(true);
            }
            Some(_) => return Ok(false),
            None => {}
        }
        if dim.is_some_and(|dim| at.clock.before(dim) < meeting.generation) {
            return Err(format!("{describe} may come before the last ones have met there"));
        }
        if meeting.arrived != 0 && meeting.wanted != wanted || meeting.arrived + role.threads() > wanted {
            return Err(format!(
                "{describe}: {} have come of {}, where it waits for {wanted}",
                meeting.arrived, meeting.wanted
            ));
        }
        meeting.wanted = wanted;
        at.met = Some(meeting.generation);
        meeting.arrive(role.threads());
        meeting.tell(&at.clock);
        let complete = meeting.settle(wanted, dim);
        if complete && waits {
            at.clock.join(&meeting.done);
        }
        Ok(complete || !waits)
    }

    pub(super) fn arrive_at_cluster(&mut self, event: Event, relaxed: bool) -> Result<(), String> {
        let role = self.role(event.role);
        if self.at[event.role].left.replace(self.cluster.generation).is_some() {
            return Err(format!("{}: it has not waited since its last one", self.describe(event)));
        }
        self.cluster.arrive(role.threads());
        // A relaxed arrival tells of the inits that it has fenced alone.
        let mine =
            self.bars[role.cta].iter().flatten().filter(|bar| bar.init.role == event.role && bar.fenced);
        mine.for_each(|bar| self.cluster.tell_of(bar.dim, 1));
        if !relaxed {
            self.cluster.tell(&self.at[event.role].clock);
        }
        let wanted = self.alive(|_| true);
        self.cluster.settle(wanted, None);
        Ok(())
    }

    pub(super) fn await_cluster(&mut self, event: Event) -> Result<bool, String> {
        let at = &mut self.at[event.role];
        let Some(generation) = at.left else {
            return Err(format!("{}: it has not arrived", self.describe(event)));
        };
        if generation == self.cluster.generation {
            return Ok(false);
        }
        at.left = None;
        at.clock.join(&self.cluster.done);
        Ok(true)
    }

    /// A role is through.
    pub(super) fn leave(&mut self, role: usize) {
        self.at[role].gone = true;
        let Role { cta, warp, .. } = *self.role(role);
        let in_warp = self.alive(|other| (other.cta, other.warp) == (cta, warp));
        self.warps[cta][warp].settle(in_warp, None);
        let in_cta = self.alive(|other| other.cta == cta);
        let meeting = &mut self.meetings[cta][0];
        if meeting.wanted > in_cta {
            meeting.settle(in_cta, Some(self.dims.meetings(cta, 0)));
        }
        if self.at[role].left == Some(self.cluster.generation) {
            self.cluster.arrived -= self.role(role).threads();
        }
        let in_cluster = self.alive(|_| true);
        self.cluster.settle(in_cluster, None);
    }
}
