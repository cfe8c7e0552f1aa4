// What the families that handle experts agree on, in plain C for the kernels (C++) and for the host (Rust, through bindgen).
#pragma once

enum { MAX_EXPERTS = 1024 };
