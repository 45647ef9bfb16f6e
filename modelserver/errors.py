"""Every failure the server can answer with, one class per cause.

    ModelServerError                500
    +-- InvalidInput                400  the request is wrong; say what was got and what was wanted
    +-- PayloadTooLarge             413  the body passes --max_buffer_size
    +-- UnsupportedMediaType        415  the body has a Content-Encoding or a Content-Type that is not taken
    |   +-- UnknownLabel            400  no available version of the model has that label
    +-- ModelNotFound               404
    |   +-- ServableNotFound        404  the same, in TensorFlow Serving's words
    |   +-- VersionNotFound         404  the model has no such version, or it is not available
    +-- ModelNotReady               503
    +-- ModelOverloaded             503  too many requests wait for the model
    +-- ModelTimeout                504  the model took longer than --timeout
    +-- ServerOverloaded            503  the requests being answered hold --max_in_flight_bytes
    +-- ServerNotReady              503
    +-- ServerNotLive               503
    +-- InferenceError              500  the model failed on a good request
    |   +-- PredictionCountError    500  joined requests got another number of predictions than instances
    +-- UnsupportedProtocol         501
    +-- HookNotImplemented          501  also a NotImplementedError
    +-- ModelLoadError              500  a model could not be loaded; the message ends with the fix
    |   +-- ArchiveError                 the archive could not be unpacked
    |   +-- NoModelReady                 nothing to serve
    +-- StartError                  500  the server itself cannot start (port in use ...)

Nothing but this tree lives here. Names and texts are KServe's where KServe has them. A class knows its
HTTP status; the doors (``rest``, later gRPC) turn an error into an answer, each in one place.
"""

from __future__ import annotations

from collections.abc import Iterable


class ModelServerError(Exception):
    """Root of the server's own errors. ``str(error)`` is what the client reads."""

    status: int = 500
    """HTTP status the error is answered with."""

    retry_after_s: int = 0
    """Seconds after which it is worth trying again, sent as ``Retry-After``; 0: not known."""

    @property
    def reason(self) -> str:
        """The text that the client reads."""
        return str(self)


class InvalidInput(ModelServerError):
    """The request is wrong. Raise it from any hook to answer 400 with your text.

    >>> str(InvalidInput('"instances"[2] has 3 values, expected 4'))
    '"instances"[2] has 3 values, expected 4'
    """

    status = 400


class PayloadTooLarge(ModelServerError):
    """The request body is over the limit; the message names limit, size and flag."""

    status = 413

    def __init__(self, size: int, limit: int, *, counted: bool = False, inflated: bool = False) -> None:
        at_least = "at least " if counted or inflated else ""
        body = "inflated request body" if inflated else "request body"
        super().__init__(
            f"The {body} has {at_least}{size} bytes and the limit is {limit}. "
            f"Raise it with --max_buffer_size (bytes)."
        )


class UnsupportedMediaType(ModelServerError):
    """The request body is coded in a way, or of a type, that is not taken."""

    status = 415


class ModelNotFound(ModelServerError):
    """No model of that name is registered."""

    status = 404

    def __init__(self, model_name: str) -> None:
        super().__init__(f"Model with name {model_name} does not exist.")
        self.model_name = model_name


class ServableNotFound(ModelNotFound):
    """A call of TensorFlow Serving's names a model or version that is not there; the text is its own."""

    def __init__(self, model_name: str, text: str = "") -> None:
        ModelServerError.__init__(self, text or f"Servable not found for request: Latest({model_name})")
        self.model_name = model_name


class VersionNotFound(ModelNotFound):
    """The model has no such version, or it is not available. The text is TensorFlow Serving's."""

    def __init__(self, model_name: str, version: int) -> None:
        ModelServerError.__init__(self, f"Servable not found for request: Specific({model_name}, {version})")
        self.model_name = model_name


class UnknownLabel(InvalidInput):
    """No available version of the model has that label. The text is TensorFlow Serving's."""

    def __init__(self, label: str) -> None:
        super().__init__(f"Unrecognized servable version label: {label}")


class ModelNotReady(ModelServerError):
    """The model is registered but not loaded (yet)."""

    status = 503

    def __init__(self, model_name: str, detail: str | None = None) -> None:
        text = f"Model with name {model_name} is not ready."
        super().__init__(f"{text} {detail}" if detail else text)
        self.model_name = model_name


class ModelOverloaded(ModelServerError):
    """More requests wait for the model than ``--max_queue_size``, or than it could answer in ``--timeout``.

    Args:
        waiting: how many.
        retry_after_s: seconds after which the queue should be empty; sent as ``Retry-After``.
    """

    status = 503

    def __init__(self, waiting: int, retry_after_s: int = 1) -> None:
        super().__init__(
            f"{waiting} requests wait for the model already. Try again in {retry_after_s} seconds."
        )
        self.retry_after_s = retry_after_s


class ModelTimeout(ModelServerError):
    """The model did not answer in time. What still waited for it was dropped."""

    status = 504

    def __init__(self, model_name: str, timeout_s: float) -> None:
        super().__init__(f"Model {model_name} did not answer within {timeout_s:g} s (--timeout).")


class ServerOverloaded(ModelServerError):
    """The bodies of the requests that are being read and answered hold all the memory that they may.

    Args:
        held: bytes.
        limit: ``--max_in_flight_bytes``, or ``--max_buffer_size`` if that is more.
    """

    status = 503
    retry_after_s = 1

    def __init__(self, held: int, limit: int) -> None:
        super().__init__(
            f"The requests in flight hold {held} bytes and the limit is {limit}. Try again in a second, or "
            f"raise it with --max_in_flight_bytes (bytes)."
        )


class ServerNotReady(ModelServerError):
    """The server does not take requests: it is starting or draining."""

    status = 503

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(f"Server is not ready. {detail}" if detail else "Server is not ready.")


class ServerNotLive(ModelServerError):
    """The server is not alive."""

    status = 503

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(f"Server is not live. {detail}" if detail else "Server is not live.")


class InferenceError(ModelServerError):
    """The model failed on a request that is right.

    Args:
        reason: what the client reads.
        status: kept for KServe's signature; a text that is added to the message.
        debug_details: kept for KServe's signature; never sent to a client.
    """

    status = 500

    def __init__(self, reason: str, status: str | None = None, debug_details: str | None = None) -> None:
        super().__init__(f"{reason}, '{status}'" if status else reason)
        self.debug_details = debug_details


class PredictionCountError(InferenceError):
    """A call for several requests did not give one prediction for each of their instances."""


class UnsupportedProtocol(ModelServerError):
    """The protocol is not one that the model speaks."""

    status = 501

    def __init__(self, protocol_version: str | None = None) -> None:
        super().__init__(f"Unsupported protocol {protocol_version}.")


class HookNotImplemented(ModelServerError, NotImplementedError):
    """The model has no such hook: no ``predict``, or no ``explain``."""

    status = 501


class ModelLoadError(ModelServerError):
    """A model could not be loaded: what was found, what was expected, and the command that fixes it."""


class ArchiveError(ModelLoadError):
    """The archive is corrupt, hostile or over a limit. Nothing of it was left on the disk."""


class NoModelReady(ModelLoadError):
    """After loading, no model can serve."""

    def __init__(self, model_names: Iterable[str] = ()) -> None:
        names = ", ".join(model_names)
        super().__init__(
            f"No model is ready: load() of {names} returned, but ready is still False. "
            f"End load() with `self.ready = True` or `return True`."
            if names
            else "No model to serve: give start() at least one model."
        )


class StartError(ModelServerError):
    """The server cannot start; the message names the setting to change."""
