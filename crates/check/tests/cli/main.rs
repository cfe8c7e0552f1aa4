//! The program, as its users start it.

mod bench;
mod driver;
mod layers;
mod options;
mod output;
mod program;
mod regress;
mod terminal;
mod weights;
