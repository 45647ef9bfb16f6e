"""The rows of the benchmark: which servers answer which request, for how many clients.

One configuration of modelserver for all of them: its defaults, access log included, with `--max_batch_size`
where a row is about batching. Every server computes on one thread and listens on 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import materials
import numpy as np
from contenders import (
    LITSERVE_PATH,
    MOSEC_PATH,
    SERVERS,
    Contender,
    Group,
    environment_of,
    kserve,
    kserve_logging,
    litserve,
    mosec,
    ours,
    packaged,
    tensors_v2,
)
from materials import IRIS_ROWS, Materials, Request
from processes import Server


def iris(made: Materials) -> Group:
    """Batching on; mosec with and without, the better counts."""
    request = materials.json_request(IRIS_ROWS)
    archive, folder = made.iris() / "iris.tgz", made.iris() / "frozen"
    return Group(
        "iris rows as JSON, batching on",
        (
            Contender("modelserver", packaged(archive, "--max_batch_size", 256), request),
            Contender("kserve", kserve("kserve_torch.py", folder=folder), request),
            Contender("kserve, its logs on", kserve_logging("kserve_torch.py", folder=folder), request),
            *_mosec_both(folder, request),
            Contender("litserve", litserve("litserve_torch.py", folder=folder), request.to(LITSERVE_PATH)),
        ),
        clients=(1, 16, 64),
    )


def iris_unbatched(made: Materials) -> Group:
    """Our batching off; mosec still with and without."""
    whole = iris(made)
    server = packaged(made.iris() / "iris.tgz", "--max_batch_size", 0)
    first = replace(whole.contenders[0], server=server)
    return Group("iris rows as JSON, batching off", (first, *whole.contenders[1:]), clients=(16,))


def _mosec_both(folder: Path, request: Request) -> tuple[Contender, Contender]:
    asked = request.to(MOSEC_PATH)
    return (
        Contender("mosec", mosec("mosec_torch.py", folder=folder), asked),
        Contender("mosec, batching", mosec("mosec_torch.py", folder=folder, batch=256), asked),
    )


def image(made: Materials) -> Group:
    """1.4 MB of nested lists; the model takes the mean of each channel."""
    request, folder = materials.image_json(), made.network("means")
    return Group(
        "224x224x3 floats as JSON, 1.4 MB",
        (
            Contender("modelserver", packaged(folder), request),
            Contender("kserve", kserve("kserve_torch.py", folder=folder), request),
            Contender("mosec", mosec("mosec_torch.py", folder=folder), request.to(MOSEC_PATH)),
            Contender("litserve", litserve("litserve_torch.py", folder=folder), request.to(LITSERVE_PATH)),
        ),
    )


def tensor(made: Materials) -> Group:
    """The same floats as bytes: ours as numpy saves them, KServe's as in V2. LitServe takes no bytes."""
    array, folder = materials.image(), made.network("means")
    raw = materials.raw(array)
    by_kserve = kserve("kserve_torch.py", folder=folder)
    return Group(
        "224x224x3 floats as bytes, 0.6 MB",
        (
            Contender("modelserver", packaged(folder), materials.npy(array)),
            Contender("kserve, V2 binary", by_kserve, materials.v2_binary(array)),
            Contender("kserve, own frombuffer", by_kserve, raw),
            Contender("mosec", mosec("mosec_tensor.py", folder=folder), raw.to(MOSEC_PATH)),
        ),
    )


def v2_binary(made: Materials) -> Group:
    """The picture in V2's binary form, to the same model."""
    request = materials.v2_binary(materials.image())
    return Group(
        "V2 over REST: 224x224x3 floats as binary, 0.6 MB, one number back",
        tuple(Contender(peer, tensors_v2(peer), request) for peer in ("modelserver", "kserve")),
        clients=(1, 4),
    )


def v2_grpc(made: Materials) -> Group:
    """Eight floats as raw contents, two numbers back; beside it, grpcio with nothing around it."""
    request = materials.v2_grpc(np.array(IRIS_ROWS, np.float32))
    least = Server("modelserver", (str(SERVERS / "bare_grpcio.py"), "{grpc_port}"))
    return Group(
        "V2 over gRPC: 2 rows of 4 floats, one number for each back",
        (
            *(Contender(peer, tensors_v2(peer), request) for peer in ("modelserver", "kserve")),
            Contender("bare grpcio", least, request),
        ),
        clients=(1, 16),
    )


