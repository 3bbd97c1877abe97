"""DP-FTRL: noise on prefix sums by a binary tree, no sampling needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, PrivateAttr

from fedopt.privacy.base import ClientContext, ClientResult, Noise, Release
from fedopt.privacy.mechanisms._multiplier import PerRelease
from fedopt.privacy.mechanisms._parts import SERVER, clip, normal, one_direction, require_same_stds, stds_of
from fedopt.privacy.releases import Event, NonPrivateEvent, TreeEvent
from fedopt.types import Bound, Public

if TYPE_CHECKING:
    import torch

    from fedopt.engine.base import UpdateBatch


class State(NamedTuple):
    """Where the tree stands."""

    position: int  # releases of this tree so far
    nodes: dict[str, torch.Tensor]  # part -> noise of the open node of every level, shape [height, d]
    stds: dict[str, float]  # part -> std of one node's noise


class Tree(PerRelease):
    """Tree aggregation: the noise of a prefix of t releases is the sum of popcount(t) nodes, not of t draws.

    Release t of a tree is ``value_t + N_t - N_(t-1)``, with N_t the sum of the node noises in the binary decomposition
    of t, each of std ``noise_multiplier * bound``. Summed by the aggregator, a prefix carries N_t only. After
    ``restart_every`` releases a new tree starts.

    Guarantees: one participation in a tree of T releases touches ``height = bit_length(T)`` nodes. Restarting every
    release is independent noise. With ``variance_reduction`` a node's value is averaged with its children's
    (post-processing), which multiplies its variance by ``1 / (2 - 2^-level)``.

    Needs a schedule in which a client is in a tree at most once: sampling: separated with min_separation at least
    ``restart_every``, or max_participations: 1.

    References: Kairouz, McMahan, Song, Thakkar, Thakurta, Xu 2021, Practical and Private (Deep) Learning without
    Sampling or Shuffling, Algorithm 1, arXiv:2103.00039; Honaker 2015, Efficient Use of Differentially Private Binary
    Trees.

    Differences from the paper: releases are differences of prefixes, so that any aggregator can follow; nodes on the
    way are kept, not whole prefixes.
    """

    restart_every: int | None = Field(None, ge=1, description="releases T per tree; null is one tree for the run")
    variance_reduction: bool = Field(False, description="average every node with its children (Honaker)")

    _length: int = PrivateAttr(0)

    def prepared(self, scenario: Any, public: Public) -> Tree:
        """Learn the number of releases per tree.

        Raises:
            ValueError: neither ``restart_every`` nor run.server_steps is given.
        """
        length = self.restart_every or scenario.run.server_steps
        if not length:
            raise ValueError("tree needs restart_every or run.server_steps to know its height; set one")
        made = self.model_copy()
        made._length = min(length, scenario.run.server_steps or length)
        return made

    @property
    def height(self) -> int:
        """Nodes that one release touches, at most."""
        return max(1, self._length.bit_length())

    def problems(self, scenario: Any) -> tuple[str, ...]:
        """A client could be in one tree twice, or steps do not add up."""
        length = self.restart_every or scenario.run.server_steps
        claim = scenario.sampling.claim(10**9, False)
        apart = claim.min_separation is not None and length is not None and claim.min_separation >= length
        if apart or scenario.privacy.max_participations == 1:
            return one_direction(scenario, "tree")
        return (
            *one_direction(scenario, "tree"),
            "tree accounts one participation of a client per tree; use sampling: {kind: separated, min_separation: "
            f"{length or '...'}}} (at least restart_every) or max_participations: 1",
        )

    def init(self, dimension: int, public: Public) -> State:
        """An empty tree."""
        return State(0, {}, {})

    def on_client(self, parts: Mapping[str, UpdateBatch], context: ClientContext, state: State) -> ClientResult:
        """Clip."""
        clipped, metrics = clip(parts, self.clipping_norm)
        return ClientResult(clipped, metrics)

    def release(
        self,
        reduced: Mapping[str, tuple[torch.Tensor, Bound | None]],
        survivors: int,
        step: int,
        state: State,
        noise: Noise,
        public: Public,
    ) -> Release:
        """Add the difference of two prefix noises.

        Raises:
            ValueError: the bound of a value, or which values there are, changes within a tree.
        """
        position = state.position % self._length
        stds = stds_of(reduced, self.multiplier)
        if position:
            require_same_stds(stds, state.stds, "tree")
        released, nodes = {}, {}
        for index, (name, (value, _)) in enumerate(reduced.items()):
            before = state.nodes[name] if position else value.new_zeros(self.height, value.numel())
            after = self._advance(before, position + 1, stds[name], noise, step, index)
            released[name] = value + self._prefix(after, position + 1) - self._prefix(before, position)
            nodes[name] = after
        first = next(iter(stds.values()), 0.0)
        facts = {"clipping_norm": self.clipping_norm, "noise_multiplier": self.multiplier, "noise_std": first}
        return Release(released, (self.event(public),), State(position + 1, nodes, stds), facts)

    def _advance(
        self, nodes: torch.Tensor, position: int, std: float, noise: Noise, step: int, part: int
    ) -> torch.Tensor:
        """Nodes after one more leaf: those below the lowest set bit are closed, a new one opens there."""
        level = (position & -position).bit_length() - 1
        after = nodes.clone()
        value = normal(noise, nodes[0], std, SERVER, step, part, 0)
        for below in range(level):
            fresh = normal(noise, nodes[0], std, SERVER, step, part, below + 1)
            if self.variance_reduction:
                # The node's own draw against the sum of its children's: inverse-variance weights.
                own = 1.0 / (2.0 - 2.0 ** -(below + 1))
                value = own * fresh + (1.0 - own) * (value + nodes[below])
            else:
                value = fresh
        after[:level] = 0.0
        after[level] = value
        return after

    def _prefix(self, nodes: torch.Tensor, position: int) -> torch.Tensor:
        """Noise of the prefix of ``position`` leaves ``[d]``."""
        total = nodes.new_zeros(nodes.shape[1])
        for level in range(self.height):
            if position >> level & 1:
                total = total + nodes[level]
        return total

    def event(self, public: Public) -> Event:
        """One participation in one tree."""
        if self.multiplier == 0:
            return NonPrivateEvent("no noise was added")
        return TreeEvent(self.multiplier, self.height)

    def references(self) -> tuple[str, ...]:
        """Source."""
        return (
            "Kairouz et al. 2021, Practical and Private (Deep) Learning without Sampling or Shuffling, "
            "arXiv:2103.00039",
        )
