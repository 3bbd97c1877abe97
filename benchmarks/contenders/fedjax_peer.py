"""FedJAX (Ro et al. 2021). W4 clips in a plain wrapper around its client updates; W5 takes gradients per example."""

# ruff: noqa: E402 - JAX is mended before FedJAX is imported
from __future__ import annotations

import argparse
from importlib.metadata import version

import jax

jax.tree_map = jax.tree_util.tree_map  # FedJAX 0.0.17 uses the name that JAX has since removed

import fedjax
import jax.numpy as jnp
import numpy as np
from _measure import Bundle, main
from fedjax.algorithms import fed_avg
from workloads import BATCH_SIZE, CLIPPING_NORM, LR, MODELS, NOISE_MULTIPLIER, PRIVACY


def _init(kind: str, key: jax.Array) -> dict[str, jax.Array]:
    """PyTorch's default initialisation: uniform in +- 1 / sqrt(fan in)."""
    shapes = {"logistic": [(784, 10)], "mlp": [(784, 200), (200, 10)]}.get(
        kind, [(5, 5, 1, 32), (5, 5, 32, 64), (3136, 512), (512, 10)]
    )
    params = {}
    for i, shape in enumerate(shapes):
        bound = 1.0 / np.sqrt(np.prod(shape[:-1]))
        key, first, second = jax.random.split(key, 3)
        params[f"w{i}"] = jax.random.uniform(first, shape, minval=-bound, maxval=bound)
        params[f"b{i}"] = jax.random.uniform(second, shape[-1:], minval=-bound, maxval=bound)
    return params


def _logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    last = len(params) // 2 - 1
    for i in range(last + 1):
        weight = params[f"w{i}"]
        if weight.ndim == 4:
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x + params[f"b{i}"])
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        else:
            x = x.reshape(len(x), -1) @ weight + params[f"b{i}"]
            x = jax.nn.relu(x) if i < last else x
    return x


def _losses(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(_logits(params, batch["x"])), batch["y"][:, None], 1)
    return -chosen[:, 0]


def _gradient(params, batch, rng):
    return jax.grad(lambda p: _losses(p, batch).mean())(params)


def _private_gradient(params, batch, rng):
    def single(x, y):
        return jax.grad(lambda p: _losses(p, {"x": x[None], "y": y[None]})[0])(params)

    found = jax.vmap(single)(batch["x"], batch["y"])
    norms = jnp.sqrt(sum(jnp.square(g).reshape(len(g), -1).sum(1) for g in jax.tree_util.tree_leaves(found)))
    factors = jnp.minimum(1.0, CLIPPING_NORM / norms)
    leaves, shape = jax.tree_util.tree_flatten(found)
    keys = jax.random.split(rng, len(leaves))
    noisy = [
        (jnp.tensordot(factors, g, 1) + NOISE_MULTIPLIER * CLIPPING_NORM * jax.random.normal(k, g.shape[1:]))
        / BATCH_SIZE
        for g, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree_util.tree_unflatten(shape, noisy)


class FedJax:
    """Its federated averaging; examples weigh equally per client as everywhere here only in W4."""

    def __init__(self, bundle: Bundle, options: argparse.Namespace):
        self.bundle, self.kind = bundle, MODELS[options.workload]
        privacy = PRIVACY.get(options.workload)
        images = bundle.inputs.transpose(0, 2, 3, 1)
        clients = {
            str(i).encode(): {"x": images[bundle.of(i)], "y": bundle.targets[bundle.of(i)].astype(np.int32)}
            for i in range(len(bundle.offsets) - 1)
            if len(bundle.of(i))
        }
        self.data = fedjax.InMemoryFederatedData(clients)
        gradient = _private_gradient if privacy == "example" else _gradient
        self.algorithm = fed_avg.federated_averaging(
            gradient,
            fedjax.optimizers.sgd(LR),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH_SIZE, num_epochs=1, drop_remainder=False, seed=0),
        )
        if privacy == "client":
            self.algorithm = _clipped(gradient)
        self.key = jax.random.PRNGKey(options.seed)
        self.state = self.algorithm.init(_init(self.kind, self.key))

    def round(self, clients: list[int]) -> None:
        """One round."""
        self.key, use = jax.random.split(self.key)
        ids = [str(client).encode() for client in clients]
        keys = jax.random.split(use, len(ids))
        batch = [(i, data, keys[n]) for n, (i, data) in enumerate(self.data.get_clients(ids))]
        self.state, _ = self.algorithm.apply(self.state, batch)
        jax.block_until_ready(self.state.params)

    def accuracy(self) -> float:
        """Test accuracy."""
        images = jnp.asarray(self.bundle.test_inputs.transpose(0, 2, 3, 1))
        found = [np.asarray(_logits(self.state.params, part)).argmax(1) for part in jnp.split(images, 10)]
        return float((np.concatenate(found) == self.bundle.test_targets).mean())


def _clipped(gradient):
    """Federated averaging from FedJAX's own parts, with clipped updates and noise on their sum."""
    trainer = fed_avg.create_train_for_each_client(gradient, fedjax.optimizers.sgd(LR))
    settings = fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH_SIZE, num_epochs=1, drop_remainder=False, seed=0)

    def apply(state, clients):
        batched = [(i, data.shuffle_repeat_batch(settings), key) for i, data, key in clients]
        total = fedjax.tree_util.tree_zeros_like(state.params)
        for _, delta in trainer(state.params, batched):
            total = fedjax.tree_util.tree_add(total, fedjax.tree_util.tree_clip_by_global_norm(delta, CLIPPING_NORM))
        leaves, shape = jax.tree_util.tree_flatten(total)
        keys = jax.random.split(clients[0][2], len(leaves))
        noisy = [
            (t + NOISE_MULTIPLIER * CLIPPING_NORM * jax.random.normal(k, t.shape)) / len(clients)
            for t, k in zip(leaves, keys, strict=True)
        ]
        moved = jax.tree_util.tree_map(jnp.subtract, state.params, jax.tree_util.tree_unflatten(shape, noisy))
        return fed_avg.ServerState(moved, state.opt_state), {}

    return fedjax.FederatedAlgorithm(lambda params: fed_avg.ServerState(params, ()), apply)


if __name__ == "__main__":
    main(FedJax, lambda: {name: version(name) for name in ("fedjax", "jax", "jaxlib")})
