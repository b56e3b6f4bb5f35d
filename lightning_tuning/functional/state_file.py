"""State dicts as plain files: ``.pth`` that ``torch.load(weights_only=True)`` takes, and safetensors."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

__all__ = ["plain", "read_state_file", "write_pth", "write_safetensors"]

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(None))


def write_pth(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with ``torch.save``, as plain types and CPU tensors; tied tensors are written once.

    Raises:
        ValueError: if something in it is not plain; see :func:`plain`.
    """
    torch.save(plain(content), path)


def write_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write ``tensors`` as safetensors; of tied ones the first, and the names of the others as metadata.

    That is what ``safetensors.torch.save_model`` does too, so ``safetensors.torch.load_model`` reads it, and so does
    :func:`~lightning_tuning.functional.load_state`.

    Raises:
        ValueError: for what is no tensor, and for a sparse one.
    """
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {"format": "pt"}
    first: dict[int, str] = {}
    memo: dict[Any, Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            what = f"a {tensor.layout} tensor" if isinstance(tensor, Tensor) else f"a {type(tensor).__qualname__}"
            raise ValueError(f"safetensors holds dense tensors only, got {what} for {name!r}; use format='pth'.")
        single = _plain_tensor(tensor, memo)
        twin = first.setdefault(id(single), name)
        if twin == name:
            kept[name] = single.contiguous()
        else:
            aliases[name] = twin
    save_file(kept, path, metadata=aliases)


def read_state_file(path: Path) -> Any:
    """What is in the file, on the CPU: safetensors as a state dict, anything else as ``torch.load`` has it.

    Nothing in the file is executed: ``weights_only=True``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is neither, or holds objects that would have to be run to be loaded, a whole pickled module.
    """
    if _is_safetensors(path):
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            aliases = {name: twin for name, twin in (file.metadata() or {}).items() if twin in tensors}
        return {**tensors, **{name: tensors[twin] for name, twin in aliases.items()}}
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(_why_not(path, error)) from error


def plain(value: Any, where: str = "", memo: dict[Any, Tensor] | None = None) -> Any:
    """``value`` as ``torch.load(weights_only=True)`` takes it back: built-in types, and tensors on the CPU.

    Mappings become dicts, NumPy's numbers Python's. What was one tensor, or shares its memory whole, is one again.

    Raises:
        ValueError: naming the place of something else, an object or a function.

    Example:
        >>> from collections import OrderedDict
        >>> plain(OrderedDict(lr=0.1, steps=(1, 2)))
        {'lr': 0.1, 'steps': (1, 2)}
        >>> plain({"schedule": {"factor": len}})
        Traceback (most recent call last):
        ...
        ValueError: schedule.factor is a builtin_function_or_method, which no file of plain types can hold.
    """
    memo = {} if memo is None else memo
    if isinstance(value, Tensor):
        return _plain_tensor(value, memo)
    if isinstance(value, Mapping):
        return {plain(k, where): plain(item, f"{where}.{k}".lstrip("."), memo) for k, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(plain(item, f"{where}[{i}]", memo) for i, item in enumerate(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return plain(value.item(), where)
    if type(value) in _PLAIN:
        return value
    raise ValueError(f"{where or 'this'} is a {type(value).__qualname__}, which no file of plain types can hold.")


def _plain_tensor(tensor: Tensor, memo: dict[Any, Tensor]) -> Tensor:
    """On the CPU and without its graph; the same object for what is the same memory, seen in the same way."""
    tensor = tensor.detach().as_subclass(Tensor)
    if tensor.layout is not torch.strided or tensor.is_meta:
        return tensor.cpu() if not tensor.is_meta else tensor
    key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if not tensor.numel() or key not in memo:
        copy = tensor.cpu()
        if copy.untyped_storage().nbytes() > copy.nbytes:  # a view would bring the whole of its memory along, which
            copy = copy.clone()  # safetensors refuses where other tensors are in it too
        memo[key] = copy
        if not tensor.numel():
            return copy
    return memo[key]


def _is_safetensors(path: Path) -> bool:
    """By its first bytes: the length of a header in JSON."""
    with path.open("rb") as file:
        head = file.read(9)
        if len(head) < 9 or head[8:] != b"{":
            return False
        (length,) = struct.unpack("<Q", head[:8])
        if length > path.stat().st_size:
            return False
        try:
            return isinstance(json.loads(b"{" + file.read(length - 1)), dict)
        except ValueError:
            return False


def _why_not(path: Path, error: Exception) -> str:
    found = re.findall(r"GLOBAL ([\w.]+)", str(error))
    said = next(iter(str(error).splitlines()), type(error).__name__)
    try:
        found = sorted(get_unsafe_globals_in_checkpoint(path)) or found
    except Exception:  # noqa: BLE001  # whatever it is that cannot be read: the first error says it
        if not found:
            return f"{path} is no file of torch.save or safetensors: {said}"
    if not found:
        return f"{path} cannot be read: {said}"
    return (
        f"{path} holds pickled objects ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''}), a whole module "
        "perhaps, and loading them would run code. Only state dicts are read here. Where the file comes from somebody "
        "you trust, `net = torch.load(path, weights_only=False)` and `torch.save(net.state_dict(), new_path)` make one."
    )
