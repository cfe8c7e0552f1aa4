//! One instruction, one layout at a time, on every machine there is.

mod convert;
mod hardware_data;
mod layout;
mod mbarrier;
mod product;
mod smem;
mod sync;
mod tma;
mod wgmma;
