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

import ctypes
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from logging import LogRecord
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from modelserver import ModelLoadError
from tfserver.batching import BatchRules, can_be_batched
from tfserver.graph_errors import GraphError, first_line, public_error
from tfserver.metadata import definition_as_json
from tfserver.options import SessionOptions
from tfserver.side_effects import signatures_with_side_effects, takes_any_time
from tfserver.signature import DType, Family, Signature, TensorSpec, dtype_named

# Before TensorFlow's import, and unless the user has set it: its C++ start-up notices. A few lines from
# before its log is set up remain; only TF_ENABLE_ONEDNN_OPTS=0 silences those, and that changes the numbers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# oneDNN's own pool would keep what an unloaded model had for the next one: see `_keep_free_blocks`.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

_INIT_OP = "__saved_model_init_op"
_SHARED, _ON_CALLING_THREAD = 0, -1
_DEPRECATED = ("loader_impl", "tf_record")
"""The modules of the two functions that TensorFlow 2 has under ``tf.compat.v1`` only."""
_MOST_CHOICES = 32
"""Choices of outputs that are kept ready; a request may name any."""
_UNLOADED = "The model is being unloaded."
Example = tf.train.Example
_INCOMPLETE = (tf.errors.NotFoundError, tf.errors.DataLossError, tf.errors.OutOfRangeError)


def _keep_free_blocks() -> None:
    """Without a pool, malloc must not give large blocks back to the system at every call.

    Measured, MobileNetV2, CPU for one picture and for 16: the pool 20 and 265 ms, without it 25 and 330, with
    these settings 20 and 270. What an unloaded model had goes back by ``malloc_trim``, which leaves alone
    what is free at the end of other threads' arenas: hence one arena for all.
    """
    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_FREE_BYTES)


_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MOST_FREE_BYTES = 512 * 1024 * 1024
_keep_free_blocks()


class SavedModel:
    """A loaded SavedModel.

    Attributes:
        signatures: the signatures that can be called, by name.
        unusable: the others, with the reason.
        takes_any_time: the time of a call may depend on its values: the graph has a loop, or waits for files.
        definitions: all signatures as they were exported, as protocol buffers' JSON.
        batched: the names of those that the batch rules hold for.
    """

    def __init__(
        self,
        folder: Path,
        tags: Sequence[str],
        options: SessionOptions | None = None,
        batch_rules: BatchRules | None = None,
    ) -> None:
        """Load graph and variables of the graph with exactly these tags.

        Args:
            folder: holds ``saved_model.pb``.
            tags: of the graph.
            options: counts in the first session of the process only. 0 threads: TF_NUM_INTRAOP_THREADS, or
                all cores.
            batch_rules: hold for the signatures that can be batched.

        Raises:
            ModelLoadError: no such graph, no signature to serve, variables missing, a corrupt file.
        """
        self.signatures: dict[str, Signature] = {}
        self.unusable: dict[str, str] = {}
        self.definitions: dict[str, Any] = {}
        self.batched: frozenset[str] = frozenset()
        self._callables: dict[str, Any] = {}
        self._of_some_outputs: dict[tuple[str, ...], Any] = {}
        self._batch_rules = batch_rules
        self._lock = Lock()
        self._closed = False
        options = options or SessionOptions()
        # Operators that run on the calling thread cost a call 25 us less (measured), and never overlap.
        self._inter_op_pool = _SHARED if options.inter_op_threads > 1 else _ON_CALLING_THREAD
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(
            graph=self._graph,
            config=tf.compat.v1.ConfigProto(
                intra_op_parallelism_threads=options.intra_op_threads,
                inter_op_parallelism_threads=options.inter_op_threads,
                allow_soft_placement=True,  # a graph exported on a GPU machine may name its devices
                gpu_options=tf.compat.v1.GPUOptions(
                    allow_growth=True,  # workers share one GPU
                    per_process_gpu_memory_fraction=options.gpu_memory_fraction,
                ),
            ),
        )
        try:
            meta_graph = _load(self._session, folder, tags)
            self._add_signatures(meta_graph)
        except BaseException:
            self.close()
            raise
        graph_def, signatures = meta_graph.graph_def, self.signatures.values()
        self._with_side_effects = signatures_with_side_effects(graph_def, signatures)
        self.takes_any_time = takes_any_time(graph_def, signatures)
        if batch_rules is not None:
            self._apply(batch_rules)

    def run(
        self, signature: Signature, feeds: Sequence[np.ndarray], wanted: tuple[str, ...] = ()
    ) -> list[Any]:
        """Run a signature once. May be called from several threads.

        Args:
            signature: one of ``signatures``.
            feeds: arrays in the order of ``signature.inputs``, of any shape: only the operations of the graph
                may complain.
            wanted: the names of the outputs to fetch; default: all. What only others need is not computed.

        Returns:
            One array per output, in order; a numpy scalar or ``bytes`` for rank 0.

        Raises:
            InvalidInput: the graph refused these values, in TensorFlow's words.
            InferenceError, GraphError: it failed for another reason.
        """
        try:
            call = self._of_some(signature, wanted) if wanted else self._callables[signature.name]
            outputs: list[Any] = call(*feeds)
        except KeyError as error:  # closed meanwhile
            raise GraphError(_UNLOADED, status=503) from error
        except tf.errors.OpError as error:
            if self._closed:
                raise GraphError(_UNLOADED, status=503) from error
            raise public_error(error.error_code, error.message, signature, feeds) from error
        return outputs

    def has_side_effects(self, signature: Signature) -> bool:
        """Whether a call changes variables, tables or files, so that none must be made up."""
        return signature.name in self._with_side_effects

    def close(self) -> None:
        """Give the session's memory back, as soon as the last run has ended. Runs after this fail."""
        self._closed = True
        self._session.close()
        with self._lock:
            # They hold the session, which holds the variables. The graph has cycles, and may hold weights.
            self._callables.clear()
            self._of_some_outputs.clear()
            self._session = self._graph = None

    def _of_some(self, signature: Signature, wanted: tuple[str, ...]) -> Any:
        """What calls a signature for some of its outputs."""
        if wanted == tuple(spec.name for spec in signature.outputs):
            return self._callables[signature.name]
        key = (signature.name, *wanted)
        call = self._of_some_outputs.get(key)
        if call is None:
            with self._lock:
                if self._session is None:
                    raise KeyError(signature.name)
                outputs = {spec.name: spec for spec in signature.outputs}
                part = replace(signature, outputs=tuple(outputs[name] for name in wanted))
                call = self._make_callable(part)
                if self._batch_rules is not None and signature.name in self.batched:
                    call = partial(self._batch_rules.run, call, part)
                if len(self._of_some_outputs) >= _MOST_CHOICES:
                    self._of_some_outputs.pop(next(iter(self._of_some_outputs)))
                self._of_some_outputs[key] = call
        return call

    def _apply(self, rules: BatchRules) -> None:
        """Put the rules around the signatures whose runs may have more or fewer rows than a request has."""
        self.batched = frozenset(
            name
            for name, signature in self.signatures.items()
            if can_be_batched(signature) and not self.has_side_effects(signature)
        )
        for name in self.batched:
            self._callables[name] = partial(rules.run, self._callables[name], self.signatures[name])

    def _add_signatures(self, meta_graph: Any) -> None:
        for name, definition in sorted(meta_graph.signature_def.items()):
            self.definitions[name] = definition_as_json(definition)
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
        options.run_options.inter_op_thread_pool = self._inter_op_pool
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


