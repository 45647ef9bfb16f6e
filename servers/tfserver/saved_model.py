"""A SavedModel in a session: the only module that imports TensorFlow.

Rules of the room: arrays in, arrays out; no JSON. The version 1 session loader is used, with one callable per
signature, for these reasons (TensorFlow 2.21):

- per call, a signature loaded by ``tf.saved_model.load`` costs about 500 us; a callable that runs its
  operations on the calling thread (``inter_op_thread_pool = -1``) costs 3 us, kernels aside;
- ``tf.saved_model.load`` refuses reference variables and many Keras 2 exports; the session needs only graph,
  variables and signatures, as TensorFlow Serving does;
- the callable feeds any shape: TensorFlow Serving does not check shapes against the signature either;
- each model has its own graph and session, and no eager context is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from logging import LogRecord
from pathlib import Path
from typing import Any

import numpy as np

from modelserver import ModelLoadError
from tfserver.graph_errors import GraphError, first_line, public_error
from tfserver.side_effects import signatures_with_side_effects
from tfserver.signature import Signature, TensorSpec, dtype_named

# Before TensorFlow's import, and unless the user has set it: its C++ start-up notices. A few lines from
# before its log is set up remain; only TF_ENABLE_ONEDNN_OPTS=0 silences those, and that changes the numbers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

_INIT_OP = "__saved_model_init_op"
_ON_CALLING_THREAD = -1
_INCOMPLETE = (tf.errors.NotFoundError, tf.errors.DataLossError, tf.errors.OutOfRangeError)


class SavedModel:
    """A loaded SavedModel.

    Attributes:
        signatures: the signatures that can be called, by name.
        unusable: the others, with the reason.
    """

    def __init__(self, folder: Path, tags: Sequence[str], intra_op_threads: int = 0) -> None:
        """Load graph and variables of the graph with exactly these tags.

        Args:
            folder: holds ``saved_model.pb``.
            tags: of the graph.
            intra_op_threads: threads that operators of this process share; counts in its first session only.
                0: TF_NUM_INTRAOP_THREADS, or all cores.

        Raises:
            ModelLoadError: no such graph, no signature to serve, variables missing, a corrupt file.
        """
        self.signatures: dict[str, Signature] = {}
        self.unusable: dict[str, str] = {}
        self._callables: dict[str, Any] = {}
        self._closed = False
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(
            graph=self._graph,
            config=tf.compat.v1.ConfigProto(
                intra_op_parallelism_threads=intra_op_threads,
                allow_soft_placement=True,  # a graph exported on a GPU machine may name its devices
                gpu_options=tf.compat.v1.GPUOptions(allow_growth=True),  # workers share one GPU
            ),
        )
        try:
            meta_graph = _load(self._session, folder, tags)
            self._add_signatures(meta_graph)
        except BaseException:
            self.close()
            raise
        self._with_side_effects = signatures_with_side_effects(meta_graph.graph_def, self.signatures.values())

    def run(self, signature: Signature, feeds: Sequence[np.ndarray]) -> list[Any]:
        """Run a signature once. May be called from several threads.

        Args:
            signature: one of ``signatures``.
            feeds: arrays in the order of ``signature.inputs``, of any shape: only the operations of the graph
                may complain.

        Returns:
            One array per output, in order; a numpy scalar or ``bytes`` for rank 0.

        Raises:
            InvalidInput: the graph refused these values, in TensorFlow's words.
            InferenceError, GraphError: it failed for another reason.
        """
        try:
            outputs: list[Any] = self._callables[signature.name](*feeds)
        except tf.errors.OpError as error:
            if self._closed:
                raise GraphError("The model is being unloaded.", status=503) from error
            raise public_error(error.error_code, error.message, signature, feeds) from error
        return outputs

    def has_side_effects(self, signature: Signature) -> bool:
        """Whether a call changes variables, tables or files, so that none must be made up."""
        return signature.name in self._with_side_effects

    def close(self) -> None:
        """Give the session's memory back. Runs after this fail."""
        self._closed = True
        self._session.close()

    def _add_signatures(self, meta_graph: Any) -> None:
        for name, definition in sorted(meta_graph.signature_def.items()):
            if name == _INIT_OP:
                continue
            try:
                signature = _signature(name, definition)
                self._callables[name] = self._make_callable(signature)
                self.signatures[name] = signature
            except (tf.errors.OpError, KeyError, ValueError) as error:
                self.unusable[name] = first_line(getattr(error, "message", str(error)))
        if any(signature.inputs for signature in self.signatures.values()):
            return
        present = [f'"{name}" has no inputs' for name in self.signatures]
        present += [f'"{name}": {reason}' for name, reason in self.unusable.items()]
        raise ModelLoadError(
            f"The SavedModel has no signature to serve ({'; '.join(present) or 'there is none at all'}). "
            "Export it with one: model.export(path) in Keras, or tf.saved_model.save(module, path, "
            "signatures={'serving_default': module.function})."
        )

    def _make_callable(self, signature: Signature) -> Any:
        options = config_pb2.CallableOptions()
        options.feed.extend(spec.tensor_name for spec in signature.inputs)
        options.fetch.extend(self._fetch_name(spec, options.feed) for spec in signature.outputs)
        options.run_options.inter_op_thread_pool = _ON_CALLING_THREAD
        # Private, and the only way: the public `make_callable` refuses shapes other than the graph's.
        return self._session._make_callable_from_options(options)

    def _fetch_name(self, spec: TensorSpec, fed: Sequence[str]) -> str:
        """The tensor to fetch: a copy of one that is fed, which a session refuses to fetch itself."""
        if spec.tensor_name not in fed:
            return spec.tensor_name
        with self._graph.as_default():
            copy = tf.identity(self._graph.get_tensor_by_name(spec.tensor_name), name="fed_and_fetched")
        return str(copy.name)


