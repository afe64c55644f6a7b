"""One training loop for every variant. Run the same command again and it goes on where it was, to the bit.

No state of a random generator passes from step to step: data order, mask ratio, orders, label drop, dropout and noise
of a micro-batch are functions of the seed and of the index of its first image. A checkpoint is therefore the weights,
their average, the optimiser's moments and the number of images seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mar.data.tokens import TokenSet, as_tokens, check_split
from mar.models.model import build_model
from mar.models.multiscale import load_quantizer
from mar.models.order import draw_order, mask_ratio, num_masked
from mar.runtime import checkpoint, code_digest, devices, distributed, precision, runlog, stop_signals
from mar.runtime.distributed import ALONE, World
from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.folders import lock
from mar.runtime.noise import Noise, seed_default, seed_of
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import unfinished
from mar.study import layout
from mar.study.kinds import own_kinds
from mar.study.records import RunRecord
from mar.study.stage_keys import train_key
from mar.study.study import Study
from mar.training import warm_start
from mar.training.meter import Meter
from mar.training.schedule import learning_rate


def train(
    study: Study,
    root: Path,
    variant: str,
    seed: int,
    operations: Callable[[], float] | None = None,
    start: Path | None = None,
) -> None:
    """Train a variant with one seed; writes ema.safetensors and, last, run.json. Processes of one job share the work.

    Args:
        study: the study.
        root: its results folder.
        variant: what to train.
        seed: training seed.
        operations: counts the operations of one image, for the log; called on GPUs whose peak is known.
        start: the folder of another training, with whose newest checkpoint it begins (mar/training/warm_start.py).

    Raises:
        ValueError: tokens are missing or corrupt, the loss is not finite, or it cannot begin with `start`.
    """
    folder = layout.run(root, variant, seed)
    with distributed.join() as world, lock(folder) if world.rank == 0 else nullcontext():
        tokens = TokenSet.open(layout.tokens(root, study.tokenizer_of(variant, seed)), verify=world.rank == 0)
        check_split(tokens, root, "train")
        key = {"train": train_key(study, variant, seed), "tokens": tokens.sha256}
        of = study.recipes[study.variants[variant].recipe]

        def began() -> dict[str, str | int]:
            return warm_start.begin(start, folder, key, of) if start else warm_start.recorded(folder, key)

        recipe = key | (began() if world.rank == 0 else {})  # only the first process claims the folder
        report, weights = folder / layout.RECORD, folder / layout.AVERAGE

        def sound() -> bool:
            run = read(report, RunRecord)
            kept = {layout.kept_average(folder, int(images)): digest for images, digest in run.averages.items()}
            wrong = [path for path, digest in kept.items() if not path.exists() or sha256(path) != digest]
            for path in wrong:  # so that a damaged one is not recorded anew
                path.unlink(missing_ok=True)
            return not wrong and weights.exists() and run.checkpoint == sha256(weights)

        twin, own = layout.twin(study, root, folder), layout.own_code(root)
        now: dict[str, str] = {}

        def left() -> bool:
            if not unfinished(report, sound, recipe, twin, said="trained already"):
                return False
            now.update(code_digest.today(own))
            code_digest.guard(folder, now, begun())
            return True

        def begun() -> bool:
            return bool(checkpoint.checkpoints(folder / layout.CHECKPOINTS))

        if world.first(left):
            with precision.deterministic(world.device):
                trainer = Trainer(study, variant, seed, tokens, folder, world=world)
                # What --from begins with is not this training's own work: recipe.json tells of it.
                world.first(lambda: code_digest.note(folder, now, own, begun() and "from" not in recipe))
                trainer.run(operations)
                world.first(lambda: code_digest.note(folder, now, own))  # what was imported on the way


class MicroBatch(NamedTuple):
    """What the model's loss takes of one micro-batch.

    Attributes:
        x: tokens, ids (B, L) or scaled latents (B, L, D).
        labels: (B,) classes, -1 where the label is dropped.
        order: (B, L) positions in generation order.
        known: tokens that a masked backbone sees.
        noise: stream of the random numbers that are left to draw.
        ready: on a GPU, when all of it is computed.
    """

    x: Tensor
    labels: Tensor
    order: Tensor
    known: int
    noise: Noise
    ready: torch.cuda.Event | None


class Trainer:
    """A training under way.

    A thread prepares the next micro-batch while the model computes. Its copies to a GPU come from pinned memory and go
    by a queue of their own, so that what it waits for is no work of the model.

    Attributes:
        model: the model, with the weights after the last step.
        parameters: its parameters by name.
        ema: exponential average of all its parameters, by name.
        optimizer: AdamW.
        images: images seen so far, by all processes together.
        seconds: time spent training, over all restarts.
        restarts: how many times a checkpoint was resumed.
        own: kinds of the user's in the study, for messages.
        micro: images in a micro-batch; a step sums the gradients of batch / micro of them.
        sharding: full where the state of the training is split among the processes, else none.
    """

    def __init__(
        self,
        study: Study,
        variant: str,
        seed: int,
        tokens: TokenSet,
        folder: Path,
        ema_folder: Path | None = None,
        world: World = ALONE,
    ) -> None:
        """Start a run, or resume it from the newest checkpoint in `folder`.

        Args:
            study: the study.
            variant: what to train.
            seed: training seed.
            tokens: its training tokens.
            folder: folder of the run.
            ema_folder: folder for a memory-mapped file that holds the average; by default memory holds it.
            world: the processes that share the work.

        Raises:
            ValueError: the micro-batches of a step cannot be shared equally, no checkpoint is intact, or there is no
                compiler where the recipe needs one.
        """
        resources = study.variants[variant].resources
        self.sharding = resources.sharding if resources else "none"
        if self.sharding == "full" and world.size == 1:
            print(f"{folder}: sharding full, and one process: it keeps everything", flush=True)
            self.sharding = "none"
        self.world, self.ema_folder = world, ema_folder
        self.study, self.variant, self.seed, self.tokens, self.folder = study, variant, seed, tokens, folder
        self.recipe = study.recipes[study.variants[variant].recipe]
        self.order = study.variants[variant].order
        self.micro = self.recipe.micro_batch or self.recipe.batch
        if self.recipe.batch // self.micro % world.size:
            raise ValueError(
                f"recipes.{study.variants[variant].recipe}: batch {self.recipe.batch} / micro_batch {self.micro} = "
                f"{self.recipe.batch // self.micro} on {world.size} processes; accepted: a multiple of their number"
            )
        self.device = world.device
        self.name, self.own = (study.seed, seed), own_kinds(study)
        quantizer = load_quantizer(tokens.folder, tokens.manifest)  # before the seed is set: building one draws numbers
        torch.manual_seed(seed_of("init", *self.name))
        self.model = build_model(study, variant, tokens.manifest, quantizer and quantizer.to(self.device)).to(
            self.device
        )
        if not self.model.joint:
            self.model.head_dtype = self.recipe.head_dtype
        if self.recipe.gradient_checkpointing:
            self.model.checkpoint_blocks()
        if self.recipe.compile:
            devices.check_compiler("recipe")
            self.model.compile_blocks()
        if self.sharding == "full":
            from mar.training import sharding  # takes a second to import

            sharding.shard(self.model, world)
        self.model.train()
        self.parameters = dict(self.model.named_parameters())  # collecting them takes longer than a small layer
        self.ema = start_average(self.model, ema_folder)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.recipe.weight_decay), lr=0.0, betas=self.recipe.betas, fused=True
        )
        self.images, self.seconds, self.restarts, self.order_cache = 0, 0.0, 0, (-1, torch.empty(0))
        self.requests = 0.0  # processes that were asked to leave before the last step ended
        self.writer = checkpoint.Writer(folder / layout.CHECKPOINTS)
        self.meter = Meter(self.device, world.size, self.recipe.dtype)
        self.thread, self.ahead = ThreadPoolExecutor(1, "ahead"), dict[tuple[int, int, int], Future[MicroBatch]]()
        self.queue = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._resume()

    def run(self, operations: Callable[[], float] | None = None) -> None:
        """Train to the end of the recipe and write the outputs; only the first process writes files.

        Args:
            operations: counts the operations of one image, for the log; called on GPUs whose peak is known.
        """
        recipe, start, earlier_seconds = self.recipe, time.monotonic(), self.seconds
        log = self.folder / layout.LOG
        if self.world.rank == 0:
            self.meter.start(self.images, operations)
        progress = Progress(f"train {self.variant} seed {self.seed}", recipe.images, self.images)
        if self.own and self.images < recipe.images:
            self._check_repeats()
        loss, norm, rate = math.nan, math.nan, 0.0
        while self.images < recipe.images:
            rate = learning_rate(recipe, self.images)
            loss, norm = self.step(rate)
            self.images += recipe.batch
            self.seconds = earlier_seconds + time.monotonic() - start
            logged = self.images % recipe.log_images == 0 or self.images == recipe.images
            if self.world.rank == 0:
                progress.update(recipe.batch, loss=loss)
                if logged:
                    line = {"images": self.images, "loss": loss, "learning_rate": rate, "grad_norm": norm}
                    line |= {"seconds": round(self.seconds, 3), "time": time.time()} | self.meter.read(self.images)
                    runlog.append(log, line)
            if self.images in recipe.points[:-1]:  # before the checkpoint: a restart from that one misses no average
                self._keep_average(layout.kept_average(self.folder, self.images))
            leaving = self.images < recipe.images and self._stop_requested()
            if leaving or self.images % recipe.checkpoint_images == 0 or self.images == recipe.images:
                self._checkpoint()
            if leaving:
                self.world.first(self.writer.wait)
                raise SystemExit(stop_signals.LEFT)
        self.world.first(self.writer.wait)
        self._keep_average(self.folder / layout.AVERAGE)
        self.world.first(lambda: self._finish(last_loss(log)))

    def _check_repeats(self) -> None:
        """Refuse code of the user's that does not compute the same again: such a training would not resume to the bit.

        Raises:
            ValueError: the loss of the same images with the same random numbers is another the second time.
        """
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        first, second = (self.micro_batch_loss(self.images, self.micro).item() for _ in range(2))
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(kept[name])
        if str(first) != str(second):  # of which none may be a number
            raise ValueError(
                f"{self.variant} seed {self.seed}: loss {first}, and {second} of the same images with the same random "
                f"numbers; accepted: code that takes its random numbers from `noise` alone ({self.own})"
            )

    def _stop_requested(self) -> bool:
        """Whether any of the processes received a signal to stop; all of them get the same answer."""
        return self.requests > 0 if self.world.size > 1 else stop_signals.asked()

    def _checkpoint(self) -> None:
        """Copy the state, and let the first process write the copy while the training goes on."""
        state = checkpoint.copied(self.state(), keep=self.world.rank == 0)
        self.world.first(lambda: self.writer.save(self.images, state))

    def _keep_average(self, path: Path) -> None:
        """Write the averaged weights."""
        average = {}
        for name, tensor in self.ema.items():
            complete = checkpoint.whole(tensor)
            if self.world.rank == 0:
                average[name] = complete.cpu()

        def write_average() -> None:
            with atomic(path) as temporary:
                save_file(average, temporary)

        self.world.first(write_average)

    def _finish(self, final_loss: float | None) -> None:
        """Write run.json.

        Raises:
            ValueError: an average that was kept on the way is gone.
        """
        averages = {str(images): layout.kept_average(self.folder, images) for images in self.recipe.points[:-1]}
        if missing := [path for path in averages.values() if not path.exists()]:
            raise ValueError(
                f"{missing[0]}: missing, and training is past it; move {self.folder} away and train again, or leave "
                f"recipes.{self.study.variants[self.variant].recipe}.evaluate_at out"
            )
        run = RunRecord(
            variant=self.variant,
            seed=self.seed,
            parameters=sum(p.numel() for p in self.model.parameters()),
            head_parameters=count_head(self.model),
            images=self.images,
            seconds=round(self.seconds, 3),
            restarts=self.restarts,
            final_loss=final_loss,
            processes=self.world.size,
            sharding=self.sharding,
            checkpoint=sha256(self.folder / layout.AVERAGE),
            averages={images: sha256(path) for images, path in averages.items()},
            tokens=self.tokens.sha256,
            provenance=provenance(),
        )
        write(self.folder / layout.RECORD, run)

    def step(self, rate: float) -> tuple[float, float]:
        """One optimiser step on a global batch; returns the loss and the gradient norm before clipping."""
        recipe, parts = self.recipe, self._parts(self.images)
        coming = parts[1:]  # the micro-batch after each
        if self.images + recipe.batch < recipe.images:
            coming += self._parts(self.images + recipe.batch)[:1]
        numbers = torch.zeros(2, device=self.device)  # loss, and how many processes were asked to leave
        for place, (first, mask) in enumerate(parts):
            for after in coming[place : place + 1]:
                self._prepare_ahead(*after)
            with precision.tf32(recipe.tf32):
                loss = self.micro_batch_loss(first, self.micro, mask)
                loss = loss * (self.micro / (recipe.batch * recipe.masks_per_image))
                numbers[0] += loss.detach()
                with self._summing(numbers) if place == len(parts) - 1 else nullcontext():
                    loss.backward()
                    numbers[1] += stop_signals.asked()
        norm = checkpoint.whole(nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip or math.inf))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._move_average()
        # The one time in a step that this process waits for its device, whose work is all in its queue.
        total, length, self.requests = torch.stack([numbers[0], norm, numbers[1]]).tolist()
        if not (math.isfinite(total) and math.isfinite(length)):
            self.writer.wait()
            good = checkpoint.checkpoints(self.folder / layout.CHECKPOINTS)
            newest = (
                f"the last good checkpoint: checkpoints/{good[-1].file}" if good else "no checkpoint: none was due yet"
            )
            way = (
                f". To go on from there, which the report tells: mv {self.folder} {self.folder}.before, change "
                f"the recipe, and mar train --study {layout.study(self.folder.parents[2])} --variant {self.variant} "
                f"--seed {self.seed} --from {self.folder}.before"
            ) * bool(good)
            own = f", code of yours ({self.own})" if self.own else ""
            raise ValueError(
                f"{self.folder}: loss {total}, gradient norm {length} after {self.images} images. The same "
                f"recipe and code come to the same step again. Usual causes: learning rate too high, bf16{own}. A "
                f"changed recipe starts at image 0, and this folder is then moved aside, with {newest}{way}"
            )
        return total, length

    def _parts(self, images: int) -> list[tuple[int, int]]:
        """This process's micro-batches of the step after so many images: first image and number of the mask."""
        start, stride = images + self.world.rank * self.micro, self.world.size * self.micro
        masks = range(self.recipe.masks_per_image)
        return [(first, mask) for first in range(start, images + self.recipe.batch, stride) for mask in masks]

    def _summing(self, numbers: Tensor) -> AbstractContextManager[None]:
        """The context of the last backward pass of a step: it leaves sums over all processes."""
        if self.sharding == "full":  # gradients are summed already
            return _then(lambda: self.world.sum([numbers]))
        return self.world.summing(numbers, list(self.parameters.values()))

    @torch.no_grad()
    def _move_average(self) -> None:
        """Move the average towards the weights; it starts at the first step, without warm-up, as published."""
        if self.ema_folder:
            for name, average in self.ema.items():
                average.lerp_(self.parameters[name].to(average.device), 1 - self.recipe.ema)
            return
        averages: list[Tensor] = list(self.ema.values())
        weights: list[Tensor] = [self.parameters[name] for name in self.ema]
        if self.sharding == "full":
            from mar.training.sharding import local

            averages, weights = ([local(tensor) for tensor in tensors] for tensors in (averages, weights))
        torch._foreach_lerp_(averages, weights, 1 - self.recipe.ema)

    def micro_batch_loss(self, first: int, count: int, mask: int = 0) -> Tensor:
        """Loss of the images number first to first + count - 1 of the run, with their masks number `mask`.

        `first` and `mask` name all its random numbers: mask ratio, orders, noise, label drop, mirroring and dropout.
        """
        batch = self._prepared(first, count, mask)
        seed_default(seed_of("dropout", *self._named(first, mask)), self.device)
        with precision.autocast(self.device, self.recipe.dtype):
            loss: Tensor = self.model.loss(batch.x, batch.labels, batch.order, batch.known, batch.noise)
        return loss

    def _named(self, first: int, mask: int) -> tuple[int, ...]:
        return (*self.name, first, *([mask] if mask else []))

    def _prepare_ahead(self, first: int, mask: int) -> None:
        """Let the thread prepare a micro-batch, unless it does already."""
        place = (first, self.micro, mask)
        if place not in self.ahead:
            self.ahead[place] = self.thread.submit(self.prepare, *place)

    def _prepared(self, first: int, count: int, mask: int) -> MicroBatch:
        """A micro-batch from the thread, or one that nobody has begun; it is counted how long that took."""
        start, under_way = time.monotonic(), self.ahead.pop((first, count, mask), None)
        batch = under_way.result() if under_way else self.prepare(first, count, mask)
        self.meter.waited += time.monotonic() - start
        if batch.ready is not None:
            model = torch.cuda.current_stream(self.device)
            model.wait_event(batch.ready)
            for tensor in (batch.x, batch.labels, batch.order):
                tensor.record_stream(model)  # their memory may be used again only after the model's work with them
        return batch

    def prepare(self, first: int, count: int, mask: int = 0) -> MicroBatch:
        """Read and draw all that a micro-batch needs before the model computes; arguments as in `micro_batch_loss`."""
        recipe, length = self.recipe, self.tokens.manifest.tokens
        with torch.cuda.stream(self.queue):  # does nothing without one
            noise = Noise("train", *self._named(first, mask), device=self.device)
            index = self.data_order(first, count)
            x = self.load(index, noise)
            # One mask ratio for all images of the micro-batch: the published code draws one for the batch of a device.
            ratio = mask_ratio(float(noise.uniform(1)), recipe.mask_ratio_min, recipe.mask_ratio)
            order = draw_order(self.order, count, length, noise)
            labels = torch.where(noise.uniform(count) < recipe.label_drop, -1, self._moved(self.tokens.labels[index]))
            ready = self.queue.record_event() if self.queue else None
        return MicroBatch(x, labels, order, length - num_masked(ratio, length), noise, ready)

    def _moved(self, tensor: Tensor) -> Tensor:
        """A tensor on the device of the training; to a GPU from pinned memory, without waiting for the copy."""
        return tensor if self.queue is None else tensor.pin_memory().to(self.device, non_blocking=True)

    def load(self, index: Tensor, noise: Noise) -> Tensor:
        """Tokens of images: ids (B, L), or scaled latents (B, L, D), which are drawn from their posterior if stored so.

        Args:
            index: (B,) images.
            noise: stream of the choice between an image and its mirror image, and of the posterior.
        """
        views = noise.integers(self.tokens.manifest.views, len(index)).cpu()
        return as_tokens(self._moved(self.tokens.batch(index, views)), self.tokens.manifest, noise)

    def data_order(self, first: int, count: int) -> Tensor:
        """Indices (count,) of images number first to first + count - 1 of the run, which is epoch after epoch."""
        n, positions = len(self.tokens), range(first, first + count)
        return torch.stack([self.epoch(p // n)[p % n] for p in positions])

    def epoch(self, number: int) -> Tensor:
        """The shuffled image indices (N,) of an epoch."""
        cached, order = self.order_cache
        if cached != number:
            order = Noise("data", *self.name, number).permutations(1, len(self.tokens))[0]
            self.order_cache = (number, order)
        return order

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: all that the next step depends on."""
        return {
            "images": self.images,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "restarts": self.restarts,
        }

    def _resume(self) -> None:
        with checkpoint.latest(self.folder / layout.CHECKPOINTS, self.world) as state:
            if state is None:
                return
            if self.sharding == "full":
                from mar.training import sharding

                sharding.load(self.model, self.optimizer, self.ema, state)
            else:
                self.model.load_state_dict(state["model"])
                for name, average in self.ema.items():
                    average.copy_(state["ema"][name])
                self.optimizer.load_state_dict(state["optimizer"])
            for moments in self.optimizer.state.values():  # on the CPU they are still mapped from the file
                moments.update({name: tensor.clone() for name, tensor in moments.items()})
            if state["images"] not in range(0, self.recipe.images + 1, self.recipe.batch):
                raise ValueError(f"found images {state['images']!r}; accepted: whole batches of the recipe")
            if state["images"] and not self.optimizer.state:
                raise ValueError("found no moments of the optimiser; accepted: those of the steps before it")
            for name, tensors in {"model": state["model"], "ema": state["ema"], **state["optimizer"]["state"]}.items():
                if bad := [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
                    raise ValueError(f"found numbers in {name} {bad[0]} that are not finite; accepted: finite ones")
            self.images, self.seconds, self.restarts = state["images"], state["seconds"], state["restarts"] + 1
        print(f"{self.folder}: going on after {self.images} images", flush=True)


@contextmanager
def _then(end: Callable[[], None]) -> Iterator[None]:
    """Call a function when the context has ended well."""
    yield
    end()


def count_head(model: nn.Module) -> int:
    """Number of parameters of the head; 0 for DiT, which has no head."""
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith("head."))


def start_average(model: nn.Module, folder: Path | None) -> dict[str, Tensor]:
    """A copy of all parameters by name, in memory or in one memory-mapped file in `folder`."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    if folder is None:
        return {name: p.clone() for name, p in parameters.items()}
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [p.numel() for p in parameters.values()]
    flat = torch.from_file(str(folder / "ema.float32"), shared=True, size=sum(sizes))
    parts = zip(parameters.items(), flat.split(sizes), strict=True)
    return {name: part.view_as(p).copy_(p) for (name, p), part in parts}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The published parameter groups: weight decay for some parameters, none for the others.

    Parameters of one dimension and those that their head or backbone names have no decay. Position tables, mask token
    and embeddings have two or more dimensions and are decayed, except for those of VAR. DiT is published with weight
    decay 0, so the groups make no difference to it.
    """
    parts = {name: getattr(model, name, None) for name in ("head", "backbone")}
    undecayed = tuple(f"{name}.{part}" for name, module in parts.items() for part in getattr(module, "undecayed", ()))
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_plain = (
            parameter.ndim == 1 or name.endswith((".bias", ".ada_gss", ".scale_mul_1H11")) or name.startswith(undecayed)
        )
        (plain if is_plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def last_loss(log: Path) -> float | None:
    """Mean loss of the last tenth of the logged steps, as that of a single step is mostly noise; None without any."""
    losses = [line["loss"] for line in runlog.read(log) if "loss" in line]
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else None
