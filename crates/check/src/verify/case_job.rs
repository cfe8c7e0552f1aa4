//! A case as a job.

use deepseek_kernels::Device;

use super::report::Row;
use super::runner::{Job, Outcome};
use crate::case::{Case, memory_of, run};

/// Runs a case in poisoned memory.
pub struct CaseJob {
    pub case: Box<dyn Case>,
    pub seed: u64,
}

impl Job for CaseJob {
    fn label(&self) -> String {
        format!("{} {} ({})", self.case.title(), self.case.shape(), self.case.data())
    }

    fn cost(&self) -> u128 {
        self.case.work().emulated_cost().into()
    }

    fn run(&self, device: &Device) -> Outcome {
        let memory = memory_of(&format!("{} {}", self.case.name(), self.seed));
        let ran = self.case.draw().and_then(|problem| run(problem, device, memory));
        Outcome::Rows(vec![Row::of_case(&*self.case, ran)])
    }
}
