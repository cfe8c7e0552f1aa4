//! What a baseline is of: cases of ours, and operations that an engine registers.

use anyhow::Result;
use deepseek_kernels::Device;

use super::operation::Operation;
use crate::anatomy::Anatomy;
use crate::case::{Case, Cases, Prepared, memory_of, reported, wait};
use crate::judge::{Check, Scrutiny};
use crate::memory::{Arena, Output};

/// Something that runs, the same way each time.
pub trait Subject: Sync {
    /// Different for each.
    fn name(&self) -> String;

    /// The class of the inputs.
    fn data(&self) -> String;

    /// Runs once, as a worker of so many.
    ///
    /// # Errors
    /// In one line, why it gave nothing.
    fn run(&self, worker: usize, scrutiny: Scrutiny) -> Result<Gave>;
}

/// What a run gave.
pub struct Gave {
    pub instance: String,
    pub kernels: Vec<String>,
    pub outputs: Vec<Output>,
    /// Names of all that it may write.
    pub writes: Vec<String>,
    pub checks: Vec<Check>,
    /// What can tell more of it.
    prepared: Option<Box<dyn Prepared>>,
}

impl Gave {
    /// What is known of the outputs.
    pub fn anatomy(&self) -> Option<&dyn Anatomy> {
        self.prepared.as_ref()?.anatomy()
    }
}

/// A case of ours, and the devices of the workers.
struct OurCase<'d> {
    case: Box<dyn Case>,
    devices: &'d [Device],
}

/// Cases, with inputs of a seed, on a device for each worker.
pub fn ours<'d>(cases: Cases, seed: u64, devices: &'d [Device]) -> Vec<Box<dyn Subject + 'd>> {
    let subject = |case: Box<dyn Case>| {
        let case = if seed == 0 { case } else { case.reseeded(seed) };
        Box::new(OurCase { case, devices }) as _
    };
    cases.into_iter().map(subject).collect()
}

impl Subject for OurCase<'_> {
    fn name(&self) -> String {
        self.case.name()
    }

    fn data(&self) -> String {
        self.case.data()
    }

    fn run(&self, worker: usize, scrutiny: Scrutiny) -> Result<Gave> {
        run_case(&*self.case, &self.devices[worker], scrutiny)
    }
}

/// Runs a case once and judges it.
///
/// # Errors
/// Of the device, the plan and the launch.
pub fn run_case(case: &dyn Case, device: &Device, scrutiny: Scrutiny) -> Result<Gave> {
    let mut prepared = case.draw()?.prepare(&mut Arena::new(device, memory_of(&case.name())))?;
    let stream = device.stream()?;
    prepared.launch(stream)?;
    wait(stream)?;
    let mut checks = prepared.judge(scrutiny)?;
    checks.push(reported(device, prepared.faults())?);
    Ok(Gave {
        instance: prepared.instance(),
        kernels: case.launched(device)?,
        outputs: prepared.outputs()?,
        writes: prepared.writable()?.iter().map(|output| output.name.to_owned()).collect(),
        checks,
        prepared: Some(prepared),
    })
}

/// Operations of an engine, with inputs of a seed.
pub fn registered<'o>(operations: &'o [Box<dyn Operation>], seed: u64) -> Vec<Box<dyn Subject + 'o>> {
    let subjects = operations.iter().map(|operation| Registered { operation: &**operation, seed });
    subjects.map(|subject| Box::new(subject) as _).collect()
}

struct Registered<'o> {
    operation: &'o dyn Operation,
    seed: u64,
}

impl Subject for Registered<'_> {
    fn name(&self) -> String {
        self.operation.name()
    }

    fn data(&self) -> String {
        "its own".to_owned()
    }

    fn run(&self, _: usize, _: Scrutiny) -> Result<Gave> {
        let outputs = self.operation.run(self.seed)?;
        let mut checks = Vec::new();
        for (output, near) in outputs.iter().zip(self.operation.reference(self.seed)) {
            checks.push(super::operation::judge(output, &near));
        }
        Ok(Gave {
            instance: self.operation.instance(),
            kernels: Vec::new(),
            writes: outputs.iter().map(|output| output.name.to_owned()).collect(),
            outputs,
            checks,
            prepared: None,
        })
    }
}
