"""A graph and its weights, apart until they meet in the file.

Weights are views of the network's own tensors: what the file wants otherwise (transposed, say) is
copied when it is written, one weight at a time. So an export needs the memory of one weight.

The file is Protocol Buffers, written here field by field: a message may have its fields in any
order, so the graph's weights follow the rest of the graph. Sources: onnx.proto for the numbers
of the fields; "Protocol Buffers Encoding" (protobuf.dev) for how they are written.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from heimdall_export.model_files import SUFFIX

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from torch import Tensor

__all__ = ["LARGEST_FILE", "WeightedGraph"]

LARGEST_FILE = 2**31 - 2**26
"""Bytes of weights in one file; Protocol Buffers end at 2 GiB, graph and names included."""
_GRAPH, _INITIALIZER, _RAW_DATA = (number << 3 | 2 for number in (7, 5, 9))
"""Keys of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data: bytes follow."""


@dataclass(slots=True)
class WeightedGraph:
    """A model whose graph takes its weights as inputs, and the weights by their names."""

    model: onnx.ModelProto
    weights: dict[str, Tensor]
    four_bits: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of weights of four bits, of whose values two are in one of `weights`' bytes."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> WeightedGraph:
        """A model file as a graph and its weights.

        Raises:
            OSError: It cannot be read.
            google.protobuf.message.DecodeError: It is no ONNX file.
            TypeError: It has weights of a type that NumPy has not, such as 4 bits.
        """
        model = onnx.load(path)
        weights = {}
        while model.graph.initializer:
            # One by one, so that no two copies of all of them are held.
            weight = model.graph.initializer.pop()
            weights[weight.name] = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy())
        return cls(model, weights)

    def __post_init__(self) -> None:
        """Keep weights out of the inputs, and nothing that no node takes."""
        del self.model.graph.value_info[:]
        self._undeclare()

    def _undeclare(self) -> None:
        ends = [end for end in self.model.graph.input if end.name not in self.weights]
        del self.model.graph.input[:]
        self.model.graph.input.extend(ends)
        self.prune()

    def prune(self) -> None:
        """Forget weights that no node takes."""
        used = {name for node in self.model.graph.node for name in node.input}
        self.weights = {name: weight for name, weight in self.weights.items() if name in used}

    def add_four_bits(self, name: str, integers: Tensor) -> None:
        """Add a weight of four bits.

        Args:
            name: Of the weight.
            integers: From -8 to 7, of any shape.
        """
        flat = (integers.flatten().to(torch.int8) & 0xF).view(torch.uint8)
        low, high = torch.nn.functional.pad(flat, (0, len(flat) % 2)).view(-1, 2).unbind(1)
        self.weights[name] = high << 4 | low
        self.four_bits[name] = tuple(integers.shape)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give weights other names, and forget those that have none."""
        self.weights = {names[n]: weight for n, weight in self.weights.items() if n in names}
        self.four_bits = {names[n]: shape for n, shape in self.four_bits.items() if n in names}

    def opset(self) -> int:
        """The version of ONNX's own operator set."""
        return next(int(e.version) for e in self.model.opset_import if e.domain in ("", "ai.onnx"))

    def convert(self, opset: int) -> None:
        """Take another operator set.

        Raises:
            onnx.version_converter.ConvertError: There is no such set, or no way to it.
        """
        self.model = onnx.version_converter.convert_version(self.declared(), opset)
        del self.model.graph.value_info[:]
        self._undeclare()

    def declared(self) -> onnx.ModelProto:
        """The model with its weights among the inputs, their types and shapes without values."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(name, *self._kind(name)) for name in self.weights
        )
        return model

    def _kind(self, name: str) -> tuple[int, list[int]]:
        """A weight's type and shape in the file."""
        if name in self.four_bits:
            return int(onnx.TensorProto.INT4), [*self.four_bits[name]]
        weight = self.weights[name]
        return _element_type(weight), [*weight.shape]

    def size(self) -> int:
        """Bytes of the weights."""
        return sum(weight.nbytes for weight in self.weights.values())

    def write(self, path: Path, *, largest: int = LARGEST_FILE) -> None:
        """Write the model to a file; weights of more bytes than `largest` to one beside it.

        That second file is named for its contents, so that it never replaces another one.

        Raises:
            OSError: It cannot be written.
        """
        beside = self._written_beside(path) if self.size() > largest else None
        with path.open("wb") as file:
            _write_model(file, self.model, [*self._initializers(beside)])

    def _initializers(self, beside: str | None) -> Iterator[tuple[bytes, Tensor | None]]:
        """Each weight's message without its values, and the values if they go into it."""
        offset = 0
        for name, weight in self.weights.items():
            kind, shape = self._kind(name)
            message = onnx.TensorProto(name=name, dims=shape, data_type=kind)
            if beside is not None:
                message.data_location = onnx.TensorProto.EXTERNAL
                said = {"location": beside, "offset": offset, "length": weight.nbytes}
                for key, value in said.items():
                    message.external_data.add(key=key, value=str(value))
                offset += weight.nbytes
            yield message.SerializeToString(), weight if beside is None else None

    def _written_beside(self, path: Path) -> str:
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        try:
            with part.open("wb") as file:
                for weight in self.weights.values():
                    values = _values(weight)
                    digest.update(values)
                    file.write(values)
            name = f"{digest.hexdigest()}{SUFFIX}"
            part.replace(path.with_name(name))
        finally:
            part.unlink(missing_ok=True)
        return name


def _write_model(
    file: BinaryIO, model: onnx.ModelProto, weights: list[tuple[bytes, Tensor | None]]
) -> None:
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    graph = model.graph.SerializeToString()
    lengths = [_length(header, values) for header, values in weights]
    whole = len(graph) + sum(1 + len(_varint(length)) + length for length in lengths)
    file.write(rest.SerializeToString() + bytes([_GRAPH]) + _varint(whole) + graph)
    for length, (header, values) in zip(lengths, weights, strict=True):
        file.write(bytes([_INITIALIZER]) + _varint(length) + header)
        if values is not None:
            file.write(bytes([_RAW_DATA]) + _varint(values.nbytes))
            file.write(_values(values))


def _length(header: bytes, values: Tensor | None) -> int:
    if values is None:
        return len(header)
    return len(header) + 1 + len(_varint(values.nbytes)) + values.nbytes


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the eighth bit set on all but the last."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _values(weight: Tensor) -> memoryview:
    """A weight's values as ONNX has them: row by row, little-endian."""
    dense = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return dense.numpy().data


def _element_type(weight: Tensor) -> int:
    if weight.dtype == torch.bfloat16:
        return int(onnx.TensorProto.BFLOAT16)
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(str(weight.dtype).removeprefix("torch.")))
