//! TMA: where every byte of a box goes, what lies outside the tensor, and how many bytes are counted.

mod harness;
mod probes;

use deepseek_kernels::probe::kernels::{TMA_COPY, TMA_LOAD, TMA_MULTICAST, TMA_STORE};
use deepseek_kernels::probe::{MapElement, Probe, Swizzle, Tensor};
use deepseek_kernels::{Device, Result};
use harness::emulated;
use probes::{UNTOUCHED, assert_words, machines, run, run_words};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// Words behind a box that a load must not touch.
const GUARD: usize = 32;

/// A tensor in random bytes, its rows and pages apart by more than they need, and what a copy of a box should
/// do.
struct Model {
    tensor: Tensor,
    element_bytes: usize,
    span: usize,
}

/// An element's first byte in the box and in memory; none if it lies outside the tensor.
struct Place {
    in_box: usize,
    in_memory: Option<usize>,
}

impl Model {
    /// `dims` in elements, fastest first; the box is as wide as the span of the swizzle, or `width` elements.
    fn new(element: MapElement, span: usize, dims: &[u64], width: u32, box_outer: &[u32]) -> Self {
        let element_bytes = match element {
            MapElement::U8 => 1,
            MapElement::Bf16 => 2,
            MapElement::F32 => 4,
        };
        let swizzle = match span {
            32 => Swizzle::Span32,
            64 => Swizzle::Span64,
            128 => Swizzle::Span128,
            _ => Swizzle::None,
        };
        let mut strides = vec![(dims[0] * element_bytes as u64).next_multiple_of(16) + 32];
        if let [_, rows, _] = dims {
            strides.push(strides[0] * (rows + 1));
        }
        let bytes = strides.last().unwrap() * dims.last().unwrap();
        let mut memory = vec![0; bytes as usize];
        Xoshiro256PlusPlus::seed_from_u64(bytes).fill_bytes(&mut memory);
        let box_sizes =
            [&[if span == 0 { width } else { (span / element_bytes) as u32 }], box_outer].concat();
        let tensor = Tensor { element, swizzle, dims: dims.to_vec(), strides, box_sizes, memory };
        Self { tensor, element_bytes, span }
    }

    /// One of each kind: every element type, every swizzle, two and three dimensions, boxes whose rows are no
    /// multiple of eight.
    fn all() -> Vec<Self> {
        use MapElement::{Bf16, F32, U8};
        vec![
            Self::new(U8, 128, &[300, 37], 0, &[16]),
            Self::new(Bf16, 128, &[131, 21], 0, &[11]),
            Self::new(F32, 128, &[70, 40], 0, &[16]),
            Self::new(U8, 64, &[143, 19], 0, &[12]),
            Self::new(Bf16, 64, &[75, 19], 0, &[16]),
            Self::new(Bf16, 32, &[43, 30], 0, &[24]),
            Self::new(F32, 32, &[19, 30], 0, &[9]),
            Self::new(U8, 0, &[100, 15], 48, &[7]),
            Self::new(F32, 0, &[150, 6], 64, &[1]),
            Self::new(Bf16, 0, &[30, 9], 24, &[5]),
            Self::new(U8, 128, &[300, 13, 5], 0, &[8, 2]),
            Self::new(Bf16, 64, &[50, 9, 4], 0, &[4, 3]),
            Self::new(F32, 0, &[21, 7, 3], 12, &[3, 2]),
        ]
    }

    fn rank(&self) -> usize {
        self.tensor.dims.len()
    }

    fn box_bytes(&self) -> usize {
        self.tensor.box_sizes.iter().product::<u32>() as usize * self.element_bytes
    }

