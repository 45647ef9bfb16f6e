"""``Model``: the hooks a user writes, and the one method that runs them in order.

Rules of the room: no tornado, no wire format, no thread. How hooks are called is worked out once per model,
in ``hooks``. A model that no server has taken runs its hooks in place, so
``asyncio.run(model({"instances": [...]}))`` is a complete unit test.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, cast

from modelserver import streams
from modelserver.errors import HookNotImplemented, InferenceError, InvalidInput
from modelserver.hooks import (
    IN_PLACE,
    Headers,
    Hook,
    HookRunner,
    MayJoin,
    Plan,
    ResponseHeaders,
    Step,
    Walk,
    is_async,
)
from modelserver.protocols import v1_rows
from modelserver.signatures import known_inputs_and_outputs, signature_definition

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class ModelType(Enum):
    """What a request asks of the model."""

    EXPLAINER = 1
    PREDICTOR = 2
    CLASSIFIER = 3
    REGRESSOR = 4

    @property
    def verb(self) -> str:
        """The word in the URL, and the name of the hook."""
        return _VERBS[self]


_VERBS = {
    ModelType.EXPLAINER: "explain",
    ModelType.PREDICTOR: "predict",
    ModelType.CLASSIFIER: "classify",
    ModelType.REGRESSOR: "regress",
}


class Model:
    """A model behind a name. Subclass it and write the hooks you need.

    Per request the server runs ``preprocess -> validate -> predict | explain -> postprocess``. Each hook may
    be ``def`` or ``async def``. A plain ``def`` runs on the model's own thread, so it may take its time
    without stopping the server; ``async def`` runs on the event loop and must not block it.

    Each hook takes what its signature names: ``(payload)``, ``(payload, headers)`` or
    ``(payload, headers, response_headers)``. ``headers`` are the request's, with lower-case names; what a
    hook puts into ``response_headers`` goes out with the answer.

    Args:
        name: the name in the URL: ``/v1/models/NAME:predict``. Any text without ``/``.
        return_response_headers: accepted for KServe 0.21 code and not needed: the signature decides.

    >>> import asyncio
    >>> class Doubler(Model):
    ...     def predict(self, payload):
    ...         return {"predictions": [2 * row for row in payload["instances"]]}
    >>> asyncio.run(Doubler("doubler")({"instances": [1, 2]}))
    {'predictions': [2, 4]}
    """

    platform: str = ""
    """What runs the model, in V2's words: ``pytorch_torchscript``, ``tensorflow_savedmodel``."""

    never_waits: bool = False
    """Set it to ``True`` for a model whose synchronous hooks only compute: no sleep, no file, no network, no
    lock. Calls that have proven to take under a millisecond then run on the event loop, which saves the hop
    to the model's thread; one slow call ends that. The built-in predictors do so."""

    max_batch_size: int = 0
    """Most instances for one call of ``predict``. Above 1, requests that wait for the model at the same time
    are joined: ``predict(payload)`` gets the instances of several and must return one prediction for each.
    Only for a plain ``def predict`` that takes the payload alone: headers belong to one request."""

    max_latency_ms: float = 0
    """With ``max_batch_size``: how long, in milliseconds, a request may wait for others while the model is
    idle. 0, the default: requests share a call if they wait anyway, and nobody waits for company."""

    may_join: MayJoin | None = None
    """With ``max_batch_size``: says of a request whether it may share a call, with others that look like it.
    ``None``, the default: any may that has ``instances``, or is an ``InferRequest`` (whose inputs then have
    one row for each instance), and no ``TensorRequest``."""

    instances_dtype: DTypeLike | None = None
    """Set it to a numpy dtype or its name (``"float32"``) for a model whose instances are rows of numbers:
    ``payload["instances"]`` is then one ``ndarray`` of it, shape ``(rows, ...)``, and anything else is
    refused with 400. ``"number"``: int64 if all are written as integers, else float32. A large body becomes
    an array as it is read, several times as fast as by way of lists; any other one does in the default
    ``validate``, so ``preprocess`` and a ``validate`` of your own get either."""

    json_rules: Literal["kserve", "tensorflow_serving"] = "kserve"
    """Whose rules a V1 body follows. ``"tensorflow_serving"``: a body is JSON whatever its Content-Type, and
    ``NaN`` and ``Infinity`` are read and written as such (``protocols.tfs_json``). ``"kserve"``: they are
    refused in a request, and ``null`` in an answer."""

    takes_tensors: bool = False
    """Whether ``predict`` takes a ``TensorRequest``, which gRPC requests are, and answers with a
    ``TensorResponse``. Else such a request comes as a V1 body, ``{"instances": array}``."""

    replacement: Callable[[], Model] | None = None
    """Makes another model of the same name from the same files, not loaded yet. An administrator's order to
    load the model again then loads that one, while this one answers; ``None``: ``load`` is called again."""

    version: int | None = None
    """The number of the version that this is, where the model comes from a folder of versions."""

    warm_up_s: float | None = None
    """Seconds that the last ``load`` spent on answering requests of its own, for the metrics; ``None``: it
    answered none."""

    def __init__(self, name: str, return_response_headers: bool = False) -> None:
        self.name = name
        self.ready = False
        self.protocol = "v1"
        self.predictor_host: str | None = None
        self.explainer_host: str | None = None

    # -- hooks (`*args, **kwargs` lets a subclass take one, two or three arguments, for type checkers too)

    def load(self) -> bool | None | Awaitable[bool | None]:
        """Load the model into memory. Set ``self.ready = True`` or return ``True`` when it can predict.

        Call it yourself before ``ModelServer.start``, or leave it: the server loads a model that is not
        ready inside each worker, and answers 503 for it until then.
        """
        self.ready = True
        return True

    def preprocess(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        """Turn the request into what ``predict`` wants. Default: unchanged.

        Args:
            payload: ``dict`` for a JSON body, ``bytes`` for any other content type.
            *args: ``headers``, ``response_headers``, for a hook whose signature takes them.
            **kwargs: the same, for a hook that takes them by keyword only.

        >>> class Scaled(Model):
        ...     def preprocess(self, payload):
        ...         return {"instances": [row / 255 for row in payload["instances"]]}
        """
        return payload

    def validate(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuse a bad request by raising ``InvalidInput`` (400).

        Default: ``instances`` must be a list (or, from an ``.npy`` body, an array), and with
        ``instances_dtype`` must be there and becomes an array of that dtype.

        >>> class Short(Model):
        ...     def validate(self, payload):
        ...         if len(payload["instances"]) > 100:
        ...             raise InvalidInput("at most 100 instances in one request")
        ...         return payload
        """
        if not isinstance(payload, dict):
            return payload
        if "instances" not in payload:
            if self.instances_dtype is not None:
                raise InvalidInput('Expected "instances", a list of rows')
            return payload
        rows = payload["instances"]
        if not (isinstance(rows, list) or v1_rows.is_array(rows)):
            raise InvalidInput('Expected "instances" to be a list')
        if self.instances_dtype is None:
            return payload
        from modelserver.tensors import array_from_json  # and with it numpy

        return {**payload, "instances": array_from_json(rows, self.instances_dtype)}

    def predict(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer the request. Default: 501.

        Returns:
            ``dict`` or ``list`` (sent as JSON; numpy arrays and scalars, datetimes and anything with
            ``tolist()`` may be inside), ``str`` (sent as text) or ``bytes``. With ``yield`` in it, or an
            iterator returned, plain or asynchronous: each item is sent when it is there.

        >>> class Mean(Model):
        ...     def predict(self, payload):
        ...         return {"predictions": [sum(row) / len(row) for row in payload["instances"]]}
        """
        raise HookNotImplemented("Could not find predictor_host.")

    def explain(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        """Explain a prediction; answers ``:explain``. Default: 501.

        >>> class Explained(Model):
        ...     def explain(self, payload):
        ...         return {"explanations": [sorted(row) for row in payload["instances"]]}
        """
        raise HookNotImplemented("Could not find explainer_host.")

    def classify(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer ``:classify``, TensorFlow Serving's verb for ``{"examples": [...]}``. Default: 501.

        Returns:
            ``{"results": [[[label, score], ...], ...]}``.
        """
        raise HookNotImplemented(f"Model {self.name} does not classify examples: call :predict.")

    def regress(self, payload: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer ``:regress``, TensorFlow Serving's verb for ``{"examples": [...]}``. Default: 501.

        Returns:
            ``{"results": [value, ...]}``.
        """
        raise HookNotImplemented(f"Model {self.name} has no regression for examples: call :predict.")

    def postprocess(self, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Turn the prediction into the answer. Default: unchanged.

        >>> class Labelled(Model):
        ...     def postprocess(self, response):
        ...         return {"predictions": ["yes" if p > 0.5 else "no" for p in response["predictions"]]}
        """
        return response

    def stop(self) -> Any:
        """Give back what ``load`` took. Called when the server ends and when the model is unloaded."""

    def healthy(self) -> bool | Awaitable[bool]:
        """Whether the model can take requests now. Default: ``self.ready``."""
        return self.ready

    # -- what the model says of itself

    def get_input_types(self) -> Sequence[Mapping[str, Any]]:
        """The inputs, as ``{"name": str, "datatype": str, "shape": list[int]}`` (-1: any size)."""
        return []

    def get_output_types(self) -> Sequence[Mapping[str, Any]]:
        """The outputs, described as the inputs are."""
        return []

    def signature_definitions(self) -> Mapping[str, Any]:
        """The signatures, as TensorFlow Serving's ``/metadata`` shows them: ``{name: SignatureDef}``, in the
        JSON form of protocol buffers.

        Default: one, ``serving_default``, made of ``get_input_types`` and ``get_output_types``.
        """
        inputs, outputs = known_inputs_and_outputs(self)
        return {"serving_default": signature_definition(inputs, outputs)} if inputs or outputs else {}

    def example_request(self) -> dict[str, Any] | None:
        """A V1 request body that the loaded model can answer, for the curl line shown at start-up.

        Default: ``None``, not known.
        """
        return None

    # -- the walk

    async def __call__(
        self,
        body: Any,
        model_type: ModelType = ModelType.PREDICTOR,
        headers: Headers | None = None,
        response_headers: ResponseHeaders | None = None,
    ) -> Any:
        """Run the hooks in order on one request and return the answer.

        Consecutive synchronous hooks share one hop to the model's thread.

        Raises:
            Exception: whatever a hook raises, unchanged. ``SystemExit`` and ``KeyboardInterrupt`` from a
                hook become ``InferenceError``: a request cannot end the server.
        """
        answer = self.begin(body, model_type, headers, response_headers)
        return await answer if hasattr(answer, "__await__") else answer

    def begin(
        self,
        body: Any,
        model_type: ModelType = ModelType.PREDICTOR,
        headers: Headers | None = None,
        response_headers: ResponseHeaders | None = None,
        size: int = 0,
        request_id: str = "",
    ) -> Any:
        """Run the hooks as far as they go without waiting: what the server calls.

        Args:
            body: the request.
            model_type: predict or explain.
            headers: of the request; not changed.
            response_headers: where hooks put theirs.
            size: bytes of the request; what a call costs grows with it.
            request_id: what hooks get as the header ``x-request-id``.

        Returns:
            The answer, or an awaitable of it: a future, or a coroutine that wants a task of its own.
        """
        if type(self).__call__ is not Model.__call__:  # the user's own walk
            return self(body, model_type, _own_headers(headers, request_id), response_headers)
        plan = self._plan(model_type)
        own_headers = _own_headers(headers, request_id) if plan.takes_headers else {}
        walk = Walk(plan.steps, self._hook_runner, own_headers, response_headers, size)
        try:
            value = walk.go(body, 0)
        except (SystemExit, KeyboardInterrupt) as error:
            raise InferenceError(f"the model called {type(error).__name__}") from error
        if walk.waits_for is None:
            return value
        if walk.position == len(plan.steps) and asyncio.isfuture(walk.waits_for):
            return walk.waits_for
        return walk.rest()

    def stream_items(self, stream: Any) -> AsyncIterable[Any]:
        """An answer that comes piece by piece, as ``begin`` gives it, to be iterated on the event loop.

        Args:
            stream: a generator or another iterator, plain or asynchronous. The steps of a plain one run on
                the model's own thread.
        """
        return streams.steps(stream, self._hook_runner)

    def attach_runner(self, runner: HookRunner) -> None:
        """Run this model's synchronous hooks on ``runner``. The server calls it at registration."""
        self._runner = runner

    async def run_hook(self, hook: Hook) -> Any:
        """Call a hook that takes nothing, ``load`` or ``stop``, where the model's hooks run."""
        result = hook() if is_async(hook) else await self._hook_runner.run(hook)
        return await result if inspect.isawaitable(result) else result

    async def run_load(self) -> bool:
        """Run ``load`` where the model's hooks run, and take its ``True`` for ready.

        Returns:
            Whether the model is ready.
        """
        if await self.run_hook(self.load) is True:
            self.ready = True
        for kept in ("_plans", "_said"):  # worked out from what the model said of itself before
            self.__dict__.pop(kept, None)
        return self.ready

    @property
    def _hook_runner(self) -> HookRunner:
        # Not set in __init__: a subclass that forgets super().__init__() still works.
        return cast(HookRunner, self.__dict__.get("_runner", IN_PLACE))

    def _plan(self, model_type: ModelType) -> Plan:
        plans: dict[ModelType, Plan] = self.__dict__.setdefault("_plans", {})
        plan = plans.get(model_type)
        if plan is None:
            names = ("preprocess", "validate", model_type.verb, "postprocess")
            steps = [self._step(name) for name in names if not self._passes_through(name)]
            plan = plans[model_type] = Plan.of(steps)
        return plan

    def _step(self, name: str) -> Step:
        hook, runner = getattr(self, name), self._hook_runner
        step = Step.of(hook, is_default=getattr(hook, "__module__", None) == __name__)
        if name == "predict" and self.max_batch_size > 1:
            return step.joined(
                runner,
                self.max_batch_size,
                self.max_latency_ms / 1000,
                runner.observer(name),
                self.may_join,
                self.instances_dtype,
            )
        return step.timed(runner.observer(name))

    def _passes_through(self, name: str) -> bool:
        """Whether the hook is the default that returns its argument: nothing to call."""
        own = getattr(getattr(self, name), "__func__", None)
        return own in (Model.preprocess, Model.postprocess)


def _own_headers(headers: Headers | None, request_id: str) -> dict[str, str]:
    """A copy: hooks may change what they get, and requests with equal heads share it."""
    own = dict(headers or {})
    if request_id:
        own["x-request-id"] = request_id
    return own
