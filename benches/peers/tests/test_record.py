"""Files in and out."""

import json
import os
import re
import tempfile
import unittest

import record

HERE = os.path.dirname(os.path.abspath(__file__))
OURS, BOTH = (os.path.join(HERE, name) for name in ("ours.json", "both.json"))
RUST = os.path.join(HERE, "../../../crates/check/src/bench/record.rs")
TIMES = {"seconds": [9e-5, 9.1e-5], "stop": "time", "state": None, "disturbed": False}


class Folder(unittest.TestCase):
    """With a folder of its own."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name, text=None):
        path = os.path.join(self.folder.name, name)
        if text is not None:
            with open(path, "w") as file:
                file.write(text)
        return path

    @staticmethod
    def text(path):
        with open(path) as file:
            return file.read()

    def fails(self, said, act):
        with self.assertRaises(record.BadFile) as raised:
            act()
        self.assertIn(said, str(raised.exception))
        self.assertNotIn("\n", str(raised.exception))


class Files(Folder):
    def test_rows_of_others_stand_behind_ours(self):
        """`both.json` is what `bench --peers` has to read: rows of a result, of a wrong one, and of a failure."""
        to = self.path("both.json")
        book = record.Json(OURS, to)
        book.begin()
        gemm = book.ours[0]
        book.add(gemm, "deep_gemm", "1d2d", worst=0.25, times={"cold": TIMES, "warm": TIMES})
        book.add(
            gemm,
            "torch",
            "cublaslt_blockwise",
            failure={"wrong": True, "why": "|error| is 3 times its bound: not timed"},
        )
        book.add(book.ours[6], "fa3", "contiguous", failure={"wrong": False, "why": "RuntimeError: no kernel"})
        self.assertEqual(json.loads(self.text(to)), json.loads(self.text(BOTH)))
        self.assertTrue(record.Json(to, to).has(gemm, "deep_gemm", "1d2d"))
        self.assertFalse(record.Json(to, to).has(gemm, "deep_gemm", "m_grouped"))
        self.assertEqual(len(record.Json(to, to).ours), len(book.ours))
        self.assertEqual(os.listdir(self.folder.name), ["both.json"])

    def test_rows_have_the_fields_that_rust_reads(self):
        rust = self.text(RUST)
        fields = lambda name: set(re.findall(r"pub (\w+):", rust.split(f"pub struct {name} {{")[1].split("\n}")[0]))
        both = json.loads(self.text(BOTH))
        self.assertEqual(set(both), fields("Record") - {"package"} | {"crate"})
        self.assertEqual(set(both["device"]), fields("DeviceRecord"))
        for row in both["rows"]:
            self.assertEqual(set(row) | {"times"}, fields("Row"))
        self.assertEqual(set(TIMES), fields("Timing"))
        self.assertEqual(f"{record.FORMAT}", re.search(r"FORMAT: u32 = (\d+)", rust)[1])

    def test_what_is_no_file_of_bench_is_told_in_a_line(self):
        whole = json.loads(self.text(OURS))
        broken = lambda **fields: self.path("broken.json", json.dumps(whole | fields))
        read = lambda path: lambda: record.Json(path, self.path("out.json"))
        self.fails("No such file", read(self.path("nowhere.json")))
        self.fails("Is a directory", read(self.folder.name))
        self.fails("is no JSON", read(self.path("cut.json", json.dumps(whole)[:100])))
        self.fails("is no JSON", read(self.path("empty.json", "")))
        self.fails("it has no format", read(self.path("list.json", "[]")))
        self.fails("has format 2, this version reads 1", read(broken(format=2)))
        self.fails("no kind or no name", read(broken(device={"kind": "gpu"})))
        self.fails("has no rows", read(broken(rows=[])))
        self.fails("row 0 has no who", read(broken(rows=[{}])))
        self.fails("row 0 has no who", read(broken(rows=["text"])))
        self.fails("row 0 has no bytes", read(broken(rows=[whole["rows"][0] | {"bytes": -1}])))
        self.fails("row 0 has no flops", read(broken(rows=[whole["rows"][0] | {"flops": "1"}])))
        self.fails("has no rows of ours", read(broken(rows=[whole["rows"][0] | {"who": "torch"}])))

    def test_an_unwritable_file_is_told_and_an_old_one_stays(self):
        path = self.path("file", "old")
        self.fails("File exists", lambda: record.save(os.path.join(path, "out.json"), {}))
        with self.assertRaises(ValueError):
            record.save(path, {"seconds": float("nan")})
        self.assertEqual(self.text(path), "old")
        self.assertEqual(os.listdir(self.folder.name), ["file"])


class Csv(Folder):
    HEAD = ",".join(record.COLUMNS) + "\n"
    ROW = "ours,fp8_gemm,1x8x128_bf16,i,current,{l2},2.0,1.0,3.0,2048,1176,0.25,GPU\n"

    def test_rows_are_appended_once(self):
        path = self.path("timings.csv", self.HEAD + self.ROW.format(l2="cold") + self.ROW.format(l2="warm"))
        book = record.Csv(path, [])
        self.assertEqual([(row["shape"], row["flops"]) for row in book.ours], [("1x8x128_bf16", 2048)])
        book.begin()
        book.add(book.ours[0], "torch", "cublaslt", worst=0.5, times={"cold": TIMES, "warm": TIMES})
        book.add(book.ours[0], "fa3", "contiguous", failure={"wrong": True, "why": ""})
        lines = self.text(path).splitlines()
        expected = "torch,fp8_gemm,1x8x128_bf16,cublaslt,current,cold,91.0000,90.0000,91.0000,2048,1176,0.5000,GPU"
        self.assertEqual(lines[3:], [expected, expected.replace("cold", "warm")])
        self.assertTrue(record.Csv(self.path("new.csv"), [path]).has(book.ours[0], "torch", "cublaslt"))

    def test_a_file_that_is_new_gets_a_head(self):
        earlier = self.path("earlier.csv", self.HEAD + self.ROW.format(l2="cold"))
        for name, text in [("new.csv", None), ("empty.csv", "")]:
            path = self.path(name, text)
            record.Csv(path, [earlier]).begin()
            self.assertEqual(self.text(path), self.HEAD)

    def test_what_is_no_such_file_is_told_in_a_line(self):
        read = lambda text: lambda: record.Csv(self.path("bad.csv", text), [])
        self.fails("has no rows of ours", read(self.HEAD))
        self.fails("expected the columns who,", read("a,b\n1,2\n"))
        self.fails("a row is not whole", read(self.HEAD + "ours,fp8_gemm\n"))
        self.fails("a row is not whole", read(self.HEAD + self.ROW.format(l2="cold").replace("2048", "x")))
        self.fails("a row is not whole", read(self.HEAD + self.ROW.format(l2="cold,")))


if __name__ == "__main__":
    unittest.main()