def v2_tritonclient(made: Materials) -> Group:
    """The two above as tritonclient sends them: half of the time is the client's own."""
    asked = {
        "HTTP, picture": materials.v2_binary(materials.image()),
        "gRPC, picture": materials.v2_grpc(materials.image()),
        "gRPC, 2 rows": materials.v2_grpc(np.array(IRIS_ROWS, np.float32)),
    }
    return Group(
        "V2 by tritonclient: a picture as binary, and 2 rows of 4 floats",
        tuple(
            Contender(f"{peer}, {name}", tensors_v2(peer), request.by_tritonclient())
            for name, request in asked.items()
            for peer in ("modelserver", "kserve")
        ),
        same_answer=False,
    )


def v2_memory(made: Materials) -> Group:
    """100 MB of floats, with a small answer and sent back."""
    array = np.random.default_rng(0).random((10, 2_621_440), np.float32)
    limit = 256 * 1024 * 1024
    lengths = ("--grpc_max_receive_message_length", limit, "--grpc_max_send_message_length", limit)
    asked = {
        "REST, one number back": materials.v2_binary(array),
        "REST, sent back": materials.v2_binary(array, "echo", binary_answer=True),
        "gRPC, one number back": materials.v2_grpc(array),
        "gRPC, sent back": materials.v2_grpc(array, "echo"),
    }
    flags: dict[str, tuple[object, ...]] = {
        "modelserver": ("--max_buffer_size", limit, *lengths),
        "kserve": lengths,
    }
    return Group(
        "V2: memory that 100 MiB of floats take while they are answered, in copies of them",
        tuple(
            Contender(f"{peer}, {name}", tensors_v2(peer, *flags[peer]), request)
            for name, request in asked.items()
            for peer in ("modelserver", "kserve")
        ),
        kind="growth",
        same_answer=False,
    )


def jpeg(made: Materials) -> Group:
    """Decode, resize, a small convolutional network: custom models everywhere."""
    request = materials.jpeg()
    return Group(
        "base64 JPEG of 640x480 to a small CNN",
        (
            Contender("modelserver", ours(SERVERS / "modelserver_jpeg.py"), request),
            Contender("kserve", kserve("kserve_jpeg.py"), request),
            Contender("mosec", mosec("mosec_jpeg.py"), request.to(MOSEC_PATH)),
            Contender("litserve", litserve("litserve_jpeg.py"), request.to(LITSERVE_PATH)),
        ),
        clients=(1, 4),
    )


def slow(made: Materials) -> Group:
    """A call takes 5 ms whatever the batch, as an accelerator's might: each server's own batching."""
    request = materials.json_request([1.0])
    return Group(
        "5 ms a call whatever the batch, each with its own batching",
        (
            Contender("modelserver", ours(SERVERS / "modelserver_slow.py", batch=64), request),
            Contender("kserve", kserve("kserve_slow.py"), request),
            Contender("mosec", mosec("mosec_slow.py", batch=64), request.to(MOSEC_PATH)),
            Contender("litserve", litserve("litserve_slow.py", batch=64), request.to(LITSERVE_PATH)),
        ),
        clients=(64,),
    )


def lone(made: Materials) -> Group:
    """What batching costs a request that is alone."""
    request = materials.json_request([1.0])
    script = SERVERS / "modelserver_slow.py"
    return Group(
        "5 ms a call, a lone client, batching on and off",
        (
            Contender("modelserver, on", ours(script, batch=64), request),
            Contender("modelserver, off", ours(script, batch=0), request),
            Contender("mosec, on", mosec("mosec_slow.py", batch=64), request.to(MOSEC_PATH)),
            Contender("mosec, off", mosec("mosec_slow.py", batch=1), request.to(MOSEC_PATH)),
            Contender("litserve, on", litserve("litserve_slow.py", batch=64), request.to(LITSERVE_PATH)),
            Contender("litserve, off", litserve("litserve_slow.py", batch=1), request.to(LITSERVE_PATH)),
        ),
    )


def tensorflow(made: Materials) -> Group:
    """A SavedModel: ours packaged, KServe by the TensorFlow 2 signature."""
    request, folder = materials.json_request(IRIS_ROWS), made.iris_tensorflow()
    saved = folder / "frozen" / "0001"
    return Group(
        "iris rows as JSON, TensorFlow SavedModel",
        (
            Contender("modelserver", packaged(folder / "iris.tar.gz"), request),
            Contender("kserve", kserve("kserve_tensorflow.py", folder=saved), request),
        ),
        clients=(1, 16),
    )


