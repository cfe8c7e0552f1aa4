//! Bulk copies between the CTAs of a pair.

use super::Findings;
use super::tma::UNTOUCHED;
use deepseek_kernels::Device;
use deepseek_kernels::Result;
use deepseek_kernels::probe::Probe;
use deepseek_kernels::probe::kernels::TMA_COPY;

/// Words that each CTA of a pair copies, and how.
#[derive(Clone, Copy)]
pub struct Copy {
    /// Words that are copied.
    pub words: u32,
    /// Offset of the first, in bytes.
    pub source: u32,
    /// Offset where it goes to, in bytes.
    pub target: u32,
    /// 1: into the peer; 0: within the CTA.
    pub peer: u32,
    /// Bytes that the barrier expects.
    pub expected: u32,
    /// Whether the source is made visible to the copy.
    pub fence: bool,
}

impl Copy {
    /// Words of shared memory that are looked at.
    pub const DUMPED: u32 = 2048;

    /// To the same bytes of the peer.
    pub fn new(words: u32) -> Self {
        Self { words, source: 64, target: 2048, peer: 1, expected: 4 * words, fence: true }
    }

    fn data(&self) -> Vec<u32> {
        (0..2 * self.words).map(|i| i.wrapping_mul(0x9e37_79b9)).collect()
    }

    /// What lies in the shared memory of both CTAs afterwards.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn run(&self, device: &Device) -> Result<Vec<u32>> {
        let Self { words, source, target, peer, expected, fence } = *self;
        let probe = Probe {
            arguments: &[words, source, target, peer, expected, u32::from(fence), Self::DUMPED],
            input: &self.data(),
            output_words: 2 * Self::DUMPED as usize,
            ..Probe::new(TMA_COPY, 2)
        };
        Ok(probe.run(device)?.output)
    }

    /// The words are where they should be in the shared memory of both CTAs, and nothing else has changed.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn check(&self, device: &Device) -> Result<Findings> {
        let (words, dumped) = (self.words as usize, Self::DUMPED as usize);
        let mut expected = vec![UNTOUCHED; 2 * dumped];
        for (rank, image) in expected.chunks_mut(dumped).enumerate() {
            let from = rank ^ self.peer as usize;
            image[self.target as usize / 4..][..words].copy_from_slice(&self.data()[from * words..][..words]);
        }
        let place =
            |i: usize| format!("{words} words, peer {}, rank {}, word {}", self.peer, i / dumped, i % dumped);
        Ok(Findings::of_words(&expected, &self.run(device)?, place))
    }
}
