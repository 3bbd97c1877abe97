"""The definitions of a run directory: names that comparisons read, and documentation that follows them."""

from pathlib import Path

from fedopt import schemas

DOCUMENT = Path(__file__).parents[1] / "docs" / "run-directory.md"
ROUNDS = """step phase time_s wall_s participants lost staleness_mean staleness_max buffer_size uplink_bytes
downlink_bytes
queries train_loss test_loss metric_name metric_value test_accuracy epsilon epsilon_accountant delta clipping_norm
noise_multiplier noise_std clip_fraction update_norm"""
UPDATES = """client_id version step phase staleness dispatched_s arrived_s local_steps num_examples status weight
uplink_bytes downlink_bytes queries"""


def test_names_and_order_are_those_others_read():
    assert schemas.ROUNDS.names == ROUNDS.split()
    assert schemas.UPDATES.names == UPDATES.split()


def test_documentation_is_made_from_the_definitions():
    """To renew it: replace everything after the marker by the output of ``fedopt.schemas.markdown()``."""
    _, _, generated = DOCUMENT.read_text().partition("a test compares. -->\n\n")
    assert generated == schemas.markdown()


def test_every_definition_is_described():
    for column in (*schemas.ROUND_COLUMNS, *schemas.UPDATE_COLUMNS, *schemas.CLIENT_COLUMNS, *schemas.SUMMARY_KEYS):
        assert column.description.endswith(".") and len(column.description) > 10, column.name
        assert "|" not in column.description


def test_values_computed_without_noise_are_marked():
    marked = {table: set(schemas.simulator_only(schema)) for table, schema in
              (("rounds", schemas.ROUNDS), ("updates", schemas.UPDATES), ("clients", schemas.CLIENTS))}  # fmt: skip
    assert {"train_loss", "metric_value", "clip_fraction", "update_norm"} <= marked["rounds"]
    assert marked["updates"] == {"local_steps", "num_examples"}
    assert {"class_counts", "local_metric"} <= marked["clients"]
    assert "epsilon" not in marked["rounds"] | marked["clients"]
