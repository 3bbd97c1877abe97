"""One client's side of a deployment: work and protection of one message, with what must survive the process."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fedopt.clients.base import ClientWork, stack_states
from fedopt.data.base import FederatedData
from fedopt.engine.base import Cohort, UpdateBatch
from fedopt.engine.engine import CohortEngine
from fedopt.flower.codes import NotFinite, shrink
from fedopt.flower.memory import Memory
from fedopt.flower.own_facts import NodeRefusal, checked_public
from fedopt.privacy.base import ClientContext, Counted, Mechanism, Tally
from fedopt.privacy.finite import zero_rows
from fedopt.privacy.mechanisms._integers import IntegerUpdates
from fedopt.privacy.system_noise import SystemNoise
from fedopt.scenario import Scenario
from fedopt.simulation.assembly import choose_device, protected
from fedopt.simulation.states import StateStore
from fedopt.types import Message, Public


@dataclass(frozen=True)
class Order:
    """One task, as the server sent it.

    Args:
        facts: dispatch, client, task, step, phase, seed, public, state_from, mechanism, config.
        message: what the method sent.
        digest: of the whole message: names its noise, so that a repeated message gets the same reply.
    """

    facts: dict[str, Any]
    message: Message
    digest: bytes


@dataclass(frozen=True)
class Answer:
    """What goes back: tensors, and facts that may leave the node."""

    parts: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Node:
    """Does a client's work.

    Args:
        scenario: as packed with the app: the node trusts its own copy, never what the server says about noise.
        data: local data (every other client may be empty).
        memory: survives the process.
    """

    def __init__(self, scenario: Scenario, data: FederatedData, memory: Memory):
        self.scenario, self.data, self.memory = scenario, data, memory

    def work(self, order: Order) -> Answer:
        """Do one task.

        Raises:
            NodeRefusal: the client's own budget does not allow it, or the server claims what is not so.
        """
        began = time.time()
        facts, scenario = order.facts, self.scenario
        engine = self._engine()
        public = checked_public(facts["public"], scenario, self.data, int(facts["client"]), engine.spec.size)
        mechanism = self._mechanism(public)
        private = self._randomises(mechanism)
        if private:
            assert mechanism is not None
            self._pay(order, mechanism, public)
        noise = SystemNoise(self._key(order.digest))
        # Who knows the seed knows which examples a step drew: amplification by sampling needs a secret one.
        seed = int.from_bytes(self._key(order.digest)[:7], "little") if private else int(facts["seed"])
        work = protected(scenario.client, engine.spec, mechanism, noise if private else None)
        parts, metrics, queries = self._compute(order, engine, work, seed)
        if mechanism is not None:
            parts = self._protect(order, mechanism, parts, noise, public)
        try:
            rows = shrink({name: only_row(batch) for name, batch in parts.items()}, order.message.config)
        except NotFinite as error:
            raise NodeRefusal(f"client {facts['client']}: {error}") from error
        reply: dict[str, Any] = {"dispatch": facts["dispatch"], "client": facts["client"], "queries": queries}
        if scenario.privacy is None:  # losses and durations are information about the data
            reply |= {"metrics": metrics, "began": began, "seconds": time.time() - began}
        return Answer(rows, reply)

    def _engine(self) -> CohortEngine:
        settings = self.scenario.engine
        return CohortEngine(
            self.scenario.model,
            self.data,
            choose_device(settings.device),
            self.scenario.seed,
            formulation=settings.formulation,
            chunk=settings.chunk,
            dtype=settings.dtype,
            threads=settings.threads,
        )

    def _mechanism(self, public: Public) -> Mechanism | None:
        """The scenario's mechanism with its noise set, calibrated here and once."""
        if self.scenario.privacy is None:
            return None
        mechanism = self.scenario.privacy.mechanism.prepared(self.scenario, public)
        if mechanism.noise_level() is not None:
            return mechanism
        return self._calibrated(public)

    def _calibrated(self, public: Public) -> Mechanism:
        from fedopt.components import build, dump
        from fedopt.privacy.plan import plan

        stored = self.memory.get("mechanism")
        if stored is None:
            mechanism = plan(self.scenario, public).mechanism
            self.memory.put("mechanism", dump(mechanism))
            return mechanism
        problems: list[Any] = []
        built = build("fedopt.privacy.mechanisms", stored, (), problems)
        assert isinstance(built, Mechanism), problems
        return built.prepared(self.scenario, public)

    def _randomises(self, mechanism: Mechanism | None) -> bool:
        """Whether noise is added here: the client then pays for its reply, and what it draws must be secret."""
        if mechanism is None or mechanism.noise_level() == 0:
            return False
        assert self.scenario.privacy is not None
        return mechanism.client_ledgers or self.scenario.privacy.trust != "central"

    def _key(self, digest: bytes) -> bytes:
        """Noise key of one message: fixed for the message, independent between messages, unknown outside the node."""
        stored = self.memory.get("noise_key")
        if stored is None:
            stored = os.urandom(32).hex()
            self.memory.put("noise_key", stored)
        return hashlib.blake2b(digest, key=bytes.fromhex(stored), digest_size=32).digest()

    # ---- the client's own ledger -------------------------------------------------------------------------------

    def _pay(self, order: Order, mechanism: Mechanism, public: Public) -> None:
        """Write the task into the client's ledger before doing it; the same message is never paid for twice."""
        from fedopt.privacy.spending import epsilon_of

        # Whatever the server asked for, a reply is at least one release.
        client, steps = int(order.facts["client"]), max(1, int(order.message.config["local_steps"]))
        ledger = self.memory.get("ledger", {})
        mine = ledger.setdefault(str(client), {})
        mine[order.digest.hex()] = steps
        events = self.memory.get("events", {})
        if not mechanism.client_ledgers:
            made = [event.to_dict() for event in mechanism.task_events(order.message.config, public)]
            events.setdefault(str(client), {})[order.digest.hex()] = made
        privacy = self.scenario.privacy
        assert privacy is not None
        name, limit = privacy.epsilon_limit()
        if limit < math.inf:
            profile = _own_profile(mechanism, mine, events.get(str(client), {}), client, public, self.scenario)
            if epsilon_of(profile, privacy.relation, privacy.delta, privacy.accountant) > limit:
                raise NodeRefusal(f"client {client}: this task would exceed {name} = {limit:g}")
        self.memory.put("ledger", ledger)
        self.memory.put("events", events)

    # ---- work --------------------------------------------------------------------------------------------------

    def _compute(
        self, order: Order, engine: CohortEngine, work: ClientWork, seed: int
    ) -> tuple[dict[str, UpdateBatch], dict[str, float], int]:
        facts, client = order.facts, int(order.facts["client"])
        states = StateStore(work.initial_state(engine.spec), engine.device)
        before = self._state_before(order, states) if states.names else None
        parts = {name: tensor.to(engine.device) for name, tensor in order.message.parts.items()}
        cohort = Cohort(
            clients=(client,),
            tasks=(int(facts["task"]),),
            messages=(replace(order.message, parts=parts),),
            steps=(int(order.message.config["local_steps"]),),
            seed=seed,
            public_seed=int(facts["seed"]),
            phase=str(facts["phase"]),
            states=stack_states([before]) if before is not None else None,
        )
        reply = work.work(cohort, engine)  # type: ignore[arg-type]
        if reply.states is not None:
            assert before is not None
            after = {name: values[0] for name, values in reply.states.items()}
            self._keep_state(client, int(facts["dispatch"]), after if _is_finite(reply.parts) else before)
        metrics = {name: float(values[0]) for name, values in reply.metrics.items()}
        return dict(reply.parts), metrics, reply.queries[0] if reply.queries else 0

    def _state_before(self, order: Order, states: StateStore) -> dict[str, torch.Tensor]:
        """State the client starts from: the one its named earlier task left behind, zeros at first."""
        client, wanted = int(order.facts["client"]), order.facts.get("state_from")
        kept = self.memory.get("states", {}).get(str(client), [])
        for dispatch in [d for d in kept if wanted is None or d < wanted]:
            self.memory.forget_tensors(f"{client}.{dispatch}")
        if wanted is None:
            return states.get(client)
        found = self.memory.tensors(f"{client}.{wanted}")
        if found is None:
            raise NodeRefusal(
                f"client {client}: the state of dispatch {wanted} is not on this node; was it replaced? Stateful "
                "client work needs the same node throughout a run"
            )
        return {name: tensor.to(states._device) for name, tensor in found.items()}

    def _keep_state(self, client: int, dispatch: int, state: dict[str, torch.Tensor]) -> None:
        stored = self.memory.get("states", {})
        stored[str(client)] = sorted({*stored.get(str(client), []), dispatch})
        self.memory.put("states", stored)
        self.memory.put_tensors(f"{client}.{dispatch}", state)

    def _protect(
        self, order: Order, mechanism: Mechanism, parts: dict[str, UpdateBatch], noise: SystemNoise, public: Public
    ) -> dict[str, UpdateBatch]:
        """The client's half of the mechanism, before anything leaves the node; there is always a reply."""
        parts = zero_rows(parts, [_is_finite(parts)])
        facts = order.facts
        context = ClientContext(
            (int(facts["client"]),), (int(facts["task"]),), int(facts["step"]), noise, public, (1.0,)
        )
        dimension = sum(b.rows().shape[1] for b in parts.values())
        state = mechanism.init(public.dimension or dimension, public)
        known = {name: value for name, value in facts.get("mechanism", {}).items() if name in state._fields}
        return dict(mechanism.on_client(parts, context, state._replace(**known)).parts)


def _is_finite(parts: Mapping[str, UpdateBatch]) -> bool:
    """Whether the one reply is: its numbers, and the norms of its parts."""
    return all(math.isfinite(float(batch.norms()[0])) for batch in parts.values())


def only_row(batch: UpdateBatch) -> torch.Tensor:
    """What a client sends of a part; integers whose single rows are closed to aggregators are its own to send."""
    return batch.values[0] if isinstance(batch, IntegerUpdates) else batch.rows()[0]


def _own_profile(
    mechanism: Mechanism,
    paid: dict[str, int],
    events: dict[str, list[dict[str, Any]]],
    client: int,
    public: Public,
    scenario: Scenario,
) -> Counted:
    """Events of the tasks a client has paid for: its local steps, or what each of its replies was."""
    from fedopt.privacy.client_ledgers import client_profiles
    from fedopt.privacy.events import from_dict

    if mechanism.client_ledgers:
        tally = Tally(local_steps={client: sum(paid.values())})
        return client_profiles(tally, mechanism, public, scenario).get(client, ())
    return tuple(Counter(from_dict(event) for task in events.values() for event in task).items())
