"""The compute engine: cohorts in, updates out; examples live once on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fedopt.data.base import ClientIndex, FederatedData
from fedopt.engine import precision
from fedopt.engine.base import BatchPlan, Cohort, ConcatUpdates, DenseUpdates, LocalRule
from fedopt.engine.batches import Order, plan_batches, steps_only
from fedopt.engine.blocks import Blocks, device_budget
from fedopt.engine.evaluation import ClientMetrics, evaluate_examples, per_client, summarise
from fedopt.engine.flat_module import FlatModule, filled, flatten, spec_of
from fedopt.engine.losses import example_loss
from fedopt.engine.objective import ObjectiveSteps
from fedopt.engine.select import Formulations, Selection
from fedopt.engine.tasks import Chunk, LossTask, Trained, even_blocks, make_chunk
from fedopt.engine.threads import Lender, available, in_order, use
from fedopt.engine.transfer import memory_for_rows, on_device, rows_at
from fedopt.engine.updates import ReorderedUpdates
from fedopt.engine.values import LossValues
from fedopt.models.base import Model
from fedopt.rng import key
from fedopt.types import ParamSpec

Split = Literal["test", "train"]
MOST_ROWS, MOST_ROWS_CUDA = 256, 4096
NUMBERS_CUDA = 2**28  # parameters of a block: 1 GiB


class CohortEngine:
    """Trains cohorts and evaluates models on one device.

    Args:
        model: settings of the model; ignored for black-box tasks.
        data: the federated data; feature shifts are written into the examples, which are copied to the device once.
        device: torch device.
        seed: run seed; the initial parameters are the stream (seed, "initial_parameters").
        formulation: ``auto`` or one of ``fedopt.engine.select.FORMULATIONS``.
        chunk: most rows given to ``train`` at once, or ``auto``.
        dtype: ``float32``, ``bfloat16`` (autocast of forward and backward, parameters stay float32) or ``tf32`` (CUDA).
        threads: worker threads for blocks of clients on a CPU (``fedopt.engine.threads``); None takes the cores.
        block: about how many rows are computed together, or ``auto``.
        memory_bytes: what training a block may take on the device; None: no limit on a CPU, most of a CUDA device.

    Guarantees: same arguments, cohorts, chunk and block give the same bits, with any number of threads on a CPU.
    """

    def __init__(
        self,
        model: Model | None,
        data: FederatedData,
        device: str | torch.device = "cpu",
        seed: int = 0,
        formulation: str = "auto",
        chunk: int | Literal["auto"] = "auto",
        dtype: str = "float32",
        threads: int | None = None,
        memory_bytes: int | None = None,
        block: int | Literal["auto"] = "auto",
    ):
        self.device, self.data, self.seed, self.dtype = torch.device(device), data.materialised(), seed, dtype
        self.chunk, self.block = chunk, block
        self.threads = threads or available()
        use(self.threads if self.device.type == "cpu" else 1)
        self._lenders: dict[int, Lender] = {}
        precision.use(dtype)
        # Set where the rows of several runs are trained in common passes: chunks in, their results out.
        self.together: Callable[[Sequence[Chunk]], list[Trained]] | None = None
        self.module: nn.Module | None = None
        self._blocks: Blocks | None = None
        if data.objective is not None:
            self._init_objective()
        else:
            self._init_model(model, formulation)
            taken = sum(each.nbytes for each in (*self._train, *self._test))
            self._blocks = Blocks(
                self.task, device_budget(self.device, taken) if memory_bytes is None else memory_bytes
            )

    def _init_objective(self) -> None:
        objective = self.data.objective
        self.spec = ParamSpec(("point",), ((int(objective.dimension),),))  # type: ignore[union-attr]
        self.formulation: Any = ObjectiveSteps(objective, self.device)
        self.selection = Selection("objective", "black-box task: exact gradients over the whole cohort")
        self._initial = torch.as_tensor(objective.initial(self.seed), dtype=torch.float32)  # type: ignore[union-attr]
        self._initial = self._initial.clone().to(self.device)

    def _init_model(self, model: Model | None, formulation: str) -> None:
        if model is None:
            raise ValueError(f"a {self.data.task.kind} task needs a model")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(self.seed, "initial_parameters") & 0x7FFF_FFFF_FFFF_FFFF)
            self.module = model.build(self.data.task)
        self.spec = spec_of(self.module)
        self._initial = flatten(self.module).to(self.device)
        self._train = on_device(self.data.train, self.device)
        self._test = on_device(self.data.test, self.device)
        self._model = FlatModule(self.module, self.device)
        self._model.module.eval()
        self._loss = example_loss(self.data.task)
        self.task = LossTask(
            task=self.data.task,
            spec=self.spec,
            module=self.module,
            loss=self._loss,
            inputs=self._train[0],
            targets=self._train[1],
            seed=self.seed,
            bfloat16=self.dtype == "bfloat16",
        )
        self._formulations = Formulations(self.task, formulation)
        self.selection, self.formulation = self._formulations.selection, self._formulations.chosen

    def initial_parameters(self) -> torch.Tensor:
        """Starting parameters ``[d]`` on the device: the module's default initialisation under a named stream."""
        return self._initial.clone()

    @property
    def metric_goal(self) -> Literal["max", "min"]:
        """Whether a larger metric is better: accuracy and R2 are, an objective's value is not."""
        return "min" if self.data.objective is not None else "max"

    def chunk_rows(self, d: int | None = None) -> int:
        """Most rows worth giving to ``train`` at once: a share of the machine's memory, at most 256 (4096 on CUDA).

        Inside, ``train`` sorts them by their number of steps and computes ``block_rows`` at a time, which is what fits
        the cache; so larger cohorts are better than small ones until memory ends.

        Args:
            d: parameters per row; those of the model by default.
        """
        if self.chunk != "auto":
            return max(1, int(self.chunk))
        bytes_per_row = 4 * 6 * (d or self.spec.size)  # start, point, gradient, buffer, update, and one to spare
        most = MOST_ROWS_CUDA if self.device.type == "cuda" else MOST_ROWS
        return max(1, min(most, memory_for_rows(self.device) // bytes_per_row))

    @property
    def block_rows(self) -> int:
        """About how many rows are computed together inside ``train`` (see ``even_blocks``).

        What fits the cache of a CPU. A GPU is busy with far fewer rows than fit its memory; more of them only make
        short clients wait for long ones.
        """
        if self.block != "auto":
            return max(1, int(self.block))
        if self.device.type == "cuda":
            return min(self.chunk_rows(), max(64, NUMBERS_CUDA // self.spec.size))
        return min(self.chunk_rows(), getattr(self.formulation, "preferred_rows", MOST_ROWS))

    def plan_batches(
        self,
        cohort: Cohort,
        batch_size: int | Literal["full"],
        order: Order = "shuffled",
        sampling_probability: float | None = None,
        denominator: float | None = None,
    ) -> BatchPlan:
        """Batches of every row for ``cohort.steps``; for black-box tasks only the steps."""
        if self.data.objective is None:
            return plan_batches(cohort, self.data.clients, batch_size, order, None, sampling_probability, denominator)
        return steps_only(cohort)

    def train(self, cohort: Cohort, rule: LocalRule, plan: BatchPlan) -> Trained:
        """Local training of a cohort, in chunks of rows sorted by start, then by descending steps.

        Args:
            cohort: messages hold ``params``.
            rule: rates ``[rows, max_steps]``.
            plan: batches; for black-box tasks only its ``steps`` are used.
        """
        if len(cohort) == 0:
            return Trained(DenseUpdates(torch.zeros(0, self.spec.size, device=self.device)), torch.zeros(0))
        order = sorted(range(len(cohort)), key=lambda row: (-int(plan.steps[row]), row))
        lender, size = self._lender_for(rule), self.block_rows
        most = 2 * size
        if self._blocks is not None:
            longest, width = plan.counts.shape[1], int(plan.counts.max(initial=0))
            starts = len(cohort.distinct("params")[0])
            most = self._blocks.rows(most, lender.name, rule, longest, width, starts)
        blocks = [order[c] for c in even_blocks([int(plan.steps[r]) for r in order], min(size, most), most)]

        def cut(rows: Sequence[int]) -> Chunk:
            return make_chunk(cohort, rule, plan, rows, self.device)

        def train(rows: Sequence[int]) -> Trained:
            with lender.borrowed() as formulation:
                return formulation.train(cut(rows))  # type: ignore[no-any-return]

        def train_block(rows: Sequence[int]) -> list[Trained]:
            return [train(rows)] if self._blocks is None else self._blocks.train(rows, train)

        if self.together is not None:
            results = self.together([cut(rows) for rows in blocks])
        else:
            results = [trained for found in in_order(train_block, blocks) for trained in found]
        updates = results[0].updates if len(results) == 1 else ConcatUpdates(tuple(r.updates for r in results))
        position = np.argsort(order).tolist()
        losses = rows_at(torch.cat([r.losses for r in results]), position)
        return Trained(ReorderedUpdates(updates, tuple(position)), losses)

    def formulation_for(self, rule: LocalRule) -> Any:
        """The chosen formulation, or the one that takes over for this rule."""
        return self.formulation if self.data.objective is not None else self._formulations.covering(rule)

    def _lender_for(self, rule: LocalRule) -> Lender:
        chosen = self.formulation_for(rule)
        return self._lenders.setdefault(id(chosen), Lender(chosen))

    @torch.no_grad()
    def example_losses(self, parameters: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Losses of training examples, no gradient: ``[rows, d]``, ``[rows, batch]`` -> ``[rows, batch]``."""
        losses = torch.empty(indices.shape, device=self.device)
        for row in range(len(parameters)):
            self._model.flat.copy_(parameters[row])
            outputs = self._model.module(self._train[0][indices[row]])
            losses[row] = self._loss(outputs, self._train[1][indices[row]])
        return losses

    @cached_property
    def loss_values(self) -> LossValues:
        """Losses of the model as values of its parameters, for zeroth-order work; not for black-box tasks."""
        return LossValues(self._model.module, self.spec, self._loss, *self._train)

    def evaluate(self, params: torch.Tensor, split: Split = "test") -> dict[str, Any]:
        """Loss and metric on pooled examples: ``loss, metric_name, metric_value, accuracy`` (None if there is none).

        Classification and next_token report accuracy (per token), regression its R2 (the loss is the mean squared
        error), black_box the objective's value. Without test examples the training examples are used.
        """
        if self.data.objective is not None:
            value = float(self.data.objective.value(params))
            return {"loss": value, "metric_name": "objective", "metric_value": value, "accuracy": None}
        inputs, targets = self._test if split == "test" and len(self._test[1]) else self._train
        self._model.flat.copy_(params)
        result = evaluate_examples(self._model, self.data.task, self._loss, inputs, targets)
        return summarise(self.data.task, result, targets)

    def evaluate_clients(self, params: torch.Tensor, clients: Sequence[int]) -> ClientMetrics:
        """Loss and metric of each client on its local test share, or its training share where there is none.

        For black_box tasks the loss and metric are the client's own function value.
        """
        if self.data.objective is not None:
            ids = torch.tensor(list(clients), device=self.device)
            points = params.expand(len(ids), 1, -1)
            values = self.data.objective.values(ids, points)[:, 0].double().cpu().numpy()
            return ClientMetrics(values, "objective", values.copy(), np.ones(len(ids), np.int64))
        shares, (inputs, targets) = self.data.clients, self._train
        if self.data.client_tests is not None:
            shares, (inputs, targets) = self.data.client_tests, self._test
        return self._evaluate_shares(params, clients, shares, inputs, targets)

    def _evaluate_shares(
        self,
        params: torch.Tensor,
        clients: Sequence[int],
        shares: ClientIndex,
        inputs: torch.Tensor,
        targets: torch.Tensor,
    ) -> ClientMetrics:
        lists = [shares.of(client) for client in clients]
        sizes = np.array([len(found) for found in lists], np.int64)
        joined = np.concatenate(lists) if lists else np.zeros(0, np.int64)
        indices = torch.from_numpy(joined).to(self.device)
        self._model.flat.copy_(params)
        result = evaluate_examples(self._model, self.data.task, self._loss, inputs[indices], targets[indices])
        return per_client(self.data.task, result, sizes)

    def module_with(self, params: torch.Tensor) -> nn.Module:
        """A fresh module holding these parameters, for saving or further use.

        Raises:
            ValueError: a black-box task has no module.
        """
        if self.module is None:
            raise ValueError("a black-box task has no module; its point is the flat parameter vector")
        return filled(self.module, self.spec, params)

    def description(self) -> dict[str, Any]:
        """What decides the bits of a run: recorded with it, and pinned for resume and verify."""
        return {
            "device": str(self.device),
            "formulation": self.selection.formulation,
            "reason": self.selection.reason,
            "chunk": self.chunk_rows(),
            "block": self.block_rows,
            "threads": self.threads,
            "dtype": self.dtype,
            "torch": str(torch.__version__),
        }
