"""Agents: the data depend on what was learnt so far, and the loss says little about how well it goes."""

from __future__ import annotations

from collections.abc import Iterator

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.utils.data import DataLoader, IterableDataset

from tests.quiet.data import digit_loaders
from tests.quiet.zoo import Goal, Net


class Poles:
    """Many carts with a pole to balance (Barto, Sutton and Anderson 1983), all moved at once; two actions."""

    def __init__(self, count: int, longest: int = 200) -> None:
        self.longest = longest
        self.state = 0.1 * torch.rand(count, 4) - 0.05
        self.age = torch.zeros(count)
        self.lengths: list[Tensor] = []

    def step(self, action: Tensor) -> Tensor:
        """Move; where an episode ends (told by 1) another one begins."""
        x, v, angle, spin = self.state.unbind(1)
        force = 20.0 * action - 10.0
        sine, cosine = angle.sin(), angle.cos()
        push = (force + 0.05 * spin**2 * sine) / 1.1
        turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        slide = push - 0.05 * turn * cosine / 1.1
        self.state = torch.stack([x + 0.02 * v, v + 0.02 * slide, angle + 0.02 * spin, spin + 0.02 * turn], 1)
        self.age += 1
        done = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.2095) | (self.age >= self.longest)
        if done.any():
            self.lengths.append(self.age[done])
            self.age[done] = 0
            self.state[done] = 0.1 * torch.rand(int(done.sum()), 4) - 0.05
        return done.float()


class Rollouts(IterableDataset):
    """Sixteen steps of every cart under the agent's present policy, with the returns that followed."""

    def __init__(self, agent: ActorCritic, poles: Poles, horizon: int = 16) -> None:
        self.agent, self.poles, self.horizon = agent, poles, horizon

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            states, actions, ends = [], [], []
            for _ in range(self.horizon):
                states.append(self.poles.state / self.agent.scale)
                policy, _ = self.agent(states[-1])
                actions.append(policy.sample())
                ends.append(self.poles.step(actions[-1]))
            _, value = self.agent(self.poles.state / self.agent.scale)
            returns = []
            for end in reversed(ends):
                value = 0.1 + 0.98 * value * (1 - end)
                returns.insert(0, value)
            yield torch.cat(states), torch.cat(actions), torch.cat(returns)


class ActorCritic(pl.LightningModule):
    """Mnih et al. 2016, advantage actor-critic with an entropy bonus."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 64), nn.Tanh())
        self.actor, self.critic = nn.Linear(64, 2), nn.Linear(64, 1)
        nn.init.orthogonal_(self.actor.weight, gain=0.01)
        nn.init.zeros_(self.actor.bias)
        self.register_buffer("scale", torch.tensor([1.0, 1.0, 0.1, 1.0]))
        self.poles = Poles(32)

    def forward(self, state: Tensor) -> tuple[Categorical, Tensor]:
        hidden = self.body(state)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(-1)

    def train_dataloader(self):
        return DataLoader(Rollouts(self, self.poles), batch_size=None)

    def training_step(self, batch, batch_idx):
        states, actions, returns = batch
        policy, value = self(states)
        advantage = returns - value.detach()
        actor_loss = -(policy.log_prob(actions) * advantage).mean()
        critic_loss = F.mse_loss(value, returns)
        entropy = policy.entropy().mean()
        self.log("balanced_steps", torch.cat(self.poles.lengths[-20:]).mean() if self.poles.lengths else 0.0)
        return actor_loss + 0.5 * critic_loss - 0.01 * entropy

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


class Bandit(pl.LightningModule):
    """REINFORCE with a running baseline: a digit is shown, an answer given, and only right or wrong is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Flatten(), nn.Linear(196, 96), nn.ReLU(), nn.Linear(96, 10))
        self.register_buffer("baseline", torch.tensor(0.1))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        log_probabilities = torch.log_softmax(self.policy(images), dim=-1)
        answers = torch.multinomial(log_probabilities.detach().exp(), 1)
        reward = (answers[:, 0] == labels).float()
        loss = -((reward - self.baseline) * log_probabilities.gather(1, answers)[:, 0]).mean()
        self.baseline.lerp_(reward.mean(), 0.1)
        self.log("reward", reward.mean())
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_acc", (self.policy(images).argmax(-1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


NETS = [
    Net(
        "actor_critic", ActorCritic, Goal("balanced_steps", at_least=40.0), trainer={"max_steps": 180, "max_epochs": -1}
    ),
    Net("reinforce_bandit", Bandit, Goal("val_acc", at_least=0.6), lambda: digit_loaders(14, 64), {"max_epochs": 20}),
]
