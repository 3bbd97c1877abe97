"""The report of a run: right numbers, nothing loaded from elsewhere, nothing that scripts could slip in."""

import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import fedopt
from fedopt.report import write_report
from fedopt.report.figures import Figure, thin
from fedopt.report.run_data import load_run
from fedopt.report.sections import run_page
from fedopt.report.sections.clients import spread_of
from fedopt.report.sections.privacy import attack_bounds, noise_to_signal
from fedopt.report.sections.schedule import assign_lanes
from fedopt.runlog import RunLogError
from fedopt.scenario import from_mapping


class Outline(HTMLParser):
    """Ids, headings, references to files or the network, and whether tags are balanced."""

    def __init__(self, document: str):
        super().__init__()
        self.ids, self.loads, self.open_tags, self.links = [], [], [], []
        self.labels, self.text = 0, ""
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [found[k] for k in ("src", "srcset", "data") if k in found] + ([tag] if tag == "link" else [])
        self.links += [found["href"]] if tag == "a" else []
        self.labels += found.get("role") == "img" and bool(found.get("aria-label"))
        if tag not in ("meta", "link", "input", "br", "img"):
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag, f"{tag} closed out of order at {self.getpos()}"

    def handle_data(self, data):
        if self.open_tags and self.open_tags[-1] not in ("script", "style"):
            self.text += data


def figures_of(run_directory) -> dict[str, Figure]:
    page = run_page(load_run(run_directory))
    return {b.name: b for section in page.sections for b in section.blocks if isinstance(b, Figure)}


@pytest.fixture
def without_plotly(monkeypatch):
    """Plotly's five megabytes are not needed to look at our own part of the page."""
    monkeypatch.setattr("fedopt.report.page.plotly_script", lambda: "/* plotly */")


def test_page_is_well_formed_and_loads_nothing(finished_run, without_plotly):
    document = write_report(finished_run).read_text()
    outline = Outline(document)
    assert outline.open_tags == [] and outline.loads == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
    assert not [link for link in outline.links if not link.startswith("#")]
    assert "default-src 'none'" in document and "@import" not in document and "url(" not in document
    # Every plot has words for those who cannot see it, and its numbers as a table.
    plots = document.count('data-plot="')
    assert plots == outline.labels == document.count("<details>") == 15
    # Text from the scenario cannot become a script.
    assert '<script>alert("not run")' not in document and '<script>alert("not run")</script>' in outline.text


def test_headline_numbers_and_sections(finished_run, without_plotly):
    text = Outline(write_report(finished_run).read_text()).text
    for expected in (
        "fashion-fedbuff-dp", "83.1\u202f%", "84.0\u202f%", "at step 195, simulator only", "12.3 s", "636 MB", "763 MB",
        "97 clients per second", "Algorithm 1", "Fixed-size cohorts are accounted", "9f9f", "kind: fedbuff",
    ):  # fmt: skip
        assert expected in text, expected
    for heading in (
        "Learning",
        "Privacy",
        "Participation and staleness",
        "How the data are split",
        "Spread over clients",
    ):
        assert heading in text
    assert "has not ended" not in text


def test_epsilon_never_stands_alone(make_run, without_plotly):
    run = make_run()
    text = Outline(write_report(run).read_text()).text
    terms = "delta 1e-05 · unit client · relation zero_out_one · trust central · sampling uniform (amplification none"
    assert text.count(terms) == 2  # headline card and privacy section
    assert "accountant pld" in text and "200" in text and "noise_multiplier 1.1" in text
    assert "No amplification by sampling is claimed." in text
    assert "a given client took part, is right at most" in text and "looser bound" in text
    assert "must not publish" in text
    privacy = json.loads((run / "privacy.json").read_text())
    privacy |= {
        "hypothetical_population": 10**6,
        "tradeoff": {"advantage": 0.3, "true_positive_rate_at_1_percent": 0.07},
    }
    (run / "privacy.json").write_text(json.dumps(privacy))
    text = Outline(write_report(run).read_text()).text
    assert text.count("HYPOTHETICAL population 1000000") == 2
    assert "right at most 65.0\u202f%" in text and "most 7.0\u202f%" in text and "privacy loss distribution" in text


def test_a_run_without_privacy_has_no_privacy_section(make_run, without_plotly):
    run = make_run(private=False, clients=8, steps=12)
    document = write_report(run).read_text()
    assert 'id="privacy"' not in document and "Epsilon" not in document and "simulator only" not in document
    found = figures_of(run)
    assert not {"epsilon", "tradeoff", "norms", "clipped", "noise"} & set(found)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("running", "This run has not ended. It is still running"),
        ("diverged", "This run diverged. The model holds NaN after step 7; lower client.lr."),
    ],
)
def test_unfinished_and_diverged_runs_have_a_banner(make_run, without_plotly, status, message):
    document = write_report(make_run(status=status, steps=7)).read_text()
    assert f'<div class="banner" role="alert">{message}' in document


