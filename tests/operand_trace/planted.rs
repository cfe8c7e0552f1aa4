//! Errors planted in nvcc's text, as a slip in `cuda/hopper/sm90/ptx/` would put them there.

/// A wrong statement: the first that contains `statement` is edited.
pub struct Planted {
    pub what: &'static str,
    statement: &'static str,
    edit: Edit,
    /// What the report must name.
    pub flagged: &'static str,
}

enum Edit {
    /// Two registers of the statement change places.
    Swap(usize, usize),
    /// The same in every such statement.
    SwapEverywhere(usize, usize),
    Replace(&'static str, &'static str),
    Delete,
}

/// Errors for a kernel with clusters, multicast and BF16 output.
pub const PLANTED: &[Planted] = &[
    Planted {
        what: "coordinates swapped",
        statement: "multicast::cluster [",
        edit: Edit::Swap(2, 3),
        flagged: "does tma_load_3d_multicast(",
    },
    Planted {
        what: "destination and barrier swapped",
        statement: "complete_tx::bytes [",
        edit: Edit::Swap(0, 4),
        flagged: "does tma_load_2d(",
    },
    Planted {
        what: "predicate inverted",
        statement: "setp.ne.b32 p,",
        edit: Edit::Replace("setp.ne", "setp.eq"),
        flagged: "does wgmma_k32_e4m3(",
    },
    Planted {
        what: "descriptors swapped",
        statement: "wgmma.mma_async",
        edit: Edit::Swap(64, 65),
        flagged: "does wgmma_k32_e4m3(",
    },
    Planted {
        what: "accumulator registers swapped in one multiplication",
        statement: "wgmma.mma_async",
        edit: Edit::Swap(0, 1),
        flagged: "2 accumulators finish here",
    },
    Planted {
        what: "fence instead of wait",
        statement: "wgmma.wait_group",
        edit: Edit::Replace("wgmma.wait_group.sync.aligned 1", "wgmma.fence.sync.aligned"),
        flagged: "2 accumulators finish here",
    },
    Planted {
        what: "accumulator registers swapped in every multiplication",
        statement: "wgmma.mma_async",
        edit: Edit::SwapEverywhere(0, 1),
        flagged: "does stmatrix_x4(",
    },
    Planted {
        what: "init operands swapped",
        statement: "mbarrier.init",
        edit: Edit::Swap(0, 1),
        flagged: "does mbarrier_init(",
    },
    Planted {
        what: "bf16 halves swapped",
        statement: "cvt.rn.bf16x2.f32",
        edit: Edit::Swap(1, 2),
        flagged: "does stmatrix_x4(",
    },
    Planted {
        what: "stmatrix registers swapped",
        statement: "stmatrix.sync",
        edit: Edit::Swap(1, 2),
        flagged: "does stmatrix_x4(",
    },
    Planted {
        what: "address and rank of mapa swapped",
        statement: "mapa.shared::cluster.u32",
        edit: Edit::Swap(1, 2),
        flagged: "mapa",
    },
    Planted {
        what: "barrier and parity swapped",
        statement: "mbarrier.try_wait.parity",
        edit: Edit::Swap(1, 2),
        flagged: "does mbarrier_wait(",
    },
    Planted {
        what: "a wait that drops all of L1",
        statement: "mbarrier.try_wait.parity",
        edit: Edit::Replace(".parity", ".parity.acquire.cluster"),
        flagged: "refused: mbarrier.try_wait.parity.acquire.cluster",
    },
    Planted {
        what: "an arrival that fences the whole GPU",
        statement: "mbarrier.arrive.shared::cluster",
        edit: Edit::Replace(".arrive", ".arrive.release.cluster"),
        flagged: "refused: mbarrier.arrive.release.cluster",
    },
    Planted {
        what: "the first cluster barrier releases",
        statement: "barrier.cluster.arrive.relaxed",
        edit: Edit::Replace("relaxed", "release"),
        flagged: "the emulator does cluster_arrive_relaxed()",
    },
    Planted {
        what: "the wait loops while it succeeds",
        statement: "@!done bra again",
        edit: Edit::Replace("@!done", "@done"),
        flagged: "does not end",
    },
    Planted {
        what: "wait for the writes instead of the reads",
        statement: "cp.async.bulk.wait_group.read",
        edit: Edit::Replace(".read", ""),
        flagged: "does bulk_wait_group(",
    },
    Planted {
        what: "another count at a named barrier",
        statement: "bar.sync 1, 128",
        edit: Edit::Replace("128", "256"),
        flagged: "does named_barrier_sync(",
    },
    Planted {
        what: "arrive and wait of the cluster barrier confused",
        statement: "barrier.cluster.arrive.release",
        edit: Edit::Replace("arrive.release", "wait.acquire"),
        flagged: "the emulator does cluster_arrive()",
    },
    Planted {
        what: "no fence between the proxies",
        statement: "fence.proxy.async.shared::cta;",
        edit: Edit::Delete,
        flagged: "the emulator does fence_proxy_async_shared()",
    },
    Planted {
        what: "no warp barrier before the release",
        statement: "bar.warp.sync",
        edit: Edit::Delete,
        flagged: "the emulator does syncwarp()",
    },
    Planted {
        what: "registers given away instead of taken",
        statement: "setmaxnreg.inc",
        edit: Edit::Replace(".inc", ".dec"),
        flagged: "does setmaxnreg_dec(",
    },
    Planted {
        what: "a form that nobody checked",
        statement: "cvt.rn.bf16x2.f32",
        edit: Edit::Replace("cvt.rn", "cvt.rz"),
        flagged: "refused: cvt.rz.bf16x2.f32",
    },
];

impl Planted {
    /// The text with the error in it.
    pub fn plant(&self, ptx: &str) -> Result<String, String> {
        let mut edited = false;
        let line = |line: &str| {
            let done = edited && !matches!(self.edit, Edit::SwapEverywhere(..));
            if done || !line.contains(self.statement) {
                return line.to_owned();
            }
            edited = true;
            match self.edit {
                Edit::Swap(i, j) | Edit::SwapEverywhere(i, j) => swap_registers(line, i, j),
                Edit::Replace(from, to) => line.replacen(from, to, 1),
                Edit::Delete => String::new(),
            }
        };
        let text = ptx.lines().map(line).collect::<Vec<_>>().join("\n");
        if edited { Ok(text) } else { Err(format!("{}: no statement `{}`", self.what, self.statement)) }
    }
}

fn swap_registers(line: &str, i: usize, j: usize) -> String {
    let is_register = |word: &str| word.starts_with('%') || matches!(word, "p" | "done" | "remote");
    let mut words: Vec<&str> = Vec::new();
    let mut start = 0;
    for (at, c) in line.char_indices() {
        if !(c.is_ascii_alphanumeric() || matches!(c, '%' | '.' | ':' | '_')) {
            words.extend([&line[start..at], &line[at..at + c.len_utf8()]]);
            start = at + c.len_utf8();
        }
    }
    words.push(&line[start..]);
    let registers: Vec<usize> = (0..words.len()).filter(|&w| is_register(words[w])).collect();
    if let (Some(&a), Some(&b)) = (registers.get(i), registers.get(j)) {
        words.swap(a, b);
    }
    words.concat()
}