    /// Every element of the box at `at`.
    fn places(&self, at: &[i32; 3]) -> Vec<Place> {
        let Tensor { dims, strides, box_sizes, .. } = &self.tensor;
        let (columns, rows, pages) = (box_sizes[0], box_sizes[1], box_sizes.get(2).copied().unwrap_or(1));
        let row_bytes = columns as usize * self.element_bytes;
        let strides = [&[self.element_bytes as u64], strides.as_slice()].concat();
        let place = |i: u32| {
            let (row, x) = (i / columns, i % columns);
            let in_box = [x, row % rows, row / rows];
            let index: [i64; 3] = std::array::from_fn(|d| i64::from(at[d]) + i64::from(in_box[d]));
            let inside = index.iter().zip(dims).all(|(i, &size)| (0..size as i64).contains(i));
            let memory = index.iter().zip(&strides).map(|(i, &stride)| i * stride as i64).sum::<i64>();
            let offset = row as usize * row_bytes + x as usize * self.element_bytes;
            Place {
                in_box: self.swizzled(offset, row as usize),
                in_memory: inside.then_some(memory as usize),
            }
        };
        (0..columns * rows * pages).map(place).collect()
    }

    /// A byte's place in shared memory: among the chunks of 16 bytes of a row, the row's number is added,
    /// without carries, as far as rows of the span share 128 bytes.
    fn swizzled(&self, offset: usize, row: usize) -> usize {
        let permuted = match self.span {
            128 => row % 8,
            64 => row / 2 % 4,
            32 => row / 4 % 2,
            _ => 0,
        };
        let (chunk, byte) = (offset / 16, offset % 16);
        (chunk ^ permuted) * 16 + byte
    }

    /// The box as it lies in shared memory: zeros where there is no tensor.
    fn loaded(&self, at: &[i32; 3]) -> Vec<u8> {
        let mut image = vec![0; self.box_bytes()];
        for Place { in_box, in_memory } in self.places(at) {
            if let Some(from) = in_memory {
                let element = &self.tensor.memory[from..from + self.element_bytes];
                image[in_box..in_box + self.element_bytes].copy_from_slice(element);
            }
        }
        image
    }

    /// Puts the box into `memory`, as far as there is a tensor.
    fn store(&self, at: &[i32; 3], image: &[u8], memory: &mut [u8]) {
        for Place { in_box, in_memory } in self.places(at) {
            if let Some(to) = in_memory {
                memory[to..to + self.element_bytes]
                    .copy_from_slice(&image[in_box..in_box + self.element_bytes]);
            }
        }
    }

    /// Inside, across every border by one and by all but one, outside next to it, and as far outside as
    /// coordinates go: along each dimension alone, then in all corners.
    fn coordinates(&self) -> Vec<[i32; 3]> {
        let along = |dimension: usize| {
            let (size, width) = (self.tensor.dims[dimension] as i32, self.tensor.box_sizes[dimension] as i32);
            [1 - width, -1, 0, size - width, size - width + 1, size - 1, -width, size, i32::MIN, i32::MAX]
        };
        let inside = [3, 2, 1];
        let inside: [i32; 3] = std::array::from_fn(|i| if i < self.rank() { inside[i] } else { 0 });
        let mut all = vec![inside];
        for dimension in 0..self.rank() {
            all.extend(along(dimension).map(|coordinate| {
                let mut at = inside;
                at[dimension] = coordinate;
                at
            }));
        }
        for corner in 0..1 << self.rank() {
            all.push(std::array::from_fn(|i| {
                if i >= self.rank() {
                    0
                } else if corner >> i & 1 == 0 {
                    along(i)[1]
                } else {
                    along(i)[4]
                }
            }));
        }
        all
    }

