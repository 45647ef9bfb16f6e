"""A network compiled ahead of time with torch's AOTInductor, for ``--compile``.

``torch.compile`` is not used: on the CPU its guards made a 4-10-10-3 network slower (35 us of CPU, 22 us in
eager mode, torch 2.13), a convolution was compiled anew at 16 rows, and a compilation takes seconds on a
user's request. AOTInductor compiles once, at load, for any number of rows: 5 us, and nothing is left to
compile later.

Its program checks no shape and reads outside of its inputs where one is wrong. So it is called only with the
dtypes and sizes that it was made for, on rows that lie in memory as usual; all else, and whatever it fails
on, goes to the network itself, so an error is always the network's own. It holds Python's lock while it runs,
so a call with so many rows that the event loop would stand still for ``_LONGEST_S`` goes to the network too.

Rules of the room: compiles at load only, in this process's own g++ calls; leaves no thread and no process.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from modelserver import ModelLoadError
from pytorchserver.frozen import called
from pytorchserver.network import Network

_log = logging.getLogger("modelserver.model")

_ROWS = (1, 2, 3, 7)
_MANY_ROWS = 8
_LONGEST_S = 0.02
_CLOSE = {torch.float16: 1e-3, torch.bfloat16: 1.6e-2}
_CLOSE_ELSE = 1e-5
_MOST_CHARACTERS = 300
_OPTIONS = {
    "compile_threads": 1,  # no pool of processes
    "aot_inductor.precompile_headers": False,  # they save 4 s the next time and take 430 MB of /tmp
}

Call = Callable[..., Any]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class _Program:
    """What was compiled, and the inputs that it may have."""

    run: Callable[[list[torch.Tensor]], list[torch.Tensor]]
    form: pytree.TreeSpec
    """How the outputs belong together."""
    names: tuple[str, ...]
    row_kinds: tuple[tuple[torch.dtype, torch.Size], ...]
    eager: Call
    most_rows: float = float("inf")

    def __call__(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """Answer as the network does."""
        tensors = list(args)
        if kwargs:
            tensors += [kwargs[name] for name in self.names[len(args) :] if name in kwargs]
        if len(tensors) == len(args) + len(kwargs) and self._takes(tensors):
            try:
                return self.answer(tensors)
            except RuntimeError:  # what the program checks: an index out of range
                pass
        return self.eager(*args, **kwargs)

    def answer(self, tensors: list[torch.Tensor]) -> Any:
        """Run the program itself, on what it takes."""
        outputs = self.run(tensors)
        return outputs[0] if self.form.is_leaf() else pytree.tree_unflatten(outputs, self.form)

    def _takes(self, tensors: list[torch.Tensor]) -> bool:
        if len(tensors) != len(self.row_kinds):
            return False
        rows = tensors[0].shape[:1]
        if not rows or not 0 < rows[0] <= self.most_rows:
            return False
        for tensor, (dtype, row) in zip(tensors, self.row_kinds, strict=True):
            shape = tensor.shape
            if shape[:1] != rows or shape[1:] != row or tensor.dtype != dtype or not tensor.is_contiguous():
                return False
        return True


def compiled(network: Network, example: Tensors, max_batch_size: int = 0, index_limit: int = 0) -> Network:
    """The network with a compiled ``call``; a program, which has no class to compile, as it is.

    Args:
        network: in eval mode, on the CPU, with torch set to the number of threads that it will have.
        example: what it answers: for each argument of ``forward`` some rows, by name.
        max_batch_size: most rows in a call, where it is known.
        index_limit: integers in the input are below this. 0: only those of the example are known to work.

    Raises:
        ModelLoadError: there is no compiler, torch cannot compile the network, or the numbers differ.
    """
    module = network.module
    if module is None or isinstance(module, torch.jit.ScriptModule):
        _log.warning("--compile does not apply to a %s: it is served as it is", network.description)
        return network
    _need_compiler()
    started = time.monotonic()
    inputs = list(_inputs(example, index_limit, max(max_batch_size, _MANY_ROWS)))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notes to the authors of programs
            program = _compile(module, network.call, _of_rows(example, 3))
        with torch.inference_mode():
            program.answer(list(inputs[0].values()))  # before it is compared: it may be no program at all
    except Exception as error:  # what cannot be compiled, in any of the ways that it fails
        raise ModelLoadError(
            f"--compile: torch cannot compile {network.description}: {_first_line(error)}. "
            "Leave --compile out"
        ) from error
    with torch.inference_mode():
        _compare(network, program, inputs)
        row_s, many_s = _fastest(program.answer, inputs[0]), _fastest(program.answer, inputs[-1])
        eager_s = _fastest(lambda tensors: network.call(*tensors), inputs[0]) if len(example) == 1 else 0.0
    if row_s > _LONGEST_S:
        _log.warning(
            "--compile is not used for %s: a row takes %.0f ms, in which nothing else of the process runs",
            network.description,
            row_s * 1e3,
        )
        return network
    rows = len(next(iter(inputs[-1].values())))
    _log.info(
        "%s: compiled in %.0f s for rows of %s; a row takes %.0f us%s",
        network.description,
        time.monotonic() - started,
        ", ".join(f"{name} {list(tensor.shape[1:])}" for name, tensor in example.items()),
        row_s * 1e6,
        f", and {eager_s * 1e6:.0f} us in eager mode" if eager_s else "",
    )
    return replace(network, call=replace(program, most_rows=max(1, int(rows * _LONGEST_S / many_s))))


def _need_compiler() -> None:
    """Refuse to start without the compiler that torch will call: what the variable CXX says, else g++."""
    from torch._inductor import config, cpp_builder

    # Before anything of inductor that compiles is imported, which starts a pool of processes.
    config.compile_threads = 1
    try:
        cpp_builder.get_cpp_compiler()
    except (RuntimeError, OSError) as error:
        tried = ", ".join(name for name in config.cpp.cxx if name)
        raise ModelLoadError(
            f"--compile needs a C++ compiler, and {tried} does not run here. Install one "
            "(apt-get install g++), name it in the variable CXX, or leave --compile out"
        ) from error


def _compile(module: torch.nn.Module, eager: Call, example: Tensors) -> _Program:
    from torch._inductor import aoti_compile_and_package

    rows = {0: torch.export.Dim("rows", min=1)}
    by_place = tuple(example.values()) if len(example) == 1 else ()
    by_name = {} if by_place else example
    exported = torch.export.export(
        module,
        by_place,
        by_name,
        dynamic_shapes=(rows,) if by_place else dict.fromkeys(by_name, rows),
    )
    # Decomposed, it tells what is changed in place. The program would change a copy of its own.
    changed = exported.run_decompositions({}).graph_signature.buffers_to_mutate.values()
    if changed:
        raise ValueError(f"forward changes {', '.join(changed)}")
    with tempfile.TemporaryDirectory(prefix="modelserver-compile-") as folder:
        package = aoti_compile_and_package(
            exported, package_path=str(Path(folder, "network.pt2")), inductor_configs=_OPTIONS
        )
        # torch's own loader unpacks into a folder that stays behind when a process ends.
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder)
        (library,) = Path(folder).rglob("*.so")
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
    return _Program(
        run=runner.run,
        form=exported.call_spec.out_spec,
        names=tuple(example),
        row_kinds=tuple((tensor.dtype, tensor.shape[1:]) for tensor in example.values()),
        eager=eager,
    )


def _of_rows(example: Tensors, rows: int) -> Tensors:
    """The example repeated to this number of rows."""
    return {name: tensor[torch.arange(rows) % len(tensor)] for name, tensor in example.items()}


def _inputs(example: Tensors, index_limit: int, most: int) -> Iterator[Tensors]:
    """Several numbers of rows: first one row of the example, then values made up; ``most`` rows last."""
    generator = torch.Generator().manual_seed(0)

    def made_up(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        if index_limit:
            return torch.randint(index_limit, tensor.shape, generator=generator).to(tensor.dtype)
        return tensor

    yield _of_rows(example, 1)
    for rows in (*_ROWS, *_ROWS, most):
        yield {name: made_up(tensor) for name, tensor in _of_rows(example, rows).items()}


def _compare(network: Network, program: _Program, inputs: list[Tensors]) -> None:
    """Refuse a program that does not give the network's numbers."""
    for each in inputs:
        expected = called(network.call, each)
        got = program.answer([tensor.clone() for tensor in each.values()])
        difference = _difference(expected, got)
        if difference is not None:
            rows = len(next(iter(each.values())))
            raise ModelLoadError(
                f"--compile: {network.description}, compiled, answers {rows} rows otherwise than in eager "
                f"mode: {difference}. Leave --compile out"
            )


