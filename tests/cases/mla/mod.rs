mod absorb;
mod decode;
mod kv_append;
mod merge_states;
mod rope;
mod splits;
