//! From a parsed instruction to what the interpreter does. Dispatch is on the full form and the shape of the
//! operands; whatever is not listed is refused with its text.

use crate::parse::{Guard, Instruction, Operand, Program, Register};
use crate::scalar::{Evaluate, scalar};

/// Where a value comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Register(Register),
    Constant(u64),
}

/// An operand as it is logged: `source + offset`.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    pub source: Source,
    pub offset: u64,
    pub extent: Extent,
}

/// How many bits of an operand count, and what they become in the 64 of the log.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    Unsigned32,
    Signed32,
    Bits64,
}

#[derive(Clone, Copy, Debug)]
pub enum Special {
    ThreadIndex,
    CtaIndex,
    GridSize,
    ClusterRank,
}

#[derive(Clone, Copy, Debug)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// The registers that a load writes, and as what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// Two BF16.
    U32,
    F32,
}

/// What a hardware operation does besides being logged.
#[derive(Clone, Debug)]
pub enum Effect {
    None,
    /// Made-up values arrive.
    Deliver(Vec<Register>, Element),
    /// What stands at the address, the first operand, arrives.
    DeliverCount(Register),
    /// A wait succeeds.
    Succeed(Register),
    /// The accumulator belongs to the tensor core until the wait, and so does what A is in.
    Multiply {
        d: Vec<Register>,
        a: Vec<Register>,
    },
    CommitMultiplies,
    /// At most this many groups stay unfinished.
    AwaitMultiplies(u64),
}

/// Operations that the lanes of a mask execute together.
#[derive(Clone, Debug)]
pub enum Collective {
    Shuffle {
        kind: Shuffle,
        result: Register,
        inside: Option<Register>,
        value: Source,
        lane: Source,
        clamp: Source,
    },
    Elect {
        leader: Option<Register>,
        elected: Option<Register>,
    },
    Reduce {
        result: Register,
        value: Source,
        combine: fn(u32, u32) -> u32,
    },
    WarpSync,
}

#[derive(Clone, Debug)]
pub enum Action {
    Scalar {
        evaluate: Evaluate,
        result: Register,
        sources: [Source; 4],
    },
    ReadSpecial {
        result: Register,
        special: Special,
    },
    /// The first register takes the low bits.
    Pack {
        result: Register,
        parts: Vec<Source>,
        part_bits: u32,
    },
    Unpack {
        results: Vec<Option<Register>>,
        value: Source,
        part_bits: u32,
    },
    LoadParameter {
        results: Vec<Register>,
        element_bytes: u64,
        address: Word,
    },
    MapToCluster {
        result: Register,
        address: Source,
        rank: Source,
    },
    Collective {
        members: Source,
        operation: Collective,
    },
    Hardware {
        name: &'static str,
        operands: Vec<Word>,
        effect: Effect,
    },
    Branch(usize),
    Exit,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub guard: Option<Guard>,
    pub action: Action,
}

/// Values of the names that a kernel refers to.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// First byte of the dynamic shared array.
    pub shared: u64,
    /// Generic address of the parameter struct.
    pub parameter: u64,
}

/// Decodes every instruction, or says which one is not understood.
pub fn decode(program: &Program, layout: Layout) -> Result<Vec<Step>, String> {
    let decoder = Decoder { program, layout };
    let step = |instruction: &Instruction| {
        let action = decoder.action(instruction).ok_or_else(|| {
            format!("{} line {}: refused: {}", program.name, instruction.line, instruction.text)
        })?;
        Ok(Step { guard: instruction.guard, action })
    };
    program.instructions.iter().map(step).collect()
}

struct Decoder<'a> {
    program: &'a Program,
    layout: Layout,
}

fn result(operand: &Operand) -> Option<Register> {
    match operand {
        Operand::Register(register) => Some(*register),
        _ => None,
    }
}

fn results(operand: &Operand) -> Option<Vec<Register>> {
    match operand {
        Operand::Vector(elements) => elements.iter().map(result).collect(),
        _ => result(operand).map(|register| vec![register]),
    }
}

fn log(name: &'static str, operands: Vec<Word>, effect: Effect) -> Option<Action> {
    Some(Action::Hardware { name, operands, effect })
}

