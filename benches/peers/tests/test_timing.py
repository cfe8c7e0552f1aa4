"""When enough was measured."""

import itertools
import random
import unittest

import timing
from stopping import LEAST, WINDOW, Stopping


class Samples(unittest.TestCase):
    def test_enough_sets_make_a_run_cold(self):
        """As `enough_sets_make_a_run_cold` of crates/check/src/bench/timing.rs."""
        for size, l2, sets in [(50 << 20, 50 << 20, 3), (1 << 20, 50 << 20, 150), (1 << 40, 50 << 20, 1), (0, 0, 1)]:
            self.assertEqual(timing.cold_sets(size, l2), sets)

    def test_a_graph_holds_every_set_and_no_more_runs_than_there_is_time_for(self):
        self.assertEqual(timing.runs_per_graph(3, 1e-5), timing.RUNS)
        self.assertEqual(timing.runs_per_graph(150, 1e-5), 150)
        self.assertEqual(timing.runs_per_graph(1, 5e-3), 10)
        self.assertEqual(timing.runs_per_graph(1, 10.0), 1)

    def test_samples_are_kept_in_their_order(self):
        values = itertools.chain([2.1, 1.9], itertools.repeat(2.0))
        samples, stop = timing.sample(lambda: next(values), clock=lambda: 0)
        self.assertEqual((samples[:3], stop), ([2.1, 1.9, 2.0], "deviation"))

    def test_samples_that_are_never_steady_end_with_the_time(self):
        values, clock = itertools.cycle([1.0, 2.0]), itertools.count(0, 0.125)
        samples, stop = timing.sample(lambda: next(values), seconds=5, clock=lambda: next(clock))
        self.assertEqual((len(samples), stop), (40, "time"))

    def test_steady_samples_end_by_their_deviation_and_wild_ones_by_their_entropy(self):
        """As the test of that name in crates/check/src/bench/statistics.rs."""

        def ended(sample):
            stopping = Stopping()
            return next((i + 1, stop) for i in range(5000) if (stop := stopping.add(sample(i))))

        self.assertEqual(ended(lambda _: 1.0), (LEAST, "deviation"))
        wild = random.Random(2)
        samples, stop = ended(lambda _: 1 + 0.1 * wild.random())
        self.assertEqual(stop, "entropy")
        self.assertTrue(WINDOW <= samples < 5000, samples)
        self.assertGreater(ended(lambda i: 1 + 0.01 * i)[0], 2 * samples)

    def test_the_state_is_read_or_none(self):
        told = timing.parse_state("1980, 2619, 45, 312.50, 0x0000000000000004")
        self.assertEqual(told["clock_mhz"], 1980)
        self.assertFalse(told["throttled"])
        self.assertTrue(timing.parse_state("1200, 2619, 88, 600.00, 0x0000000000000040")["throttled"])
        for text in ["", "N/A, 1, 2, 3, 0x0", "[Not Supported], 2619, 45, 312.50, Active", "1, 2"]:
            self.assertIsNone(timing.parse_state(text))

    def test_what_is_held_down_is_measured_again_and_then_marked(self):
        state = lambda throttled: {"throttled": throttled}
        states = iter([state(False), state(True), state(False), state(False)])
        measured = timing.steady(lambda: 1.0, look=lambda: next(states), rest=0)
        self.assertEqual((measured["disturbed"], measured["state"]), (False, [state(False)] * 2))
        self.assertTrue(timing.steady(lambda: 1.0, look=lambda: state(True), rest=0)["disturbed"])
        unknown = timing.steady(lambda: 1.0, look=lambda: None)
        self.assertEqual((unknown["state"], unknown["disturbed"], unknown["stop"]), (None, False, "deviation"))


if __name__ == "__main__":
    unittest.main()
