"""What the real libraries wrote, read back with their own readers: numbers as ``(name, step, value)``, and texts."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

Numbers = list[tuple[str, int, float]]

WANDB_BLOCK = 32768  # bytes; records that do not fit into what is left of one are cut up


def tensorboard_events(logger: TensorBoardLogger) -> EventAccumulator:
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def tensorboard_numbers(logger: TensorBoardLogger) -> Numbers:
    events = tensorboard_events(logger)
    return [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]


def tensorboard_texts(logger: TensorBoardLogger) -> dict[str, list[tuple[int, str]]]:
    """By the tag that the page shows."""
    events = tensorboard_events(logger)
    return {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in events.PluginTagToContent("text")
    }


def csv_rows(logger: CSVLogger, name: str) -> list[dict[str, str]]:
    with Path(logger.log_dir, name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def csv_numbers(logger: CSVLogger) -> Numbers:
    rows = csv_rows(logger, "metrics.csv")
    return [(name, int(row["step"]), float(cell)) for row in rows for name, cell in row.items() if cell]


def mlflow_client(logger: MLFlowLogger) -> MlflowClient:
    return MlflowClient(logger._tracking_uri)


def mlflow_numbers(logger: MLFlowLogger) -> Numbers:
    client = mlflow_client(logger)
    names = client.get_run(logger.run_id).data.metrics
    return [(name, one.step, one.value) for name in names for one in client.get_metric_history(logger.run_id, name)]


def wandb_folder(logger: WandbLogger) -> Path:
    (folder,) = Path(logger.save_dir, "wandb").glob(f"offline-run-*-{logger.version}")
    return folder


def wandb_records(logger: WandbLogger) -> Iterator[Record]:
    """The records of an offline run, which lie in the format of LevelDB's log behind a header of seven bytes."""
    (path,) = wandb_folder(logger).glob("*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(content):
        if WANDB_BLOCK - at % WANDB_BLOCK < 7:
            at += WANDB_BLOCK - at % WANDB_BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def wandb_history(logger: WandbLogger) -> list[dict[str, Any]]:
    """What was logged together; of tables and pages where they lie."""
    logged = []
    for record in wandb_records(logger):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *places, last = [item.key] if item.key else list(item.nested_key)
                inner = row
                for place in places:
                    inner = inner.setdefault(place, {})
                inner[last] = json.loads(item.value_json)
            logged.append(row)
    return logged


def wandb_numbers(logger: WandbLogger) -> Numbers:
    return [
        (name, row["trainer/global_step"], float(value))
        for row in wandb_history(logger)
        for name, value in row.items()
        if isinstance(value, int | float)
    ]


def wandb_media(logger: WandbLogger, key: str) -> list[tuple[int, str]]:
    """The files under ``key``, with the step of each."""
    folder = wandb_folder(logger) / "files"
    rows = [row for row in wandb_history(logger) if key in row]
    return [(row["trainer/global_step"], Path(folder, row[key]["path"]).read_text("utf-8")) for row in rows]