def test_a_run_that_was_killed_before_its_first_step(tmp_path, without_plotly):
    from fedopt.runlog import RunLog

    with RunLog(tmp_path) as log:
        log.start({"name": "early"})
    document = write_report(tmp_path).read_text()
    assert "<h1>early</h1>" in document and "data-plot" not in document and "<script>" not in document
    with pytest.raises(RunLogError, match="holds no run"):
        write_report(tmp_path / "nowhere")


def test_figures_hold_the_tables(finished_run):
    run = finished_run
    found = figures_of(run)
    rounds = load_run(run).rounds.to_pandas()
    metric = found["metric"]
    evaluated = rounds.dropna(subset=["metric_value"])
    assert metric.traces[0]["y"] == pytest.approx(evaluated["metric_value"].tolist(), rel=1e-5)
    views = {view.label: view.x[0] for view in metric.views}
    assert list(views) == ["server steps", "virtual time", "bytes"]
    assert views["bytes"] == (evaluated["uplink_bytes"] + evaluated["downlink_bytes"]).tolist()
    assert views["virtual time"] == pytest.approx(evaluated["time_s"].tolist(), rel=1e-5)
    assert sum(found["staleness-spread"].traces[0]["y"]) == 1000
    assert found["epsilon"].traces[0]["y"][-1] == pytest.approx(rounds["epsilon"].iloc[-1], rel=1e-5)
    assert found["tradeoff"].traces[0]["y"] == metric.traces[0]["y"]
    assert found["noise"].traces[0]["y"][0] == pytest.approx(0.0022 * 159_010**0.5, rel=1e-5)
    for name, columns in (("norms", ["update_norm", "clipping_norm"]), ("clipped", ["clip_fraction"])):
        drawn = [trace["y"] for trace in found[name].traces]
        assert [line[-1] for line in drawn] == pytest.approx([rounds[c].iloc[-1] for c in columns], rel=1e-5)
    assert "A further 30 clients" in found["participations"].caption


def test_class_split_shows_a_hundred_clients_evenly(finished_run):
    heat = figures_of(finished_run)["classes"]
    trace = heat.traces[0]
    assert trace["type"] == "heatmap" and len(trace["x"]) == 100 and trace["x"][0] == "0" and trace["x"][-1] == "119"
    assert np.array(trace["z"]).sum(axis=0) == pytest.approx(np.ones(100), abs=1e-4)
    assert trace["y"][0] == "T-shirt" and "100 of 120 clients" in heat.caption


def test_few_clients_and_classes_are_stacked(make_run):
    import pyarrow.parquet as pq

    run = make_run(clients=6, steps=10, class_names=["a", "b"])
    table = pq.read_table(run / "clients.parquet").to_pandas()
    table["class_counts"] = [[i, 10] for i in range(len(table))]
    table.to_parquet(run / "clients.parquet")
    stacked = figures_of(run)["classes"]
    assert [trace["name"] for trace in stacked.traces] == ["a", "b"]
    assert stacked.traces[0]["y"] == list(range(20)) and stacked.layout["barmode"] == "stack"


def test_timeline_covers_the_first_tasks_without_overlap(finished_run):
    figure = figures_of(finished_run)["timeline"]
    tasks = [t for t in figure.traces if t["name"] in ("admitted", "lost")]
    bars = [(t["y"][i], t["x"][i], t["x"][i + 1]) for t in tasks for i in range(0, len(t["x"]), 3)]
    assert len(bars) == 300
    for (lane, _, end), (next_lane, start, _) in zip(sorted(bars), sorted(bars)[1:], strict=False):
        assert lane != next_lane or end <= start + 1e-4
    assert max(lane for lane, _, _ in bars) < 21  # concurrency was 20


def test_lanes_are_counted_from_one_and_steps_have_no_tick_of_their_own(finished_run):
    """The marks of server steps lie below the lanes, where no client is."""
    figure = figures_of(finished_run)["timeline"]
    across, lanes = figure.layout["yaxis"], max(y for t in figure.traces for y in t["y"] if y is not None)
    assert across["tickvals"] == list(range(0, lanes + 1, 4)) and lanes == 19
    assert across["ticktext"] == [str(i + 1) for i in across["tickvals"]]


def test_a_black_box_without_devices_shows_what_it_has(tmp_path, without_plotly):
    """Functions have no examples, no test set and, without device models, no times."""
    body = {
        "name": "box", "data": {"kind": "fzoos_quadratics", "dimension": 30, "clients": 4}, "model": {"kind": "point"},
        "client": {"kind": "finite_difference", "local_steps": 2}, "run": {"server_steps": 3, "evaluate_every": 1},
    }  # fmt: skip
    run = fedopt.simulate(from_mapping(body), out=tmp_path)
    found = figures_of(run.directory)
    assert set(found) == {
        "metric",
        "loss",
        "participation",
        "participations",
        "staleness",
        "staleness-spread",
        "spread",
    }
    assert found["metric"].title == "Objective" and [trace["name"] for trace in found["loss"].traces] == [
        "clients' own values"
    ]
    assert [view.label for view in found["metric"].views] == ["server steps", "bytes", "evaluations"]
    page = Outline(run.report.read_text()).text
    assert "mean of the clients' functions" in page and "test set" not in page


