"""The files that hold results: `deepseek-kernels bench --json` (crates/check/src/bench/record.rs says what is in it), and
`timings.csv` of a run on a GPU host. Both give rows of ours, and take rows of others."""

import csv
import json
import os
import tempfile

FORMAT = 1
COLUMNS = "who,operation,shape,instance,variant,l2,median_us,min_us,max_us,flops,bytes,worst,card".split(",")
TEXTS = ("who", "operation", "name", "title", "shape", "data", "instance")
NUMBERS = ("flops", "bytes")


class BadFile(Exception):
    """What is wrong with a file, in one line."""


def load(path):
    """A file of `bench --json`, checked."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadFile(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict) or "format" not in value:
        raise BadFile(f"{path} is no file of `bench`: it has no format")
    if value["format"] != FORMAT:
        raise BadFile(f"{path} has format {value['format']}, this version reads {FORMAT}: make it anew")
    check(path, value)
    return value


def check(path, value):
    """What is read of it is there."""
    device, rows = value.get("device"), value.get("rows")
    if not isinstance(device, dict) or not all(isinstance(device.get(name), str) for name in ("kind", "name")):
        raise BadFile(f"{path} is no file of `bench`: its device has no kind or no name")
    if not isinstance(rows, list) or not rows:
        raise BadFile(f"{path} has no rows: their shapes are the ones to run")
    for number, row in enumerate(rows):
        get = row.get if isinstance(row, dict) else lambda _: None
        missing = [name for name in TEXTS if not isinstance(get(name), str)]
        missing += [name for name in NUMBERS if type(get(name)) is not int or get(name) < 0]
        if missing:
            raise BadFile(f"{path} is no file of `bench`: row {number} has no {missing[0]}, or a bad one")


def save(path, *values):
    """Replaces the file by a value, or in a file of lines by a line for each."""
    lines = path.endswith(".jsonl")
    text = "".join(json.dumps(value, indent=None if lines else 1, allow_nan=False) + "\n" for value in values)
    replace(path, text.encode())


def replace(path, data):
    """Makes or replaces a file, and its folders: whole or not at all."""
    folder, part = os.path.dirname(os.path.abspath(path)), None
    try:
        os.makedirs(folder, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        if part and os.path.exists(part):
            os.unlink(part)
        raise BadFile(f"{path}: {error.strerror}") from None


def middle(samples):
    return sorted(samples)[len(samples) // 2]


class Json:
    """`bench --json`, with what others did behind our rows. It has roofs of its own."""

    ceilings = False

    def __init__(self, ours, to):
        self.to, self.record = to, load(ours)
        self.ours = [row for row in self.record["rows"] if row["who"] == "ours"]
        self.card = self.record["device"]["name"]
        if not self.ours:
            raise BadFile(f"{ours} has no rows of ours: their shapes are the ones to run")

    def begin(self):
        save(self.to, self.record)

    @staticmethod
    def label(row):
        return row["name"].removeprefix(row["operation"] + "/")

    def key(self, row, who, instance):
        return who, row["name"], instance

    def has(self, row, who, instance):
        return any(
            self.key(old, old["who"], old["instance"]) == self.key(row, who, instance) for old in self.record["rows"]
        )

    def add(self, row, who, instance, worst=None, times=None, failure=None):
        """A row like ours, by another library; on the disk before the next begins."""
        own = {name: row[name] for name in ("operation", "name", "title", "shape", "data", "flops", "bytes")}
        own |= {"who": who, "instance": instance, "reason": None, "worst": worst, "failure": failure, "counts": None}
        if times:
            own["times"] = times
        self.record["rows"].append(own)
        save(self.to, self.record)


class Csv:
    """`timings.csv`, appended to; rows of earlier files count as there already. Failures are only told."""

    ceilings = True

    def __init__(self, path, earlier):
        rows = [row for file in (*earlier, path) for row in self.read(file)]
        self.ours = [row for row in rows if (row["who"], row["variant"], row["l2"]) == ("ours", "current", "cold")]
        if not self.ours:
            raise BadFile(f"{path} has no rows of ours: their shapes are the ones to run")
        self.card = self.ours[0]["card"]
        self.done = {self.key(row, row["who"], row["instance"]) for row in rows}
        self.path = path

    def begin(self):
        new = not os.path.exists(self.path) or os.path.getsize(self.path) == 0
        self.append([COLUMNS] if new else [])

    def append(self, rows):
        """Whole lines, on the disk before the next begins."""
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                file.write("".join(",".join(row) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BadFile(f"{self.path}: {error.strerror}") from None

    @staticmethod
    def read(path):
        if not os.path.exists(path) or os.path.getsize(path) == 0:
            return []
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise BadFile(f"{path}: expected the columns {','.join(COLUMNS)}, got {','.join(reader.fieldnames)}")
            rows = list(reader)
        for row in rows:
            if None in row.values() or None in row or not (row["flops"].isdigit() and row["bytes"].isdigit()):
                raise BadFile(f"{path}: a row is not whole: {','.join(str(field) for field in row.values())}")
            row |= {"flops": int(row["flops"]), "bytes": int(row["bytes"])}
        return rows

    @staticmethod
    def label(row):
        return row["shape"]

    @staticmethod
    def key(row, who, instance):
        return who, row["operation"], row["shape"], instance

    def has(self, row, who, instance):
        return self.key(row, who, instance) in self.done

    def add(self, row, who, instance, worst=None, times=None, failure=None):
        if failure:
            return
        own = {name: row[name] for name in ("operation", "shape", "flops", "bytes")}
        own |= {"who": who, "instance": instance, "variant": "current", "worst": worst, "card": self.card}
        number = lambda value: f"{value:.4f}" if isinstance(value, float) else str(value)
        rows = []
        for l2, timing in times.items():
            samples = [1e6 * sample for sample in timing["seconds"]]
            own |= {"l2": l2, "median_us": middle(samples), "min_us": min(samples), "max_us": max(samples)}
            rows.append([number(own[name]) for name in COLUMNS])
        self.append(rows)
