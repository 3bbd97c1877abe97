"""pfl-research (Granqvist et al. 2024) with its simulated backend. No DP-SGD inside clients, so no W5."""

from __future__ import annotations

import argparse
import itertools
from importlib.metadata import version

import numpy as np
import torch
from _measure import Bundle, main
from _torch_models import accuracy, build
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy import CentrallyAppliedPrivacyMechanism, GaussianMechanism
from torch import nn
from workloads import BATCH_SIZE, CLIPPING_NORM, LR, MODELS, NOISE_MULTIPLIER, PRIVACY


class Wrapped(nn.Module):
    """The interface pfl asks of a module."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.inner(inputs)

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
        """Mean cross entropy."""
        return nn.functional.cross_entropy(self.inner(inputs), targets)

    @torch.no_grad()
    def metrics(self, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Weighted]:
        """Nothing that costs time in training."""
        return {"loss": Weighted(float(self.loss(inputs, targets)) * len(inputs), len(inputs))}


class Pfl:
    """One round is one central iteration of its federated averaging."""

    def __init__(self, bundle: Bundle, options: argparse.Namespace):
        if PRIVACY.get(options.workload) == "example":
            raise SystemExit("pfl has no DP-SGD inside clients")
        torch.set_num_threads(options.threads)
        self.bundle = bundle
        self.module = Wrapped(build(MODELS[options.workload], options.seed))
        self.model = PyTorchModel(
            self.module,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(self.module.parameters(), 1.0),
        )
        self.inputs, self.targets = torch.from_numpy(bundle.inputs), torch.from_numpy(bundle.targets)
        users = itertools.chain.from_iterable(cohort.tolist() for cohort in bundle.cohorts)
        data = FederatedDataset(self._dataset, lambda: next(users))
        private = []
        if PRIVACY.get(options.workload) == "client":
            private = [CentrallyAppliedPrivacyMechanism(GaussianMechanism(CLIPPING_NORM, NOISE_MULTIPLIER))]
        self.backend = SimulatedBackend(training_data=data, val_data=data, postprocessors=private)
        self.train = NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH_SIZE, local_max_grad_norm=None
        )

    def _dataset(self, user: int) -> Dataset:
        mine = np.random.permutation(self.bundle.of(user))
        return Dataset(raw_data=[self.inputs[mine], self.targets[mine]], user_id=str(user))

    def round(self, clients: list[int]) -> None:
        """One central iteration; the sampler hands out the bundle's cohorts in order."""
        amount = NNAlgorithmParams(
            central_num_iterations=1, evaluation_frequency=1000, train_cohort_size=len(clients), val_cohort_size=0
        )
        self.model = FederatedAveraging().run(
            algorithm_params=amount,
            backend=self.backend,
            model=self.model,
            model_train_params=self.train,
            model_eval_params=NNEvalHyperParams(local_batch_size=1000),
            callbacks=[],
        )

    def accuracy(self) -> float:
        """Test accuracy."""
        tests = torch.from_numpy(self.bundle.test_inputs), torch.from_numpy(self.bundle.test_targets)
        return accuracy(self.module.inner, *tests)


if __name__ == "__main__":
    main(Pfl, lambda: {name: version(name) for name in ("pfl", "torch")})
