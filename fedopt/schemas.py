"""What a run directory holds: every table, column, unit and key, in one place.

The pyarrow schemas, ``docs/run-directory.md`` and the checks of :class:`fedopt.runlog.RunLog` are all made from the
lists below. ``SCHEMA_VERSION`` rises whenever a name, a type or a meaning changes. No torch.

``simulator_only`` marks what a simulation may show but a private deployment may not publish unless it was paid for
from the privacy budget: values computed from clients' data without noise (losses, norms, clip fractions, test
metrics, class counts). It is stored in the metadata of the column, so that it travels with the Parquet files.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 1

_INTEGER, _NUMBER, _TEXT = pa.int64(), pa.float64(), pa.string()


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: as written to the files; never renamed without a new ``SCHEMA_VERSION``.
        type: pyarrow type.
        description: one sentence, with the unit.
        required: whether every row has a value; otherwise empty means "not applicable" or "not measured".
        simulator_only: an information leak if published by a private deployment.
    """

    name: str
    type: pa.DataType
    description: str
    required: bool = False
    simulator_only: bool = False

    def field(self) -> pa.Field:
        """The pyarrow field, with description and mark as metadata."""
        metadata = {"description": self.description, "simulator_only": str(self.simulator_only).lower()}
        return pa.field(self.name, self.type, nullable=not self.required, metadata=metadata)


ROUND_COLUMNS = (
    Column("step", _INTEGER, "Server steps finished when the row was written; the first row is step 1.", True),
    Column("phase", _TEXT, "Name of the exchange that closed with this step.", True),
    Column("time_s", _NUMBER, "Virtual time of the step, seconds since the start.", True),
    Column("wall_s", _NUMBER, "Real time spent computing so far, seconds; the only column that differs between runs."),
    Column("participants", _INTEGER, "Replies the step used. Secret where amplification by sampling is claimed.", True),
    Column("lost", _INTEGER, "Dispatches lost or failed since the previous step.", True),
    Column("staleness_mean", _NUMBER, "Mean over the replies used of server versions since their dispatch."),
    Column("staleness_max", _INTEGER, "Largest staleness among the replies used, versions."),
    Column("buffer_size", _INTEGER, "Replies in the buffer when the step was taken."),
    Column("uplink_bytes", _INTEGER, "Bytes sent by clients so far (cumulative).", True),
    Column("downlink_bytes", _INTEGER, "Bytes sent to clients so far (cumulative).", True),
    Column("queries", _INTEGER, "Evaluations of the objective behind used and rejected replies so far (cumulative)."),
    Column("train_loss", _NUMBER, "Mean loss of the clients' own training in this step.", simulator_only=True),
    Column("test_loss", _NUMBER, "Loss of the global model on the test set; empty when not evaluated.", False, True),
    Column("metric_name", _TEXT, "Name of the task's metric, for example accuracy."),
    Column("metric_value", _NUMBER, "The task's metric on the test set; empty when not evaluated.", False, True),
    Column(
        "test_accuracy", _NUMBER, "Share of test examples predicted right; empty if the task has none.", False, True
    ),
    Column("epsilon", _NUMBER, "Privacy spent so far; read with delta, unit, relation, trust and sampling."),
    Column("epsilon_accountant", _TEXT, "Accountant that computed epsilon: also used to calibrate and to stop."),
    Column("delta", _NUMBER, "Failure probability that belongs to epsilon."),
    Column(
        "clipping_norm", _NUMBER, "Bound on one unit's contribution before its weight, in the norm of the mechanism."
    ),
    Column("noise_multiplier", _NUMBER, "Standard deviation of the noise over the clipping norm."),
    Column(
        "noise_std",
        _NUMBER,
        "Standard deviation of the noise in each coordinate of the released value; of one reply under local noise "
        "(trust local, hemisphere messages), of one summed gradient with DP-SGD.",
    ),
    Column(
        "clip_fraction",
        _NUMBER,
        "Share of contributions whose norm exceeded clipping_norm, or was not finite.",
        simulator_only=True,
    ),
    Column("update_norm", _NUMBER, "Mean L2 norm of the contributions before clipping.", simulator_only=True),
)

