//! The program, as its users start it.

mod driver;
mod verify;
