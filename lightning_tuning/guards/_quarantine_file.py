"""The samples of a dataset that are left out, and the file that they are kept in."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.data import sized_len
from torch.utils.data import Subset

from lightning_tuning.findings.whole_file import write_whole

__all__ = ["QuarantineError", "Ward", "fingerprint", "parts_from_plain", "read_quarantine", "write_quarantine"]

_FORMAT = "lightning-tuning quarantine"
_VERSION = 1


class QuarantineError(ValueError):
    """A file is not what :func:`write_quarantine` writes."""


@dataclasses.dataclass
class Ward:
    """What is left out of one dataset.

    Attributes:
        dataset: its fingerprint.
        length: of the dataset; ``None`` if it has none.
        samples: why each index is left out.
    """

    dataset: str
    length: int | None
    samples: dict[int, str] = dataclasses.field(default_factory=dict)

    def fits(self, other: Ward) -> bool:
        """Both speak of the same dataset, as far as can be told."""
        return (self.dataset, self.length) == (other.dataset, other.length)

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it, and a checkpoint."""
        samples = [{"index": index, "why": why} for index, why in sorted(self.samples.items())]
        return {"dataset": self.dataset, "length": self.length, "samples": samples}


def fingerprint(dataset: Any) -> Ward:
    """An empty ward of ``dataset``: the name of its type and its length; of a ``Subset`` also which items it takes.

    The data themselves are not read.

    Example:
        >>> fingerprint(Subset(range(10), [3, 4, 5]))
        Ward(dataset='Subset 670e21eb of range', length=3, samples={})
    """
    name = type(dataset).__qualname__
    if isinstance(dataset, Subset):
        taken = zlib.crc32(torch.as_tensor(dataset.indices, dtype=torch.int64).numpy().tobytes())
        name = f"{name} {taken:08x} of {fingerprint(dataset.dataset).dataset}"
    return Ward(name, sized_len(dataset))


def parts_from_plain(plain: Mapping[str, Any]) -> dict[str, Ward]:
    """The inverse of ``{name: ward.to_plain()}``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is something else.
    """
    wards = {}
    for name, part in plain.items():
        length = None if part["length"] is None else int(part["length"])
        samples = {int(sample["index"]): str(sample["why"]) for sample in part["samples"]}
        if any(index < 0 or (length is not None and index >= length) for index in samples):
            raise ValueError(f"an index lies outside of the dataset's {length} samples")
        wards[name] = Ward(str(part["dataset"]), length, samples)
    return wards


def read_quarantine(path: Path) -> dict[str, Ward]:
    """What is left out, by the names of the batch's parts; nothing if there is no such file.

    Raises:
        QuarantineError: if the file cannot be read, or is something else; the message names it.
    """
    try:
        return _parts_from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise QuarantineError(f"{path} is no quarantine file, or a damaged one ({why}).") from error


def _parts_from_json(text: str) -> dict[str, Ward]:
    content = json.loads(text)
    if content["format"] != _FORMAT or content["version"] != _VERSION:
        raise ValueError(f"`format` and `version` are not {_FORMAT!r} and {_VERSION}")
    return parts_from_plain(content["parts"])


def write_quarantine(path: Path, wards: Mapping[str, Ward]) -> None:
    """Put ``wards`` into the file, whole or not at all.

    Raises:
        OSError: if that fails; an earlier file is then as it was.
    """
    parts = {name: ward.to_plain() for name, ward in wards.items()}
    text = json.dumps({"format": _FORMAT, "version": _VERSION, "parts": parts}, indent=2) + "\n"

    def fill(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    write_whole(path, fill)
