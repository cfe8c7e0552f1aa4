// Streams as queues, and when what stands in them is executed.
#pragma once
#include "driver/call.h"

namespace driver {

// Appends to the stream, or to the capture that it is in.
Result enqueue(Call& call, Stream* stream, Operation operation);

// The host waits: executes what must come before, and knows that it did.
Result wait_for(Point point, const SharedClock& clock);
Result wait_for(Stream* stream);
Result wait_for_all(Context* context);

// What is executed at the moment: kernels ask, to say what they wrote.
struct Executing {
  const Operation* operation;
  const Stream* stream;
};
Executing& executing();

// Executes one more operation of the stream, for those who poll.
void poll(Stream* stream);

// Now and then executes an operation of a stream that has one.
void some_progress();

}  // namespace driver
