"""``instances`` of a V1 request to the tensors that ``forward`` takes.

Rules of the room: JSON values or an array in, tensors out; calls no network. Named arrays are read in
``tensor_requests``, by the same rules. What dtype numbers become is decided per
input at load (``Rule``) and corrected at most once by what the network says (``Reader.other_rules``), never
by looking at a single request: ``[[1, 2]]`` and ``[[1.0, 2.5]]`` must reach a network as the same dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from modelserver import InvalidInput, array_from_json
from pytorchserver.datatypes import ARRAY_DTYPES, JSON_DTYPES
from pytorchserver.network import Arguments, TensorInfo

_MOST_GUESSED_INPUTS = 4
_SHOWN = 5


@dataclass(frozen=True)
class Rule:
    """What JSON numbers of one input become.

    A rule that is ``certain`` (declared, stated by the file or tried at load) casts everything to ``dtype``
    and refuses what does not fit: fractions for int64. One that is not leaves booleans alone and, with
    ``keep_integers``, lists that hold integers only.
    """

    dtype: torch.dtype
    certain: bool = True
    keep_integers: bool = False


@dataclass(frozen=True)
class Batch:
    """The tensors of one request, by place or by name."""

    rows: int
    """0: the inputs have different numbers of rows, which only named arrays may have."""
    args: tuple[torch.Tensor, ...] = ()
    kwargs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    is_named: bool = False
    """It came as named arrays, and messages say so."""

    def named(self, arguments: Arguments) -> dict[str, torch.Tensor]:
        """All of them by the name that ``forward`` has for them."""
        return {**dict(zip(arguments.names or ("input",), self.args, strict=False)), **self.kwargs}


class Reader:
    """Turns instances into tensors for one network.

    Args:
        arguments: what ``forward`` takes.
        rules: per name of an argument.
        default: the rule of arguments that have none.
        device: where the tensors go.
    """

    def __init__(
        self, arguments: Arguments, rules: Mapping[str, Rule], default: Rule, device: torch.device
    ) -> None:
        self.arguments = arguments
        self.rules = dict(rules)
        self._default = default
        self._device = device
        self._to_device = device.type != "cpu"

    def rule(self, name: str) -> Rule:
        """How the numbers of argument ``name`` are read."""
        return self.rules.get(name, self._default)

    def read(self, instances: Any, rules: Mapping[str, Rule] | None = None) -> Batch:
        """Turn at least one instance into a batch.

        Raises:
            InvalidInput: ragged, not numbers, or not what ``forward`` takes.
        """
        if isinstance(instances[0], dict):
            return self._read_objects(instances, rules or {})
        required = self.arguments.required
        if len(required) > 1:
            example = ", ".join(f'"{name}": ...' for name in required)
            raise InvalidInput(
                f'"instances" holds rows, and the model takes several inputs ({self.arguments.text()}). '
                f"Send one object per row: {{{example}}}"
            )
        name = self._first_name()
        tensor = self._tensor(instances, name, rules or {}, '"instances"')
        return Batch(tensor.shape[0], args=(tensor,))

    def instances_dtype(self) -> Any:
        """The numpy dtype that rows can be read as before they come here, without changing what ``read`` does
        with them: ``Model.instances_dtype``. ``None`` if there is none, or no rows are taken."""
        if len(self.arguments.required) > 1:
            return None
        rule = self.rule(self._first_name())
        if rule.certain:
            return JSON_DTYPES[rule.dtype]
        # "number" makes float32 of fractions, which float64 could not be made of again.
        return None if rule.dtype == torch.float64 else "number"

    def other_rules(self, batch: Batch) -> Iterator[dict[str, Rule]]:
        """The other ways to read integers, for inputs where this is not certain, most likely first."""
        names = list(batch.kwargs) or [self._first_name()]
        open_names = [name for name in names if not self.rule(name).certain][:_MOST_GUESSED_INPUTS]
        choices = [
            [rule, replace(rule, keep_integers=not rule.keep_integers)] for rule in map(self.rule, open_names)
        ]
        for choice in itertools.islice(itertools.product(*choices), 1, None):
            yield dict(zip(open_names, choice, strict=True))

    def _first_name(self) -> str:
        return (self.arguments.required or self.arguments.names or ("input",))[0]

    def _read_objects(self, instances: Any, rules: Mapping[str, Rule]) -> Batch:
        names = instances[0].keys()
        self._check_names(names)
        for index, instance in enumerate(instances):
            if not isinstance(instance, dict):
                raise InvalidInput(
                    f'"instances"[{index}] is no object, expected one as "instances"[0] is: {_listed(names)}'
                )
            if instance.keys() != names:
                raise InvalidInput(
                    f'"instances"[{index}] has the keys {_listed(instance)}, expected {_listed(names)} as in '
                    f'"instances"[0]'
                )
        tensors = {
            name: self._tensor(
                [instance[name] for instance in instances], name, rules, f'"{name}" of "instances"'
            )
            for name in names
        }
        if len(tensors) == 1 and tensors.keys() <= set(self.arguments.names[:1]):  # goes as rows do
            return Batch(len(instances), args=tuple(tensors.values()))
        return Batch(len(instances), kwargs=tensors)

    def _check_names(self, names: Any) -> None:
        takes = self.arguments
        unknown = [name for name in names if name not in takes.names]
        missing = [name for name in takes.required if name not in names]
        if (unknown and not takes.takes_any) or missing:
            wrong = f"has the unknown key {_listed(unknown)}" if unknown else f"lacks {_listed(missing)}"
            raise InvalidInput(f'"instances"[0] {wrong}; the model takes: {takes.text()}')

    def tensor(self, array: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
        """An array where the network is, without a copy if it can be written and lies row by row.

        Args:
            array: numbers or booleans.
            dtype: a floating one that floating numbers become; ``None``: they stay as they are.
        """
        flags = array.flags
        if not (flags.writeable and flags.c_contiguous):
            # A view of the request's bytes: the network may write into its input.
            array = array.copy()
        tensor = torch.from_numpy(array)
        if self._to_device:
            tensor = tensor.to(self._device)
        if dtype is not None and tensor.dtype != dtype and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        return tensor

    def _tensor(self, values: Any, name: str, rules: Mapping[str, Rule], shown: str) -> torch.Tensor:
        rule = rules.get(name) or self.rule(name)
        dtype = rule.dtype
        if rule.certain and isinstance(values, np.ndarray) and values.dtype == ARRAY_DTYPES[dtype]:
            array = values
        else:
            array = _array(values, rule, shown)
        return self.tensor(array, dtype if dtype.is_floating_point else None)


def _array(values: Any, rule: Rule, shown: str) -> np.ndarray:
    wanted = JSON_DTYPES[rule.dtype]
    if rule.certain:
        return array_from_json(values, wanted, name=shown)
    array = array_from_json(values, name=shown)
    if array.dtype.kind == "b" or (array.dtype.kind == "i" and rule.keep_integers):
        return array
    # float64 is read from the numbers again: the first reading made float32 of them.
    return array if array.dtype == wanted else array_from_json(values, wanted, name=shown)


def _listed(names: Any) -> str:
    shown = [f'"{str(name)[:40]}"' for name in itertools.islice(names, _SHOWN)]
    return ", ".join(shown) + (" ..." if len(names) > _SHOWN else "")


def rules_from(infos: Mapping[str, TensorInfo], dtypes: Mapping[str, torch.dtype]) -> dict[str, Rule]:
    """Rules from what is known of the inputs and from the dtypes that are declared. A dtype that JSON numbers
    cannot become is left out."""
    known = {name: info.dtype for name, info in infos.items()} | dict(dtypes)
    return {name: Rule(dtype) for name, dtype in known.items() if dtype in JSON_DTYPES}
