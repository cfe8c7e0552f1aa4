/// Where the rows of an expert lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapLayout {
    /// Segments that each span a multiple of this many rows; 1: no padding.
    Contiguous(usize),
    /// Segments of this many rows; routes beyond them are dropped.
    Masked(usize),
}

/// Rows sorted by expert; a route is `token * top_k + k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The route of every row up to the end of the last segment, -1 for padding.
    pub row_route: Vec<i32>,
    /// The row of every route, -1 if it was dropped.
    pub route_row: Vec<i32>,
    /// `[experts + 1]`: where segments start, and the last one ends.
    pub offsets: Vec<i32>,
    /// `[experts]`: rows that hold a route.
    pub counts: Vec<i32>,
    /// `[experts + 1]`: routes to the expert, with a row or without; last, ids that are neither an expert nor -1.
    pub demand: Vec<i32>,
}

/// The local experts that `ids` of `local_ids.len()` experts mean: -1 stays what it is, and what is no id is none afterwards.
pub fn local_experts(ids: &[i32], local_ids: &[i32]) -> Vec<i32> {
    let local = |&id: &i32| match usize::try_from(id) {
        Ok(index) => local_ids.get(index).copied().unwrap_or(i32::MIN),
        Err(_) if id == -1 => -1,
        Err(_) => i32::MIN,
    };
    ids.iter().map(local).collect()
}

/// Sorts the routes to `ids` by expert, and by route within an expert.
pub fn expert_map(ids: &[i32], experts: usize, layout: MapLayout) -> Mapped {
    let experts = i32::try_from(experts).unwrap_or(i32::MAX);
    let mut map = Mapped {
        row_route: Vec::new(),
        route_row: vec![-1; ids.len()],
        offsets: vec![0],
        counts: Vec::new(),
        demand: Vec::new(),
    };
    for expert in 0..experts {
        let routes: Vec<usize> = (0..ids.len()).filter(|&route| ids[route] == expert).collect();
        let start = map.row_route.len();
        let (kept, end) = match layout {
            MapLayout::Contiguous(alignment) => {
                (routes.len(), start + routes.len().next_multiple_of(alignment.max(1)))
            }
            MapLayout::Masked(max_rows) => (routes.len().min(max_rows), start + max_rows),
        };
        for &route in &routes[..kept] {
            map.route_row[route] = map.row_route.len() as i32;
            map.row_route.push(route as i32);
        }
        map.row_route.resize(end, -1);
        map.offsets.push(end as i32);
        map.counts.push(kept as i32);
        map.demand.push(routes.len() as i32);
    }
    map.demand.push(ids.iter().filter(|&&id| id < -1 || id >= experts).count() as i32);
    map
}
