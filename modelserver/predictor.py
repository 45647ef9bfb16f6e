"""What a predictor package gives the command line: a way to tell its models and to make them.

Rules of the room: the description only; no framework and no entry-point look-up (``cli`` does that).
A package registers one under the entry-point group ``modelserver.predictors``:

    [project.entry-points."modelserver.predictors"]
    sklearn = "sklearnserver:predictor"
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modelserver.model import Model


def no_arguments(parser: argparse._ArgumentGroup) -> None:
    """The predictor has no flags of its own."""


@dataclass(frozen=True)
class Predictor:
    """Serves models of one framework from a folder, without user code.

    The object itself must be cheap to import: it is loaded for every ``python -m modelserver``, also to
    look at other frameworks' models. ``build`` may import the framework.
    """

    framework: str
    """Name for people: ``PyTorch``."""

    expects: str
    """One line for error messages: what a folder must hold to be served."""

    detect: Callable[[Path], bool]
    """Look at a folder: is it this predictor's to load? Imports no framework and reads no weights."""

    build: Callable[[str, Path, argparse.Namespace], Model]
    """``build(model_name, model_dir, options)``: a model that is not loaded yet; may import the framework.
    ``options`` holds the parsed values of ``add_arguments``."""

    add_arguments: Callable[[argparse._ArgumentGroup], None] = no_arguments
    """Add the predictor's own flags, such as ``--model_class_name``."""
