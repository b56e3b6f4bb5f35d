"""All that a guard does in an incident besides deciding on the update, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_tuning.findings import Finding
from lightning_tuning.guards._incident import Incident, Response

__all__ = ["Responses"]


class Responses:
    """Several responses, called in their order; each keeps its state under its class's name."""

    def __init__(self, members: Sequence[Response] = ()) -> None:
        self._members = list(members)

    def __iter__(self) -> Iterator[Response]:
        return iter(self._members)

    @property
    def wants_rng(self) -> bool:
        """Whether one of them must have the random number generators in any case."""
        return any(response.wants_rng for response in self._members)

    def prepare(self, trainer: Trainer) -> None:
        """See :meth:`Response.prepare`."""
        for response in self._members:
            response.prepare(trainer)

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See :meth:`Response.begin`."""
        for response in self._members:
            response.begin(trainer, pl_module)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See :meth:`Response.look`."""
        for response in self._members:
            response.look(trainer, pl_module)

    def amended(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> Incident:
        """``incident`` with what they know of it; each is given what the one before it said."""
        for response in self._members:
            incident = dataclasses.replace(incident, finding=response.amend(trainer, pl_module, incident))
        return incident

    def answered(self, trainer: Trainer, pl_module: LightningModule, incident: Incident) -> Finding:
        """They act; the finding with what they did about it."""
        said = [response.answer(trainer, pl_module, incident) for response in self._members]
        message = "; ".join([incident.finding.message, *filter(None, said)])
        return dataclasses.replace(incident.finding, message=message)

    def notes(self) -> list[str]:
        """Lines for the closing summary."""
        return [note for response in self._members for note in response.notes()]

    def end(self, trainer: Trainer) -> None:
        """See :meth:`Response.end`."""
        for response in self._members:
            response.end(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Of those that have something to keep."""
        kept = {type(response).__name__: response.state_dict() for response in self._members}
        return {name: state for name, state in kept.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it; what belongs to a response that this guard does not have is left alone."""
        for response in self._members:
            if (kept := state.get(type(response).__name__)) is not None:
                response.load_state_dict(kept)
