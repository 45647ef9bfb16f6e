"""tfserver: serves TensorFlow SavedModels through the library's public names.

This module is what the command line loads to look at every model folder, so it imports no TensorFlow.

    options          the flags, and what they say
    layout           which folder is served: version folders, and what to say when there is none
    signature        what a signature takes and gives, and the dtype table
    feeds            a JSON request -> the arrays to feed
    json_values      one JSON value -> one element
    examples         :classify and :regress: examples -> what is fed, outputs -> results
    tensor_requests  named arrays -> the arrays to feed
    saved_model      the session: the only module that imports TensorFlow
    metadata         signatures as TensorFlow Serving's /metadata shows them
    batching         --enable_batching: how many rows a run may have
    cpu_threads      one thread for operators if all models are short
    side_effects     which signatures change something when called
    graph_errors     what TensorFlow says -> what the client reads
    answers          the fetched arrays -> what the answer holds
    warm_up_records  TensorFlow Serving's warm-up file
    served           one loaded version, and what it answers
    model            TensorFlowModel: loads versions, warms them up and stops them

Requests and answers follow TensorFlow Serving's REST contract, so that its clients can be pointed here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modelserver import Model, Predictor
from tfserver import layout
from tfserver.options import Options, add_arguments


def _detect(folder: Path) -> bool:
    return layout.looks_like_saved_model(folder)


def _build(model_name: str, model_dir: Path, options: argparse.Namespace) -> Model:
    from tfserver.batching import check
    from tfserver.model import TensorFlowModel

    told = Options.of(options)
    if told.batching is not None:
        check(told.batching)
    tags = _tags(getattr(options, "saved_model_tags", "serve"))
    return TensorFlowModel(model_name, model_dir, tags=tags, options=told)


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


predictor = Predictor(
    framework="TensorFlow",
    expects="a SavedModel: saved_model.pb at the top, or in a folder named by a whole number (0001/)",
    detect=_detect,
    build=_build,
    add_arguments=add_arguments,
)
"""The entry point ``modelserver.predictors: tensorflow``."""
