//! The tensor maps of a plan.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Device;
use super::bindings::TensorMap;
use crate::error::Result;
use crate::tensor::MapElement;
use crate::tensor::tensor_map::{Swizzle, TensorMapArrays, TensorMapSpec};

/// So many are kept: a plan that goes round the layers of a model has maps of each layer's weights.
const MOST: usize = 256;

/// Encodes tensor maps, each once: a map is made of nothing but what its spec says, so that operands which lie where others
/// have lain need no new one, whatever they hold.
pub(crate) struct TensorMaps {
    device: Device,
    known: Mutex<HashMap<Made, TensorMap>>,
}

/// What a map is made of.
#[derive(PartialEq, Eq, Hash)]
struct Made {
    element: MapElement,
    address: usize,
    arrays: TensorMapArrays,
    swizzle: Swizzle,
}

impl TensorMaps {
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), known: Mutex::default() }
    }

    pub fn encode(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        let TensorMapSpec { element, base, swizzle, .. } = *spec;
        let made = Made { element, address: base.addr(), arrays: spec.arrays()?, swizzle };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = known.get(&made) {
            return Ok(*map);
        }
        let map = self.device.encode(spec)?;
        if known.len() == MOST {
            known.clear();
        }
        known.insert(made, map);
        Ok(map)
    }
}

/// How many it knows.
impl fmt::Debug for TensorMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "TensorMaps({} known)", known.len())
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::without_provenance;

    use super::*;
    use crate::tensor::tensor_map::Dimension;

    /// Each differs from the first in one thing that a map is made of.
    #[test]
    fn a_map_is_encoded_anew_when_what_it_is_made_of_changes() {
        let Ok(device) = Device::emulated() else { return };
        let maps = TensorMaps::new(&device);
        let row = Dimension { size: 8, stride: 256, box_size: 8 };
        let (rows, fewer) = ([row], [Dimension { size: 7, ..row }]);
        let (wider, lower) = ([Dimension { stride: 512, ..row }], [Dimension { box_size: 4, ..row }]);
        let spec = TensorMapSpec {
            operand: "a",
            element: MapElement::Bf16,
            base: without_provenance(4096),
            columns: 128,
            box_columns: 64,
            outer: &rows,
            swizzle: Swizzle::Span128,
        };
        let specs = [
            spec,
            TensorMapSpec { element: MapElement::U8, ..spec },
            TensorMapSpec { base: without_provenance(8192), ..spec },
            TensorMapSpec { columns: 64, ..spec },
            TensorMapSpec { box_columns: 32, ..spec },
            TensorMapSpec { outer: &fewer, ..spec },
            TensorMapSpec { outer: &wider, ..spec },
            TensorMapSpec { outer: &lower, ..spec },
            TensorMapSpec { outer: &[row, row], ..spec },
            TensorMapSpec { swizzle: Swizzle::None, ..spec },
        ];
        for round in 0..2 {
            for (i, spec) in specs.iter().enumerate() {
                let map = maps.encode(spec).unwrap();
                assert_eq!(map.opaque, device.encode(spec).unwrap().opaque, "{i}");
                let known = if round == 0 { i + 1 } else { specs.len() };
                assert_eq!(format!("{maps:?}"), format!("TensorMaps({known} known)"));
            }
        }
        // The name in messages is no part of it, and what is refused is not kept.
        maps.encode(&TensorMapSpec { operand: "b", ..spec }).unwrap();
        maps.encode(&TensorMapSpec { base: without_provenance(4104), ..spec }).unwrap_err();
        assert_eq!(maps.known.lock().unwrap().len(), specs.len());
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let Ok(device) = Device::emulated() else { return };
        let maps = TensorMaps::new(&device);
        let rows = [Dimension { size: 8, stride: 256, box_size: 8 }];
        for i in 1..3 * MOST {
            let spec = TensorMapSpec {
                operand: "a",
                element: MapElement::Bf16,
                base: without_provenance(4096 * i),
                columns: 128,
                box_columns: 64,
                outer: &rows,
                swizzle: Swizzle::Span128,
            };
            assert_eq!(maps.encode(&spec).unwrap().opaque, device.encode(&spec).unwrap().opaque);
            assert!(maps.known.lock().unwrap().len() <= MOST);
        }
    }
}