    fn name(&self, device: &Device) -> String {
        let Tensor { element, swizzle, dims, box_sizes, .. } = &self.tensor;
        format!("{} {element:?} {dims:?} {swizzle:?} box {box_sizes:?}", device.name())
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn flat(coordinates: &[[i32; 3]]) -> Vec<u32> {
    coordinates.iter().flat_map(|at| [at[0] as u32, at[1] as u32, at[2] as u32, 0]).collect()
}

/// Shared memory after the load of each box, with what follows it. The wait in the probe ends only if the full
/// box was counted, wherever the box lies.
fn load(device: &Device, model: &Model, coordinates: &[[i32; 3]]) -> Vec<u32> {
    let dumped = model.box_bytes() / 4 + GUARD;
    let probe = Probe {
        arguments: &[model.rank() as u32, model.box_bytes() as u32, dumped as u32],
        input: &flat(coordinates),
        output_words: coordinates.len() * dumped,
        loads: std::slice::from_ref(&model.tensor),
        ..Probe::new(TMA_LOAD, coordinates.len() as u32)
    };
    run_words(device, &probe)
}

#[test]
fn loads_put_every_byte_in_its_place_and_zeros_outside() {
    for device in machines() {
        for model in Model::all() {
            let coordinates = model.coordinates();
            let got = load(&device, &model, &coordinates);
            for (at, got) in coordinates.iter().zip(got.chunks(got.len() / coordinates.len())) {
                let expected = [words(&model.loaded(at)), vec![UNTOUCHED; GUARD]].concat();
                assert_words(&format!("{} at {at:?}", model.name(&device)), got, &expected);
            }
        }
    }
}

fn store(device: &Device, model: &Model, boxes: &[([i32; 3], &[u8])]) -> Vec<u8> {
    let mut coordinates: Vec<_> = boxes.iter().map(|(at, _)| *at).collect();
    coordinates.resize(2, [0; 3]);
    let images = boxes.iter().flat_map(|(_, image)| words(image));
    let input: Vec<u32> = flat(&coordinates).into_iter().chain(images).collect();
    let probe = Probe {
        arguments: &[model.rank() as u32, model.box_bytes() as u32 / 4, boxes.len() as u32],
        input: &input,
        store: Some(&model.tensor),
        ..Probe::new(TMA_STORE, 1)
    };
    run(device, &probe).stored
}

fn assert_bytes(what: &str, got: &[u8], expected: &[u8]) {
    let different = (0..expected.len()).find(|&i| got[i] != expected[i]);
    assert_eq!(different, None, "{what}: first byte of memory that differs");
}

/// What a wrong expert or page number does: no fault, zeros in, nothing out.
#[test]
fn pages_that_do_not_exist_read_as_zeros_and_are_not_written() {
    let model = Model::new(MapElement::U8, 128, &[256, 32, 4], 0, &[16, 1]);
    let image = vec![0x5a; model.box_bytes()];
    let outside = [-1, 4, 5, i32::MAX, i32::MIN].map(|page| [0, 0, page]);
    let zeros = [vec![0; model.box_bytes() / 4], vec![UNTOUCHED; GUARD]].concat();
    for device in machines() {
        let got = load(&device, &model, &outside);
        for (at, got) in outside.iter().zip(got.chunks(zeros.len())) {
            assert_words(&format!("{} at {at:?}", model.name(&device)), got, &zeros);
            let stored = store(&device, &model, &[(*at, &image)]);
            assert_bytes(&format!("{} at {at:?}", model.name(&device)), &stored, &model.tensor.memory);
        }
    }
}

#[test]
fn stores_write_what_lies_inside_and_nothing_else() {
    for device in machines() {
        for model in Model::all() {
            let mut image = vec![0; model.box_bytes()];
            Xoshiro256PlusPlus::seed_from_u64(5).fill_bytes(&mut image);
            for at in model.coordinates() {
                let mut expected = model.tensor.memory.clone();
                model.store(&at, &image, &mut expected);
                let got = store(&device, &model, &[(at, &image)]);
                assert_bytes(&format!("{} at {at:?}", model.name(&device)), &got, &expected);
            }
        }
    }
}

#[test]
fn a_buffer_may_be_reused_once_it_has_been_read() {
    for device in machines() {
        for model in Model::all() {
            let mut images = vec![0; 2 * model.box_bytes()];
            Xoshiro256PlusPlus::seed_from_u64(6).fill_bytes(&mut images);
            let (first, second) = images.split_at(model.box_bytes());
            let beside = [model.tensor.box_sizes[0] as i32, 0, 0];
            let mut expected = model.tensor.memory.clone();
            model.store(&[0; 3], first, &mut expected);
            model.store(&beside, second, &mut expected);
            let got = store(&device, &model, &[([0; 3], first), (beside, second)]);
            assert_bytes(&model.name(&device), &got, &expected);
        }
    }
}

#[test]
fn multicast_reaches_the_ctas_of_its_mask() {
    let model = Model::new(MapElement::U8, 128, &[300, 37], 0, &[16]);
    let at = [[7, -2, 0], [200, 30, 0]];
    let box_words = model.box_bytes() / 4;
    let dumped = 2 * box_words + GUARD;
    for device in machines() {
        for masks in [[3, 3], [2, 1], [1, 2], [1, 0], [3, 0], [0, 3], [2, 0]] {
            let coordinates: Vec<u32> = at.iter().flat_map(|at| [at[0] as u32, at[1] as u32]).collect();
            let probe = Probe {
                arguments: &[model.box_bytes() as u32, masks[0], masks[1], dumped as u32],
                input: &coordinates,
                output_words: 2 * dumped,
                loads: std::slice::from_ref(&model.tensor),
                ..Probe::new(TMA_MULTICAST, 2)
            };
            for (rank, got) in run_words(&device, &probe).chunks(dumped).enumerate() {
                let slot = |from: usize| match masks[from] >> rank & 1 {
                    1 => words(&model.loaded(&at[from])),
                    _ => vec![UNTOUCHED; box_words],
                };
                let expected = [slot(0), slot(1), vec![UNTOUCHED; GUARD]].concat();
                assert_words(&format!("{} masks {masks:?} rank {rank}", device.name()), got, &expected);
            }
        }
    }
}

/// Words that each CTA of a pair copies, and how.
#[derive(Clone, Copy)]
struct Copy {
    words: u32,
    source: u32,
    target: u32,
    /// 1: into the peer; 0: within the CTA.
    peer: u32,
    expected: u32,
    fence: bool,
}

impl Copy {
    const DUMPED: u32 = 2048;

    /// To the same bytes of the peer.
    fn new(words: u32) -> Self {
        Self { words, source: 64, target: 2048, peer: 1, expected: 4 * words, fence: true }
    }

    fn data(&self) -> Vec<u32> {
        (0..2 * self.words).map(|i| i.wrapping_mul(0x9e37_79b9)).collect()
    }

    fn run(&self, device: &Device) -> Result<Vec<u32>> {
        let Self { words, source, target, peer, expected, fence } = *self;
        let probe = Probe {
            arguments: &[words, source, target, peer, expected, u32::from(fence), Self::DUMPED],
            input: &self.data(),
            output_words: 2 * Self::DUMPED as usize,
            ..Probe::new(TMA_COPY, 2)
        };
        Ok(probe.run(device)?.output)
    }
}

#[test]
fn copies_reach_the_shared_memory_of_another_cta() {
    for device in machines() {
        for words in [4, 8, 36, 256, 400] {
            for peer in [0, 1] {
                let copy = Copy { peer, ..Copy::new(words) };
                let output = copy.run(&device).unwrap_or_else(|error| panic!("{error}"));
                for (rank, got) in output.chunks(Copy::DUMPED as usize).enumerate() {
                    let from = rank ^ peer as usize;
                    let mut expected = vec![UNTOUCHED; Copy::DUMPED as usize];
                    expected[512..][..words as usize]
                        .copy_from_slice(&copy.data()[from * words as usize..][..words as usize]);
                    assert_words(&format!("{} {words} words, rank {rank}", device.name()), got, &expected);
                }
            }
        }
    }
}

/// What would hang or go unnoticed on a GPU is a fault with every seed.
#[test]
fn copies_are_checked() {
    let good = Copy::new(64);
    for (copy, message) in [
        (Copy { expected: 240, ..good }, "bytes"),
        (Copy { expected: 272, ..good }, "16 bytes missing"),
        (Copy { fence: false, ..good }, "fence.proxy.async"),
        (Copy { source: 72, ..good }, "is not 16-byte aligned"),
        (Copy { target: 2056, ..good }, "is not 16-byte aligned"),
        (Copy { words: 62, expected: 248, ..good }, "no positive multiple of 16"),
        (Copy { words: 0, expected: 0, ..good }, "no positive multiple of 16"),
        (Copy { peer: 2, ..good }, "mapa of CTA"),
        (Copy { target: 4 * (Copy::DUMPED - 4), ..good }, "which is part of an mbarrier"),
        (Copy { target: 1 << 14, ..good }, "outside the CTA's shared memory"),
    ] {
        for seed in 0..8 {
            let error = copy.run(&emulated(seed)).expect_err(message).to_string();
            assert!(error.contains(message), "`{message}` is not in: {error}");
        }
    }
}
