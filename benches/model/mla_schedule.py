#!/usr/bin/env python3
"""Cycles per block of 64 keys of MLA decode, by schedule and by the time that keys take to arrive. A model, no measurement.

Three programs run side by side: the left and the right warpgroup, and the producer. They issue products, of which the
tensor core takes one at a time, alternating between warpgroups; they meet at barriers; a load arrives LATENCY cycles
after it was asked for, and no faster than RATE bytes a cycle. Static cycles were counted in SASS, latencies are assumed:
good for the order of two schedules, not for their absolute time.
"""

SCORE, WEIGH = 38.6, 128  # cycles of a product m64n64k16, whose operands keep shared memory busy longer, and m64n256k16
MAXIMUM, EXPONENTIALS, RESCALE, PUBLISH = 120, 311, 136, 113  # the softmax, the sums, weights to shared memory and fence
START, END, MEET = 12, 20, 25  # a product begins, is seen to be done; a barrier
TILE_BYTES, TILES, BLOCKS = 8192, 9, 40


SCORES_FIRST, PRODUCTS_FIRST = "scores first", "products first"
BESIDE = "products first, right ones beside the softmax"
REGISTERS = "the same, left weights from registers"
ORDERS = [SCORES_FIRST, PRODUCTS_FIRST, BESIDE, REGISTERS]


def left(order):
    def score(j):
        for tile in range(TILES):
            yield "await", ("keys", j, tile)
            yield "multiply", ("scores", j), 4, SCORE

    def weigh(j):
        yield "run", 20
        yield "multiply", ("left", j), 4, WEIGH

    def publish(j):
        yield "run", PUBLISH
        yield "arrive", ("weights", j)

    yield from score(0)
    yield "wait", ("scores", 0)
    yield "arrive", ("free", "position", 0)
    yield "run", MAXIMUM + EXPONENTIALS
    if order != REGISTERS:
        yield from publish(0)
    for j in range(1, BLOCKS):
        yield "mark",
        if order == SCORES_FIRST:
            yield from score(j)
            yield "arrive", ("scored", j)
            yield from weigh(j - 1)
        else:
            yield from weigh(j - 1)
            if order == PRODUCTS_FIRST:
                yield "arrive", ("scored", j)
            if order == REGISTERS:
                if j > 1:
                    yield "await", ("read", j - 2)
                yield from publish(j - 1)
            yield from score(j)
            yield "wait", ("left", j - 1)
            yield "arrive", ("free", "left", j - 1)
        yield "wait", ("scores", j)
        if order in (BESIDE, REGISTERS):
            yield "arrive", ("scored", j)
        yield "arrive", ("free", "position", j)
        yield "run", MAXIMUM + EXPONENTIALS
        if order == SCORES_FIRST:
            yield "await", ("read", j - 1)
            yield "wait", ("left", j - 1)
            yield "arrive", ("free", "left", j - 1)
        yield "run", RESCALE
        if order != REGISTERS:
            yield "await", ("read", j - 1)
            yield from publish(j)
    if order == REGISTERS:
        yield "await", ("read", BLOCKS - 2)
        yield from publish(BLOCKS - 1)
    yield "arrive", ("scored", BLOCKS)


def right():
    for j in range(BLOCKS):
        yield "await", ("weights", j)
        yield "run", 76 + RESCALE
        yield "await", ("scored", j + 1)
        yield "multiply", ("right", j), 4, WEIGH
        yield "wait", ("right", j)
        yield "run", 22
        yield "arrive", ("free", "right", j)
        yield "arrive", ("read", j)


def producer(latency, rate):
    arrived = 0
    for j in range(BLOCKS):
        for tile in range(TILES):
            part = {0: "position", 1: "left", 5: "right"}.get(tile)
            if part and j >= 2:
                yield "await", ("free", part, j - 2)
            yield "run", 15
            yield "load", ("keys", j, tile), latency, TILE_BYTES / rate


def cycles_per_block(order, latency, rate):
    programs = [left(order), right(), producer(latency, rate)]
    time, waiting, marks = [0.0] * 3, [None] * 3, []
    queues, done, pending, events = [[], [], []], {}, {}, {}
    tensor_free, last, arrived = 0.0, 1, 0.0

    def advance(p):
        nonlocal arrived
        for op in programs[p]:
            if op[0] == "run":
                time[p] += op[1]
            elif op[0] == "mark":
                marks.append(time[p])
            elif op[0] == "arrive":
                events[op[1]] = time[p] + MEET
            elif op[0] == "load":
                arrived = max(time[p] + op[2], arrived + op[3])
                events[op[1]] = arrived + MEET
            elif op[0] == "multiply":
                queues[p] += [(time[p] + START + 13 * i, op[3], op[1]) for i in range(op[2])]
                pending[op[1]] = pending.get(op[1], 0) + op[2]
                time[p] += 13 * op[2]
            else:
                waiting[p] = op
                return
        waiting[p] = None

    for p in range(3):
        advance(p)
    while any(waiting):
        moves = []
        for p, op in enumerate(waiting):
            if op and op[0] == "await" and op[1] in events:
                moves.append((max(time[p], events[op[1]]), 1, p))
            elif op and op[0] == "wait" and not pending[op[1]]:
                moves.append((max(time[p], done[op[1]] + END), 1, p))
        heads = [(max(queue[0][0], tensor_free), p == last, p) for p, queue in enumerate(queues) if queue]
        if heads:
            start, _, p = min(heads)
            moves.append((start, 0, p))
        now, kind, p = min(moves)
        if kind == 0:
            _, cycles, group = queues[p].pop(0)
            tensor_free = done[group] = now + cycles
            pending[group] -= 1
            last = p
        else:
            time[p] = now
            advance(p)
    half = len(marks) // 2
    return (marks[-1] - marks[half]) / (len(marks) - 1 - half)


if __name__ == "__main__":
    print("| latency, rate | " + " | ".join(ORDERS) + " |\n|---|---|---|---|---|")
    for latency, rate in [(500, 64), (800, 64), (1100, 64), (1500, 45), (2000, 45)]:
        row = [f"{cycles_per_block(order, latency, rate):.0f}" for order in ORDERS]
        print(f"| {latency} cycles, {rate} B/cycle | " + " | ".join(row) + " |")
