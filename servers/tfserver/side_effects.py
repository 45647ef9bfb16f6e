"""Which signatures change something when they are called, and which may take any time.

Rules of the room: reads the graph's description, runs nothing. The answers decide whether the server may make
up a call of its own (the warm-up): a counter that nobody asked to count must not count; and whether short
calls may run on the event loop: a loop that was short so far may be long for the next value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tfserver.signature import Signature, TensorSpec

_WRITES = re.compile(
    r"Assign|Resource(Sparse)?Apply|ResourceScatter|(Sparse)?Apply[A-Z]"
    r"|Scatter(Nd)?(Add|Sub|Mul|Div|Min|Max|Update)|LookupTable(Insert|Import|Remove)"
    r"|WriteFile|Queue|Stack(Push|Pop)"
)
"""Beginnings of the names of operations that write variables, tables, queues or files."""


_LOOPS_OR_WAITS = re.compile(
    r"(Stateless)?While$|LoopCond$|(Eager)?PyFunc|ReadFile$|ReaderRead|Queue|Barrier|Mutex|Stage$|Unstage$"
    r"|Iterator|.*Dataset|Rpc|Send$|Recv$|Collective"
)
"""Operations whose time depends on values, or on others than this process."""


def takes_any_time(graph_def: Any, signatures: Iterable[Signature]) -> bool:
    """Whether a call of some signature may take any time, however small its inputs are."""
    return any(
        _LOOPS_OR_WAITS.match(operation)
        for signature in signatures
        for operation in operations(graph_def, signature)
    )


def signatures_with_side_effects(graph_def: Any, signatures: Iterable[Signature]) -> frozenset[str]:
    """The names of the signatures whose outputs depend on an operation that writes.

    Args:
        graph_def: the ``GraphDef`` the signatures belong to, its function library included.
        signatures: those to look at.
    """
    return frozenset(
        signature.name
        for signature in signatures
        if any(_WRITES.match(operation) for operation in operations(graph_def, signature))
    )


def operations(graph_def: Any, signature: Signature) -> frozenset[str]:
    """The types of all operations between the inputs and the outputs, inside called functions too."""
    nodes = {node.name: node for node in graph_def.node}
    functions = {function.signature.name: function for function in graph_def.library.function}
    found: set[str] = set()
    seen = {_node_name(spec) for spec in signature.inputs}
    waiting = [_node_name(spec) for spec in signature.outputs]
    called: list[str] = []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        found.add(nodes[name].op)
        called += _calls(nodes[name])
        waiting += [source.lstrip("^").partition(":")[0] for source in nodes[name].input]
    entered: set[str] = set()
    while called:
        name = called.pop()
        if name in entered or name not in functions:
            continue
        entered.add(name)
        for node in functions[name].node_def:
            found.add(node.op)
            called += _calls(node)
    return frozenset(found)


def _calls(node: Any) -> list[str]:
    """The names of the functions a node may call: itself, and those in its attributes."""
    names = [node.op]
    for attribute in node.attr.values():
        names.append(attribute.func.name)
        names += [function.name for function in attribute.list.func]
    return names


def _node_name(spec: TensorSpec) -> str:
    return spec.tensor_name.partition(":")[0]
