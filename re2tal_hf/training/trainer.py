"""The training loop, the same for every task."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, gather_object, set_seed
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..configuration_re2tal import Re2TALConfig
from ..data.annotations import AnnotatedVideo
from ..data.augmentation import Augmentation
from ..data.windows import TrainingWindows
from ..modeling_re2tal import Re2TALPreTrainedModel
from ..rewiring import DUAL_RESIDUAL
from ..video_processing_re2tal import Re2TALVideoProcessor
from .arguments import Recipe
from .coupling_schedule import coupling_at
from .memory import peak_memory
from .optimization import build_optimizer, learning_rate_factor, set_learning_rates
from .run_record import describe_run

logger = logging.getLogger(__name__)


class Progress:
    """How far a run is; part of its checkpoint.

    Attributes:
        epoch: Epochs done.
        updates: Updates done, as many an epoch as the present number of processes makes.
        best: The criterion of the best model.
        seconds: Time spent in training.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.updates = 0
        self.best = -1.0
        self.seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the values, for `Accelerator.register_for_checkpointing`."""
        return dict(self.__dict__)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the values."""
        self.__dict__.update(state)


class Trainer(ABC):
    """Trains, evaluates and saves one model, on one device or many.

    The run folder holds `recipe.yaml`, `run.json` (machine, versions, data, time), `log.jsonl` (one line an
    epoch), `best/` and `last/` (what `save` writes, and `metrics.json`), `checkpoint/` to resume from, and the
    trackers' files.

    A task is a subclass that says what the data and the model are and how they are measured.

    Args:
        recipe ([`Recipe`]): What to train and how.
        folder (`str` or `Path`): The run folder.
        resume (`bool`): Go on from `checkpoint/`; the outcome is that of a run without interruption.

    Attributes:
        criterion (`str`): Name of the metric by which the best model is chosen.

    Raises:
        ValueError: if data, recipe and model do not fit together, or the folder holds another run.
    """

    criterion: ClassVar[str]

    def __init__(self, recipe: Recipe, folder: str | Path, resume: bool = False):
        self.recipe = recipe
        self.folder = Path(folder)
        self.resume = resume
        self._check_folder()
        arguments = recipe.training
        self.accelerator = Accelerator(
            # Unless told, it makes processes without an accelerator runs of their own.
            cpu=not torch.accelerator.is_available(),
            mixed_precision=arguments.mixed_precision,
            gradient_accumulation_steps=arguments.gradient_accumulation,
            log_with=arguments.trackers or None,
            project_config=ProjectConfiguration(project_dir=str(self.folder)),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
        )
        set_seed(recipe.seed)
        self.processor = Re2TALVideoProcessor(**recipe.processor)
        self.read_data()
        self.plain_model = self.build_model()
        self.windows = self.build_windows(Augmentation(**recipe.augmentation))
        self.loader: Any = self._build_loader()
        self._prepare()

    @abstractmethod
    def read_data(self) -> None:
        """Reads what is trained on and measured by, before anything long begins."""

    @abstractmethod
    def build_model(self) -> Re2TALPreTrainedModel:
        """Returns the model with its initial weights."""

    def model_config(self, label_names: Sequence[str]) -> Re2TALConfig:
        """Returns the configuration of the recipe's model with these classes."""
        return Re2TALConfig(
            **self.recipe.model,
            id2label=dict(enumerate(label_names)),
            label2id={name: index for index, name in enumerate(label_names)},
        )

    @abstractmethod
    def build_windows(self, augmentation: Augmentation) -> TrainingWindows:
        """Returns what is trained on."""

    @abstractmethod
    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns a batch of training windows: the arguments of the model."""

    @abstractmethod
    def validation_videos(self) -> list[AnnotatedVideo]:
        """Returns what the model is measured by."""

    @abstractmethod
    def evaluate(self) -> tuple[dict[str, Any], Callable[[Path], None]]:
        """Measures `evaluated_model`, on all processes.

        Returns:
            The metrics, complete on the main process only, and what writes the model to a folder.
        """

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the `loss` of a batch and its parts."""
        output = self.model(**batch)
        return {"loss": output.loss, **(getattr(output, "loss_dict", None) or {})}

    def _check_folder(self) -> None:
        checkpoint = self.folder / "checkpoint"
        if self.resume and not checkpoint.is_dir():
            raise ValueError(f"There is nothing to resume from: {checkpoint} does not exist.")
        if not self.resume and (self.folder / "recipe.yaml").exists():
            raise ValueError(f"{self.folder} already holds a run: resume it with --resume, or choose another folder.")

    def _build_loader(self) -> DataLoader:
        batch_size = self.recipe.training.batch_size
        return DataLoader(
            self.windows,
            batch_size=batch_size,
            shuffle=True,
            drop_last=len(self.windows) > batch_size,
            collate_fn=self.collate,
            num_workers=self.recipe.data.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _prepare(self) -> None:
        arguments = self.recipe.training
        optimizer = build_optimizer(self.plain_model, arguments)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(self.plain_model, optimizer, self.loader)
        self.updates_per_epoch = math.ceil(len(self.loader) / arguments.gradient_accumulation)
        self.average = None
        if arguments.ema_decay is not None:
            average = get_ema_multi_avg_fn(arguments.ema_decay)
            self.average = AveragedModel(self.plain_model, multi_avg_fn=average)
        self.progress = Progress()
        for part in (self.progress, self.average):
            if part is not None:
                self.accelerator.register_for_checkpointing(part)
        if self.accelerator.process_index > 0:
            # All have drawn the same weights; dropout and drop path must differ from the first process's.
            set_seed(self.recipe.seed, device_specific=True)

    def run(self) -> dict[str, Any]:
        """Trains to the end of the recipe and returns the last metrics."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe.to_dict(), sort_keys=False))
        if self.resume:
            self.accelerator.load_state(str(self.folder / "checkpoint"))
            # Another number of processes may have made other updates of the same epochs.
            self.progress.updates = self.progress.epoch * self.updates_per_epoch
            self._follow_progress()
        if self.recipe.training.trackers:
            self.accelerator.init_trackers("tracking")
        metrics: dict[str, Any] = {}
        first_epoch, epochs = self.progress.epoch, self.recipe.training.epochs
        for epoch in range(first_epoch, epochs):
            start = time.perf_counter()
            record = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            self.progress.epoch = epoch + 1
            self.progress.seconds += time.perf_counter() - start
            if self._evaluates_after(epoch + 1):
                metrics = self._evaluate_and_save()
                record |= {name: v for name, v in metrics.items() if isinstance(v, float)}
            self._log(record)
            if (epoch + 1) % self.recipe.training.save_epochs == 0 or epoch + 1 == epochs:
                self._save_checkpoint()
        if not any(self._evaluates_after(epoch + 1) for epoch in range(first_epoch, epochs)):
            metrics = self._evaluate_and_save()
        self.accelerator.end_training()
        return metrics

    def _evaluates_after(self, epochs: int) -> bool:
        arguments = self.recipe.evaluation
        if epochs == self.recipe.training.epochs:
            return True
        return arguments.epochs > 0 and epochs >= arguments.start_epoch and epochs % arguments.epochs == 0

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.model.train()
        # Accelerate hands the epoch to the sampler, and not in all cases to the data set.
        self.loader.set_epoch(epoch)
        self.windows.set_epoch(epoch)
        sums: dict[str, float] = defaultdict(float)
        bar = tqdm(
            self.loader,
            desc=f"epoch {epoch + 1}/{self.recipe.training.epochs}",
            disable=not self.accelerator.is_local_main_process,
        )
        start = time.perf_counter()
        for batch in bar:
            losses = self._step(batch)
            for name, value in losses.items():
                sums[name] += value
            bar.set_postfix(loss=f"{losses['loss']:.3f}", memory=f"{peak_memory():.0f} MiB")
        steps = len(self.loader)
        seconds = time.perf_counter() - start
        self._follow_progress()
        everywhere = gather_object([sums])
        means = {name: sum(found[name] for found in everywhere) / len(everywhere) / steps for name in sums}
        return means | {
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "seconds_per_step": seconds / steps,
            "peak_memory_mib": peak_memory(),
            **self._describe_rewiring(),
        }

    def _step(self, batch: dict[str, Any]) -> dict[str, float]:
        arguments = self.recipe.training
        self._follow_progress()
        with self.accelerator.accumulate(self.model):
            losses = self.losses(batch)
            if not torch.isfinite(losses["loss"]):
                raise FloatingPointError(
                    f"The loss is {losses['loss'].item()} at update {self.progress.updates}: lower "
                    "training.learning_rate, or use bf16 in place of fp16."
                )
            self.accelerator.backward(losses["loss"])
            if self.accelerator.sync_gradients and arguments.max_gradient_norm:
                self.accelerator.clip_grad_norm_(self.model.parameters(), arguments.max_gradient_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.progress.updates += 1
            if self.average is not None and not self.accelerator.optimizer_step_was_skipped:
                self.average.update_parameters(self.plain_model)
        return {name: value.item() for name, value in losses.items()}

    @property
    def backbone_model(self) -> Any:
        """The `Re2TALModel` inside the model."""
        return self.plain_model.model

    def _follow_progress(self) -> None:
        """Sets what changes with the share of the training that is done: learning rates and Dr2Net's coupling."""
        recipe, updates = self.recipe, self.progress.updates
        set_learning_rates(self.optimizer, learning_rate_factor(recipe.training, updates, self.updates_per_epoch))
        if self.backbone_model.config.rewiring == DUAL_RESIDUAL:
            epochs = updates / self.updates_per_epoch
            self.backbone_model.set_coupling(coupling_at(recipe.coupling, epochs, recipe.training.epochs))

    def _describe_rewiring(self) -> dict[str, float]:
        described = {"reconstruction_error": self.backbone_model.reconstruction_error()}
        if self.backbone_model.config.rewiring == DUAL_RESIDUAL:
            a, b = self.backbone_model.config.coupling
            inverted = self.backbone_model.backbone.backprop_switch.inverted
            described |= {"coupling_a": a, "coupling_b": b, "inverted_stages": float(sum(inverted.values()))}
        return described

    @property
    def evaluated_model(self) -> Any:
        """The averaged model where there is one, else the model itself, in evaluation mode."""
        model: Any = self.plain_model
        if self.average is not None:
            model = self.average.module
            if self.backbone_model.config.rewiring == DUAL_RESIDUAL:
                model.model.set_coupling(self.backbone_model.config.coupling)
        return model.eval()

    def _evaluate_and_save(self) -> dict[str, Any]:
        with self.accelerator.autocast():
            metrics, save = self.evaluate()
        if self.accelerator.is_main_process:
            metrics["epoch"] = self.progress.epoch
            self._save("last", save, metrics)
            if metrics[self.criterion] > self.progress.best:
                self.progress.best = metrics[self.criterion]
                self._save("best", save, metrics)
        self.accelerator.wait_for_everyone()
        return metrics

    def _save(self, name: str, save: Callable[[Path], None], metrics: dict[str, Any]) -> None:
        partial = self.folder / f"{name}.partial"
        save(partial)
        (partial / "metrics.json").write_text(json.dumps(metrics, indent=2))
        replace_folder(self.folder / name, partial)

    def _save_checkpoint(self) -> None:
        partial = self.folder / "checkpoint.partial"
        self.accelerator.save_state(str(partial))
        if self.accelerator.is_main_process:
            replace_folder(self.folder / "checkpoint", partial)
        self.accelerator.wait_for_everyone()

    def _log(self, record: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._write_run_record()
        shown = ("epoch", "loss", self.criterion, "coupling_b", "seconds_per_step", "peak_memory_mib")
        parts = [f"{name} {record[name]:.4g}" for name in shown if name in record]
        self.accelerator.print(", ".join(parts))
        self.accelerator.log({n: v for n, v in record.items() if n != "epoch"}, step=record["epoch"])

    def _write_run_record(self) -> None:
        record = describe_run(
            cast(Any, self.plain_model),
            self.windows.videos,
            self.validation_videos(),
            self.accelerator.device,
            self.accelerator.num_processes,
            self.progress.seconds,
        )
        (self.folder / "run.json").write_text(json.dumps(record, indent=2))


def replace_folder(folder: Path, complete: Path) -> None:
    """Puts a completely written folder in the place of another, so that no half-written one is ever found there."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    complete.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
