"""The training loop."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..configuration_re2tal import Re2TALConfig
from ..data.annotations import AnnotationSet, read_annotations
from ..data.augmentation import Augmentation
from ..data.windows import TrainingWindows, collate
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..video_processing_re2tal import Re2TALVideoProcessor
from .arguments import Recipe
from .evaluation import Detections, localize_videos, mean_average_precision, submission
from .memory import peak_memory
from .optimization import build_optimizer, build_schedule
from .pretrained import load_backbone_weights
from .run_record import describe_run, draw_example

logger = logging.getLogger(__name__)


class Progress:
    """How far a run is; part of its checkpoint."""

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


class Trainer:
    """Trains, evaluates and saves one model, on one device or many.

    The run folder holds `recipe.yaml`, `run.json` (machine, versions, data, time), `log.jsonl` (one line an
    epoch), `best/` and `last/` (model and processor as `save_pretrained` writes them, with `metrics.json`,
    `detections.json` and `timeline.png`), `checkpoint/` to resume from, and the trackers' files.

    Args:
        recipe ([`Recipe`]): What to train and how.
        folder (`str` or `Path`): The run folder.
        resume (`bool`): Go on from `checkpoint/`; the outcome is that of a run without interruption.

    Raises:
        ValueError: if data, recipe and model do not fit together, or the folder holds another run.
    """

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
        self.training_set = self._annotations(recipe.data.training_subset, repair=True)
        # The metric's rules keep the benchmark's ground truth as it is.
        self.validation_set = self._annotations(recipe.data.validation_subset, repair=False)
        self._build_model()
        self._build_data()
        self._prepare()

    def _check_folder(self) -> None:
        checkpoint = self.folder / "checkpoint"
        if self.resume and not checkpoint.is_dir():
            raise ValueError(f"There is nothing to resume from: {checkpoint} does not exist.")
        if not self.resume and (self.folder / "recipe.yaml").exists():
            raise ValueError(f"{self.folder} already holds a run: resume it with --resume, or choose another folder.")

    def _annotations(self, subset: str, *, repair: bool) -> AnnotationSet:
        data = self.recipe.data
        if not data.annotations:
            raise ValueError("The recipe's data.annotations is empty: name the annotation file.")
        found = read_annotations(
            data.annotations, subset=subset, video_folder=data.videos, repair=repair, streaming=data.streaming
        )
        if all(video.path is None for video in found.videos):
            raise ValueError(
                f"The annotations {data.annotations} name no video files: set data.videos to their folder."
            )
        return found.class_agnostic() if data.class_agnostic else found

    def _build_model(self) -> None:
        names = self.training_set.label_names
        config = Re2TALConfig(
            **self.recipe.model,
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
        )
        model = Re2TALForTemporalActionLocalization(config)
        if self.recipe.training.pretrained_backbone:
            load_backbone_weights(model.model.backbone, self.recipe.training.pretrained_backbone)
        self.plain_model = model

    def _build_data(self) -> None:
        data = self.recipe.data
        self.windows = TrainingWindows(
            self.training_set.videos,
            self.processor,
            augmentation=Augmentation(**self.recipe.augmentation),
            windows_per_video=data.windows_per_video,
            seconds_per_window=data.seconds_per_window,
            truncation_threshold=data.truncation_threshold,
            crop_ratio=(data.crop_ratio[0], data.crop_ratio[1]) if data.crop_ratio else None,
            max_unreadable=data.max_unreadable,
            cache=data.cache,
            seed=self.recipe.seed,
        )
        self.loader: Any = DataLoader(
            self.windows,
            batch_size=self.recipe.training.batch_size,
            shuffle=True,
            drop_last=len(self.windows) > self.recipe.training.batch_size,
            collate_fn=collate,
            num_workers=data.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _prepare(self) -> None:
        arguments = self.recipe.training
        optimizer = build_optimizer(self.plain_model, arguments)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(self.plain_model, optimizer, self.loader)
        updates = math.ceil(len(self.loader) / arguments.gradient_accumulation)
        # Accelerate's own wrapper would step once for each process.
        self.schedule = build_schedule(optimizer, arguments, updates)
        self.average = None
        if arguments.ema_decay is not None:
            average = get_ema_multi_avg_fn(arguments.ema_decay)
            self.average = AveragedModel(self.plain_model, multi_avg_fn=average)
        self.progress = Progress()
        for part in (self.schedule, self.progress, self.average):
            if part is not None:
                self.accelerator.register_for_checkpointing(part)

    def run(self) -> dict[str, Any]:
        """Trains to the end of the recipe and returns the last metrics."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe.to_dict(), sort_keys=False))
        if self.resume:
            self.accelerator.load_state(str(self.folder / "checkpoint"))
        if self.recipe.training.trackers:
            self.accelerator.init_trackers("tracking")
        metrics: dict[str, Any] = {}
        epochs = self.recipe.training.epochs
        for epoch in range(self.progress.epoch, epochs):
            start = time.perf_counter()
            record = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            self.progress.epoch = epoch + 1
            self.progress.seconds += time.perf_counter() - start
            if self._evaluates_after(epoch + 1):
                metrics = self._evaluate()
                record |= {name: v for name, v in metrics.items() if isinstance(v, float)}
            self._log(record)
            if (epoch + 1) % self.recipe.training.save_epochs == 0 or epoch + 1 == epochs:
                self._save_checkpoint()
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
        means = {name: value / steps for name, value in sums.items()}
        return means | {
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "seconds_per_step": (time.perf_counter() - start) / steps,
            "peak_memory_mib": peak_memory(),
            "reconstruction_error": self.plain_model.model.reconstruction_error(),
        }

    def _step(self, batch: dict[str, Any]) -> dict[str, float]:
        arguments = self.recipe.training
        with self.accelerator.accumulate(self.model):
            output = self.model(**batch)
            if not torch.isfinite(output.loss):
                raise FloatingPointError(
                    f"The loss is {output.loss.item()} at update {self.progress.updates}: lower "
                    "training.learning_rate, or use bf16 in place of fp16."
                )
            self.accelerator.backward(output.loss)
            if self.accelerator.sync_gradients and arguments.max_gradient_norm:
                self.accelerator.clip_grad_norm_(self.model.parameters(), arguments.max_gradient_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.progress.updates += 1
            if not self.accelerator.optimizer_step_was_skipped:
                self.schedule.step()
                if self.average is not None:
                    self.average.update_parameters(self.plain_model)
        return {"loss": output.loss.item(), **{name: value.item() for name, value in output.loss_dict.items()}}

    def _write_run_record(self) -> None:
        record = describe_run(
            self.plain_model,
            self.windows.videos,
            self.validation_set.videos,
            self.accelerator.device,
            self.accelerator.num_processes,
            self.progress.seconds,
        )
        (self.folder / "run.json").write_text(json.dumps(record, indent=2))

    @property
    def evaluated_model(self) -> Re2TALForTemporalActionLocalization:
        """The averaged model where there is one, else the model itself."""
        if self.average is None:
            return self.plain_model
        return cast(Re2TALForTemporalActionLocalization, self.average.module)

    def _evaluate(self) -> dict[str, Any]:
        model = self.evaluated_model.eval()
        pipe = TemporalActionLocalizationPipeline(
            model=model, video_processor=self.processor, device=self.accelerator.device
        )
        arguments = self.recipe.evaluation
        with self.accelerator.autocast():
            detections = localize_videos(
                pipe,
                self.validation_set.videos,
                self.accelerator,
                windows_per_step=arguments.windows_per_step,
            )
        metrics: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            metrics = mean_average_precision(detections, self.validation_set, arguments.tiou_thresholds)
            metrics["epoch"] = self.progress.epoch
            self._save_model("last", pipe, metrics, detections)
            if metrics["map"] > self.progress.best:
                self.progress.best = metrics["map"]
                self._save_model("best", pipe, metrics, detections)
        self.accelerator.wait_for_everyone()
        return metrics

    def _save_model(
        self,
        name: str,
        pipe: TemporalActionLocalizationPipeline,
        metrics: dict[str, Any],
        detections: Detections,
    ) -> None:
        partial = self.folder / f"{name}.partial"
        pipe.save_pretrained(partial)
        (partial / "metrics.json").write_text(json.dumps(metrics, indent=2))
        (partial / "detections.json").write_text(json.dumps(submission(detections)))
        if example := draw_example(self.validation_set, detections):
            example.savefig(partial / "timeline.png")
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
        shown = ("epoch", "loss", "map", "seconds_per_step", "peak_memory_mib")
        parts = [f"{name} {record[name]:.4g}" for name in shown if name in record]
        self.accelerator.print(", ".join(parts))
        self.accelerator.log({n: v for n, v in record.items() if n != "epoch"}, step=record["epoch"])


def replace_folder(folder: Path, complete: Path) -> None:
    """Puts a completely written folder in the place of another, so that no half-written one is ever found there."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    complete.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
