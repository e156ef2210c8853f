"""The training loop, the same for every task."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, gather_object, set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..backprop_plan import BackpropPlan
from ..configuration_re2tal import CONFIGS, settings_of
from ..coupling import DUAL_RESIDUAL
from ..data.annotations import AnnotationSet
from ..data.augmentation import Augmentation
from ..data.durations import Timelines, known_durations
from ..data.timeline_index import TimelineIndex
from ..data.whole_files import check_room
from ..data.windows import TrainingWindows, collate
from ..licensing.origins import permitted_origin, start_line
from ..modeling_pretrained import Re2TALPreTrainedModel
from ..video_processing_re2tal import Re2TALVideoProcessor
from .arguments import Recipe
from .checkpoint import PROGRESS, RunState, read_checkpoint
from .coupling_schedule import coupling_at
from .data_table import data_table
from .epoch import EpochSoFar, batches_after, decoded
from .finite_updates import ADVICE, DivergedError, FiniteUpdates
from .interruption import NAMES, Interrupted, Interruption, leave_signals_to_the_training
from .lost_processes import ProcessLostError
from .memory import peak_memory
from .memory_budget import budget_of, plan_backprop
from .optimization import learning_rate_factor, set_learning_rates
from .patience import is_exhausted
from .pretrained import full_name
from .process_checks import check_place, check_processes, check_share
from .processes import (
    Result,
    leave_processes,
    meeting_point,
    naming_lost_processes,
    on_every_process,
    on_main_process,
    same_on_every_process,
)
from .random_states import random_states, restore_random_states
from .recipe_checks import frame_shape
from .rehearsal import check_machine, rehearse
from .run_folder import BEST, LAST, RunFolder, comparable
from .run_log import RunLog
from .run_record import describe_run, identify_data
from .trained_model import TrainedModel

logger = logging.getLogger(__name__)


class Trainer(ABC):
    """Trains, evaluates and saves one model, on one device or many.

    The run folder (see [`RunFolder`]) is read and written by the main process alone. Where it holds a run of the
    same recipe and the same data, that run goes on, after a kill at any moment, and its outcome is that of a run
    without interruption; a finished one is left as it is. With more `training.epochs` a run is extended: what the
    recipe derives from the number of epochs (the end of the cosine, Dr2Net's path) then follows the new number.

    A task is a subclass that says what the data and the model are and how they are measured.

    Args:
        recipe: What to train and how.
        folder: The run folder.
        resume: The folder must hold a run.

    Attributes:
        criterion: Name of the metric by which the best model is chosen.
        model_class: The task's model.
        usage: The command that uses a model, with a place for its folder.
        timelines: Of the videos.
        training_set, validation_set: What is trained on, and what the model is measured by.

    Raises:
        ValueError: if data, recipe and model do not fit together, or the folder holds another run; on every
            process, whichever of them found it.
    """

    criterion: ClassVar[str]
    model_class: ClassVar[type[Re2TALPreTrainedModel]]
    usage: ClassVar[str]
    training_set: AnnotationSet
    validation_set: AnnotationSet

    def __init__(self, recipe: Recipe, folder: str | Path, resume: bool = False):
        self.recipe = recipe
        self.run_folder = RunFolder(folder)
        arguments = recipe.training
        check_machine(arguments)
        self.accelerator = Accelerator(
            # Unless told, it makes processes without an accelerator runs of their own.
            cpu=not torch.accelerator.is_available(),
            mixed_precision=arguments.mixed_precision,
            gradient_accumulation_steps=arguments.gradient_accumulation,
            log_with=arguments.trackers or None,
            kwargs_handlers=[meeting_point()],
            project_config=ProjectConfiguration(project_dir=str(folder)),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
        )
        check_place(self.accelerator, self.run_folder)
        self._on_main(lambda: self.run_folder.check(recipe, resume))
        backbone = str((recipe.model.get("backbone_config") or {}).get("model_type"))
        self.origin = self._on_all(
            lambda: permitted_origin(
                full_name(arguments.pretrained_weights, backbone),
                arguments.pretrained_license,
                recipe.licence,
                backbone,
            )
        )
        self._on_all(lambda: rehearse(recipe, self.model_class))
        if self.accelerator.is_main_process and (line := start_line(self.origin, backbone)):
            logger.warning(line)
        set_seed(recipe.seed)
        self.processor = Re2TALVideoProcessor(**recipe.processor)
        self.timelines: Timelines = TimelineIndex(writes=self.accelerator.is_local_main_process)
        self._on_all(self.read_data)
        self._measure_videos()
        augmentation = Augmentation(**recipe.augmentation)
        self.windows = self._on_all(lambda: self.build_windows(augmentation.with_labels(self.training_set.label_names)))
        self.data = identify_data(self.windows, self.validation_set)
        check_processes(self.accelerator, comparable(recipe) | self.data)
        check_share(self.accelerator, len(self.windows), arguments.batch_size)
        self.checkpoint = self._on_main(lambda: read_checkpoint(self.run_folder, self.data))
        self.plain_model = self._on_all(self.build_model)
        self._on_all(self._freeze)
        self.loader: Any = self._build_loader()
        self._prepare()
        self.plan = self._plan_backprop()
        self._on_main(self.run_folder.claim)
        self.finished = self._on_main(self._read_finished)
        if self.finished is None:
            self._on_main(lambda: check_room(self.run_folder.path, self.state.num_bytes(self.run_folder)))

    def _freeze(self) -> None:
        """Adds LoRA, freezes what the recipe says, and has published weights left out when the model is saved."""
        recipe, model = self.recipe, self.plain_model
        lora, source = recipe.model.get("lora"), recipe.training.pretrained_backbone
        if lora is not None:
            model.base_model.add_lora(lora)
        model.freeze(**vars(recipe.freeze))
        if (lora is None and not recipe.freeze.backbone) or not source or Path(source).exists():
            return
        try:
            model.leave_out_published(str(full_name(source, model.base_model.backbone.architecture.model_type)))
        except ValueError as error:
            logger.warning("The model is saved with all of its weights: %s", error)

    def _on_all(self, function: Callable[[], Result]) -> Result:
        return on_every_process(self.accelerator, function)

    def _on_main(self, function: Callable[[], Result]) -> Result:
        return on_main_process(self.accelerator, function)

    @abstractmethod
    def read_data(self) -> None:
        """Reads `training_set` and `validation_set`, before anything long begins."""

    @abstractmethod
    def build_model(self) -> Re2TALPreTrainedModel:
        """Returns the model with its initial weights."""

    def model_config(self, label_names: Sequence[str], **settings: Any) -> Any:
        """Returns the configuration of the recipe's model with these classes; `settings` unless the recipe has them."""
        of_any = {name for kind in CONFIGS.values() for name in settings_of(kind)}
        of_others = of_any - settings_of(self.model_class.config_class).keys()
        of_others.add("lora")  # which comes after the weights
        settings |= {name: value for name, value in self.recipe.model.items() if name not in of_others}
        return self.model_class.config_class(
            **settings,
            id2label=dict(enumerate(label_names)),
            label2id={name: index for index, name in enumerate(label_names)},
            origin=self.origin.record(),
        )

    @abstractmethod
    def build_windows(self, augmentation: Augmentation) -> TrainingWindows:
        """Holds both subsets against the durations of their videos, and returns what is trained on."""

    @abstractmethod
    def evaluate(self) -> tuple[dict[str, Any], Callable[[Path], None]]:
        """Measures `trained.evaluated`, on all processes.

        Returns:
            The metrics, and what writes the model to a folder.
        """

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the `loss` of a batch and its parts."""
        output = self.trained.prepared(**batch)
        return {"loss": output.loss, **(getattr(output, "loss_dict", None) or {})}

    def _measure_videos(self) -> None:
        """Measures the videos that the index does not know, every process its share; once, since the index is kept."""
        accelerator, videos = self.accelerator, [*self.training_set.videos, *self.validation_set.videos]
        share = [video for video in videos if video.path is not None]
        share = share[accelerator.process_index :: accelerator.num_processes]
        self._on_all(lambda: known_durations(share, self.timelines, progress=accelerator.is_local_main_process))
        for measured in gather_object([self.timelines.take_new()]):
            self.timelines.add(measured)
        self._on_all(self.timelines.save)

    def _build_loader(self) -> DataLoader:
        batch_size = self.recipe.training.batch_size
        return DataLoader(
            self.windows,
            batch_size=batch_size,
            shuffle=True,
            drop_last=len(self.windows) > batch_size * self.accelerator.num_processes,
            collate_fn=collate,
            worker_init_fn=leave_signals_to_the_training,
            num_workers=self.recipe.data.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _prepare(self) -> None:
        arguments, accelerator = self.recipe.training, self.accelerator
        self.trained = TrainedModel(self.plain_model, arguments, accelerator)
        self.loader = accelerator.prepare(self.loader)
        self.updates_per_epoch = math.ceil(len(self.loader) / arguments.gradient_accumulation)
        self.state = RunState(accelerator, self.trained, self.data, arguments.save_total_limit)
        self.progress = self.state.progress
        self.log = RunLog(accelerator, self.run_folder, self.recipe, self.state, self.criterion, self.usage)
        self.updates = FiniteUpdates(accelerator, self.trained, arguments, self.progress)
        if self.accelerator.process_index > 0:
            # All have drawn the same weights; dropout and drop path must differ from the first process's.
            set_seed(self.recipe.seed, device_specific=True)

    def _plan_backprop(self) -> BackpropPlan | None:
        """The plan of a batch of whole windows; others, as the last of an epoch, get theirs when they come."""
        backbone = self.backbone_model.backbone
        if backbone.backprop not in ("auto", "clips") or next(backbone.parameters(), None) is None:  # stored features
            return None
        arguments, accelerator = self.recipe.training, self.accelerator
        self.plain_model.backprop_share = arguments.backprop_share
        shape = (arguments.batch_size, self.processor.num_frames, *frame_shape(self.processor))
        budget = self._on_all(lambda: budget_of(arguments, accelerator.device))
        least = min(gather_object([budget]))  # so that all processes have the same plan
        return self._on_all(lambda: plan_backprop(self.plain_model, shape, arguments, least, accelerator.autocast))

    def run(self) -> dict[str, Any]:
        """Trains to the end of the recipe, says what came out of it, and returns the last metrics."""
        if self.finished is not None:
            self.log.say_finished(self.finished.get("epoch", self.recipe.training.epochs))
            self._leave()
            return self.finished
        with Interruption() as self.interruption:
            try:
                with naming_lost_processes(self.log.way_on):
                    return self._run()
            except Interrupted as told:
                raise Interrupted(f"{told} {self.log.way_on()}", told.number) from None
            except (DivergedError, ProcessLostError):
                raise
            except Exception:
                self.accelerator.print(self.log.way_on())
                raise
            finally:
                for tracker in self.accelerator.trackers:
                    with contextlib.suppress(OSError):  # said already, where its last lines could not be written
                        tracker.finish()

    def _run(self) -> dict[str, Any]:
        goes_on = self.checkpoint is not None
        if self.checkpoint is not None:
            self._on_all(partial(self.state.load, self.run_folder, self.checkpoint))
            self.checkpoint = None
            # Another number of processes may have made other updates of the same epochs.
            done = self.state.epoch.steps // self.recipe.training.gradient_accumulation
            self.progress.updates = self.progress.epoch * self.updates_per_epoch + done
            self._follow_progress()
        self.accelerator.print(data_table(self.windows, self.training_set, self.validation_set))
        if self.plan is not None:
            self.accelerator.print(self.plan)
        if self.trained.shares:
            self.accelerator.print(self.trained.shares)
        elif shared := self.recipe.training.shared:
            logger.warning("%s changes nothing with one process.", shared)
        self._on_main(lambda: self.log.write_start(goes_on))
        self.log.start()
        metrics: dict[str, Any] = {}
        if self.progress.unmeasured:
            metrics = self._finish_epoch(self.progress.unmeasured)
        for epoch in range(self.progress.epoch, self.recipe.training.epochs):
            if self._on_main(self._is_exhausted):
                self.accelerator.print(f"The training ends after epoch {epoch}: {self.log.early_end()}")
                break
            metrics = self._finish_epoch(self._train_and_save(epoch)) or metrics
        if not metrics:
            metrics = self._evaluate_and_save()
        self._on_main(self.log.say_outcome)
        self._leave()
        return metrics

    def _leave(self) -> None:
        # What holds the group of processes keeps its threads alive.
        self.trained.release()
        leave_processes()

    def _is_exhausted(self) -> bool:
        return is_exhausted(self.progress.log, self.criterion, self.recipe.evaluation.patience)

    def _train_and_save(self, epoch: int) -> dict[str, Any]:
        """Trains what is left of an epoch, and saves it before it is evaluated; returns its entry of the log."""
        with self.interruption.held():
            record = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            self.progress.epoch = epoch + 1
            if self._evaluates_after(epoch + 1):
                self.progress.unmeasured = record
                self.state.save(self.run_folder)
        if self.progress.unmeasured:
            self._stop_if_told()
        return record

    def _finish_epoch(self, record: dict[str, Any]) -> dict[str, Any]:
        """Evaluates where it is time to, and logs the epoch; returns the metrics, empty without an evaluation."""
        metrics: dict[str, Any] = {}
        if self._evaluates_after(self.progress.epoch):
            metrics = self._evaluate_and_save()
            record |= {name: float(v) for name, v in metrics.items() if isinstance(v, float)}
        with self.interruption.held():
            self._on_main(lambda: self.log.add(record, self._describe()))
            if self.progress.unmeasured:
                self.progress.unmeasured = None
                self.state.save_progress(self.run_folder)
            elif self.progress.epoch % self.recipe.training.save_epochs == 0 or self._told():
                self.state.save(self.run_folder)
        self._stop_if_told()
        return metrics

    def _told(self) -> int:
        """The signal that one of the processes has received, on all; 0 for none."""
        return self.interruption.told(self.accelerator.device)

    def _stop_if_told(self) -> None:
        if number := self._told():
            self._leave()
            raise Interrupted(f"Stopped by {NAMES[signal.Signals(number)]}.", number)

    def _read_finished(self) -> dict[str, Any] | None:
        """Returns the metrics of a run that the folder holds complete."""
        folder, epochs = self.run_folder, self.recipe.training.epochs
        # The checkpoint of a finished run may have been deleted, to save its space.
        if self.checkpoint:
            progress = self.checkpoint[PROGRESS]
            done, log = 0 if progress.get("unmeasured") else progress["epoch"], progress["log"]
        else:
            log = folder.read_log()
            done = log[-1]["epoch"] if log else 0
        early = done > 0 and is_exhausted(log, self.criterion, self.recipe.evaluation.patience)
        return folder.read_metrics(LAST, self.criterion) if early or 0 < epochs <= done else None

    def _evaluates_after(self, epochs: int) -> bool:
        arguments = self.recipe.evaluation
        if epochs == self.recipe.training.epochs:
            return True
        return arguments.epochs > 0 and epochs >= arguments.start_epoch and epochs % arguments.epochs == 0

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.trained.prepared.train()
        self._follow_progress()
        # Accelerate hands the epoch to the sampler, and not in all cases to the data set.
        self.loader.set_epoch(epoch)
        self.windows.set_epoch(epoch)
        done, steps = self.state.epoch, len(self.loader)
        start = time.perf_counter() - done.seconds
        with tqdm(
            desc=f"epoch {epoch + 1}/{self.recipe.training.epochs}",
            total=steps,
            initial=done.steps,
            disable=not self.accelerator.is_local_main_process,
        ) as bar:
            batches = batches_after(done.steps, self.loader, self.accelerator.device)
            timeout = self.recipe.data.timeout if self.recipe.data.num_workers else 0
            for batch in decoded(batches, lambda: self._next_videos(epoch, done.steps), timeout):
                losses = self._step(batch)
                done.add(losses)
                if losses is not None:
                    bar.set_postfix(loss=f"{losses['loss']:.3f}", memory=f"{peak_memory():.0f} MiB", refresh=False)
                bar.update()
                done.seconds = time.perf_counter() - start
                if self.accelerator.sync_gradients and done.steps < steps:
                    self._save_if_due()
        self.state.epoch = EpochSoFar()
        self.progress.seconds += done.seconds
        if done.skipped == self.updates_per_epoch:
            raise DivergedError(f"All steps of an epoch were skipped. {ADVICE}")
        return done.means() | {
            "learning_rate": float(self.trained.optimizer.param_groups[0]["lr"]),
            "seconds_per_step": done.seconds / steps,
            "peak_memory_mib": peak_memory(),
            "skipped_steps": done.skipped,
            **self._describe_rewiring(),
        }

    def _next_videos(self, epoch: int, steps: int) -> list[str]:
        """Of the two batches after so many of an epoch, since Accelerate asks for the next before it gives one."""
        self.loader.set_epoch(epoch)
        rows = [row for batch in islice(self.loader.batch_sampler, steps, steps + 2) for row in batch]
        return [self.windows.video_of(row).video_id for row in rows]

    def _save_if_due(self) -> None:
        """Saves in the middle of an epoch, where the recipe says so, or the run was told to end."""
        told, interval = self._told(), self.recipe.training.save_steps
        if told or (interval and self.progress.updates % interval == 0):
            self.state.save(self.run_folder)
            self._stop_if_told()

    def _step(self, batch: dict[str, Any]) -> dict[str, float] | None:
        video_ids = batch.pop("video_ids")
        # Frames come as uint8: a quarter of what floats would take between the processes and on the way to the GPU.
        batch |= self.processor.prepare(batch.pop("frames"), normalized=not self._keeps_pixels)
        losses = self.updates.step(lambda: self.losses(batch), video_ids)
        if self.accelerator.sync_gradients:
            self.progress.updates += 1
            self.state.epoch.skipped += self.updates.skipped
            self._follow_progress()
            if not (self.updates.skipped or self.accelerator.optimizer_step_was_skipped):
                self.trained.follow()
        return losses

    @property
    def _keeps_pixels(self) -> bool:
        """Whether frames become numbers in the model, which keeps them as bytes."""
        return (
            self.plain_model.backprop == "reversible" or self.backbone_model.backbone.by_clips
        ) and "pixel_statistics" in signature(self.plain_model.forward).parameters

    @property
    def backbone_model(self) -> Any:
        """The `Re2TALModel` inside the model."""
        return self.plain_model.model

    def _follow_progress(self) -> None:
        """Sets what changes with the share of the training that is done: learning rates and Dr2Net's coupling."""
        recipe, updates = self.recipe, self.progress.updates
        set_learning_rates(
            self.trained.optimizer, learning_rate_factor(recipe.training, updates, self.updates_per_epoch)
        )
        if self.backbone_model.config.rewiring == DUAL_RESIDUAL:
            epochs = updates / self.updates_per_epoch
            self.backbone_model.set_coupling(coupling_at(recipe.coupling, epochs, recipe.training.epochs))

    def _describe_rewiring(self) -> dict[str, float]:
        described = {"reconstruction_error": self.backbone_model.reconstruction_error()}
        if self.backbone_model.config.rewiring == DUAL_RESIDUAL:
            [alpha, beta], *_ = self.backbone_model.backbone.couplings()
            inverted = self.backbone_model.backbone.backprop_switch.inverted
            described |= {"alpha": alpha, "beta": beta, "inverted_stages": float(sum(inverted.values()))}
        return described

    def _evaluate_and_save(self) -> dict[str, Any]:
        self.trained.gather()
        # Running statistics follow each process's own windows; measured is what is saved.
        same_on_every_process(self.accelerator, self.trained.evaluated.buffers())
        # The training goes on as if nothing had been evaluated: from a checkpoint that was written before, too.
        kept = random_states(self.accelerator.device)
        with self.accelerator.autocast():
            metrics, save = self.evaluate()
        restore_random_states(kept, self.accelerator.device)
        metrics["epoch"] = self.progress.epoch
        with self.interruption.held():
            self._on_main(lambda: self._save(save, metrics))
        return metrics

    def _save(self, save: Callable[[Path], None], metrics: dict[str, Any]) -> None:
        self.run_folder.write_model(LAST, save, metrics)
        if metrics[self.criterion] > self.progress.best:
            self.progress.best = float(metrics[self.criterion])
            self.progress.best_epoch = self.progress.epoch
            self.run_folder.write_model(BEST, save, metrics)

    def _describe(self) -> dict[str, Any]:
        return describe_run(
            self.recipe,
            self.plain_model,
            self.windows.videos,
            self.validation_set.videos,
            self.accelerator,
            self.plan,
            self.progress.seconds,
        )
