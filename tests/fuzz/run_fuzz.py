"""Coverage-guided fuzzing of everything that reads bytes of strangers: ``make fuzz``, not a test.

    python tests/fuzz/run_fuzz.py TARGET [flags of libFuzzer] [folder of inputs]

``TARGET`` is one of the functions below. What is found is written to the current folder as ``crash-...``;
``python tests/fuzz/run_fuzz.py TARGET crash-...`` runs it again. Needs the extra ``fuzz``.
"""

import gzip
import io
import sys
import tempfile
import zlib
from pathlib import Path

import atheris
import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

with atheris.instrument_imports(include=["modelserver"]):
    from in_memory import MemoryServer

    from modelserver.errors import InvalidInput, PayloadTooLarge
    from modelserver.protocols import npy, v1_json, v1_numbers
    from modelserver.rest.coding import inflate
    from modelserver.tensors import array_from_json

from fuzz.seeds import GOOD, JSON, LAST, WORDS, failures, npy_body

DTYPES = (None, "number", "float32", "float64", "int64", "int8", "uint8", "bool")
TYPES = ("application/json", "text/plain", "application/x-npy", "image/jpeg", "", "a/b+json; charset=x")
LIMIT = 100_000

_servers: list[MemoryServer] = []


def connection(data: bytes) -> None:
    """The whole server: a stream in pieces is answered or closed, and leaves nothing behind."""
    if not _servers:
        _servers.append(MemoryServer(max_buffer_size=LIMIT))
    server = _servers[0]
    cuts = [int.from_bytes(data[at : at + 2], "little") for at in range(0, 8, 2)]
    stream = data[8:]
    answers = server.send(stream, cuts)
    assert not failures(answers), answers
    assert server.send(GOOD[0]).startswith(b"HTTP/1.1 200 ")


def request(data: bytes) -> None:
    """A body of any type: a value, or InvalidInput."""
    choice, body = data[:2].ljust(2, b"\0"), data[2:]
    content_type, dtype = TYPES[choice[0] % len(TYPES)], DTYPES[choice[1] % len(DTYPES)]
    try:
        v1_json.decode_request(body, content_type, dtype)
    except InvalidInput as error:
        v1_json.encode_error(error.reason)


def numbers(data: bytes) -> None:
    """The short cut for large bodies: what the ordinary way gives, or nothing."""
    dtype = DTYPES[1 + data[0] % (len(DTYPES) - 1)] if data else "number"
    body = data[1:]
    got = v1_numbers.read_instances(body, dtype)
    if got is None:
        return
    expected = orjson.loads(body)
    array = array_from_json(expected.pop("instances"), dtype)
    instances = got.pop("instances")
    assert got == expected
    assert instances.dtype == array.dtype
    assert instances.shape == array.shape
    assert instances.tobytes() == array.tobytes()


def coding(data: bytes) -> None:
    """gzip: what the standard library makes of it, and never more than the limit."""
    try:
        got = inflate(data, "gzip", LIMIT)
    except (InvalidInput, PayloadTooLarge):
        return
    assert len(got) <= LIMIT
    assert got == gzip.decompress(data)


def array(data: bytes) -> None:
    """An .npy body: what numpy reads, or InvalidInput."""
    try:
        got = npy.read_array(data)
    except InvalidInput:
        return
    expected = np.load(io.BytesIO(data), allow_pickle=False)
    assert got.shape == expected.shape
    if got.dtype.kind != "b":
        assert np.array_equal(got, expected.astype(got.dtype), equal_nan=got.dtype.kind == "f")


SEEDS = {
    connection: [bytes(8) + part for part in (*GOOD, *LAST, GOOD[0] + GOOD[8], b"".join(GOOD[:4]))],
    request: [bytes((number, number)) + body for number in range(6) for body in (JSON, npy_body(), b"{}")],
    numbers: [bytes((number,)) + JSON for number in range(7)]
    + [b"\0" + b'{"a": "b", "instances": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], "c": [1]}'],
    coding: [gzip.compress(JSON), gzip.compress(b"") * 2 + gzip.compress(JSON), zlib.compress(JSON)],
    array: [npy_body(), npy_body("<i8"), npy_body(">f8"), npy_body("?"), npy_body("<f2", order="F")],
}
TARGETS = {target.__name__: target for target in SEEDS}


def main() -> None:
    target = TARGETS[sys.argv[1]]
    arguments = [sys.argv[0], *sys.argv[2:]]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[target]):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        words = Path(folder).with_suffix(".words")
        escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in WORDS if len(word) < 64)
        words.write_text("".join(f'"{word}"\n' for word in escaped))
        is_rerun = any(Path(argument).is_file() for argument in sys.argv[2:])
        atheris.Setup(arguments if is_rerun else [*arguments, f"-dict={words}", folder], target)
        try:
            atheris.Fuzz()
        finally:
            words.unlink()


if __name__ == "__main__":
    main()
