"""Bad samples are written to a file, and left out of the epochs and runs that follow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_tuning.guards._incident import Incident, Response
from lightning_tuning.guards._quarantine_file import (
    QuarantineError,
    Ward,
    fingerprint,
    parts_from_plain,
    read_quarantine,
    write_quarantine,
)
from lightning_tuning.guards._ranks import exchange
from lightning_tuning.guards._samples import Culprits, SampleIndices
from lightning_tuning.guards._sieve import Sieve
from lightning_tuning.runtime import Desk
from lightning_tuning.trace.batch import batch_tensors

__all__ = ["Quarantine", "check_quarantine_argument"]

_NAME = "quarantine.json"

_MOST = 0.5
"""Share of a dataset that may be left out; with more, the fault is not in single samples."""


def check_quarantine_argument(quarantine: object) -> None:
    """See that it is one.

    Raises:
        ValueError: if not.
    """
    if not isinstance(quarantine, bool | str | Path) or quarantine == "":
        raise ValueError(f"`quarantine` must be True, False or the path of a file, got {quarantine!r}.")


class Quarantine(Response):
    """Keeps the dataset indices of samples that were not finite, and lets the training loaders pass them over.

    Only what a batch brought with it counts (cause ``bad-sample``), never a sample in whose row an operation failed. If
    a ``collate_fn`` or a batch transfer hook of the user's stands in between, which may reorder, drop or mix, the items
    of that one batch are read again, each alone, in this process; the random number generators are put back.

    Every rank ends with the same set; rank 0 reads and writes the file. Batches stay as many, and every other sample
    at its place; see :class:`Sieve`. What workers had drawn ahead of the incident still comes.

    Args:
        where: the file; ``None``: ``quarantine.json`` in the folder of the logger, or else in ``default_root_dir``.
        samples: tells indices; is given the sieve.
    """

    def __init__(self, where: str | Path | None, samples: SampleIndices) -> None:
        self._where, self._samples = where, samples
        samples.wrap = self._sieve
        self._path = Path(_NAME)
        self._wards: dict[str, Ward] = {}
        self._filed: dict[str, Ward] = {}
        self._resumed: dict[str, Ward] = {}
        self._remarks: list[str] = []

    def prepare(self, trainer: Trainer) -> None:
        """Read the file.

        Raises:
            MisconfigurationException: on every rank, if it is damaged.
        """
        folder = trainer.log_dir or trainer.default_root_dir  # on every rank: `log_dir` is broadcast
        where = str(self._where or f"{folder}/{_NAME}")
        if "://" in where:
            raise MisconfigurationException(f"`quarantine` needs a local file, got {where!r}; give another path.")
        self._path = Path(where)
        own: dict[str, Ward] | str = {}
        if trainer.is_global_zero:
            try:
                own = read_quarantine(self._path)
            except QuarantineError as error:
                own = str(error)
        first = exchange(own)[0]
        if isinstance(first, str):
            raise MisconfigurationException(f"`quarantine`: {first} Remove it, or give another path.")
        self._filed = first

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that there is something to leave samples out of.

        Raises:
            MisconfigurationException: if no training loader draws by index, or the file is of other data.
        """
        traceable = self._samples.traceable()
        blind = [name for name, known in traceable.items() if not known]
        if len(blind) == len(traceable):
            raise MisconfigurationException(
                "`quarantine` needs a training DataLoader that draws the items of a map-style dataset by index, in "
                "order; an IterableDataset, a loader with `in_order=False` or an iteration of its own, or a "
                "`training_step` that takes `dataloader_iter` gives no indices."
            )
        if blind:
            Desk.of(trainer).journal.note(
                f"NanLossGuard can quarantine nothing in {', '.join(blind)}: not drawn by index"
            )
        for name, filed in self._filed.items():  # not claimed by a loader
            now = self._wards.get(name)
            this = "this run has no such part" if now is None else f"this run trains on {now.dataset} of {now.length}"
            raise MisconfigurationException(
                f"`quarantine`: {self._path} is of other data: {name} from {filed.dataset} of {filed.length} samples; "
                f"{this}. Remove the file, or give another path."
            )

    def answer(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> str:
        """Put the bad samples of all ranks into quarantine."""
        if incident.finding.evidence.get("cause") != "bad-sample":
            return ""
        everybody = exchange(self._found(trainer))
        found = {key: why for own, _ in everybody for key, why in own.items()}
        new = {key: why for key, why in found.items() if key[0] in self._wards and key[1] not in self._ward(key[0])}
        if not new:
            return "" if found else next((why for _, why in everybody if why), "")
        for name, ward in self._wards.items():
            more = sum(part == name for part, _ in new)
            if more and ward.length is not None and len(ward.samples) + more > _MOST * ward.length:
                return f"not quarantined: more than half of the {ward.length} samples would be left out"
        for (name, index), why in new.items():
            self._wards[name].samples[index] = why
        failed = exchange(self._write() if trainer.is_global_zero else "")[0]
        indices = sorted(index for _, index in new)
        return f"quarantined dataset ind{'ex' if len(indices) == 1 else 'ices'} {_listed(indices)}{failed}"

    def notes(self) -> list[str]:
        """What is left out."""
        lines = list(self._remarks)
        for name, ward in self._wards.items():
            if ward.samples:
                of = "" if ward.length is None else f" of {ward.length}"
                part = "" if name == "batch" else f" in {name}"
                shown = _listed(sorted(ward.samples))
                lines.append(f"quarantined {len(ward.samples)}{of} samples{part}: {shown} ({self._path})")
        return lines

    def state_dict(self) -> dict[str, Any]:
        """What is left out, by part."""
        wards = {**self._resumed, **self._wards}
        return {name: ward.to_plain() for name, ward in wards.items() if ward.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leave the same out, of the same dataset."""
        self._resumed = parts_from_plain(state)

    def _ward(self, name: str) -> Mapping[int, str]:
        return self._wards[name].samples

    def _sieve(self, name: str, loader: DataLoader[Any], sampler: Any) -> Any:
        """Stands between ``sampler`` and the loader's batches."""
        now = fingerprint(loader.dataset)
        known = self._wards.setdefault(name, now)
        if not known.fits(now):  # the loader was reloaded with another dataset
            self._remark(f"the quarantine of {known.dataset} ended, when {name} was reloaded from {now.dataset}")
            known = self._wards[name] = now
        if name in self._filed and self._filed[name].fits(now):  # else `begin` refuses it; Lightning cannot end here
            known.samples |= self._filed.pop(name).samples
        if (resumed := self._resumed.pop(name, None)) is not None:
            if resumed.fits(now):
                known.samples |= resumed.samples
            else:
                self._remark(f"the checkpoint's quarantine is of {resumed.dataset}, not of {now.dataset}: left aside")
        keep_size = bool(loader.drop_last or getattr(sampler, "drop_last", False))
        return Sieve(sampler, known.samples.keys(), keep_size=keep_size)

    def _remark(self, sentence: str) -> None:
        if sentence not in self._remarks:
            self._remarks.append(sentence)

    def _write(self) -> str:
        try:
            write_quarantine(self._path, {name: ward for name, ward in self._wards.items() if ward.samples})
        except OSError as error:
            return f", which could not be written ({error})"
        return ""

    def _found(self, trainer: Trainer) -> tuple[dict[tuple[str, int], str], str]:
        """The bad samples of this rank's batch, by part and index, or why none is known."""
        culprits = self._samples.culprits
        if culprits is None:
            return {}, ""
        indices = _read_again(culprits) if culprits.doubt else culprits.indices
        if not indices:
            return {}, "nothing quarantined: none of the batch's items is bad when it is read again, alone"
        origin, name = culprits.origin, culprits.draw.name
        why = f"{origin.value or 'a value that is not finite'} in {origin.names[0]}, epoch {trainer.current_epoch}"
        return {(name, index): f"{why}, step {trainer.global_step}" for index in indices}, ""


def _read_again(culprits: Culprits) -> tuple[int, ...]:
    """The items of the batch that are not finite when they are read alone."""
    draw, loader = culprits.draw, culprits.draw.loader
    bad = []
    with isolate_rng():
        for index in dict.fromkeys(draw.indices):
            try:
                several = getattr(loader.dataset, "__getitems__", None)
                items = several([index]) if several else [loader.dataset[index]]
                tensors = dict(batch_tensors(loader.collate_fn(items), path=draw.name))
            except Exception:  # noqa: BLE001, S112  # of the user's code, which may need its whole batch: not known
                continue
            named = tensors.get(culprits.origin.names[0])
            asked = list(tensors.values()) if named is None else [named]
            if any(t.is_floating_point() and not t.is_sparse and not t.isfinite().all() for t in asked):
                bad.append(index)
    return tuple(bad)


def _listed(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:10])) + (f" and {len(indices) - 10} more" if len(indices) > 10 else "")
