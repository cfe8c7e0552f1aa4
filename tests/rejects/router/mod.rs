//! Bad operands and shapes of the router and of what balances it.

mod balance;
mod gate;
