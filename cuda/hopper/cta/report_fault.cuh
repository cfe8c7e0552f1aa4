// How a kernel tells the host of data that it had to treat specially.
#pragma once
#include <cstdint>

#include "ptx/gmem.h"
#include "ptx/target.h"

// The words lie in host memory, which a GPU cannot change atomically with the host: so each fault has a word of its own,
// the one of its number, and whoever meets it stores the same 1.
PTX_DEVICE void report_fault(uint32_t* error_words, uint32_t fault) {
  ptx::st_relaxed_sys_u32(error_words + fault, 1);
}