def start(made: Materials) -> Group:
    """From the start of the process to the first right answer."""
    whole = iris(made)
    script = Server(
        "modelserver", (str(SERVERS / "bare_script.py"),), environment_of({"folder": made.iris() / "frozen"})
    )
    bare = Contender("bare script", script, whole.contenders[0].request)
    first, *peers = (contender for contender in whole.contenders if "," not in contender.name)
    return Group("start to the first right answer, iris", (first, bare, *peers), kind="start")


def memory(made: Materials) -> Group:
    """250 MB of weights, once every worker has answered."""
    return Group(
        "memory with 250 MB of weights",
        _by_workers(made.network("large"), ("modelserver", "kserve", "mosec", "litserve")),
        clients=(8,),
        kind="memory",
    )


def workers(made: Materials) -> Group:
    """20 ms of matrix products a call, with one worker and with two."""
    return Group(
        "20 ms of matrix products, 1 and 2 workers",
        _by_workers(made.network("heavy"), ("modelserver", "kserve", "mosec", "litserve")),
        clients=(4, 8),
    )


def _by_workers(folder: Path, peers: tuple[str, ...]) -> tuple[Contender, ...]:
    request = materials.json_request(IRIS_ROWS)

    def contender(peer: str, count: int) -> Contender:
        name = f"{peer}, {count} worker{'s'[: count - 1]}"
        if peer == "modelserver":
            return Contender(name, packaged(folder, "--workers", count), request, count)
        if peer == "kserve":
            server = kserve("kserve_torch.py", "--workers", count, folder=folder)
            return Contender(name, server, request, count)
        if peer == "mosec":
            server = mosec("mosec_torch.py", folder=folder, workers=count)
            return Contender(name, server, request.to(MOSEC_PATH), count)
        server = litserve("litserve_torch.py", folder=folder, workers=count)
        return Contender(name, server, request.to(LITSERVE_PATH), count)

    return tuple(contender(peer, count) for peer in peers for count in (1, 2))


def bare(made: Materials) -> Group:
    """CPU of a small request, beside a server that does nothing but answer it."""
    request, folder = materials.json_request(IRIS_ROWS), made.iris() / "frozen"
    arguments = (str(SERVERS / "bare_httptools.py"), "{port}")
    least = Server("modelserver", arguments, environment_of({"folder": folder}))
    archive = made.iris() / "iris.tgz"
    return Group(
        "iris rows as JSON, beside bare httptools and uvloop",
        (
            Contender("modelserver", packaged(archive, "--max_batch_size", 256), request),
            Contender("bare httptools", least, request),
        ),
    )


def rows(made: Materials) -> Group:
    """Is the cost of a request in proportion to its rows?"""
    server = packaged(made.iris() / "iris.tgz", "--max_batch_size", 256)
    contenders = (
        Contender(f"{count:,} rows", server, materials.json_request([IRIS_ROWS[0]] * count))
        for count in (1, 10, 100, 1_000, 10_000)
    )
    return Group("modelserver: cost by rows, iris as JSON", tuple(contenders), same_answer=False)


def size(made: Materials) -> Group:
    """Is the cost of a request in proportion to its bytes?"""
    server = packaged(made.network("means"), "--max_buffer_size", 16 * 1024 * 1024)
    contenders = []
    for label, length in (
        ("1 kB", 10**3),
        ("10 kB", 10**4),
        ("100 kB", 10**5),
        ("1 MB", 10**6),
        ("10 MB", 10**7),
    ):
        values = materials.pixels(length // 10)
        digits = [[[[round(float(v), 6) for v in pixel] for pixel in row] for row in values[0]]]
        contenders.append(Contender(f"{label} of JSON", server, materials.json_request(digits)))
        contenders.append(Contender(f"{label} of npy", server, materials.npy(materials.pixels(length // 4))))
    return Group("modelserver: cost by bytes", tuple(contenders), same_answer=False)


GROUPS: dict[str, Callable[[Materials], Group]] = {
    "iris": iris,
    "iris-unbatched": iris_unbatched,
    "image": image,
    "tensor": tensor,
    "v2-binary": v2_binary,
    "v2-grpc": v2_grpc,
    "v2-tritonclient": v2_tritonclient,
    "v2-memory": v2_memory,
    "jpeg": jpeg,
    "slow": slow,
    "slow-lone": lone,
    "tensorflow": tensorflow,
    "start": start,
    "memory": memory,
    "workers": workers,
    "bare": bare,
    "cost-rows": rows,
    "cost-bytes": size,
}
