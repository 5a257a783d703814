"""The binary extension of the Open Inference Protocol, in which Triton's clients speak unless told otherwise.

A body is JSON, whose length a header tells, and after it the bytes of the tensors that have `binary_data_size` among
their parameters in the place of `data`, one after the other: of BYTES, each value behind its length (4 bytes,
little-endian); of INT64 and FP64, 8 bytes each, little-endian. Here such bodies become JSON, and answers become such
bodies; the routes see JSON alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, MutableMapping, Sequence
from typing import Any

from genrec.serving.gate import App, Receive, Send, refuse, replay
from genrec.serving.inference_protocol import InferenceRequest, InferenceResponse, MalformedError

LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
FORMATS = {"INT64": "q", "FP64": "d"}  # 8 bytes each


class BinaryTensors:
    """An ASGI application that reads bodies of inference for another one; behind `Gate`, which has the whole body.

    Clients of the protocol need not say that JSON is JSON, so it is said for them.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http" or not scope["path"].endswith("/infer"):
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(LENGTH.lower().encode())
        body = (await receive()).get("body", b"")
        try:
            body = body if length is None else to_json(body, length.decode("latin-1"))
        except (MalformedError, RecursionError) as error:
            await refuse(send, 422, str(error))
            return
        kept = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
        said = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        scope["headers"] = [*kept, *said]
        await self.app(scope, replay(body, receive), send)


def to_json(body: bytes, length: str) -> bytes:
    """The request with all data in its JSON.

    Args:
        body: JSON, and bytes after it.
        length: of the JSON, as the header has it.

    Raises:
        MalformedError: no such length, no JSON of it, or bytes that are not the tensors that it announces.
        RecursionError: JSON that is nested too deeply.
    """
    if not length.isdecimal() or int(length[:20]) > len(body):
        raise MalformedError(f"{LENGTH}: expected at most {len(body)}, the bytes of the body")
    end = int(length)
    try:
        request = json.loads(body[:end])
    except ValueError as error:
        raise MalformedError(f"the first {end} bytes of the body are no JSON") from error
    inputs = request.get("inputs") if isinstance(request, dict) else None
    for tensor in inputs if isinstance(inputs, list) else []:
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        if isinstance(parameters, dict) and "binary_data_size" in parameters:
            size = parameters.pop("binary_data_size")
            if type(size) is not int or not 0 <= size <= len(body) - end:
                raise MalformedError("binary_data_size: expected the bytes that the tensor has after the JSON")
            tensor["data"] = unpack(body[end : end + size], str(tensor.get("datatype")))
            end += size
    if end != len(body):
        raise MalformedError(f"the body has {len(body) - end} bytes that no tensor's binary_data_size tells of")
    return json.dumps(request).encode()


def unpack(data: bytes, datatype: str) -> list[Any]:
    """The values of a tensor.

    Raises:
        MalformedError: the bytes are not of this type.

    >>> unpack(b"\\x02\\0\\0\\0i3\\0\\0\\0\\0", "BYTES"), unpack(b"\\x05" + bytes(7), "INT64")
    (['i3', ''], [5])
    """
    if datatype in FORMATS:
        if len(data) % 8:
            raise MalformedError(f"{datatype}: expected 8 bytes a value, found {len(data)} in all")
        return list(struct.unpack(f"<{len(data) // 8}{FORMATS[datatype]}", data))
    if datatype != "BYTES":
        raise MalformedError("expected the datatype BYTES, INT64 or FP64")
    values, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if len(data) < at + 4 or len(data) < end:
            raise MalformedError("BYTES: a value is longer than the tensor")
        try:
            values.append(data[at + 4 : end].decode())
        except UnicodeDecodeError as error:
            raise MalformedError("BYTES: expected text in UTF-8") from error
        at = end
    return values


def pack(values: Sequence[Any], datatype: str) -> bytes:
    """The bytes of a tensor; the inverse of `unpack`."""
    if datatype in FORMATS:
        return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)
    texts = [value.encode("utf-8", "surrogatepass") for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def wanted_as_bytes(inference: InferenceRequest, names: Collection[str]) -> set[str]:
    """Which of the outputs `names` the client wants as bytes: it says so of each, or of all together."""
    every = (inference.parameters or {}).get("binary_data_output") is True
    said = {output.name: (output.parameters or {}).get("binary_data", every) for output in inference.outputs or ()}
    return {name for name in names if said.get(name, every) is True}


def to_body(response: InferenceResponse, binary: Collection[str]) -> tuple[bytes, dict[str, str]]:
    """An answer of which some outputs are bytes, and the headers that say so."""
    told = response.model_dump(exclude_none=True)
    parts = []
    for tensor in told["outputs"]:
        if tensor["name"] in binary:
            parts.append(pack(tensor.pop("data"), tensor["datatype"]))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
    head = json.dumps(told).encode()
    return b"".join([head, *parts]), {LENGTH: str(len(head)), "Content-Type": BINARY}
