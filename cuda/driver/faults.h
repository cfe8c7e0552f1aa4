// Faults of a host that this driver can pretend, so that tests see whether it notices them: it behaves as though its
// caller had left out, or got wrong, one kind of call.
#pragma once

namespace driver {

#define DRIVER_FAULTS(X)                                                                        \
  X(kNoSmemOptIn, "no-smem-opt-in")                /* more shared memory was not asked for */   \
  X(kSmemOptInTooLarge, "smem-opt-in-too-large")   /* 1 KiB more was asked for than there is */ \
  X(kNoDynamicSmem, "no-dynamic-smem")             /* launched without shared memory */         \
  X(kHalfTheThreads, "half-the-threads")           /* launched with half the threads */         \
  X(kOddGrid, "odd-grid")                          /* launched with one CTA more */             \
  X(kNullStream, "null-stream")                    /* launched on the legacy stream */          \
  X(kContextNotBound, "context-not-bound")         /* no context was made current */            \
  X(kForeignContext, "foreign-context")            /* memory is of another context */           \
  X(kEventWaitDropped, "event-wait-dropped")       /* no stream waits for an event */           \
  X(kEventRecordDropped, "event-record-dropped")   /* no event is recorded */                   \
  X(kSyncDropped, "sync-dropped")                  /* the host waits for nothing */             \
  X(kErrorWordPageable, "error-word-pageable")     /* host memory is not the driver's */        \
  X(kEarlyFree, "early-free")                      /* memory is freed before queued work */     \
  X(kDoubleFree, "double-free")                    /* memory is freed twice */                  \
  X(kFreeDropped, "free-dropped")                  /* memory is never freed */                  \
  X(kZeroElementStrides, "zero-element-strides")   /* of a tensor map */                        \
  X(kMisalignedMemory, "misaligned-memory")        /* a tensor map 8 bytes off */               \
  X(kTensorMapTooLong, "tensor-map-too-long")      /* a tensor map with a row more */           \
  X(kStrayPointer, "stray-pointer")                /* a parameter points past its operand */    \
  X(kParamSize, "param-size")                      /* the parameter struct is too small */      \
  X(kCaptureWaitOutside, "capture-wait-outside")   /* a capture waits for an event outside */   \
  X(kModuleUnloadedEarly, "module-unloaded-early") /* a kernel is unloaded while queued */

enum class Fault {
  kNone,
#define DRIVER_FAULT(fault, name) fault,
  DRIVER_FAULTS(DRIVER_FAULT)
#undef DRIVER_FAULT
};

// The fault of this name, "" for none; false when there is none such.
bool find_fault(const char* name, Fault& fault);

// Whether this is the fault that the caller is to have.
bool planted(Fault fault);

}  // namespace driver
