"""Tensors of a TorchScript archive, read without running anything in it.

OpenAI published CLIP as TorchScript: a zip file with the model's code, a pickle (`data.pkl`) of
its modules and their attributes, and the tensors' bytes (`data/0`, `data/1`, ...). `torch.jit.load`
compiles that code, and an ordinary unpickler calls whatever the pickle names. Here the pickle's
opcodes are interpreted by a machine that knows only what TorchScript writes; modules become plain
dictionaries, and the only thing ever built is a description of a tensor.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.networks.checkpoints import BackboneError, one_line

MAX_PICKLE_BYTES = 16 * 2**20
"""Limit on `data.pkl`, which describes the modules; that of a CLIP model has less than 1 MB."""

_DTYPES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_PLAIN = {
    *(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")),
    "torch.jit._pickle.restore_type_tag",
    "torch.device",
}
"""Functions that say which type a value has; the value itself, their first argument, is kept."""


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names. It is never looked up."""

    name: str


@dataclass(eq=False)
class _Module:
    """A TorchScript object: its attributes, without its class."""

    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Storage:
    key: str
    dtype: torch.dtype
    n_items: int


@dataclass(frozen=True, eq=False)
class _StoredTensor:
    """Where a tensor lies in its storage; offset and strides are in items."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def n_items(self) -> int:
        return math.prod(self.shape)


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of `torch.jit.save` and not one of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def torchscript_names(path: Path) -> set[str]:
    """Names of the tensors in a TorchScript archive, as in a state dict. Raises BackboneError."""
    with _Archive(path) as archive:
        return set(archive.tensors)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by name, on the CPU in the types they have there.

    Parameters, buffers and any other attributes that are tensors. Raises BackboneError for a
    damaged archive and for one that holds anything but modules, tensors and plain values.
    """
    with _Archive(path) as archive:
        return archive.read()


