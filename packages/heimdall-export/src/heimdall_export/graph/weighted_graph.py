"""A graph and its weights, kept apart until they are written to the file.

Weights are views of the network's own tensors. A weight that the file needs in another layout, such
as transposed, is copied only as it is written, so an export needs the memory of one weight.

The file is in Protocol Buffers and written field by field: a message may have its fields in any
order, so the weights follow the rest of the graph. Sources: onnx.proto for the fields' numbers;
"Protocol Buffers Encoding" (protobuf.dev) for the encoding.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from heimdall_export.atomic import whole_file
from heimdall_export.errors import ExportError
from heimdall_export.model_files import SUFFIX

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

LARGEST_FILE = 2**31 - 2**26
"""Bytes of weights in one file; Protocol Buffers end at 2 GiB, graph and names included."""
_GRAPH, _INITIALIZER, _RAW_DATA = (bytes([number << 3 | 2]) for number in (7, 5, 9))
"""Keys of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data, followed by bytes."""


@dataclass(slots=True)
class WeightedGraph:
    """A model whose graph takes its weights as inputs, and the weights by name."""

    model: onnx.ModelProto
    weights: dict[str, Tensor]
    four_bits: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the 4-bit weights, which are stored in `weights` with two values a byte."""

    def __post_init__(self) -> None:
        """Remove weights from the inputs, and weights that no node takes."""
        graph = self.model.graph
        del graph.value_info[:]
        inputs = [end for end in graph.input if end.name not in self.weights]
        del graph.input[:]
        graph.input.extend(inputs)
        self.prune()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> WeightedGraph:
        """Read a model file.

        Raises:
            OSError: It cannot be read.
            google.protobuf.message.DecodeError: It is not an ONNX file.
            TypeError: It has weights of a type that NumPy lacks, such as 4 bits.
        """
        model = onnx.load(path)
        weights = {}
        while model.graph.initializer:
            # One by one, so that two copies of all of them never exist.
            weight = model.graph.initializer.pop()
            weights[weight.name] = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy())
        return cls(model, weights)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The graph's nodes, in the order of computation."""
        return list(self.model.graph.node)

    def replace_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Give the graph copies of these nodes instead of its own; remove unused weights."""
        kept = list(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        self.prune()

    def prune(self) -> None:
        """Remove weights that no node takes."""
        used = {name for node in self.model.graph.node for name in node.input}
        self.weights = {name: weight for name, weight in self.weights.items() if name in used}

    def add_four_bits(self, name: str, integers: Tensor) -> None:
        """Add a 4-bit weight of integers from -8 to 7."""
        flat = (integers.flatten().to(torch.int8) & 0xF).view(torch.uint8)
        low, high = torch.nn.functional.pad(flat, (0, len(flat) % 2)).view(-1, 2).unbind(1)
        self.weights[name] = high << 4 | low
        self.four_bits[name] = tuple(integers.shape)

    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return next(int(e.version) for e in self.model.opset_import if e.domain in ("", "ai.onnx"))

    def convert(self, opset: int) -> None:
        """Convert the graph to another operator set, or raise ONNX's `ConvertError`."""
        self.model = onnx.version_converter.convert_version(self.declared(), opset)
        self.__post_init__()

    def declared(self) -> onnx.ModelProto:
        """The model with its weights among the inputs: types and shapes without values."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(name, *self._kind(name)) for name in self.weights
        )
        return model

    def _kind(self, name: str) -> tuple[int, list[int]]:
        """ONNX element type and shape of a weight."""
        if name in self.four_bits:
            return int(onnx.TensorProto.INT4), [*self.four_bits[name]]
        weight = self.weights[name]
        dtype = np.dtype(str(weight.dtype).removeprefix("torch."))
        return onnx.helper.np_dtype_to_tensor_dtype(dtype), [*weight.shape]

    def save(self, path: Path, *, largest: int = LARGEST_FILE) -> None:
        """Write the model as `write` does, whole or not at all; `ExportError` if that fails."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                self.write(part, largest=largest)
        except OSError as error:
            raise ExportError(
                f"cannot write the model to {path}: {error.strerror or error}"
            ) from error

    def write(self, path: Path, *, largest: int = LARGEST_FILE) -> None:
        """Write the model to a file, and weights of more than `largest` bytes to one beside it.

        The second file is named for its contents, so that it never replaces another one.
        """
        n_bytes = sum(weight.nbytes for weight in self.weights.values())
        beside = self._write_beside(path) if n_bytes > largest else None
        parts: list[bytes] = []
        offset = 0
        for name, weight in self.weights.items():
            kind, shape = self._kind(name)
            tensor = onnx.TensorProto(name=name, dims=shape, data_type=kind)
            if beside is not None:
                tensor.data_location = onnx.TensorProto.EXTERNAL
                place = {"location": beside, "offset": offset, "length": weight.nbytes}
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                offset += weight.nbytes
            part = tensor.SerializeToString()
            length = len(part)
            if beside is None:
                part += _RAW_DATA + _varint(weight.nbytes)
                length = len(part) + weight.nbytes
            parts.append(_INITIALIZER + _varint(length) + part)
        rest = onnx.ModelProto()
        rest.CopyFrom(self.model)
        rest.ClearField("graph")
        graph = self.model.graph.SerializeToString()
        length = len(graph) + sum(map(len, parts)) + (n_bytes if beside is None else 0)
        with path.open("wb") as file:
            file.write(rest.SerializeToString() + _GRAPH + _varint(length) + graph)
            for part, weight in zip(parts, self.weights.values(), strict=True):
                file.write(part)
                if beside is None:
                    file.write(_raw(weight))

    def _write_beside(self, path: Path) -> str:
        """Write all weights to a file beside the model; returns its name."""
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        try:
            with part.open("wb") as file:
                for weight in self.weights.values():
                    values = _raw(weight)
                    digest.update(values)
                    file.write(values)
            name = f"{digest.hexdigest()}{SUFFIX}"
            part.replace(path.with_name(name))
        finally:
            part.unlink(missing_ok=True)
        return name


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the eighth bit set on all but the last."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _raw(weight: Tensor) -> memoryview:
    """A weight's values in ONNX's layout: row by row, little-endian."""
    dense = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return dense.numpy().data
