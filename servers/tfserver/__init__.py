"""tfserver: serves TensorFlow SavedModels through the library's public names.

This module is what the command line loads to look at every model folder, so it imports no TensorFlow.

    layout        which folder is served: version folders, and what to say when there is none
    signature     what a signature takes and gives, and the dtype table
    feeds         a JSON request -> the arrays to feed
    json_values   one JSON value -> one element
    saved_model   the session: the only module that imports TensorFlow
    cpu_threads   one thread for operators if all models are short
    side_effects  which signatures change something when called
    graph_errors  what TensorFlow says -> what the client reads
    answers       the fetched arrays -> what the answer holds
    model         TensorFlowModel, which joins them

Requests and answers follow TensorFlow Serving's REST contract, so that its clients can be pointed here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelserver import Model, Predictor
from tfserver import layout


def _detect(folder: Path) -> bool:
    return layout.looks_like_saved_model(folder)


def _build(model_name: str, model_dir: Path, options: argparse.Namespace) -> Model:
    from tfserver.model import TensorFlowModel

    return TensorFlowModel(model_name, model_dir, tags=_tags(getattr(options, "saved_model_tags", "serve")))


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


def _add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--saved_model_tags",
        default="serve",
        metavar="TAG[,TAG]",
        help="the graph of the SavedModel to serve, by its tags (default: serve)",
    )


predictor = Predictor(
    framework="TensorFlow",
    expects="a SavedModel: saved_model.pb at the top, or in a folder named by a whole number (0001/)",
    detect=_detect,
    build=_build,
    add_arguments=_add_arguments,
)
"""The entry point ``modelserver.predictors: tensorflow``."""
