/// Where the rows of an expert lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapLayout {
    /// Segments that each span a multiple of this many rows; 1: no padding.
    Contiguous(usize),
    /// Segments of this many rows; slots beyond them are dropped.
    Masked(usize),
}

/// Rows sorted by expert; a slot is `token * top_k + k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The slot of every row up to the end of the last segment, -1 for padding.
    pub row_slot: Vec<i32>,
    /// The row of every slot, -1 if it was dropped.
    pub slot_row: Vec<i32>,
    /// `[experts + 1]`: where segments start, and the last one ends.
    pub offsets: Vec<i32>,
    /// `[experts]`: rows that hold a slot.
    pub counts: Vec<i32>,
    /// `[experts + 1]`: slots that chose the expert; last, ids that are neither an expert nor -1.
    pub demand: Vec<i32>,
}

/// Sorts the slots that chose `ids` by expert, and by slot within an expert.
pub fn expert_map(ids: &[i32], experts: usize, layout: MapLayout) -> Mapped {
    let experts = i32::try_from(experts).unwrap_or(i32::MAX);
    let mut map = Mapped {
        row_slot: Vec::new(),
        slot_row: vec![-1; ids.len()],
        offsets: vec![0],
        counts: Vec::new(),
        demand: Vec::new(),
    };
    for expert in 0..experts {
        let slots: Vec<usize> = (0..ids.len()).filter(|&slot| ids[slot] == expert).collect();
        let start = map.row_slot.len();
        let (kept, end) = match layout {
            MapLayout::Contiguous(alignment) => {
                (slots.len(), start + slots.len().next_multiple_of(alignment.max(1)))
            }
            MapLayout::Masked(max_rows) => (slots.len().min(max_rows), start + max_rows),
        };
        for &slot in &slots[..kept] {
            map.slot_row[slot] = map.row_slot.len() as i32;
            map.row_slot.push(slot as i32);
        }
        map.row_slot.resize(end, -1);
        map.offsets.push(end as i32);
        map.counts.push(kept as i32);
        map.demand.push(slots.len() as i32);
    }
    map.demand.push(ids.iter().filter(|&&id| id < -1 || id >= experts).count() as i32);
    map
}