UPDATE_STATUSES = ("admitted", "held", "rejected", "lost", "failed", "duplicate")

UPDATE_COLUMNS = (
    Column("client_id", _INTEGER, "Client, 0 to population - 1. Secret where sampling amplification is claimed.", True),
    Column("version", _INTEGER, "Server version the client started from.", True),
    Column("step", _INTEGER, "Server step that used the reply, or was being collected when it was not used.", True),
    Column("phase", _TEXT, "Name of the exchange.", True),
    Column("staleness", _INTEGER, "Server versions between dispatch and use."),
    Column("dispatched_s", _NUMBER, "Virtual time of the dispatch, seconds.", True),
    Column("arrived_s", _NUMBER, "Virtual time of the arrival or of the loss, seconds; empty if cancelled."),
    Column("local_steps", _INTEGER, "Local steps of the task.", simulator_only=True),
    Column("num_examples", _INTEGER, "Examples of the client; private unless the scenario says public.", False, True),
    Column("status", _TEXT, "One of " + ", ".join(UPDATE_STATUSES) + ".", True),
    Column("weight", _NUMBER, "Weight in the step; 0 if not used."),
    Column("uplink_bytes", _INTEGER, "Bytes of the reply; 0 if it never arrived.", True),
    Column("downlink_bytes", _INTEGER, "Bytes of the message that started the work.", True),
    Column("queries", _INTEGER, "Function values behind a used or rejected reply; empty for work with gradients."),
)

CLIENT_COLUMNS = (
    Column("client_id", _INTEGER, "Client, 0 to population - 1.", True),
    Column("num_examples", _INTEGER, "Training examples of the client.", False, True),
    Column("class_counts", pa.list_(_INTEGER), "Training examples per class, in class order.", False, True),
    Column(
        "dispatches", _INTEGER, "Tasks of the client that ended; what is under way at the end is not counted.", True
    ),
    Column("participations", _INTEGER, "Replies of the client that a step used.", True),
    Column("losses", _INTEGER, "Tasks of the client that were lost or failed.", True),
    Column("metric_name", _TEXT, "Name of the metric in local_metric."),
    Column(
        "local_metric",
        _NUMBER,
        "Metric of the final model on the client's own test share; on its own training examples where no client of the "
        "run has a test share; of a black box its own value.",
        False,
        True,
    ),
    Column("local_loss", _NUMBER, "Loss of the final model on the same examples as local_metric.", False, True),
    Column("num_test_examples", _INTEGER, "Examples in the client's own test share; 0 without one.", False, True),
    Column("epsilon", _NUMBER, "Privacy the client has spent, where each client keeps its own ledger."),
)

SUMMARY_STATUSES = ("running", "finished", "stopped", "diverged", "failed")


@dataclass(frozen=True)
class Key:
    """One key of ``summary.json``: name, JSON type and meaning."""

    name: str
    type: str
    description: str
    required: bool = False


