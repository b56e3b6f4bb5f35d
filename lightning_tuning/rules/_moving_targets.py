"""Losses that say nothing of how well a run goes, since what they compare with moves with the net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_tuning.rules._loss_terms import loss_terms

if TYPE_CHECKING:
    from lightning_tuning.trace.graph import Graph

__all__ = ["acts_on_its_own", "target_makers"]

_DRAWS = ("multinomial", "bernoulli", "normal", "poisson")


def target_makers(graph: Graph) -> frozenset[str]:
    """Names of the parameters that make the targets, where *all* targets are made by parameters; else none.

    If these are trained, or follow those that are (a target network, an exponential average), the loss of a later step
    is that of another problem: a DQN's rises while the agent learns. A teacher that stays as it is is no such thing;
    nor is a net that rebuilds its input and pulls at a codebook beside.
    """
    found: set[str] = set()
    for term in graph.answer(loss_terms):
        if term.target is None:
            continue
        value = graph.values[term.target]
        ops = graph.upstream(value)
        read = [value, *(graph.values[i] for op in ops for i in graph.ops[op].inputs)]
        makers = {str(one.name) for one in read if one.kind == "parameter"}
        if not makers:
            return frozenset()
        found |= makers
    return frozenset(found)


def acts_on_its_own(graph: Graph) -> bool:
    """Whether the loss depends on what was drawn from the net's own outputs, as a policy's actions are.

    Such a loss (REINFORCE) has the right gradient and no meaning as a number. Noise that does not depend on the net is
    none of it, nor are reparameterized samples, which torch draws as noise.
    """
    for op in graph.find(*_DRAWS, feeding=True):
        made = [graph.ops[i] for i in graph.upstream(op)]
        if op.inputs and any(one.parameters for one in made) and not graph.values[op.outputs[0]].requires_grad:
            return True
    return False
