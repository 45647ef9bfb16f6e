"""What of an exception's text goes out."""

import time

import pytest

from modelserver.wording import scrubbed, type_and_text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/etc/passwd", "passwd"),
        ("cannot read /srv/models/iris/weights.pt: damaged", "cannot read weights.pt: damaged"),
        ("open '/home/My Folder/x y/m.py' failed", "open 'm.py' failed"),
        ('File "/a/b/c.py", line 3', 'File "c.py", line 3'),
        ("'/a/b/c' and '/d/e/f'", "'c' and 'f'"),
        ("(/a/b/c)", "(c)"),
        ("a=/x/y/z;b=/q/r", "a=z;b=r"),
        ("path:/home/u/x.pt", "path:x.pt"),
        ("file:///home/u/x.pt", "x.pt"),
        ("/a//b///c", "c"),
        ("/a/b/", "b"),
        ("[/opt/x/lib.so+0x12345]", "[lib.so+0x12345]"),
        ("two\n/a/b/c.py:12\nlines", "two\nc.py:12\nlines"),
        ("<Net object at 0x7f3a2c1b4d90>", "<Net object at 0x...>"),
        ("<f at 0x1f>", "<f at 0x...>"),
        ("CUDA error at 0x00007F3A2C1B4D90", "CUDA error at 0x..."),
        ("pointer 0x55d3c0ffee00 is freed", "pointer 0x... is freed"),
    ],
)
def test_folders_and_addresses_are_taken_out(text, left):
    assert scrubbed(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "",
        "expected 4 values, got 1/2",
        "http://host/a/b and https://x:80/y/z",
        "image/png, and/or, ./x/y, ../z",
        "</div></p>",
        "a / b // c",
        "mask 0xFF, magic 0xCAFE",
        "/tmp",
        "(a+b)/c/d",
    ],
)
def test_everything_else_stays(text):
    assert scrubbed(text) == text


@pytest.mark.parametrize(
    "piece", ["/a", "'/", "/aaaa ", '"/a/b', "0x", "'/a", "file:", "at 0x", "//", "a", "/'\""]
)
def test_long_texts_take_time_in_proportion(piece):
    started = time.perf_counter()
    scrubbed("'" + piece * 200_000)
    assert time.perf_counter() - started < 10  # 0.1 s; what grows with the square takes hours


def test_type_and_text():
    assert type_and_text(ValueError("no /a/b/c")) == "ValueError : no c"
    assert type_and_text(FileNotFoundError(2, "No such file", "/a/b")) == "FileNotFoundError : No such file"
    assert type_and_text(OSError("only /a/b/text")) == "OSError : only text"
    assert type_and_text(OSError(5, 7)) == "OSError : (an exception whose text cannot be read)"

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert type_and_text(Mute()) == "Mute : (an exception whose text cannot be read)"