SUMMARY_KEYS = (
    Key("schema_version", "integer", "Version of these definitions.", True),
    Key("name", "string", "Name of the scenario.", True),
    Key("run_id", "string", "Name of the run directory."),
    Key("status", "string", "One of " + ", ".join(SUMMARY_STATUSES) + ".", True),
    Key("reason", "string", "Why the run ended, in a sentence.", True),
    Key("steps", "integer", "Server steps made.", True),
    Key("time_s", "number", "Virtual time at the end, seconds.", True),
    Key("wall_s", "number", "Real time, seconds.", True),
    Key("metric_name", "string", "Name of the task's metric."),
    Key("metric_goal", "string", "max if a larger metric is better, else min."),
    Key("final_metric", "number", "Metric of the last evaluation."),
    Key("best_metric", "number", "Best metric of any evaluation. Simulator only: picking it is a release."),
    Key("best_step", "integer", "Server step of the best metric."),
    Key("final_test_loss", "number", "Test loss of the last evaluation."),
    Key("uplink_bytes", "integer", "Bytes sent by clients."),
    Key("downlink_bytes", "integer", "Bytes sent to clients, for tasks under way at the end too."),
    Key("queries", "integer", "Evaluations of the objective."),
    Key("dispatches", "integer", "Tasks given to clients, with those under way at the end."),
    Key("admitted", "integer", "Replies used by a step."),
    Key("lost", "integer", "Tasks lost or failed."),
    Key("population", "integer", "Clients of the scenario."),
    Key("clients_per_second", "number", "Tasks computed per real second."),
    Key("peak_memory_bytes", "integer", "Largest resident memory of the process."),
    Key("peak_device_memory_bytes", "integer", "Largest memory allocated on the accelerator."),
    Key("seed", "integer", "Seed of the run."),
    Key("device", "string", "Device the client work ran on."),
    Key("formulation", "string", "How client work was computed: dual, batched, loop ..."),
    Key("chunk", "integer", "Clients computed together."),
    Key("block", "integer", "About how many clients are computed side by side; part of what fixes the bits."),
    Key("threads", "integer", "Worker threads."),
    Key("model_sha256", "string", "SHA-256 of the final parameters."),
    Key("num_parameters", "integer", "Parameters of the model."),
    Key("components", "object", "Component kind per part of the scenario: aggregator, client, data ..."),
    Key("class_names", "array", "Names of the classes, in the order of class_counts."),
    Key("epsilon", "number", "Privacy spent at the end; read with privacy.json."),
    Key("delta", "number", "Failure probability that belongs to epsilon."),
    Key("references", "array", "Sources of exactly the methods used, one string each."),
    Key("warnings", "array", "Everything the user was warned of, one string each."),
    Key("versions", "object", "Version of fedopt, Python and each package that computes."),
    Key("machine", "object", "Processor, cores, memory, accelerator, operating system."),
    Key("started_at", "string", "Start of the run, ISO 8601 with time zone."),
    Key("clock", "string", "What the run's times are: virtual time, or (in a deployment) time."),
)


def _schema(table: str, columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema(
        [column.field() for column in columns],
        metadata={"fedopt_table": table, "fedopt_schema_version": str(SCHEMA_VERSION)},
    )


ROUNDS = _schema("rounds", ROUND_COLUMNS)
UPDATES = _schema("updates", UPDATE_COLUMNS)
CLIENTS = _schema("clients", CLIENT_COLUMNS)


def simulator_only(schema: pa.Schema) -> tuple[str, ...]:
    """Names of the columns a private deployment must not publish.

    >>> simulator_only(ROUNDS)[:2]
    ('train_loss', 'test_loss')
    """
    return tuple(field.name for field in schema if (field.metadata or {}).get(b"simulator_only") == b"true")


def markdown() -> str:
    """The tables of ``docs/run-directory.md``, made from the definitions above."""
    parts = [_markdown_table("`rounds`: one row per server step", ROUND_COLUMNS)]
    parts.append(_markdown_table("`updates`: one row per client reply or loss", UPDATE_COLUMNS))
    parts.append(_markdown_table("`clients`: one row per client that took part or is evaluated", CLIENT_COLUMNS))
    lines = ["## `summary.json`", "", "| key | type | always | meaning |", "|---|---|---|---|"]
    lines += [f"| `{k.name}` | {k.type} | {'yes' if k.required else ''} | {k.description} |" for k in SUMMARY_KEYS]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _markdown_table(title: str, columns: tuple[Column, ...]) -> str:
    lines = [f"## {title}", "", "| column | type | always | simulator only | meaning |", "|---|---|---|---|---|"]
    for c in columns:
        always, only = "yes" if c.required else "", "yes" if c.simulator_only else ""
        lines.append(f"| `{c.name}` | {c.type} | {always} | {only} | {c.description} |")
    return "\n".join(lines)