@pytest.mark.parametrize(("steps", "dtick"), [(5, 1), (9, 1), (40, 0)])
def test_few_steps_have_whole_ticks(make_run, steps, dtick):
    found = figures_of(make_run(steps=steps, clients=8))
    views = {view.label: view.dtick for view in found["metric"].views}
    assert views == {"server steps": dtick, "virtual time": 0, "bytes": 0}
    for name in ("participation", "staleness", "epsilon", "noise"):
        assert found[name].layout["xaxis"].get("dtick", 0) == dtick
    assert found["participation"].layout["yaxis"]["dtick"] == 1  # five replies a step
    assert "dtick" not in found["staleness"].layout["yaxis"]  # means lie between


def test_a_constant_accuracy_has_an_axis_of_shares(make_run, finished_run):
    import pyarrow.parquet as pq

    run = make_run(steps=10, clients=8)
    for table, column in (("rounds", "metric_value"), ("clients", "local_metric")):
        values = pq.read_table(run / f"{table}.parquet").to_pandas()
        values.loc[values[column].notna(), column] = 0.98
        values.to_parquet(run / f"{table}.parquet")
    found = figures_of(run)
    for name in ("metric", "spread", "tradeoff"):
        assert found[name].layout["yaxis"]["range"] == [0.93, 1.0]
    assert "range" not in figures_of(finished_run)["metric"].layout["yaxis"]


def test_long_runs_are_thinned_but_keep_their_peaks():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(100_000)
    values[54_321], values[12_345] = 40.0, np.nan
    kept = thin(values)
    assert len(kept) <= 2000 and 54_321 in kept and 12_345 not in kept and {0, 99_999} <= set(kept.tolist())
    assert values[kept].min() == np.nanmin(values)


def test_attack_bounds_are_those_of_pure_and_approximate_privacy():
    # epsilon = log 3: advantage (3 - 1) / (3 + 1); three times the false positives.
    bounds = attack_bounds(np.log(3), 0.0)
    assert bounds["advantage"] == pytest.approx(0.5)
    assert bounds["true_positive_rate_at_1_percent"] == pytest.approx(0.03)
    assert attack_bounds(0.0, 0.1)["advantage"] == pytest.approx(0.1)
    assert attack_bounds(0.0, 0.1)["true_positive_rate_at_1_percent"] == pytest.approx(0.11)
    huge = attack_bounds(5000.0, 1e-5)
    assert huge["advantage"] == pytest.approx(1.0) and huge["true_positive_rate_at_1_percent"] == pytest.approx(1.0)


def test_small_helpers():
    assert noise_to_signal(0.1, 0.5, 1.0, 100) == pytest.approx(2.0)
    assert noise_to_signal(None, 0.5, 1.0, 100) is None
    spread = spread_of(np.linspace(0, 1, 101), True)
    assert spread["worst tenth"] == pytest.approx(0.045) and spread["best tenth"] == pytest.approx(0.955)
    assert assign_lanes(np.zeros(3), np.ones(3)).tolist() == [0, 1, 2]


def test_not_a_number_is_a_gap_and_never_breaks_the_page(make_run, without_plotly):
    from fedopt.runlog import RunLog

    run = make_run(steps=20)
    with RunLog(run) as log:
        log.resume(20, 0)
        row = {"step": 21, "phase": "train", "time_s": 1e9, "participants": 0, "lost": 0, "uplink_bytes": 1}
        log.add_round({**row, "downlink_bytes": 1, "train_loss": float("nan"), "epsilon": float("inf")})
        log.finish({"name": "</script><b>x", "status": "diverged", "reason": "NaN"})
    (run / "privacy.json").write_text('{"epsilon": Infinity, "delta": 1e-5}')
    document = write_report(run).read_text()
    for data in re.findall(r'<script type="application/json">(.*?)</script>', document, flags=re.S):
        json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in the page"))
    assert "<b>x" not in document and "nothing bounds what the released model reveals" in document


def test_report_needs_neither_torch_nor_pandas(make_run):
    run = make_run(steps=5)
    program = (
        "import sys; from fedopt.report import write_report; write_report(sys.argv[1]);"
        "print([m for m in ('torch', 'flwr', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_browser_tool_takes_the_page_of_a_run_or_a_comparison(tmp_path):
    path = Path(__file__).with_name("browser.py")
    spec = importlib.util.spec_from_file_location("browser_tool", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with pytest.raises(FileNotFoundError, match=r"compare\.html"):
        tool.page_of(tmp_path)
    (tmp_path / "compare.html").write_text("")
    assert tool.page_of(tmp_path) == tmp_path / "compare.html"
    assert tool.page_of(tmp_path / "compare.html") == tmp_path / "compare.html"
    (tmp_path / "report.html").write_text("")
    assert tool.page_of(tmp_path) == tmp_path / "report.html"