def graphs(folder: Path) -> Iterator[tuple[Any, list[Signature]]]:
    """Each graph of a SavedModel with the signatures that can be read, without a session.

    Raises:
        OSError, IndexError: there is none, or the file is damaged.
    """
    for meta_graph in tf.__internal__.saved_model.parse_saved_model(str(folder)).meta_graphs:
        signatures = []
        for name, definition in meta_graph.signature_def.items():
            with suppress(ValueError):
                signatures.append(_signature(name, definition))
        yield meta_graph.graph_def, signatures


def _load(session: Any, folder: Path, tags: Sequence[str]) -> Any:
    """Load into the session; returns the ``MetaGraphDef``."""
    try:
        with _without_deprecation_notice():
            return tf.compat.v1.saved_model.loader.load(session, list(tags), str(folder))
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ModelLoadError(_why_not_loaded(error, folder, tags)) from error


def _why_not_loaded(error: Exception, folder: Path, tags: Sequence[str]) -> str:
    message = str(getattr(error, "message", error))
    if isinstance(error, RuntimeError) and (present := _tag_sets(folder)) and _tag_set(tags) not in present:
        listed = ", ".join(f'"{tag_set}"' for tag_set in present)
        return (
            f'The SavedModel has no graph tagged "{",".join(tags)}"; it has: {listed}. '
            "Choose one with --saved_model_tags TAG[,TAG]."
        )
    unknown = re.search(r"Op type not registered '([^']*)'", message)
    if unknown:
        return (
            f"The SavedModel needs the operation {unknown[1]}, which TensorFlow {tf.__version__} does not "
            "have. Serve it with the TensorFlow that exported it, or export it without custom operations."
        )
    text = first_line(message).replace(f"{folder}/", "").rstrip(".")
    if isinstance(error, _INCOMPLETE) or "checkpoint" in message:
        hint = "The export is incomplete: copy the whole SavedModel folder, variables/ and assets/ too."
    else:
        hint = "Is saved_model.pb complete, and was it exported by this or an older TensorFlow?"
    return f"TensorFlow cannot load the SavedModel: {text} ({type(error).__name__}). {hint}"


@contextmanager
def _without_deprecation_notice() -> Iterator[None]:
    """Keep TensorFlow from telling every user that this loader is deprecated (why it is used: see above)."""

    def keep(record: LogRecord) -> bool:
        return "loader_impl) is deprecated" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _tag_sets(folder: Path) -> list[str]:
    saved_model = tf.__internal__.saved_model.parse_saved_model(str(folder))
    return [_tag_set(graph.meta_info_def.tags) for graph in saved_model.meta_graphs]


def _tag_set(tags: Iterable[str]) -> str:
    return ",".join(sorted(tags))


def _signature(name: str, definition: Any) -> Signature:
    if not definition.outputs:
        raise ValueError("it has no outputs")
    return Signature(name, _specs(definition.inputs), _specs(definition.outputs))


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for name, info in sorted(tensors.items()):
        if info.WhichOneof("encoding") != "name":
            raise ValueError(f'"{name}" is a sparse or composite tensor, which JSON cannot carry')
        shape = info.tensor_shape
        sizes = None if shape.unknown_rank else tuple(int(dimension.size) for dimension in shape.dim)
        specs.append(TensorSpec(name, info.name, dtype_named(_type_name(info.dtype)), sizes))
    return tuple(specs)


def _type_name(number: int) -> str:
    """TensorFlow's name of a dtype in messages: ``float`` where Python says ``float32``."""
    try:
        name: str = tf.as_dtype(number).base_dtype.name
    except TypeError:
        return "invalid"
    return {"float32": "float", "float64": "double", "float16": "half"}.get(name, name)