impl Decoder<'_> {
    /// `None` refuses the instruction.
    fn action(&self, instruction: &Instruction) -> Option<Action> {
        let operands = instruction.operands.as_slice();
        if let Some((arity, evaluate)) = scalar(&instruction.form)
            && operands.len() == arity + 1
            && let [Operand::Register(result), sources @ ..] = operands
            && let Some(action) = self.scalar(evaluate, *result, sources)
        {
            return Some(action);
        }
        let form = instruction.form.as_str();
        self.control(form, operands)
            .or_else(|| self.collective(form, operands))
            .or_else(|| self.hardware(form, operands))
    }

    fn scalar(&self, evaluate: Evaluate, result: Register, operands: &[Operand]) -> Option<Action> {
        let mut sources = [Source::Constant(0); 4];
        for (source, operand) in sources.iter_mut().zip(operands) {
            *source = self.source(operand)?;
        }
        Some(Action::Scalar { evaluate, result, sources })
    }

    fn source(&self, operand: &Operand) -> Option<Source> {
        match operand {
            Operand::Register(register) => Some(Source::Register(*register)),
            Operand::Immediate(value) => Some(Source::Constant(*value)),
            Operand::Name(name) => self.symbol(name).map(Source::Constant),
            _ => None,
        }
    }

    fn symbol(&self, name: &str) -> Option<u64> {
        if *name == self.program.parameter {
            Some(self.layout.parameter)
        } else if Some(name) == self.program.dynamic_shared.as_deref() {
            Some(self.layout.shared)
        } else {
            None
        }
    }

    fn word(&self, operand: &Operand) -> Option<Word> {
        Some(Word { source: self.source(operand)?, offset: 0, extent: Extent::Unsigned32 })
    }

    fn words(&self, operands: &[Operand]) -> Option<Vec<Word>> {
        operands.iter().map(|operand| self.word(operand)).collect()
    }

    fn coordinates(&self, operands: &[Operand]) -> Option<Vec<Word>> {
        let words = self.words(operands)?;
        Some(words.into_iter().map(|word| Word { extent: Extent::Signed32, ..word }).collect())
    }

    fn double_word(&self, operand: &Operand) -> Option<Word> {
        Some(Word { extent: Extent::Bits64, ..self.word(operand)? })
    }

    /// An address in shared memory, 32 bits.
    fn shared(&self, operand: &Operand) -> Option<Word> {
        let Operand::Address(base, offset) = operand else { return None };
        Some(Word { offset: offset.cast_unsigned(), ..self.word(base)? })
    }

    /// A tensor map: its offset in the parameter struct.
    fn map(&self, operand: &Operand) -> Option<Word> {
        let address = self.global(operand).or_else(|| self.double_word(operand))?;
        Some(Word { offset: address.offset.wrapping_sub(self.layout.parameter), ..address })
    }

    /// An address in global memory, 64 bits.
    fn global(&self, operand: &Operand) -> Option<Word> {
        Some(Word { extent: Extent::Bits64, ..self.shared(operand)? })
    }

    /// Scalar work of other shapes than the table's, parameters and branches.
    fn control(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::{Name, Target, Vector};
        let load_parameter = |element_bytes, count| {
            let [to, from] = operands else { return None };
            let results = results(to).filter(|results| results.len() == count)?;
            Some(Action::LoadParameter { results, element_bytes, address: self.global(from)? })
        };
        match (form, operands) {
            ("bra" | "bra.uni", [Target(target)]) => Some(Action::Branch(*target)),
            ("ret" | "exit", []) => Some(Action::Exit),
            ("mov.u32", [to, Name(name)]) => {
                let special = match name.as_str() {
                    "%tid.x" => Special::ThreadIndex,
                    "%ctaid.x" => Special::CtaIndex,
                    "%nctaid.x" => Special::GridSize,
                    "%cluster_ctarank" => Special::ClusterRank,
                    _ => return None,
                };
                Some(Action::ReadSpecial { result: result(to)?, special })
            }
            ("mov.b32" | "mov.b64", [to, Vector(parts)]) if parts.len() == 2 => Some(Action::Pack {
                result: result(to)?,
                parts: parts.iter().map(|part| self.source(part)).collect::<Option<_>>()?,
                part_bits: if form == "mov.b32" { 16 } else { 32 },
            }),
            ("mov.b32" | "mov.b64", [Vector(parts), from]) if parts.len() == 2 => Some(Action::Unpack {
                results: parts.iter().map(result).collect(),
                value: self.source(from)?,
                part_bits: if form == "mov.b32" { 16 } else { 32 },
            }),
            ("ld.param.u32" | "ld.param.f32" | "ld.param.b32", _) => load_parameter(4, 1),
            ("ld.param.u64" | "ld.param.b64", _) => load_parameter(8, 1),
            ("ld.param.v2.u32", _) => load_parameter(4, 2),
            ("ld.param.v2.u64", _) => load_parameter(8, 2),
            ("ld.param.v4.u32", _) => load_parameter(4, 4),
            ("mapa.shared::cluster.u32", [to, address, rank]) => Some(Action::MapToCluster {
                result: result(to)?,
                address: self.source(address)?,
                rank: self.source(rank)?,
            }),
            _ => None,
        }
    }

    fn collective(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        let shuffle = |kind| {
            let [to, value, lane, clamp, members] = operands else { return None };
            let (result, inside) = match to {
                Operand::Register(result) => (*result, None),
                Operand::Pair(Some(result), inside) => (*result, *inside),
                _ => return None,
            };
            let [value, lane, clamp] = [value, lane, clamp].map(|operand| self.source(operand));
            let operation =
                Collective::Shuffle { kind, result, inside, value: value?, lane: lane?, clamp: clamp? };
            Some(Action::Collective { members: self.source(members)?, operation })
        };
        let reduce = |combine| {
            let [Operand::Register(result), value, members] = operands else { return None };
            let operation = Collective::Reduce { result: *result, value: self.source(value)?, combine };
            Some(Action::Collective { members: self.source(members)?, operation })
        };
        match (form, operands) {
            ("shfl.sync.up.b32", _) => shuffle(Shuffle::Up),
            ("shfl.sync.down.b32", _) => shuffle(Shuffle::Down),
            ("shfl.sync.bfly.b32", _) => shuffle(Shuffle::Butterfly),
            ("shfl.sync.idx.b32", _) => shuffle(Shuffle::Index),
            ("elect.sync", [Operand::Pair(leader, elected), members]) => Some(Action::Collective {
                members: self.source(members)?,
                operation: Collective::Elect { leader: *leader, elected: *elected },
            }),
            ("redux.sync.add.u32", _) => reduce(u32::wrapping_add),
            ("redux.sync.min.u32", _) => reduce(u32::min),
            ("redux.sync.max.u32", _) => reduce(u32::max),
            ("bar.warp.sync", [members]) => {
                Some(Action::Collective { members: self.source(members)?, operation: Collective::WarpSync })
            }
            _ => None,
        }
    }

    /// Names and operand order as in `cuda/hopper/emulated/machine/trace.h`; a function per header of `ptx/`.
    fn hardware(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        let headers = [Self::mbarrier, Self::tma, Self::wgmma, Self::sync_and_regs, Self::smem, Self::gmem];
        headers.iter().find_map(|header| header(self, form, operands))
    }

    fn mbarrier(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::Sink;
        match (form, operands) {
            ("mbarrier.init.shared::cta.b64", [bar, count]) => {
                log("mbarrier_init", vec![self.shared(bar)?, self.word(count)?], Effect::None)
            }
            ("fence.mbarrier_init.release.cluster", []) => log("fence_mbarrier_init", vec![], Effect::None),
            ("mbarrier.arrive.shared::cta.b64", [Sink, bar]) => {
                log("mbarrier_arrive", vec![self.shared(bar)?], Effect::None)
            }
            ("mbarrier.arrive.expect_tx.shared::cta.b64", [Sink, bar, bytes]) => {
                log("mbarrier_arrive_expect_tx", vec![self.shared(bar)?, self.word(bytes)?], Effect::None)
            }
            ("mbarrier.arrive.shared::cluster.b64", [Sink, bar]) => {
                log("mbarrier_arrive_cluster", vec![self.shared(bar)?], Effect::None)
            }
            ("mbarrier.try_wait.parity.shared::cta.b64", [done, bar, parity]) => {
                let operands = vec![self.shared(bar)?, self.word(parity)?];
                log("mbarrier_wait", operands, Effect::Succeed(result(done)?))
            }
            _ => None,
        }
    }

    fn tma(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::{Immediate, Tensor};
        match (form, operands) {
            ("prefetch.tensormap", [map]) => log("prefetch_tensormap", vec![self.map(map)?], Effect::None),
            (
                "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
                [dst, Tensor(map, at), bar],
            ) if at.len() == 2 => self.load_box("tma_load_2d", map, dst, bar, at, None),
            (
                "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
                [dst, Tensor(map, at), bar],
            ) if at.len() == 3 => self.load_box("tma_load_3d", map, dst, bar, at, None),
            (
                "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster",
                [dst, Tensor(map, at), bar, mask],
            ) if at.len() == 2 => self.load_box("tma_load_2d_multicast", map, dst, bar, at, Some(mask)),
            (
                "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster",
                [dst, Tensor(map, at), bar, mask],
            ) if at.len() == 3 => self.load_box("tma_load_3d_multicast", map, dst, bar, at, Some(mask)),
            ("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group", [Tensor(map, at), src])
                if at.len() == 2 =>
            {
                self.store_box("tma_store_2d", map, src, at)
            }
            ("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group", [Tensor(map, at), src])
                if at.len() == 3 =>
            {
                self.store_box("tma_store_3d", map, src, at)
            }
            (
                "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes",
                [dst, src, bytes, bar],
            ) => {
                let operands =
                    vec![self.shared(dst)?, self.shared(bar)?, self.shared(src)?, self.word(bytes)?];
                log("bulk_copy_to_cta", operands, Effect::None)
            }
            ("cp.async.bulk.commit_group", []) => log("bulk_commit_group", vec![], Effect::None),
            ("cp.async.bulk.wait_group.read", [pending @ Immediate(_)]) => {
                log("bulk_wait_group_read", vec![self.word(pending)?], Effect::None)
            }
            ("cp.async.bulk.wait_group", [pending @ Immediate(_)]) => {
                log("bulk_wait_group", vec![self.word(pending)?], Effect::None)
            }
            _ => None,
        }
    }

    fn wgmma(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::Immediate;
        if let Some(shape) = form.strip_prefix("wgmma.mma_async.sync.aligned.") {
            return self.multiply(shape, operands);
        }
        match (form, operands) {
            ("wgmma.fence.sync.aligned", []) => log("wgmma_fence", vec![], Effect::None),
            ("wgmma.commit_group.sync.aligned", []) => {
                log("wgmma_commit_group", vec![], Effect::CommitMultiplies)
            }
            ("wgmma.wait_group.sync.aligned", [pending @ Immediate(count)]) => {
                log("wgmma_wait_group", vec![self.word(pending)?], Effect::AwaitMultiplies(*count))
            }
            _ => None,
        }
    }

    fn sync_and_regs(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::Immediate;
        match (form, operands) {
            ("bar.sync", [Immediate(0)]) => log("syncthreads", vec![], Effect::None),
            ("bar.sync", [id @ Immediate(_), threads @ Immediate(_)]) => {
                log("named_barrier_sync", vec![self.word(id)?, self.word(threads)?], Effect::None)
            }
            ("bar.arrive", [id @ Immediate(_), threads @ Immediate(_)]) => {
                log("named_barrier_arrive", vec![self.word(id)?, self.word(threads)?], Effect::None)
            }
            ("barrier.cluster.arrive.release.aligned", []) => log("cluster_arrive", vec![], Effect::None),
            ("barrier.cluster.arrive.relaxed.aligned", []) => {
                log("cluster_arrive_relaxed", vec![], Effect::None)
            }
            ("barrier.cluster.wait.acquire.aligned", []) => log("cluster_wait", vec![], Effect::None),
            ("griddepcontrol.wait", []) => log("grid_dependency_wait", vec![], Effect::None),
            ("griddepcontrol.launch_dependents", []) => log("grid_launch_dependents", vec![], Effect::None),
            ("fence.proxy.async.shared::cta", []) => log("fence_proxy_async_shared", vec![], Effect::None),
            ("setmaxnreg.dec.sync.aligned.u32", [count]) => {
                log("setmaxnreg_dec", vec![self.word(count)?], Effect::None)
            }
            ("setmaxnreg.inc.sync.aligned.u32", [count]) => {
                log("setmaxnreg_inc", vec![self.word(count)?], Effect::None)
            }
            _ => None,
        }
    }

    fn smem(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::Vector;
        match (form, operands) {
            ("ld.shared.f32", [to, from]) => {
                log("lds_f32", vec![self.shared(from)?], deliver(to, 1, Element::F32)?)
            }
            ("ld.shared.u32", [to, from]) => log("lds_u32", vec![self.shared(from)?], deliver_count(to)?),
            ("ld.shared.v4.u32", [to, from]) => {
                log("lds_v4_u32", vec![self.shared(from)?], deliver(to, 4, Element::U32)?)
            }
            ("st.shared.u32", [to, value]) => {
                log("sts_u32", vec![self.shared(to)?, self.word(value)?], Effect::None)
            }
            ("st.shared.f32", [to, value]) => {
                log("sts_f32", vec![self.shared(to)?, self.word(value)?], Effect::None)
            }
            ("st.shared.v2.f32", [to, Vector(values)]) if values.len() == 2 => {
                self.store("sts_v2_f32", self.shared(to)?, values)
            }
            ("st.shared.v4.u32", [to, Vector(values)]) if values.len() == 4 => {
                self.store("sts_v4_u32", self.shared(to)?, values)
            }
            ("stmatrix.sync.aligned.m8n8.x4.shared.b16", [to, Vector(values)]) if values.len() == 4 => {
                self.store("stmatrix_x4", self.shared(to)?, values)
            }
            ("stmatrix.sync.aligned.m8n8.x2.shared.b16", [to, Vector(values)]) if values.len() == 2 => {
                self.store("stmatrix_x2", self.shared(to)?, values)
            }
            ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", [to, from]) => {
                log("ldmatrix_x4", vec![self.shared(from)?], deliver(to, 4, Element::U32)?)
            }
            _ => None,
        }
    }

    fn gmem(&self, form: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::Vector;
        match (form, operands) {
            ("ld.global.nc.f32", [to, from]) => {
                log("ldg_f32", vec![self.global(from)?], deliver(to, 1, Element::F32)?)
            }
            ("ld.global.nc.u32", [to, from]) => log("ldg_u32", vec![self.global(from)?], deliver_count(to)?),
            ("ld.global.nc.v4.u32", [to, from]) => {
                log("ldg_v4_u32", vec![self.global(from)?], deliver(to, 4, Element::U32)?)
            }
            ("ld.global.u32", [to, from]) => {
                log("ld_global_u32", vec![self.global(from)?], deliver(to, 1, Element::U32)?)
            }
            ("ld.global.v4.u32", [to, from]) => {
                log("ld_global_v4_u32", vec![self.global(from)?], deliver(to, 4, Element::U32)?)
            }
            ("ld.global.f32", [to, from]) => {
                log("ld_global_f32", vec![self.global(from)?], deliver(to, 1, Element::F32)?)
            }
            ("st.global.f32", [to, value]) => {
                log("stg_f32", vec![self.global(to)?, self.word(value)?], Effect::None)
            }
            ("st.global.u32", [to, value]) => {
                log("stg_u32", vec![self.global(to)?, self.word(value)?], Effect::None)
            }
            ("st.global.v2.u32", [to, Vector(values)]) if values.len() == 2 => {
                self.store("stg_v2_u32", self.global(to)?, values)
            }
            ("st.global.v4.u32", [to, Vector(values)]) if values.len() == 4 => {
                self.store("stg_v4_u32", self.global(to)?, values)
            }
            ("st.relaxed.sys.global.u32", [to, value]) => {
                log("st_relaxed_sys_u32", vec![self.global(to)?, self.word(value)?], Effect::None)
            }
            ("red.relaxed.gpu.global.add.u32", [to, value]) => {
                log("red_add_u32", vec![self.global(to)?, self.word(value)?], Effect::None)
            }
            _ => None,
        }
    }

    fn store(&self, name: &'static str, to: Word, values: &[Operand]) -> Option<Action> {
        let mut operands = vec![to];
        operands.extend(self.words(values)?);
        log(name, operands, Effect::None)
    }

    fn load_box(
        &self,
        name: &'static str,
        map: &Operand,
        dst: &Operand,
        bar: &Operand,
        at: &[Operand],
        mask: Option<&Operand>,
    ) -> Option<Action> {
        let mut operands = vec![self.map(map)?, self.shared(dst)?, self.shared(bar)?];
        operands.extend(self.coordinates(at)?);
        if let Some(mask) = mask {
            operands.push(self.word(mask)?);
        }
        log(name, operands, Effect::None)
    }

    fn store_box(&self, name: &'static str, map: &Operand, src: &Operand, at: &[Operand]) -> Option<Action> {
        let mut operands = vec![self.map(map)?, self.shared(src)?];
        operands.extend(self.coordinates(at)?);
        log(name, operands, Effect::None)
    }

    /// D, the descriptor of A or its registers, that of B, the flag that keeps D; then the factors of A and B, which are
    /// always 1, and for 16-bit types whether A, in memory, and B are transposed, which only B may be.
    fn multiply(&self, shape: &str, operands: &[Operand]) -> Option<Action> {
        use Operand::{Immediate, Register, Vector};
        let (name, columns) = match shape {
            "m64n8k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 8),
            "m64n16k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 16),
            "m64n32k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 32),
            "m64n64k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 64),
            "m64n96k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 96),
            "m64n128k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 128),
            "m64n144k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 144),
            "m64n160k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 160),
            "m64n192k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 192),
            "m64n256k32.f32.e4m3.e4m3" => ("wgmma_k32_e4m3", 256),
            "m64n8k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 8),
            "m64n16k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 16),
            "m64n32k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 32),
            "m64n64k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 64),
            "m64n96k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 96),
            "m64n128k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 128),
            "m64n144k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 144),
            "m64n160k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 160),
            "m64n192k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 192),
            "m64n256k16.f32.bf16.bf16" => ("wgmma_k16_bf16", 256),
            _ => return None,
        };
        let [d @ Vector(_), a, b, keep @ Register(_), Immediate(1), Immediate(1), transposed @ ..] = operands
        else {
            return None;
        };
        let name = match (name, a, transposed) {
            ("wgmma_k16_bf16", Vector(_), [Immediate(1)]) => "wgmma_rs_k16_bf16_mn",
            (_, Vector(_), _) => return None,
            ("wgmma_k32_e4m3", _, []) | ("wgmma_k16_bf16", _, [Immediate(0), Immediate(0)]) => name,
            ("wgmma_k16_bf16", _, [Immediate(0), Immediate(1)]) => "wgmma_k16_bf16_mn",
            _ => return None,
        };
        let registers = results(d).filter(|registers| registers.len() == columns / 2)?;
        let mut operands = vec![Word {
            source: Source::Constant(columns as u64 / 2),
            offset: 0,
            extent: Extent::Unsigned32,
        }];
        let in_registers = if let Vector(parts) = a {
            operands.extend(parts.iter().map(|part| self.word(part)).collect::<Option<Vec<_>>>()?);
            results(a).filter(|registers| registers.len() == 4)?
        } else {
            operands.push(self.double_word(a)?);
            vec![]
        };
        operands.extend([self.double_word(b)?, self.word(keep)?]);
        log(name, operands, Effect::Multiply { d: registers, a: in_registers })
    }
}

/// What a load delivers to `count` registers.
fn deliver(to: &Operand, count: usize, element: Element) -> Option<Effect> {
    let registers = results(to).filter(|registers| registers.len() == count)?;
    Some(Effect::Deliver(registers, element))
}

/// What a load of a count delivers.
fn deliver_count(to: &Operand) -> Option<Effect> {
    match results(to)?[..] {
        [register] => Some(Effect::DeliverCount(register)),
        _ => None,
    }
}