def _difference(expected: Any, got: Any) -> str | None:
    """The largest difference between two outputs, in words; ``None`` if they are as good as the same."""
    wanted, form = pytree.tree_flatten(expected)
    tensors, other_form = pytree.tree_flatten(got)
    if form != other_form:
        return "its outputs have another form"
    worst = 0.0
    for one, other in zip(wanted, tensors, strict=True):
        if not isinstance(one, torch.Tensor):
            if one != other:
                return f"{other} and not {one}"
            continue
        if not isinstance(other, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
            return "an output has another shape or dtype"
        near = _CLOSE.get(one.dtype, _CLOSE_ELSE) if one.dtype.is_floating_point else 0.0
        one, other = one.double(), other.double()
        if not torch.allclose(one, other, rtol=near, atol=near, equal_nan=True):
            worst = max(worst, float((one - other).abs().nan_to_num(float("inf")).max()))
    return f"the largest difference is {worst:.2g}" if worst else None


def _first_line(error: BaseException) -> str:
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    text = next(filter(None, lines), "")
    return f"{type(error).__name__}: {text[:_MOST_CHARACTERS]}" if text else type(error).__name__


def _fastest(call: Callable[[list[torch.Tensor]], Any], inputs: Tensors) -> float:
    """The shortest time of a few calls, in seconds."""
    times = []
    for _ in range(10):
        tensors = [tensor.clone() for tensor in inputs.values()]
        started = time.perf_counter()
        call(tensors)
        times.append(time.perf_counter() - started)
        if sum(times) > 1:
            break
    return min(times)
