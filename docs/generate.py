"""Writes the pages of ``docs/`` that are made from the code: ``make docs``.

``settings.md`` comes from ``modelserver.settings.Settings``, ``cli.md`` from the parsers of the command line.
``tests/docs/test_generated.py`` compares both with what this makes.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytorchserver
import tfserver
from modelserver import cli, model_server
from modelserver.settings import Settings, environment_names, flags, shown_default

DOCS = Path(__file__).resolve().parent
WIDTH = 80

_NOTICE = "<!-- Written by docs/generate.py from {source}: change that, then run `make docs`. -->"

_SETTINGS = """\
# Settings

{notice}

Every setting can be given in three ways. The first that is there counts:

1. as an argument: `modelserver.ModelServer(http_port=8081)`
2. as a flag of the program: `python -m modelserver iris.tgz --http_port 8081`, and likewise for a script of
   your own, `python model.py --http_port 8081`, because `ModelServer()` reads the program's flags
3. in the environment: `MODELSERVER_HTTP_PORT=8081`, or `PORT=8081`

A value out of its range is refused at the start, by the name of its flag or variable.

| setting | flag and environment | default | range | meaning |
|---|---|---|---|---|
{rows}

- A boolean is `true`, `t`, `yes`, `y`, `on` or `1`, or one of their opposites, in any case.
- An environment variable that is empty, or holds an address (`tcp://10.0.0.1:80`, which Kubernetes sets for a
  service that is called `modelserver-http`), counts as not set.
- Where two variables are named, the first beats the second.
- The flags that choose and unpack a model (`--model_name`, `--device`, `--max_unpacked_bytes` ...) belong to
  the commands and are in [cli.md](cli.md).

## In a script with flags of its own

`ModelServer()` leaves flags alone that it does not know. To have one parser for both, and one `--help`, take
`modelserver.parser` (or `modelserver.model_server.parser`, as in KServe) as a parent:

```python
# with_flags.py
import argparse

import modelserver

parser = argparse.ArgumentParser(parents=[modelserver.parser])
parser.add_argument("--model_name", default="echo")


class Echo(modelserver.Model):
    def predict(self, payload):
        return {{"predictions": payload["instances"]}}


if __name__ == "__main__":
    options = parser.parse_args()
    modelserver.ModelServer().start([Echo(options.model_name)])
```

## Arguments of KServe that do nothing yet

`ModelServer` takes these arguments, so that a program written for KServe starts. It names those that are
given in a warning, and they have no effect:

{ignored}.
"""

_CLI = """\
# The command line

{notice}

`python -m modelserver` has three commands; without one it is `serve`. `modelserver`, the program that `pip`
installs, is the same. `python -m pytorchserver` and `python -m tfserver` are `serve` for one framework only.

Exit status: 0 done, 1 failed (the last line says why), 2 wrong usage.

## serve

Serve one or more models until SIGTERM or Ctrl-C. What a model is: [packaging.md](packaging.md). What the
flags of the server do, and their environment variables: [settings.md](settings.md).

```text
{serve}
```

## check

Load a model and let it answer one request, without a server.

```text
{check}
```

## pack

Make an archive that the server will take. More on it: [packaging.md](packaging.md#let-the-server-pack-it).

```text
{pack}
```
"""


def pages() -> Mapping[str, str]:
    """The generated pages, by file name."""
    return {"settings.md": settings_page(), "cli.md": cli_page()}


def settings_page() -> str:
    """``settings.md``: one row for each field of ``Settings``."""
    ignored = ", ".join(f"`{name}`" for name in sorted(model_server.KSERVE_ONLY))
    return _SETTINGS.format(
        notice=_NOTICE.format(source="modelserver/settings.py"),
        rows="\n".join(map(_row, fields(Settings))),
        ignored=textwrap.fill(ignored, 110),
    )


def _row(spec: Field[Any]) -> str:
    names = "<br>".join(f"`{name}`" for name in (*flags(spec), *environment_names(spec)))
    meaning = spec.metadata["help"].replace("|", r"\|")
    return f"| `{spec.name}` | {names} | `{shown_default(spec.default)}` | {_range(spec)} | {meaning} |"


def _range(spec: Field[Any]) -> str:
    if spec.metadata["choices"] is not None:
        return " or ".join(f"`{choice}`" for choice in spec.metadata["choices"])
    kind = {"int": "integer", "float": "number", "str": "text", "bool": "boolean"}[str(spec.type)]
    minimum, maximum = spec.metadata["minimum"], spec.metadata["maximum"]
    if minimum is None:
        return kind
    return f"{kind}, at least {minimum}" if maximum is None else f"{kind}, {minimum} to {maximum}"


def cli_page() -> str:
    """``cli.md``: the ``--help`` of each command, with the flags of the two built-in predictors."""
    predictors = [pytorchserver.predictor, tfserver.predictor]
    return _CLI.format(
        notice=_NOTICE.format(source="the parsers in modelserver/cli.py"),
        serve=_help(cli.serve_parser(predictors)),
        check=_help(cli.check_parser(predictors)),
        pack=_help(cli.pack_parser()),
    )


class _Formatter(argparse.HelpFormatter):
    """``--help`` as Python 3.11 prints it on a terminal of 80 columns: 3.13 writes ``-o, --output FILE``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH - 2)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, action.dest.upper())
        return ", ".join(f"{option} {value}" for option in action.option_strings)


def _help(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = _Formatter
    return parser.format_help().rstrip()


def main() -> None:
    """Write the pages that are not up to date."""
    os.environ["NO_COLOR"] = "1"
    for name, text in pages().items():
        page = DOCS / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
