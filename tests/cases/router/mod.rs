mod balance;
mod gate;