def records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file; their checksums are looked at.

    Raises:
        ModelLoadError: the file is damaged, or none; raised when what is wrong is reached.
    """
    try:
        with _without_deprecation_notice():
            found = tf.compat.v1.io.tf_record_iterator(str(path))
        yield from found
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        raise ModelLoadError(
            f"{path.name} is damaged, or no TFRecord file: {first_line(error.message)}. Write it with "
            "tf.io.TFRecordWriter, without compression."
        ) from error


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
    """Keep TensorFlow from telling every user that what we call is deprecated (why it is used: see above)."""

    def keep(record: LogRecord) -> bool:
        return not any(f"{name}) is deprecated" in record.getMessage() for name in _DEPRECATED)

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
    defaults = {key: tf.make_ndarray(value) for key, value in definition.defaults.items()}
    inputs, outputs = _specs(definition.inputs), _specs(definition.outputs)
    return Signature(name, inputs, outputs, definition.method_name, defaults)


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for name, info in sorted(tensors.items()):
        if info.WhichOneof("encoding") != "name":
            raise ValueError(f'"{name}" is a sparse or composite tensor, which JSON cannot carry')
        shape = info.tensor_shape
        sizes = None if shape.unknown_rank else tuple(int(dimension.size) for dimension in shape.dim)
        specs.append(TensorSpec(name, info.name, _dtype(info.dtype), sizes))
    return tuple(specs)


def _dtype(number: int) -> DType:
    dtype = dtype_named(_type_name(number))
    if dtype.family is not Family.NONE:
        return dtype
    with suppress(TypeError):  # without a numpy dtype: a resource
        return replace(dtype, numpy=np.dtype(tf.as_dtype(number).as_numpy_dtype))
    return dtype


def _type_name(number: int) -> str:
    """TensorFlow's name of a dtype in messages: ``float`` where Python says ``float32``."""
    try:
        name: str = tf.as_dtype(number).base_dtype.name
    except TypeError:
        return "invalid"
    return {"float32": "float", "float64": "double", "float16": "half"}.get(name, name)
