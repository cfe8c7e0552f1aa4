//! TMA: where every byte of a box goes, what lies outside the tensor, and how many bytes are counted.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

use super::{Difference, Findings};
use deepseek_kernels::Device;
use deepseek_kernels::Result;
use deepseek_kernels::probe::kernels::{TMA_LOAD, TMA_MULTICAST, TMA_STORE};
use deepseek_kernels::probe::{MapElement, Probe, Swizzle, Tensor};

/// What shared memory holds before a probe writes to it.
pub const UNTOUCHED: u32 = 0xa5a5_a5a5;

/// Words behind a box that a load must not touch.
const GUARD: usize = 32;

/// Boxes of [`Model::paged`] on pages that there are not: next to those that there are, and as far off as coordinates go.
pub const NO_SUCH_PAGES: [[i32; 3]; 5] =
    [[0, 0, -1], [0, 0, 4], [0, 0, 5], [0, 0, i32::MAX], [0, 0, i32::MIN]];

/// A tensor in random bytes, its rows and pages apart by more than they need, and what a copy of a box should
/// do.
#[derive(Clone)]
pub struct Model {
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
    pub fn new(element: MapElement, span: usize, dims: &[u64], width: u32, box_outer: &[u32]) -> Self {
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

    /// Boxes of fewer rows than a swizzle permutes.
    pub fn low() -> impl Iterator<Item = Self> {
        [1, 2, 4].into_iter().map(|rows| Self::new(MapElement::Bf16, 128, &[131, 21], 0, &[rows]))
    }

    /// Rows of a box.
    pub fn rows(&self) -> usize {
        self.tensor.box_sizes[1..].iter().product::<u32>() as usize
    }

    /// One of each kind: every element type, every swizzle, two and three dimensions, boxes whose rows are no
    /// multiple of eight.
    pub fn all() -> Vec<Self> {
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

    /// Four pages, with boxes that lie on one.
    pub fn paged() -> Self {
        Self::new(MapElement::U8, 128, &[256, 32, 4], 0, &[16, 1])
    }

    fn rank(&self) -> usize {
        self.tensor.dims.len()
    }

    fn box_bytes(&self) -> usize {
        self.tensor.box_sizes.iter().product::<u32>() as usize * self.element_bytes
    }

    /// Every element of the box at `at`, before which there are `behind` rows in shared memory. A store writes whole units of
    /// 16 bytes: where a row of the tensor ends inside one, what follows is written too.
    fn places(&self, at: &[i32; 3], behind: usize, store: bool) -> Vec<Place> {
        let Tensor { dims, strides, box_sizes, .. } = &self.tensor;
        let (columns, rows, pages) = (box_sizes[0], box_sizes[1], box_sizes.get(2).copied().unwrap_or(1));
        let row_bytes = columns as usize * self.element_bytes;
        let strides = [&[self.element_bytes as u64], strides.as_slice()].concat();
        let place = |i: u32| {
            let (row, x) = (i / columns, i % columns);
            let in_box = [x, row % rows, row / rows];
            let index: [i64; 3] = std::array::from_fn(|d| i64::from(at[d]) + i64::from(in_box[d]));
            let unit = if store { u64::from(self.start_unit().unsigned_abs()) } else { 1 };
            let sizes = std::iter::once(dims[0].next_multiple_of(unit)).chain(dims[1..].iter().copied());
            let inside = index.iter().zip(sizes).all(|(i, size)| (0..size as i64).contains(i));
            let memory = index.iter().zip(&strides).map(|(i, &stride)| i * stride as i64).sum::<i64>();
            let offset = row as usize * row_bytes + x as usize * self.element_bytes;
            Place {
                in_box: self.swizzled(offset, row as usize + behind),
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

    /// The box as it lies in shared memory behind so many rows: zeros where there is no tensor.
    fn loaded(&self, at: &[i32; 3], behind: usize) -> Vec<u8> {
        let mut image = vec![0; self.box_bytes()];
        for Place { in_box, in_memory } in self.places(at, behind, false) {
            if let Some(from) = in_memory {
                let element = &self.tensor.memory[from..from + self.element_bytes];
                image[in_box..in_box + self.element_bytes].copy_from_slice(element);
            }
        }
        image
    }

    /// Puts the box into `memory`, as far as there is a tensor.
    fn store(&self, at: &[i32; 3], image: &[u8], memory: &mut [u8]) {
        for Place { in_box, in_memory } in self.places(at, 0, true) {
            if let Some(to) = in_memory {
                memory[to..to + self.element_bytes]
                    .copy_from_slice(&image[in_box..in_box + self.element_bytes]);
            }
        }
    }

    /// Elements that a box's first coordinate is a multiple of: it starts at a multiple of 16 bytes.
    fn start_unit(&self) -> i32 {
        16 / self.element_bytes as i32
    }

    /// Inside, across every border by the least and by the most possible, outside next to it, and as far outside as
    /// coordinates go: along each dimension alone, then in all corners.
    pub fn coordinates(&self) -> Vec<[i32; 3]> {
        let along = |dimension: usize| {
            let unit = if dimension == 0 { self.start_unit() } else { 1 };
            let (size, width) = (self.tensor.dims[dimension] as i32, self.tensor.box_sizes[dimension] as i32);
            [1 - width, -1, 0, size - width, size - width + 1, size - 1, -width, size, i32::MIN, i32::MAX]
                .map(|coordinate| coordinate.div_euclid(unit) * unit)
        };
        let inside = [self.start_unit(), 2, 1];
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

    /// Those of them that a store may start at: none is negative.
    pub fn coordinates_of_stores(&self) -> Vec<[i32; 3]> {
        let mut all = self.coordinates();
        all.retain(|at| at.iter().all(|&coordinate| coordinate >= 0));
        all
    }

    /// Boxes that lie before the tensor, which no store may: along each dimension, next to it and as far as coordinates go.
    pub fn negative_coordinates(&self) -> Vec<[i32; 3]> {
        let along = |dimension: usize| {
            let unit = if dimension == 0 { self.start_unit() } else { 1 };
            [-unit, i32::MIN]
                .map(|coordinate| std::array::from_fn(|i| if i == dimension { coordinate } else { 0 }))
        };
        (0..self.rank()).flat_map(along).collect()
    }

    /// Boxes that start where none may: one element after and before a multiple of 16 bytes, inside and outside of the
    /// tensor.
    pub fn misaligned_coordinates(&self) -> Vec<[i32; 3]> {
        let unit = self.start_unit();
        let outside = (self.tensor.dims[0] as i32).div_euclid(unit) * unit + 2 * unit;
        [1, unit - 1, unit / 2, -1, outside + 1].map(|x| [x, 0, 0]).to_vec()
    }

    /// Two boxes that lie side by side.
    pub fn neighbours(&self) -> [[i32; 3]; 2] {
        [[0; 3], [self.tensor.box_sizes[0] as i32, 0, 0]]
    }

    /// Type, sizes, swizzle and box.
    pub fn name(&self) -> String {
        let Tensor { element, swizzle, dims, box_sizes, .. } = &self.tensor;
        format!("{element:?} {dims:?} {swizzle:?} box {box_sizes:?}")
    }

    /// Loads of the box at each of `coordinates` put every byte in its place and zeros outside; the wait in the test kernel
    /// ends only if the full box was counted, wherever the box lies.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn check_loads(&self, device: &Device, coordinates: &[[i32; 3]]) -> Result<Findings> {
        self.check_loads_behind(device, coordinates, 0)
    }

    /// The same where `rows` rows of 128 bytes are before the box: a swizzle goes by the address.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn check_loads_behind(
        &self,
        device: &Device,
        coordinates: &[[i32; 3]],
        rows: usize,
    ) -> Result<Findings> {
        let before = rows * 128 / 4;
        let dumped = before + self.box_bytes() / 4 + GUARD;
        let probe = Probe {
            arguments: &[self.rank() as u32, self.box_bytes() as u32, dumped as u32, 4 * before as u32],
            input: &flat(coordinates),
            output_words: coordinates.len() * dumped,
            loads: std::slice::from_ref(&self.tensor),
            ..Probe::new(TMA_LOAD, coordinates.len() as u32)
        };
        let shared =
            |at| [vec![UNTOUCHED; before], words(&self.loaded(at, rows)), vec![UNTOUCHED; GUARD]].concat();
        let expected: Vec<u32> = coordinates.iter().flat_map(shared).collect();
        let place = |i: usize| {
            let at = coordinates[i / dumped];
            format!("{} at {at:?}, behind {rows} rows, word {}", self.name(), i % dumped)
        };
        Ok(Findings::of_words(&expected, &probe.run(device)?.output, place))
    }

    /// Stores of one or two boxes, the second from the buffer of the first once that has been read, write the units
    /// of 16 bytes that begin inside the tensor and nothing else.
    ///
    /// # Errors
    /// As [`Probe::run`].
    pub fn check_stores(&self, device: &Device, boxes: &[[i32; 3]]) -> Result<Findings> {
        let mut images = vec![0; boxes.len() * self.box_bytes()];
        Xoshiro256PlusPlus::seed_from_u64(5).fill_bytes(&mut images);
        let mut expected = self.tensor.memory.clone();
        for (at, image) in boxes.iter().zip(images.chunks(self.box_bytes())) {
            self.store(at, image, &mut expected);
        }
        let mut coordinates = boxes.to_vec();
        coordinates.resize(2, [0; 3]);
        let probe = Probe {
            arguments: &[self.rank() as u32, self.box_bytes() as u32 / 4, boxes.len() as u32],
            input: &[flat(&coordinates), words(&images)].concat(),
            store: Some(&self.tensor),
            ..Probe::new(TMA_STORE, 1)
        };
        let got = probe.run(device)?.stored;
        Ok(Findings::of(
            expected.len().max(got.len()),
            |i| expected.get(i) == got.get(i),
            |i| Difference {
                inputs: format!("{} at {boxes:?}, byte {i} of memory", self.name()),
                expected: format!("{:02x?}", expected.get(i)),
                got: format!("{:02x?}", got.get(i)),
            },
        ))
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn flat(coordinates: &[[i32; 3]]) -> Vec<u32> {
    coordinates.iter().flat_map(|at| [at[0] as u32, at[1] as u32, at[2] as u32, 0]).collect()
}

/// Multicast loads of both CTAs of a pair reach the CTAs of their masks.
///
/// # Errors
/// As [`Probe::run`].
pub fn check_multicast(device: &Device) -> Result<Findings> {
    let model = Model::new(MapElement::U8, 128, &[300, 37], 0, &[16]);
    let at = [[16, -2, 0], [208, 30, 0]];
    let box_words = model.box_bytes() / 4;
    let dumped = 2 * box_words + GUARD;
    let coordinates: Vec<u32> = at.iter().flat_map(|at| [at[0] as u32, at[1] as u32]).collect();
    let masks = [[3, 3], [2, 1], [1, 2], [1, 0], [3, 0], [0, 3], [2, 0]];
    Findings::all(masks.map(|masks| {
        let probe = Probe {
            arguments: &[model.box_bytes() as u32, masks[0], masks[1], dumped as u32],
            input: &coordinates,
            output_words: 2 * dumped,
            loads: std::slice::from_ref(&model.tensor),
            ..Probe::new(TMA_MULTICAST, 2)
        };
        let landed = |rank: usize, from: usize| match masks[from] >> rank & 1 {
            1 => words(&model.loaded(&at[from], 0)),
            _ => vec![UNTOUCHED; box_words],
        };
        let expected: Vec<u32> = (0..2)
            .flat_map(|rank| [landed(rank, 0), landed(rank, 1), vec![UNTOUCHED; GUARD]].concat())
            .collect();
        let place = |i: usize| format!("masks {masks:?}, rank {}, word {}", i / dumped, i % dumped);
        Ok(Findings::of_words(&expected, &probe.run(device)?.output, place))
    }))
}
