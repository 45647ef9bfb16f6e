"""Clients of this server, and of any other that speaks its protocols: numpy in, numpy out.

``Client`` is for threads, ``AsyncClient`` for an event loop. Both give a call to ``dialects``, which knows
what a protocol says and does no I/O: what it wants to be sent goes to the transport of the URL, and the reply
back to it.

    calls           what passes between them, and ``Answer``, which a user gets
    failures        what a call raises
    options         what a client is told when it is made
    dialects        V1 and V2: a call to requests, their replies to arrays
    grpc_dialect    the same for gRPC
    patience        one call's deadline, and what is tried again when
    http_messages   HTTP/1.1: where a server is, the head of a request, the bytes of an answer
    blocking        ``Client``, and HTTP over sockets
    asynchronous    ``AsyncClient``, and HTTP over asyncio
    grpc_transport  gRPC for both; the only one that imports ``grpc``

Rules of the room: the formats are those of ``protocols``, and nothing of the server is imported.
"""
