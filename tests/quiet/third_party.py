"""Nets that others wrote: architectures of ``transformers`` from their configs, scaled small, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import transformers as hf
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SAMPLES, BATCH, CLASSES, VOCABULARY = 256, 32, 4, 64

Item = Mapping[str, Tensor]


class Items(Dataset[Item]):
    """Samples by index out of tensors by key."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Item:
        return {key: column[index] for key, column in self.columns.items()}


def images(size: int = 32) -> Items:
    """Gratings of four orientations in noise, of unit scale."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    angle = labels * (torch.pi / CLASSES)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    phase = 2 * torch.pi * torch.rand(SAMPLES, 1, 1, generator=generator)
    waves = torch.sin(0.8 * (x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]) + phase)
    pixels = waves[:, None] * 1.2 + 0.5 * torch.randn(SAMPLES, 3, size, size, generator=generator)
    return Items(pixel_values=pixels, labels=labels)


def sequences(length: int = 24) -> Tensor:
    """Token ids ``[samples, length]`` that count upwards by a step of their own, so that the next one can be told."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randint(VOCABULARY, (SAMPLES, 1), generator=generator)
    stride = torch.randint(1, 4, (SAMPLES, 1), generator=generator)
    return (start + stride * torch.arange(length)) % VOCABULARY


def language() -> Items:
    ids = sequences()
    return Items(input_ids=ids, labels=ids)


def masked() -> Items:
    """One token in six is hidden, padding at the end of some sequences, as for BERT."""
    ids = sequences()
    generator = torch.Generator().manual_seed(3)
    hidden = torch.rand(ids.shape, generator=generator) < 1 / 6
    lengths = torch.randint(16, ids.shape[1] + 1, (SAMPLES, 1), generator=generator)
    attention = (torch.arange(ids.shape[1]) < lengths).long()
    hidden &= attention.bool()
    return Items(
        input_ids=ids.masked_fill(hidden, VOCABULARY - 1), attention_mask=attention, labels=ids.where(hidden, -100)
    )


def sentences() -> Items:
    """Classified by their step, for a head on the pooled token."""
    ids = sequences()
    return Items(input_ids=ids, labels=(ids[:, 1] - ids[:, 0]) % VOCABULARY - 1)


def translation() -> Items:
    ids = sequences(16) % (VOCABULARY - 2) + 2
    return Items(input_ids=ids, labels=ids.flip(1))


def speech() -> Items:
    """Tones of four pitches in noise, classified."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    time = torch.arange(1600) / 1600
    pitch = 20.0 * (1 + labels)[:, None]
    waves = torch.sin(2 * torch.pi * (pitch * time + torch.rand(SAMPLES, 1, generator=generator)))
    return Items(input_values=1.2 * waves + 0.5 * torch.randn(SAMPLES, 1600, generator=generator), labels=labels)


_IMAGE = {"num_labels": CLASSES}
_TEXT = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

NETS: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], Items]]] = {
    "ResNet": (
        lambda: hf.ResNetForImageClassification(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", **_IMAGE)
        ),
        images,
    ),
    "RegNet": (
        lambda: hf.RegNetForImageClassification(
            hf.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, **_IMAGE)
        ),
        images,
    ),
    "EfficientNet": (
        lambda: hf.EfficientNetForImageClassification(
            hf.EfficientNetConfig(
                width_coefficient=0.25,
                depth_coefficient=1.0,
                kernel_sizes=[3, 5, 3],
                in_channels=[32, 16, 24],
                out_channels=[16, 24, 40],
                strides=[1, 2, 1],
                num_block_repeats=[1, 2, 1],
                expand_ratios=[1, 6, 6],
                depthwise_padding=[],
                hidden_dim=320,
                image_size=32,
                initializer_range=0.1,  # .02 is for nets of a thousand channels; this narrow one learns nothing from it
                batch_norm_momentum=0.1,
                **_IMAGE,
            )
        ),
        images,
    ),
    "MobileNetV2": (
        lambda: hf.MobileNetV2ForImageClassification(
            hf.MobileNetV2Config(depth_multiplier=0.25, image_size=32, classifier_dropout_prob=0.2, **_IMAGE)
        ),
        images,
    ),
    "ConvNeXt": (
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, image_size=32, **_IMAGE)
        ),
        images,
    ),
    "ViT": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(image_size=32, patch_size=8, **_SMALL, **_IMAGE)),
        images,
    ),
    "Swin": (
        lambda: hf.SwinForImageClassification(
            hf.SwinConfig(
                image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, **_IMAGE
            )
        ),
        images,
    ),
    "BERT, masked": (lambda: hf.BertForMaskedLM(hf.BertConfig(**_SMALL, **_TEXT)), masked),
    "BERT, classified": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(num_labels=3, **_SMALL, **_TEXT)),
        sentences,
    ),
    "GPT-2": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=32, **_TEXT)),
        language,
    ),
    "Llama": (
        lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **_SMALL, **_TEXT)
        ),
        language,
    ),
    "T5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(
                vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0
            )
        ),
        translation,
    ),
    "wav2vec 2.0": (
        lambda: hf.Wav2Vec2ForSequenceClassification(
            hf.Wav2Vec2Config(
                conv_dim=(16, 16, 16),
                conv_kernel=(10, 3, 3),
                conv_stride=(5, 2, 2),
                num_feat_extract_layers=3,
                num_conv_pos_embeddings=16,
                num_conv_pos_embedding_groups=2,
                classifier_proj_size=16,
                mask_time_length=2,
                **_SMALL,
                **_IMAGE,
                **{key: value for key, value in _TEXT.items() if key != "vocab_size"},
            )
        ),
        speech,
    ),
}
"""By name: how the net is made, and what it learns from."""

EPOCHS = {"BERT, masked": 30}
"""Where six epochs of eight batches teach nothing."""


class ThirdParty(pl.LightningModule):
    """A net that computes its own loss, trained as its authors' examples do: AdamW, linear warm-up and decay."""

    def __init__(self, name: str) -> None:
        super().__init__()
        build, self._data = NETS[name]
        self.net = build()
        self.losses: list[float] = []

    def training_step(self, batch: Item, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(**batch).loss
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = hf.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[Item]:
        return DataLoader(self._data(), batch_size=BATCH, shuffle=True)