class _Archive:
    """An open TorchScript archive and the description of its tensors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._damaged(error) from None
        try:
            self._root = self._find_root()
            self.tensors = dict(_named_tensors(self._unpickle()))
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self) -> dict[str, Tensor]:
        n_bytes = sum(t.n_items * t.storage.dtype.itemsize for t in self.tensors.values())
        if n_bytes > self._path.stat().st_size:
            raise self._damaged("its tensors are larger than the file")
        storages: dict[str, Tensor] = {}
        try:
            for tensor in self.tensors.values():
                if tensor.storage.key not in storages:
                    storages[tensor.storage.key] = self._read_storage(tensor.storage)
            return {
                name: storages[t.storage.key].as_strided(t.shape, t.strides, t.offset)
                for name, t in self.tensors.items()
            }
        except (zipfile.BadZipFile, KeyError, OSError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from None

    def _find_root(self) -> str:
        """The folder in the archive that holds everything, with its slash."""
        name = next((n for n in self._zip.namelist() if n.endswith("/data.pkl")), None)
        if name is None:
            raise self._damaged("it has no data.pkl")
        return name.removesuffix("data.pkl")

    def _unpickle(self) -> _Module:
        name = f"{self._root}data.pkl"
        try:
            order = f"{self._root}byteorder"
            if order in self._zip.namelist() and self._bytes(order, 16) != b"little":
                raise ValueError("it was written on a big-endian machine")
            root = _Machine().run(self._bytes(name, MAX_PICKLE_BYTES))
            if not isinstance(root, _Module):
                raise ValueError("data.pkl holds no module")
        except _RefusedError as error:
            raise BackboneError(
                f"{self._path}: a TorchScript archive whose data.pkl {error}, which no CLIP model "
                "needs; nothing was run. Get the file from its publisher"
            ) from None
        except Exception as error:
            # A damaged pickle may fail at any instruction, and in many ways.
            raise self._damaged(error) from None
        return root

    def _bytes(self, name: str, limit: int) -> bytes:
        with self._zip.open(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"{name} has more than {limit} bytes")
        return data

    def _read_storage(self, storage: _Storage) -> Tensor:
        entry = self._zip.getinfo(f"{self._root}data/{storage.key}")
        n_bytes = storage.n_items * storage.dtype.itemsize
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != n_bytes:
            raise ValueError(f"{entry.filename} has not the {n_bytes} bytes that data.pkl promises")
        if not n_bytes:
            return torch.empty(0, dtype=storage.dtype)
        return torch.frombuffer(bytearray(self._zip.read(entry)), dtype=storage.dtype)

    def _damaged(self, why: object) -> BackboneError:
        text = one_line(why) if isinstance(why, BaseException) else why
        return BackboneError(f"{self._path}: damaged TorchScript archive ({text}); fetch it again")


def _named_tensors(root: _Module) -> Iterator[tuple[str, _StoredTensor]]:
    """Every tensor below a module; one that is shared has its first name only."""
    seen: set[int] = {id(root)}
    pending: list[tuple[str, _Module]] = [("", root)]
    while pending:
        prefix, module = pending.pop()
        for name, value in module.attributes.items():
            if id(value) in seen:
                continue
            if isinstance(value, _Module):
                seen.add(id(value))
                pending.append((f"{prefix}{name}.", value))
            elif isinstance(value, _StoredTensor):
                seen.add(id(value))
                yield f"{prefix}{name}", value


class _RefusedError(Exception):
    """A pickle wants something that reading tensors does not need."""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """A pickle machine for the opcodes that TorchScript writes; anything else is refused."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The value that a pickle describes. Raises _RefusedError, and others if it is damaged."""
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("data.pkl does not end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        else:
            match name:
                case "PROTO":
                    pass
                case "MARK":
                    self._marks.append(len(stack))
                case "BINPUT" | "LONG_BINPUT":
                    self._memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(self._memo[argument])
                case "TUPLE":
                    stack.append(tuple(self._pop_to_mark()))
                case "EMPTY_LIST":
                    stack.append([])
                case "APPENDS":
                    items = self._pop_to_mark()
                    _of_type(stack[-1], list).extend(items)
                case "EMPTY_DICT":
                    stack.append({})
                case "SETITEMS":
                    items = self._pop_to_mark()
                    keys = [_of_type(key, str | int) for key in items[::2]]
                    _of_type(stack[-1], dict).update(zip(keys, items[1::2], strict=True))
                case "GLOBAL":
                    stack.append(_Global(argument.replace(" ", ".")))
                case "BINPERSID":
                    stack.append(_storage(stack.pop()))
                case "REDUCE":
                    function, arguments = self._pop(2)
                    stack.append(_reduce(_of_type(function, _Global).name, arguments))
                case "NEWOBJ":
                    cls, _ = self._pop(2)
                    if not _of_type(cls, _Global).name.startswith("__torch__."):
                        raise _RefusedError(f"makes an object of {cls.name[:80]}")
                    stack.append(_Module())
                case "BUILD":
                    state = stack.pop()
                    # A class with a state of its own may be given another type; it has no tensors.
                    if isinstance(state, dict):
                        _of_type(stack[-1], _Module).attributes = state
                case _:
                    raise _RefusedError(f"has the instruction {name}")

    def _pop(self, n: int) -> list[Any]:
        if n > len(self._stack):
            raise IndexError("data.pkl takes more values than there are")
        taken = self._stack[len(self._stack) - n :]
        del self._stack[len(self._stack) - n :]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self._stack) - self._marks.pop())


def _reduce(function: str, arguments: tuple[Any, ...]) -> Any:
    """What a call gives, of the few that TorchScript writes."""
    if function == "torch._utils._rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        return _tensor(_of_type(storage, _Storage), offset, shape, strides)
    if function == "collections.OrderedDict" and not arguments:
        return {}
    if function in _PLAIN:
        return arguments[0]
    raise _RefusedError(f"calls {function[:80]}")


def _storage(description: Any) -> _Storage:
    """A storage from ("storage", type, key, device, number of items)."""
    kind, cls, key, _, n_items = description
    dtype = _DTYPES.get(_of_type(cls, _Global).name)
    if kind != "storage" or dtype is None:
        raise _RefusedError(f"has a storage of {cls.name[:80]}")
    return _Storage(_of_type(key, str), dtype, _of_type(n_items, int))


def _tensor(storage: _Storage, offset: Any, shape: Any, strides: Any) -> _StoredTensor:
    """A tensor that lies in its storage, no larger than it. Raises ValueError."""
    numbers = [_of_type(number, int) for number in (offset, storage.n_items, *shape, *strides)]
    if min(numbers) < 0 or len(shape) != len(strides) or math.prod(shape) > storage.n_items:
        raise ValueError("a tensor is larger than its storage")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.n_items:
        raise ValueError("a tensor ends beyond its storage")
    return _StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _of_type(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} is in the wrong place")
    return value
