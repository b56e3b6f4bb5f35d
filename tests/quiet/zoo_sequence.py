"""Nets that read sequences: text, tokens, signals, rows of digits."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from tests.quiet.classifier import Classifier, adamw
from tests.quiet.data import digit_loaders, loaders, seeded, split, text, text_windows
from tests.quiet.zoo import Goal, Net

CHARACTERS = text()[1]


class CausalSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)
        self.heads, self.dropout = heads, dropout
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(b, t, c)))


class GPTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = CausalSelfAttention(dim, heads, dropout)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 4 * dim), "c_proj": nn.Linear(4 * dim, dim)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.dropout(self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")))


class GPT(pl.LightningModule):
    """Pre-norm, tied embeddings, GPT-2's initialisation, AdamW with decay on matrices only, warm-up and cosine."""

    def __init__(self, vocabulary: int, block: int = 24, dim: int = 48, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, dim), nn.Embedding(block, dim)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList(GPTBlock(dim, heads, 0.1) for _ in range(layers))
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight
        self.apply(self._init)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.drop(self.wte(ids) + self.wpe(positions))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))

    def loss(self, batch: list[Tensor]) -> Tensor:
        (ids,) = batch
        logits = self(ids[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.size(-1)), ids[:, 1:].reshape(-1))

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        decay = [p for p in self.parameters() if p.dim() >= 2]
        no_decay = [p for p in self.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
        steps, warm_up = int(self.trainer.estimated_stepping_batches), 10
        schedule = LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warm_up, 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, step / steps)))),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LSTMLanguageModel(pl.LightningModule):
    """Two layers with dropout between, clipped gradients, the rate lowered when validation stalls."""

    def __init__(self, vocabulary: int, dim: int = 96) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Embedding(vocabulary, 32)
        self.drop = nn.Dropout(0.2)
        self.lstm = nn.LSTM(32, dim, num_layers=2, dropout=0.2, batch_first=True)
        self.decoder = nn.Linear(dim, vocabulary)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.drop(self.encoder(ids)))
        return self.decoder(self.drop(hidden))

    def training_step(self, batch, batch_idx):
        ids = batch[0]
        return F.cross_entropy(self(ids[:, :-1]).transpose(1, 2), ids[:, 1:])

    def validation_step(self, batch, batch_idx):
        ids = batch[0]
        self.log("val_loss", F.cross_entropy(self(ids[:, :-1]).transpose(1, 2), ids[:, 1:]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        schedule = ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class PostNormTransformer(pl.LightningModule):
    """Vaswani et al. 2017: normalisation after each residual sum, sinusoidal positions; reads a digit row by row."""

    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(14, dim)
        layer = nn.TransformerEncoderLayer(dim, nhead=4, dim_feedforward=96, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 10)
        at = torch.arange(14).unsqueeze(1) * torch.exp(torch.arange(0, dim, 2) * (-math.log(1e4) / dim))
        self.register_buffer("positions", torch.stack([at.sin(), at.cos()], dim=-1).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        rows = self.embed(images.squeeze(1)) + self.positions
        return self.head(self.encoder(rows).mean(dim=1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(-1) == y).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-2)
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 15, 1.0))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class PackedGRU(nn.Module):
    """Bidirectional, over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 24, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(48, 4)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        padded, lengths = batch
        _, last = self.gru(pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False))
        return self.fc(torch.cat([last[0], last[1]], dim=-1))


def waves_of_four_kinds():
    """Noisy sequences of 6 to 24 steps; the class is the direction in which the phase turns, and how fast."""
    generator = seeded(3)
    samples = []
    for _ in range(1280):
        kind = int(torch.randint(4, (), generator=generator))
        length = int(torch.randint(6, 25, (), generator=generator))
        phase = (0.4, 0.9, -0.4, -0.9)[kind] * torch.arange(length) + 6 * torch.rand((), generator=generator)
        wave = torch.stack([phase.sin(), phase.cos(), (2 * phase).sin()], dim=1)
        samples.append(((wave + 0.3 * torch.randn(wave.shape, generator=generator)) / 0.77, kind))

    def collate(chosen):
        inputs = pad_sequence([wave for wave, _ in chosen], batch_first=True)
        lengths = torch.tensor([len(wave) for wave, _ in chosen])
        return (inputs, lengths), torch.tensor([kind for _, kind in chosen])

    train = DataLoader(samples[:1024], 64, shuffle=True, collate_fn=collate, generator=seeded(0))
    return train, DataLoader(samples[1024:], 64, collate_fn=collate)


class GatedResidual(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.pad = dilation
        self.filter = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.gate = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, (self.pad, 0))
        out = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return x + self.residual(out), self.skip(out)


class WaveNet(pl.LightningModule):
    """Dilated causal convolutions predict the next of 32 levels of a signal."""

    LEVELS = 32

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.start = nn.Conv1d(self.LEVELS, channels, 1)
        self.layers = nn.ModuleList(GatedResidual(channels, 2**at) for at in range(5))
        self.end1 = nn.Conv1d(2 * channels, 2 * channels, 1)
        self.end2 = nn.Conv1d(2 * channels, self.LEVELS, 1)

    def forward(self, levels: Tensor) -> Tensor:
        x = self.start(F.one_hot(levels, self.LEVELS).float().mT)
        skips = 0
        for layer in self.layers:
            x, skip = layer(x)
            skips = skips + skip
        return self.end2(F.relu(self.end1(F.relu(skips))))

    def _loss(self, batch):
        (levels,) = batch
        return F.cross_entropy(self(levels[:, :-1]), levels[:, 1:])

    def training_step(self, batch, batch_idx):
        return self._loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_nll", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=4e-3)


def quantised_signals():
    generator = seeded(4)
    count, length = 768, 48
    rate = 0.2 + 0.5 * torch.rand(count, 2, 1, generator=generator)
    phase = 6.3 * torch.rand(count, 2, 1, generator=generator)
    signal = torch.sin(rate * torch.arange(length) + phase).mean(1)
    levels = ((signal + 1) / 2 * 31.999).long().clamp(0, 31)
    return loaders(split(levels, train=640), 32)


class AttentiveSeq2Seq(pl.LightningModule):
    """GRU encoder, Bahdanau attention, a GRU cell that is fed the right last token; writes the sequence backwards."""

    START = 12

    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 24)
        self.encoder = nn.GRU(24, dim // 2, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(24 + dim, dim)
        self.w_query = nn.Linear(dim, dim, bias=False)
        self.w_key = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, 1, bias=False)
        self.out = nn.Linear(2 * dim, 12)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.embed(source))
        hidden = torch.cat([last[0], last[1]], dim=-1)
        keys = self.w_key(memory)
        token = source.new_full((len(source),), self.START)
        logits = []
        for step in range(target.shape[1]):
            energy = self.v(torch.tanh(self.w_query(hidden).unsqueeze(1) + keys)).squeeze(-1)
            context = torch.bmm(energy.softmax(-1).unsqueeze(1), memory).squeeze(1)
            hidden = self.cell(torch.cat([self.embed(token), context], dim=-1), hidden)
            logits.append(self.out(torch.cat([hidden, context], dim=-1)))
            token = target[:, step]
        return torch.stack(logits, dim=1)

    def training_step(self, batch, batch_idx):
        source, target = batch
        logits = self(source, target)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        source, target = batch
        self.log("val_acc", (self(source, target).argmax(-1) == target).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=8e-3)


def reversed_sequences():
    source = torch.randint(12, (1408, 5), generator=seeded(6))
    return loaders(split(source, source.flip(1), train=1280), 64)


class BertPooler(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class Bert(nn.Module):
    """Gives what every token has become and, as its ancestor does, a pooled first token."""

    def __init__(self, vocabulary: int, length: int, dim: int = 48) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.norm, self.drop = nn.LayerNorm(dim), nn.Dropout(0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.1, activation="gelu", batch_first=True) for _ in range(2)
        )
        self.pooler = BertPooler(dim)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.drop(self.norm(self.tokens(ids) + self.positions.weight))
        for layer in self.layers:
            x = layer(x)
        return x, self.pooler(x)


class MaskedLanguageModel(pl.LightningModule):
    """Guesses the tokens that were masked; nobody uses the pooler."""

    def __init__(self, vocabulary: int = 12, length: int = 16, dim: int = 48) -> None:
        super().__init__()
        self.mask = vocabulary
        self.bert = Bert(vocabulary + 1, length, dim)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, vocabulary))

    def _loss(self, ids: Tensor) -> Tensor:
        masked = torch.rand(ids.shape, device=ids.device) < 0.15
        hidden, _ = self.bert(ids.masked_fill(masked, self.mask))
        labels = ids.masked_fill(~masked, -100)
        return F.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten(), ignore_index=-100)

    def training_step(self, batch, batch_idx):
        return self._loss(batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def ladders():
    """Twelve tokens in a circle, walked in steps of one or two."""
    generator = seeded(7)
    start, stride = (torch.randint(low, high, (1600, 1), generator=generator) for low, high in ((0, 12), (1, 3)))
    return loaders(split((start + stride * torch.arange(16)) % 12, train=1280), 64)


class SwitchFeedForward(nn.Module):
    """One expert for each token; some of the eight get none in a batch, and the one added for later never does."""

    def __init__(self, dim: int, experts: int = 8, reserved: int = 1) -> None:
        super().__init__()
        self.router = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)) for _ in range(experts)
        )
        self.active = experts - reserved

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = self.router(tokens)[:, : self.active].softmax(dim=-1)
        gate, chosen = probabilities.max(dim=-1)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            (mine,) = torch.where(chosen == number)
            if len(mine):
                out = out.index_add(0, mine, gate[mine].unsqueeze(1) * expert(tokens[mine]))
        load = F.one_hot(chosen, self.active).float().mean(0)
        return out.view_as(x), self.active * (load * probabilities.mean(0)).sum()


class MixtureOfExperts(pl.LightningModule):
    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(14, dim), nn.GELU())
        self.positions = nn.Parameter(0.02 * torch.randn(14, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.mix = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.moe = SwitchFeedForward(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(images[:, 0]) + self.positions
        normed = self.norms[0](x)
        x = x + self.mix(normed, normed, normed, need_weights=False)[0]
        out, balance = self.moe(self.norms[1](x))
        return self.head(self.norms[2](x + out).mean(1)), balance

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits, balance = self(x)
        return F.cross_entropy(logits, y) + 0.01 * balance

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x)[0].argmax(-1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Elman(nn.Module):
    """A plain tanh recurrence, unrolled by hand, with an orthogonal matrix to start from."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.w = nn.Linear(14, dim)
        self.u = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim)))
        self.out = nn.Linear(dim, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.zeros(len(images), self.u.shape[0], device=images.device)
        for row in images.squeeze(1).unbind(1):
            hidden = torch.tanh(self.w(row) + hidden @ self.u)
        return self.out(hidden)


NETS = [
    Net(
        "gpt_tied_weights",
        lambda: GPT(CHARACTERS),
        Goal("val_loss", at_most=2.6),
        lambda: loaders(text_windows(25, stride=8), 32),
        {"max_epochs": 6, "gradient_clip_val": 1.0},
    ),
    Net(
        "lstm_language_model",
        lambda: LSTMLanguageModel(CHARACTERS),
        Goal("val_loss", at_most=2.55),
        lambda: loaders(text_windows(33, stride=8), 32),
        {"max_epochs": 5, "gradient_clip_val": 1.0},
    ),
    Net(
        "post_norm_transformer",
        PostNormTransformer,
        Goal("val_acc", at_least=0.65),
        digit_loaders,
        {"max_epochs": 6},
    ),
    Net(
        "packed_gru",
        lambda: Classifier(PackedGRU(), adamw(1e-2), classes=4),
        Goal("val_acc", at_least=0.8),
        waves_of_four_kinds,
        {"max_epochs": 4},
    ),
    Net("wavenet", WaveNet, Goal("val_nll", at_most=1.9), quantised_signals, {"max_epochs": 6}),
    Net("seq2seq_attention", AttentiveSeq2Seq, Goal("val_acc", at_least=0.7), reversed_sequences, {"max_epochs": 12}),
    Net(
        "bert_unused_pooler",
        MaskedLanguageModel,
        Goal("val_loss", at_most=1.2),
        ladders,
        {"max_epochs": 8},
    ),
    Net(
        "moe_unused_experts",
        MixtureOfExperts,
        Goal("val_acc", at_least=0.7),
        digit_loaders,
        {"max_epochs": 8},
    ),
    Net(
        "elman_by_hand",
        lambda: Classifier(Elman(), adamw(2e-3)),
        Goal("val_acc", at_least=0.7),
        digit_loaders,
        {"max_epochs": 8, "gradient_clip_val": 1.0},
    ),
]
