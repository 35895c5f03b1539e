"""The report on hand-made run folders, the files behind it, and every way to hand it rubbish."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.core.cards import TaskCard
from cpl_bench.core.errors import UserError
from cpl_bench.core.files import atomic_path, write_atomically
from cpl_bench.core.score import SUCCESS, Score
from cpl_bench.experiments.run import Run
from cpl_bench.preferences.format import PreferenceInfo
from cpl_bench.report import curves, figure, reward_history
from cpl_bench.report.curves import draw_curves
from cpl_bench.report.figure import SPARE, STYLES, styles_of
from cpl_bench.report.films import film_of
from cpl_bench.report.intervals import success_intervals
from cpl_bench.report.likelihood import EXTRACT, extract
from cpl_bench.report.panels import Curve, Panel
from cpl_bench.report.read import read_run
from cpl_bench.report.report import report
from cpl_bench.report.reward_history import draw_reward_histories, read_reward_history
from cpl_bench.report.settings import series_of
from cpl_bench.report.table import panels_of, summarise
from cpl_bench.runs.evaluations import (
    HEADER,
    append_evaluations,
    drop_after,
    read_evaluations,
    scores_by_checkpoint,
)
from cpl_bench.runs.metrics import LOG_PROB, METRICS_HEADER
from cpl_bench.runs.record import RECORD_VERSION
from cpl_bench.runs.webp import Film, origin_of, write_film

OUTPUTS = ["README.md", "curves.csv", "curves.pdf", "curves.png", "table.csv"]
STARTED = 100  # the gradient step at which make_online_run first notes its rewards


PREFERENCES = PreferenceInfo(
    card="toy",
    task="drawer-open",
    segment_length=64,
    pairs="dense",
    source="cpl_bench/toy-v0",
    source_hash="0123",
    scorer="regret",
    annotator="oracle",
)
DRAWER = TaskCard("drawer-open", "metaworld", "drawer-open-v3", 250)


def evaluate(path: Path, successes, episodes: int = 10, every: int = 100, start: int = 0) -> None:
    """Write an evaluation file in which seed i succeeds `successes[i][j]` times at checkpoint j."""
    counts = np.array(successes)  # (seeds, checkpoints)
    checkpoints, seeds, numbers = (
        grid.ravel()
        for grid in np.meshgrid(
            range(counts.shape[1]), range(len(counts)), range(episodes), indexing="ij"
        )
    )
    append_evaluations(
        path,
        {
            "step": start + every * checkpoints,
            "seed": seeds,
            "episode": numbers,
            "success": numbers < counts[seeds, checkpoints],
            "return": 2 * numbers / (episodes - 1) - 1,
            "length": 50,
        },
    )


def make_run(root: Path, name: str, successes, **facts) -> Path:
    """A run folder with 10 episodes a checkpoint, every 100 steps from 0."""
    dataset, algorithm = name.split("/")
    folder = root / "runs" / dataset / algorithm
    folder.mkdir(parents=True)
    steps = 100 * (len(successes[0]) - 1)
    run = {
        "dataset": dataset,
        "method": algorithm.upper(),
        "algorithm": algorithm,
        "task": asdict(DRAWER),
        "config": {"lam": 0.5, "policy": {"hidden": [64, 64]}},
        "preferences": asdict(PREFERENCES),
        "evaluate_every": 100,
        "episodes": 10,
        "record_version": RECORD_VERSION,
        "seeds": list(range(len(successes))),
        "steps": steps,
        "command": f"cpl-bench train --data {dataset} {algorithm}",
        "behaviour_score": 0.4,
        "phases": [["clone", steps - steps // 2], ["contrast", steps // 2]],
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    }
    (folder / "run.json").write_text(json.dumps(run | facts))
    evaluate(folder / "evaluations.csv", successes)
    return folder


def make_online_run(
    root: Path, name: str, seeds: int = 2, successes: Sequence[float] = (), **facts
) -> Path:
    """A run folder whose learned reward rises from 10 to 40 while its true return falls to −50.

    Its seeds note the same `successes`, at each of four moments, if any.
    """
    phases = [["clone", 50], ["reward", 50], ["ppo", 100]]
    facts = {"online_transitions": 106_250, "phases": phases, **facts}
    run = make_run(root, name, [[1, 2, 3]] * seeds, **facts)
    lines = [
        METRICS_HEADER,
        *(f"{STARTED - 20},reward,{seed},learned_reward,0.5" for seed in range(seeds)),
    ]
    for moment in range(4):
        for metric, value in {
            "transitions": 4250.0 * (moment + 1),
            "policy_loss": float("nan"),
            "learned_reward": 10.0 * (moment + 1),
            "true_return": 100.0 - 50.0 * moment,
            "kl_to_reference": 0.25 * moment,
            **({"rollout_success": successes[moment]} if successes else {}),
        }.items():
            lines += [
                f"{STARTED + 20 * moment},ppo,{seed},{metric},"
                f"{value + seed if metric in ('learned_reward', 'true_return') else value!r}"
                for seed in range(seeds)
            ]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run


with_pdfs = pytest.mark.usefixtures("pdfs")


@pytest.fixture
def pdfs():
    """Asked for by tests that read a PDF."""


@pytest.fixture(autouse=True)
def unread_pdfs_are_left_out(request, monkeypatch):
    """Fonts make half of the time that a report takes."""
    if "pdfs" not in request.fixturenames:
        monkeypatch.setattr(figure, "_pdf", lambda drawn: b"%PDF")


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Two datasets; CPL on both, a hopeless BC on one."""
    steady = [[0, 2, 8], [0, 4, 6], [0, 0, 4], [0, 2, 2]]
    return [
        make_run(tmp_path, "drawer/cpl", steady, method="CPL (λ=0.75, $a|b$)"),
        make_run(tmp_path, "drawer/bc", [[0, 0, 0]] * 4),
        make_run(tmp_path, "sweep/cpl", steady[:2], method="CPL (λ=0.75, $a|b$)"),
    ]


def read_table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def interval_of(successes: list[int], episodes: int = 10) -> list[str]:
    """The cells of the interval of seeds that succeed so many times."""
    ends = success_intervals(np.array([successes]), episodes, 0.95)[0]
    return [f"{end:.4f}" for end in ends]


# --- What a report says ---


def test_table_by_hand(folders, tmp_path):
    result = report(folders, tmp_path / "out")
    header, cpl, bc, other = read_table(result.table)
    columns = "dataset,method,seeds,episodes,peak,last,iqm,ci_low,ci_high,failed,data"
    assert ",".join(header) == columns
    # too short for a peak; last = mean(0.8, 0.6, 0.4, 0.2); iqm = mean(0.6, 0.4)
    assert cpl[:7] == ["drawer", "CPL (λ=0.75, $a|b$)", "4", "10", "", "0.5000", "0.5000"]
    assert interval_of([8, 6, 4, 2]) == cpl[7:9] and float(cpl[7]) + float(cpl[8]) == 1
    assert bc[:8] == ["drawer", "BC", "4", "10", "", *["0.0000"] * 3], "a method that fails stays"
    assert 0.1 < float(bc[8]) < 0.2, "forty failures do not prove that none would succeed"
    assert other[2:] == ["2", "10", "", "0.7000", "0.7000", *interval_of([8, 6]), "0", ""]
    assert [row.last for row in result.rows] == pytest.approx([0.5, 0.0, 0.7])


def test_iqm_differs_from_the_mean(tmp_path):
    run = make_run(tmp_path, "drawer/cpl", [[0, 10], [0, 1], [0, 2], [0, 3]])
    row = report([run], tmp_path / "out").rows[0]
    assert (row.last, row.iqm) == (pytest.approx(0.4), pytest.approx(0.25))


def test_peak_follows_the_paper_on_long_runs(tmp_path):
    early, late = [10] * 8 + [0] * 12, [0] * 12 + [10] * 8
    run = make_run(tmp_path, "drawer/cpl", [early, late])
    assert report([run], tmp_path / "out").rows[0].peak == pytest.approx(0.5)


def test_peak_needs_checkpoints_to_choose_from(tmp_path):
    runs = [make_run(tmp_path, f"drawer/{n}", [[3] * n] * 4) for n in (15, 16)]
    short, enough = report(runs, tmp_path / "out").rows
    assert np.isnan(short.peak) and enough.peak == pytest.approx(0.3)
    page = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| 15 | 4 | 10 | – | 30.0 [" in page and "| 16 | 4 | 10 | 30.0 | 30.0 [" in page
    assert "fewer than 16 checkpoints has none" in page
    assert [row[4] for row in read_table(tmp_path / "out" / "table.csv")] == ["peak", "", "0.3000"]
    page = report(runs[:1], tmp_path / "short").page.read_text("utf-8")
    assert "peak" not in page.replace("speak", "")
    assert "has none" not in report(runs[1:], tmp_path / "long").page.read_text("utf-8")


def test_final_evaluation_takes_the_place_of_the_last_checkpoint(folders, tmp_path):
    evaluate(folders[2] / "final.csv", [[5], [15]], episodes=20, start=200)
    row = report(folders, tmp_path / "out").rows[2]
    assert (row.episodes, row.last) == (20, 0.5)
    assert [f"{end:.4f}" for end in (row.ci_low, row.ci_high)] == interval_of([5, 15], 20)


def test_curves_by_hand(folders, tmp_path):
    lines = read_table(report(folders, tmp_path / "out").curves)
    assert lines[0] == ["dataset", "method", "step", "mean", "ci_low", "ci_high"]
    assert len(lines) == 1 + 3 * 3
    assert lines[-2:] == [
        ["sweep", "CPL (λ=0.75, $a|b$)", "100", "0.3000", *interval_of([2, 4])],
        ["sweep", "CPL (λ=0.75, $a|b$)", "200", "0.7000", *interval_of([8, 6])],
    ]


def test_the_band_ends_in_the_tables_interval(mixed, tmp_path):
    result = report(mixed, tmp_path / "out")
    _, *lines = read_table(result.curves)
    ends = {(line[0], line[1]): line[3:] for line in lines}  # the last checkpoint's
    _, *rows = read_table(result.table)
    for dataset, method, _, _, _, last, _, low, high, *_ in rows:
        assert ends[dataset, method] == [last, low, high]


def test_page_shows_table_commands_and_versions(folders, tmp_path):
    page = report(folders, tmp_path / "out", "Two tasks", "An introduction.").page.read_text(
        "utf-8"
    )
    assert "\n# Two tasks\n\nAn introduction.\n\n## drawer\n" in page
    assert "| BC | 4 | 10 | 0.0 [0.0, 12.9] | 0.0 |" in page
    assert "| CPL (λ=0.75, $a\\|b$) | 2 | 10 | 70.0 [39.5, 88.5] | 70.0 |" in page
    assert page.count("95% Bayesian random-effects interval") == 2, "of tables and curves"
    assert "interval (beta-binomial), which accounts for seeds and episodes" in page
    assert "succeeds in 40.0 % of its episodes" in page
    assert "](curves.png)" in page and "nothing is smoothed" in page
    assert "cpl-bench train --data sweep cpl  #" in page
    assert "numpy 2.4.6, torch 2.13.0." in page
    assert "Unfinished" not in page


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_page_warns_of_few_seeds(tmp_path, seeds):
    run = make_run(tmp_path, "drawer/cpl", [[1, 2]] * seeds)
    page = report([run], tmp_path / "out").page.read_text("utf-8")
    assert ("a single seed accounts for its episodes only" in page) == (seeds == 1)
    said = "at least 94% of the time while their true rates spread by 15 points or less, and 79%"
    assert (said in page) == (seeds == 2)
    assert "interval of a return" not in page


def test_page_warns_of_two_seeds_returns(tmp_path):
    run = make_return_run(tmp_path, "hopper/cpl", [[0, 5], [0, 8]], NORMALISED)
    page = report([run], tmp_path / "out").page.read_text("utf-8")
    assert "two seeds the interval of a return covers the truth at least 81% of the time" in page
    assert "interval (normal), which" in page and "15 points" not in page


@pytest.mark.parametrize(("successes", "saturated"), [(9, False), (10, True)])
def test_page_says_where_a_method_leaves_no_room(tmp_path, successes, saturated):
    runs = [
        make_run(tmp_path, "drawer/cpl", [[1, successes], [1, 10]]),
        make_run(tmp_path, "sweep/cpl", [[10, 9], [10, 9]]),
    ]
    page = report(runs, tmp_path / "out").page.read_text("utf-8")
    drawer, sweep = page.split("## drawer")[1].split("## sweep")
    assert ("**Saturated:** a method reaches 97% or more." in drawer) == saturated
    assert "**Saturated:**" not in sweep


def test_page_aggregates_over_tasks(tmp_path):
    runs = [
        make_run(tmp_path, "drawer/cpl", [[0, 9], [0, 8], [0, 9], [0, 8]], method="CPL|x"),
        make_run(tmp_path, "drawer/bc", [[0, 5]] * 4),
        make_run(tmp_path, "sweep/cpl", [[0, 5], [0, 6]], method="CPL|x"),
        make_run(tmp_path, "sweep/bc", [[0, 5], [0, 5]]),
        make_run(tmp_path, "sweep/sft", [[0, 9]]),
        make_return_run(tmp_path, "walker/cpl", [[1, 2]], RAW, method="CPL|x"),
    ]
    page = report(runs, tmp_path / "out").page.read_text("utf-8")
    section = page.split("\n## Over all tasks\n")[1].split("\n## Learning curves\n")[0]
    header, ruler, cpl, bc = section.strip().splitlines()[:4]
    assert header.startswith("| method | IQM [95% interval] | mean [95% interval] | P(CPL\\|x is ")
    assert ruler == "|---|--:|--:|--:|"
    assert cpl.startswith("| CPL\\|x | 77.5 [") and " | 70.0 [" in cpl and cpl.endswith(" | – |")
    assert bc.startswith("| BC | 50.0 [") and " | 87.5 [" in bc, "all wins, and three ties of four"
    assert "Bayesian random-effects interval" in section and "of drawer, sweep, at" in section
    assert "no common scale: walker." in section and "miss a task: SFT." in section
    for some in (runs[:2], [runs[0], runs[5]]):
        alone = report(some, tmp_path / "alone").page.read_text("utf-8")
        assert "Over all tasks" not in alone


def test_page_names_unfinished_runs_and_mixed_versions(tmp_path):
    done = make_run(tmp_path, "drawer/bc", [[0, 1, 2]])
    running = make_run(
        tmp_path,
        "drawer/cpl",
        [[0, 1, 2]],
        steps=5000,
        phases=[["clone", 5000]],
        versions={"torch": "2.11.0"},
        behaviour_score=None,
    )
    page = report([done, running], tmp_path / "out").page.read_text("utf-8")
    assert "**Unfinished:** CPL stands at step 200 of 5,000." in page
    assert "numpy 2.4.6, torch 2.11.0 / 2.13.0." in page


def test_datasets_and_methods_keep_the_order_they_were_named_in(tmp_path):
    runs = [make_run(tmp_path, name, [[1, 2]]) for name in ("b/y", "a/x", "a/y", "b/x")]
    rows = report(runs, tmp_path / "out").rows
    assert [(row.dataset, row.method) for row in rows] == [
        ("b", "Y"),
        ("b", "X"),
        ("a", "Y"),
        ("a", "X"),
    ]


# --- Scores that are returns ---


def task_of_returns(**reference) -> TaskCard:
    return TaskCard("hopper", "gymnasium", "Hopper-v5", 1000, score="return", reference=reference)


def make_return_run(root: Path, name: str, means, task: TaskCard, **facts) -> Path:
    """As `make_run`, but seed i returns `means[i][j]` ± 1 at checkpoint j, and never succeeds."""
    run = make_run(root, name, [[0] * len(row) for row in means], task=asdict(task), **facts)
    (run / "evaluations.csv").unlink()
    for j in range(len(means[0])):
        for seed, row in enumerate(means):
            returns = row[j] + np.resize([1.0, -1.0], 10)
            columns = {"step": 100 * j, "seed": seed, "episode": np.arange(10), "return": returns}
            append_evaluations(run / "evaluations.csv", {**columns, "success": 0, "length": 1000})
    return run


NORMALISED = task_of_returns(random_return=-20.0, expert_return=80.0, paper_cpl_return=55.5)
RAW = task_of_returns(paper_cpl_return=3100.0)


@pytest.fixture
def mixed(tmp_path) -> list[Path]:
    """A dataset scored by success, one by normalised return and one by plain return."""
    means = [[-20, 30, 80], [-20, 0, 55], [-20, 5, 30], [-20, -15, -45]]
    return [
        make_run(tmp_path, "drawer/cpl", [[0, 2, 8], [0, 4, 6]]),
        make_return_run(tmp_path, "hopper/cpl", means, NORMALISED, behaviour_score=0.125),
        make_return_run(tmp_path, "hopper/bc", [[-20] * 3] * 4, NORMALISED, behaviour_score=0.125),
        make_return_run(tmp_path, "walker/cpl", [[-12.5, 900, 4200]], RAW, behaviour_score=1234.56),
    ]


def test_returns_are_tabled_in_their_units(mixed, tmp_path):
    result = report(mixed, tmp_path / "out")
    _, drawer, hopper, bc, walker = read_table(result.table)
    assert drawer[5] == "0.7000"
    # (-20, 80) → (0, 1): last = mean(1, 0.75, 0.5, -0.25); iqm = mean(0.75, 0.5)
    assert hopper[5:7] == ["0.5000", "0.6250"]
    assert bc[5:7] == ["0.0000", "0.0000"]
    low, high = (float(end) for end in bc[7:9])
    assert -0.01 < low < -0.001 and high == -low, "returns of -20 ± 1"
    # a single seed: Student's t of ten returns of 4200 ± 1
    assert walker[5:] == ["4200.0000", "4200.0000", "4199.2459", "4200.7541", "0", ""]
    assert result.scorings == {
        "drawer": SUCCESS,
        "hopper": Score("normalised return", -20, 80),
        "walker": Score("return"),
    }
    lines = read_table(result.curves)
    assert ["hopper", "CPL", "100", "0.2500"] in [line[:4] for line in lines]
    assert ["walker", "CPL", "100", "900.0000", "899.2459", "900.7541"] in lines


def test_page_tells_what_returns_are_compared_with(mixed, tmp_path):
    page = report(mixed, tmp_path / "out").page.read_text("utf-8")
    drawer, hopper, walker = page.split("\n## ")[1:4]
    assert "Success in percent. The policy behind the data succeeds in 40.0 %" in drawer
    assert "For orientation" not in drawer
    assert (
        "Normalised return in percent. 0 % is a return of -20, 100 % one of 80. The policy behind "
        "the data achieves 12.5 %. For orientation, from hopper's card: random return -20, expert "
        "return 80, paper CPL return 55.5."
    ) in hopper
    assert "| CPL | 4 | 10 | 50.0 [" in hopper and "| 62.5 |" in hopper
    assert (
        "Mean return. The policy behind the data achieves 1,234.6. For orientation, from hopper's "
        "card: paper CPL return 3100."
    ) in walker
    assert "| CPL | 1 | 10 | 4,200.0 [4,199.2, 4,200.8] | 4,200.0 |" in walker
    assert "%" not in walker.split("Mean return")[1].replace("95%", "")


def test_success_rates_of_the_card_stand_on_the_page(tmp_path):
    card = TaskCard(**{**vars(DRAWER), "reference": {"paper_cpl_success": 0.836}})
    run = make_run(tmp_path, "drawer/cpl", [[1, 2]], task=asdict(card))
    page = report([run], tmp_path / "out").page.read_text("utf-8")
    assert "For orientation, from drawer-open's card: paper CPL 83.6 %." in page


def figures_of(monkeypatch, module) -> list:
    """The figures that a module draws from now on."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []

    def picture(width, height, draw):
        draw(figure := Figure((width, height)))
        drawn.append(figure)

    monkeypatch.setattr(module, "picture", picture)
    return drawn


def test_returns_are_drawn_in_their_units(mixed, tmp_path, monkeypatch):
    runs = [read_run(folder) for folder in mixed]
    panels = panels_of(runs)
    assert [panel.scoring.name for panel in panels] == ["success", "normalised return", "return"]
    with monkeypatch.context() as patch:
        drawn = figures_of(patch, curves)
        draw_curves(panels, ["CPL", "BC"])
        draw_curves(panels[:1] * 2, ["CPL"])
    axes = drawn[0].axes
    labels = ["success (%)", "normalised return (%)", "return"]
    assert [each.get_ylabel() for each in axes] == labels
    last = [
        [line.get_ydata()[-1] for line in each.lines if line.get_label() in ("CPL", "BC")]
        for each in axes
    ]
    assert last == [[pytest.approx(70)], [pytest.approx(50), 0], [4200]]
    assert [each.lines[0].get_ydata()[0] for each in axes] == [40, 12.5, 1234.56]  # behaviour
    for each, values in zip(axes, last, strict=True):
        assert each.get_ylim()[0] < min(values) and max(values) < each.get_ylim()[1]
    assert axes[2].get_ylim()[1] > 4000 > 200 > axes[1].get_ylim()[1]
    alike = drawn[1].axes
    assert [each.get_ylabel() for each in alike] == ["success (%)", ""]
    assert report(mixed, tmp_path / "out").figure.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (DRAWER, r"one is scored by success, the other by normalised return \(-20 to 80\)"),
        (RAW, r"one is scored by return, the other by normalised return \(-20 to 80\)"),
        (
            task_of_returns(random_return=0.0, expert_return=80.0),
            r"one is scored by normalised return \(0 to 80\), the other by .* \(-20 to 80\)",
        ),
    ],
)
def test_one_dataset_is_scored_in_one_way(tmp_path, task, message):
    a = make_return_run(tmp_path, "hopper/bc", [[1, 2]], task)
    b = make_return_run(tmp_path, "hopper/cpl", [[1, 2]], NORMALISED)
    with pytest.raises(UserError, match=message) as caught:
        report([a, b], tmp_path / "out")
    assert str(a) in str(caught.value) and str(b) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_without_evaluations_says_so(folders, tmp_path):
    """Trained without a simulator, or with --episodes 0."""
    folder = folders[2]
    (folder / "evaluations.csv").unlink()
    spoil_fact(episodes=0, task=None, behaviour_score=None)(folder)
    with pytest.raises(UserError, match=r"was trained without evaluations.*no curve") as caught:
        report(folders, tmp_path / "out")
    assert f"cpl-bench evaluate {folder}" in str(caught.value)
    assert not (tmp_path / "out").exists()


# --- The figure ---


def test_phase_boundary_is_drawn_where_the_runs_agree(tmp_path):
    runs = {
        name: read_run(make_run(tmp_path, f"d/{name}", [[0] * 5], phases=phases))
        for name, phases in {
            "cpl": [["clone", 200], ["contrast", 200]],
            "sft": [["clone", 200], ["clone-preferred", 200]],
            "bc": [["clone", 400]],
            "piql": [["reward", 100], ["iql", 300]],
        }.items()
    }
    agreed = panels_of([runs["cpl"], runs["sft"], runs["bc"]])
    assert agreed[0].boundary == 200, "a run of one phase has no boundary to disagree about"
    assert panels_of([runs["cpl"], runs["piql"]])[0].boundary is None
    assert panels_of([runs["bc"]])[0].boundary is None


def shows(part: np.ndarray, colour: str) -> bool:
    """Whether pixels (h, w, 3) of 0 to 255 have more than a few of a colour."""
    return bool((part == list(bytes.fromhex(colour[1:]))).all(axis=-1).sum() > 100)


def pixels_of(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return np.rint(255 * imread(io.BytesIO(png))[..., :3]).astype(int)


def straight(*methods: str) -> tuple[Curve, ...]:
    """Curves of two checkpoints."""
    steps, rates = np.array([0, 100]), np.array([0.2, 0.9])
    return tuple(Curve(method, steps, rates, rates, rates) for method in methods)


def test_a_method_has_one_colour_in_every_panel():
    panels = [Panel("one", straight("SFT"), None, None), Panel("two", straight("CPL"), 0.5, 50)]
    pixels = pixels_of(draw_curves(panels, ["CPL", "SFT"]).png)
    height, width, _ = pixels.shape
    assert 700 < width < 2000
    plots = pixels[: int(0.8 * height)]  # without the legend
    left, right = plots[:, : width // 2], plots[:, width // 2 :]
    assert shows(right, STYLES["CPL"].colour) and not shows(left, STYLES["CPL"].colour)
    assert shows(left, STYLES["SFT"].colour)


def test_a_known_method_looks_the_same_in_any_company():
    everyone = ["SFT", "10%BC", "IQL (true reward)", "CPL(λ)", "P-IQL", "P-PPO", "CPL"]
    styles = styles_of(everyone)
    for method in everyone:
        assert styles_of([method, "Mine"])[method] == styles[method]
        assert styles_of(["Mine", method])[method] == styles[method]
    assert styles["10%BC"] == styles_of(["5%BC"])["5%BC"] == STYLES["%BC"]
    assert styles["CPL(λ)"] == styles_of(["CPL(λ=0.5)"])["CPL(λ=0.5)"] == STYLES["CPL(λ)"]


def test_variants_and_strangers_get_what_is_left():
    methods = ["CPL(λ=0.25)", "Mine", "P-PPO, four times the budget", "CPL(λ)", "P-PPO"]
    styles = styles_of(methods)
    assert list(styles) != methods and set(styles) == set(methods)
    assert [styles[method] for method in methods[:3]] == list(SPARE[:3]), "in order"
    assert [styles[method] for method in methods[3:]] == [STYLES["CPL(λ)"], STYLES["P-PPO"]]
    crowd = styles_of([f"Method {i}" for i in range(4 * len(SPARE))])
    looks = {(style.colour, style.dash) for style in crowd.values()}
    assert len(looks) == len(crowd)


def test_methods_are_told_apart_in_grey_print_and_ours_stands_out():
    looks = [*STYLES.values(), *SPARE]
    assert len({style.marker for style in looks}) == len({style.colour for style in looks})
    assert len({style.marker for style in looks}) == len(looks)
    ours, *others = sorted(looks, key=lambda style: -style.width)
    assert ours == STYLES["CPL(λ)"] and ours.width > others[0].width
    for one, other in (("P-IQL", "IQL (true reward)"), ("P-PPO", "PPO (true reward)")):
        assert STYLES[one].dash == "-" != STYLES[other].dash, "a dashed line saw the true reward"


@pytest.mark.parametrize(
    ("count", "shape"), [(4, (1, 1)), (5, (2, 3)), (6, (2, 3)), (7, (2, 4)), (9, (3, 3))]
)
def test_more_than_four_methods_have_panels_of_their_own(monkeypatch, count, shape):
    methods = [f"M{i}" for i in range(count)]
    drawn = figures_of(monkeypatch, curves)
    draw_curves([Panel("one", straight(*methods), 0.5, 50)], methods)
    panels = [axes for axes in drawn[0].axes if axes.axison]
    assert len(panels) == (1 if count <= 4 else count)
    if count <= 4:
        return
    rows, columns = shape
    places = [axes.get_subplotspec() for axes in panels]
    assert len({place.colspan.start for place in places}) == columns
    assert len({place.rowspan.start for place in places}) == rows
    assert [axes.get_legend().get_texts()[0].get_text() for axes in panels] == methods
    styles = styles_of(methods)
    for axes, method in zip(panels, methods, strict=True):
        lines = [line for line in axes.lines if line.get_label() != "first phase ends"]
        colours = [line.get_color() for line in lines]
        assert colours.count(curves.OTHERS) == count - 1, "all the others behind it"
        assert colours.count(styles[method].colour) == 1
        assert len(axes.collections) == 1, "one band"
        assert axes.get_xlim() == panels[0].get_xlim() and axes.get_ylim() == (-3, 103)
    (heading,) = (axes for axes in drawn[0].axes if not axes.axison)
    assert heading.get_title(loc="left") == "one"
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves.GREY)


def test_a_dataset_of_few_methods_beside_a_crowded_one():
    panels = [
        Panel("one", straight("SFT", "CPL", "CPL(λ)", "P-PPO", "P-IQL"), None, None),
        Panel("walker", straight("SFT"), 900.0, None, Score("return")),
    ]
    methods = ["SFT", "CPL", "CPL(λ)", "P-PPO", "P-IQL"]
    png = draw_curves(panels, methods).png
    assert draw_curves(panels, methods).png == png
    assert all(shows(pixels_of(png), STYLES[method].colour) for method in methods)


def test_long_names_stay_within_the_figure():
    long = "A method whose name is a good deal longer than a panel of it is wide"
    for count in (2, 4, 5, 7):
        methods = [f"{long}, {i}" for i in range(count)]
        png = draw_curves([Panel("one", straight(*methods), 0.5, 50)], methods).png
        pixels = pixels_of(png)
        assert (pixels[:, -5:] == 255).all() and (pixels[:, :5] == 255).all()
        assert (pixels != 255).any(axis=(1, 2)).mean() > 0.6, "the panels keep their room"


def shown_at(axis, place: float) -> bool:
    """Whether an axis reaches a place."""
    low, high = sorted(axis.get_view_interval())
    return low <= place <= high


def texts_of(monkeypatch, panels: list[Panel], methods: list[str]) -> dict[str, list]:
    """Where the texts of the figure lie, in pixels, by what they say; and "", the figure."""
    drawn, whole = [], figure.picture

    def kept(width, height, draw):
        return whole(width, height, lambda each: (drawn.append(each), draw(each)))

    monkeypatch.setattr(curves, "picture", kept)
    draw_curves(panels, methods)
    drawn[0].draw_without_rendering()
    places: dict[str, list] = {"": [drawn[0].bbox]}
    for axes in (each for each in drawn[0].axes if each.get_visible()):
        names = axes.get_legend().get_texts() if axes.get_legend() else []
        ticks = [
            tick.label1
            for axis in (axes.xaxis, axes.yaxis)
            for tick in axis.get_major_ticks()
            if axes.axison and shown_at(axis, tick.get_loc())
        ]
        shared = [axes.xaxis.label, axes.yaxis.label, axes.yaxis.get_offset_text()] * axes.axison
        for text in [axes.title, axes._left_title, *names, *ticks, *shared]:
            if text.get_visible() and text.get_text():
                places.setdefault(text.get_text(), []).append(text.get_window_extent())
    for text in drawn[0].legends[0].get_texts():
        places.setdefault(text.get_text(), []).append(text.get_window_extent())
    return places


def assert_apart(places: dict[str, list]) -> None:
    """No two texts overlap, and none leaves the figure."""
    (whole,) = places[""]
    boxes = [(text, box) for text, found in places.items() if text for box in found]
    for i, (text, box) in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, f"{text} leaves the figure"
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, f"{text} leaves the figure"
        for other, there in boxes[i + 1 :]:
            beside = box.x1 <= there.x0 or there.x1 <= box.x0
            assert beside or box.y1 <= there.y0 or there.y1 <= box.y0, f"{text} lies on {other}"


LONG = "drawer-open-small-regret-cap_steps200-2500x64-dense-noisy-error_rate0.1-seed"


@pytest.mark.parametrize(
    ("count", "name"),
    [(1, LONG), (2, LONG), (9, LONG), (9, LONG[-59:]), (9, "x" * 59), (3, "Some words, " * 5)],
)
def test_long_names_of_datasets_do_not_overlap(monkeypatch, count, name):
    panels = [Panel(f"{name}{i}", straight("SFT", "CPL"), 0.5, 50) for i in range(count)]
    places = texts_of(monkeypatch, panels, ["SFT", "CPL"])
    assert_apart(places)
    shown = {text.replace("\n", "").replace(" ", "") for text in places}
    assert all(panel.dataset.replace(" ", "") in shown for panel in panels)


def test_a_long_name_over_many_methods_stays_within_the_figure(monkeypatch):
    methods = [f"M{i}" for i in range(7)]
    panels = [Panel(f"{LONG}{i}-{LONG}", straight(*methods), 0.5, 50) for i in range(2)]
    assert_apart(texts_of(monkeypatch, panels, methods))


@pytest.mark.parametrize(
    ("last", "ticks"), [(100, ["0", "25", "50", "75", "100"]), (4000, ["0", "1k", "2k", "3k"])]
)
@pytest.mark.parametrize("count", [2, 8])
def test_ticks_of_few_steps_are_plain_numbers(monkeypatch, last, ticks, count):
    methods = [f"M{i}" for i in range(count)]
    few = [replace(curve, steps=np.array([0, last])) for curve in straight(*methods)]
    places = texts_of(monkeypatch, [Panel(name, tuple(few), None, None) for name in "abc"], methods)
    assert_apart(places)
    assert set(ticks) <= set(places)


@pytest.mark.parametrize("count", [2, 7])
@pytest.mark.parametrize(("scale", "start"), [(3e7, 0.0), (1.0, 1e6)])
def test_large_returns_have_no_factor_over_the_panel(monkeypatch, count, scale, start):
    methods = [f"M{i}" for i in range(count)]
    large = []
    for curve in straight(*methods):
        mean = start + scale * curve.mean
        large.append(replace(curve, mean=mean, low=mean, high=mean))
    places = texts_of(monkeypatch, [Panel("a", tuple(large), None, None, Score("return"))], methods)
    assert_apart(places)
    assert not [text for text in places if "1e" in text]


@pytest.mark.parametrize("count", [2, 7])
def test_a_method_called_as_matplotlib_hides_is_in_the_legend(monkeypatch, count):
    methods = [f"_mine{i}" for i in range(count)]
    places = texts_of(monkeypatch, [Panel("a", straight(*methods), None, None)], methods)
    shown = {text.lstrip("\N{ZERO WIDTH SPACE}") for text in places}
    assert set(methods) <= shown


@with_pdfs
def test_a_large_figure_is_drawn_more_coarsely(monkeypatch):
    panels = [Panel("one", straight("SFT"), 0.5, 50)]
    fine = draw_curves(panels, ["SFT"])
    assert len(fine.png) <= figure.LARGEST_PNG_BYTES < 500_000
    monkeypatch.setattr(figure, "LARGEST_PNG_BYTES", len(fine.png) - 1)
    coarse = draw_curves(panels, ["SFT"])
    widths = [pixels_of(each.png).shape[1] for each in (fine, coarse)]
    assert widths[0] / widths[1] == pytest.approx(150 / 110, abs=0.01)
    assert len(coarse.png) < len(fine.png) and coarse.pdf == fine.pdf


@with_pdfs
def test_picture_carries_no_date_and_no_version(folders, tmp_path):
    png = report(folders, tmp_path / "out").figure.read_bytes()
    kinds, at = [], 8
    while at < len(png):
        kinds.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    assert not {b"tEXt", b"iTXt", b"zTXt", b"tIME"} & set(kinds)
    pdf = (tmp_path / "out" / "curves.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"DejaVuSans" in pdf, "its text is text"
    assert not any(word in pdf for word in (b"Date", b"Producer", b"Creator", b"atplotlib"))


@with_pdfs
def test_a_run_draws_itself_as_its_files_name_says(folders, tmp_path):
    run = Run(folders[0])
    assert run.plot() == folders[0] / "curve.png"
    assert run.plot().read_bytes().startswith(b"\x89PNG")
    assert run.plot(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(UserError, match=r"is a \.png or a \.pdf: .*a\.svg is called like neither"):
        run.plot(tmp_path / "a.svg")


@with_pdfs
def test_same_runs_same_bytes_whatever_the_surroundings(folders, tmp_path):
    first = report(folders, tmp_path / "first", "T", "I")
    again = report(folders, tmp_path / "first", "T", "I")
    assert again == first, "a report replaces itself"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 40\naxes.facecolor: red\n")
    code = (
        "import sys; from pathlib import Path; from cpl_bench.report.report import report;"
        "report([Path(x) for x in sys.argv[2:]], Path(sys.argv[1]), 'T', 'I')"
    )
    command = [sys.executable, "-c", code, tmp_path / "second", *folders]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run(command, check=True, cwd=elsewhere, env=environment)
    for name in OUTPUTS:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == OUTPUTS


def test_importing_the_report_is_light():
    code = (
        "import sys, cpl_bench.report.report;"
        "print([name for name in ('torch', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# --- Methods that learn on the simulator ---


def test_online_steps_are_in_the_page_and_not_in_the_table_file(folders, tmp_path):
    online = make_online_run(tmp_path, "sweep/ppo")
    plain = report(folders, tmp_path / "plain")
    mixed = report([*folders, online], tmp_path / "mixed")
    page = mixed.page.read_text("utf-8")
    assert "| method | seeds | episodes | online steps | last [" in page
    assert "| PPO | 2 | 10 | 106,250 | 30.0 [11.9, 59.5] | 30.0 |" in page
    assert "| BC | 4 | 10 | – | 0.0 [" in page, "every table of the page has the column"
    assert "not a like-for-like comparison" in page
    ruler = next(line for line in page.splitlines() if line.startswith("|---"))
    assert ruler == "|---|--:|--:|--:|--:|--:|"
    assert "online" not in plain.page.read_text("utf-8")
    assert mixed.table.read_text() == (
        plain.table.read_text() + "sweep,PPO,2,10,,0.3000,0.3000,0.1193,0.5948,0,\n"
    )


def test_online_steps_of_an_unfinished_run_are_those_it_will_have_taken(tmp_path):
    phases = [["clone", 50], ["reward", 50], ["ppo", 4900]]
    run = make_online_run(tmp_path, "sweep/ppo", steps=5000, phases=phases)
    page = report([run], tmp_path / "out").page.read_text("utf-8")
    said = "PPO stands at step 200 of 5,000; its online steps are planned: those of the whole run."
    assert f"**Unfinished:** {said}" in page


def test_runs_that_say_nothing_of_online_steps_are_offline(folders):
    assert "online_transitions" not in json.loads((folders[0] / "run.json").read_text())
    assert read_run(folders[0]).record.online_transitions == 0


def test_reward_history_by_hand(tmp_path):
    history = read_reward_history(read_run(make_online_run(tmp_path, "sweep/ppo")))
    assert (history.dataset, history.method) == ("sweep", "PPO")
    assert history.transitions.tolist() == [4250, 8500, 12750, 17000]
    assert history.learned.tolist() == [[10, 20, 30, 40], [11, 21, 31, 41]]
    assert history.true.tolist() == [[100, 50, 0, -50], [101, 51, 1, -49]]
    assert history.kl.tolist() == [[0, 0.25, 0.5, 0.75]] * 2


def test_reward_figure_and_its_caption_come_and_go_with_the_runs(folders, tmp_path):
    online = make_online_run(tmp_path, "sweep/ppo")
    out = tmp_path / "out"
    result = report([*folders, online], out)
    assert result.reward == out / "reward.png"
    page = result.page.read_text("utf-8")
    assert page.index("](curves.png)") < page.index("](reward.png)") < page.index("How to read it")
    assert "over-optimisation" in page
    figures = ["reward.pdf", "reward.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*OUTPUTS, *figures])
    again = report(folders, out)
    assert again.reward is None
    assert "reward.png" not in again.page.read_text("utf-8")
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS, "the older figure is gone"


def test_somebody_elses_reward_figure_is_left_alone(folders, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("reward.png", "reward.pdf"):
        (tmp_path / "out" / name).write_bytes(b"mine")
    report(folders, tmp_path / "out")
    for name in ("reward.png", "reward.pdf"):
        assert (tmp_path / "out" / name).read_bytes() == b"mine"


@with_pdfs
@pytest.mark.parametrize(("runs", "seeds"), [(1, 1), (2, 3), (3, 2)])
def test_reward_figure_is_the_same_bytes_and_shows_the_methods(tmp_path, runs, seeds):
    methods = ["P-PPO", *(f"P-PPO, {i}" for i in range(1, runs))]
    folders = [
        make_online_run(tmp_path, f"sweep/ppo-{i}", seeds, method=method)
        for i, method in enumerate(methods)
    ]
    result = report(folders, tmp_path / "one")
    png, pdf = result.reward.read_bytes(), result.reward.with_suffix(".pdf").read_bytes()
    again = report(folders, tmp_path / "two").reward
    assert (png, pdf) == (again.read_bytes(), again.with_suffix(".pdf").read_bytes())
    assert b"tEXt" not in png and b"tIME" not in png and b"Date" not in pdf
    pixels, styles = pixels_of(png), styles_of(methods)
    assert all(shows(pixels, styles[method].colour) for method in methods)


def test_rewards_returns_successes_and_divergence_stand_side_by_side(tmp_path, monkeypatch):
    run = read_run(make_online_run(tmp_path, "sweep/ppo", successes=[0.25, 0.5, 0.5, 0.75]))
    history = read_reward_history(run)
    assert history.success.tolist() == [[0.25, 0.5, 0.5, 0.75]] * 2
    drawn = figures_of(monkeypatch, reward_history)
    draw_reward_histories([history, history], ["PPO"])
    axes = [each for each in drawn[0].axes if each.axison]
    names = ["learned reward", "true return", "success (%)", "KL (nats)"]
    assert [each.get_title(loc="left") for each in axes] == 2 * names
    assert len({each.get_subplotspec().rowspan.start for each in axes}) == 2
    mean = [each.lines[-1].get_ydata().tolist() for each in axes[:4]]
    assert mean == [
        [10.5, 20.5, 30.5, 40.5],
        [100.5, 50.5, 0.5, -49.5],
        [25, 50, 50, 75],
        [0, 0.25, 0.5, 0.75],
    ]
    assert all(len(each.lines) == 3 for each in axes), "two seeds and their mean"
    assert all(each.lines[0].get_xdata().tolist()[0] == 4250 for each in axes)
    assert axes[2].get_ylim() == (-3, 103)
    heads = [each.get_title(loc="left") for each in drawn[0].axes if not each.axison]
    assert heads == ["PPO, sweep"] * 2
    assert len({each.bbox.bounds for each in axes}) == 8, "none has a twin with another scale"


def test_success_is_left_out_where_a_run_lacks_it(tmp_path, monkeypatch):
    noted = make_online_run(tmp_path, "sweep/ppo", successes=[0.25, 0.5, 0.5, 0.75])
    older = make_online_run(tmp_path, "sweep/older")
    histories = [read_reward_history(read_run(run)) for run in (noted, older)]
    assert histories[0].success is not None and histories[1].success is None
    drawn = figures_of(monkeypatch, reward_history)
    draw_reward_histories(histories, ["PPO", "OLDER"])
    names = ["learned reward", "true return", "KL (nats)"]
    axes = [each for each in drawn[0].axes if each.axison]
    assert [each.get_title(loc="left") for each in axes] == 2 * names


def test_success_is_left_out_where_returns_count(tmp_path):
    run = make_online_run(tmp_path, "hopper/ppo", successes=[0.0] * 4)
    spoil_fact(task=asdict(NORMALISED))(run)
    assert read_reward_history(read_run(run)).success is None


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_a_long_name_stays_within_its_reward_figure(tmp_path, runs):
    long = "P-PPO with a name that is much longer than a panel is wide, and goes on and on and on"
    folders = [
        make_online_run(tmp_path, f"sweep/ppo-{i}", method=f"{long}, {i}") for i in range(runs)
    ]
    pixels = pixels_of(report(folders, tmp_path / "out").reward.read_bytes())
    assert (pixels[:, -5:] == 255).all(), "nothing is cut off at the right edge"


# --- The film ---


def filmed(run: Path, path: Path, seed: int = 3, succeeded: bool = True, **facts) -> Film:
    """A film of two frames, of a run or of one that differs from it in some facts."""
    film = Film(replace(origin_of(run, step=200), **facts), seed, succeeded)
    write_film(path, film, [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)])
    return film


@pytest.mark.parametrize(
    ("succeeded", "said"),
    [
        (True, "the first success among five test episodes."),
        (False, "the last of five test episodes, none of which succeeded."),
    ],
)
def test_a_film_of_a_run_is_on_the_page(folders, tmp_path, succeeded, said):
    out = tmp_path / "out"
    film = filmed(folders[1], out / "rollout.webp", succeeded=succeeded)
    result = report(folders, out)
    page = result.page.read_text("utf-8")
    assert "\n\n## Film\n\n![One episode of BC on drawer](rollout.webp)\n\n" in page
    assert f"One episode of BC on drawer, seed 3: {said}" in page
    assert film_of([read_run(folder) for folder in folders], out) == film
    assert report(folders, out) == result and result.page.read_text("utf-8") == page


@pytest.mark.parametrize(
    "facts",
    [
        {"method": "SFT"},
        {"dataset": "sweep"},
        {"seed": 4},
        {"step": 100},
        {"data": "of another seed"},
        {"evaluations": "of a run before this one"},
        None,
    ],
    ids=str,
)
def test_a_film_of_something_else_is_not_on_the_page(folders, tmp_path, facts):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "rollout.webp"
    _ = filmed(folders[1], path, **facts) if facts else path.write_bytes(b"RIFF....WEBPVP8 ")
    before = path.read_bytes()
    assert "rollout.webp" not in report(folders, tmp_path / "out").page.read_text("utf-8")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda run: evaluate(run / "evaluations.csv", [[0]] * 4, start=300),
        lambda run: spoil_text("evaluations.csv", "\n200,3,9,0,1.0,", "\n200,3,9,0,1.5,")(run),
        lambda run: spoil_fact(preferences=asdict(replace(PREFERENCES, preferences_hash="9")))(run),
    ],
)
def test_a_film_of_the_run_before_is_not_on_the_page(folders, tmp_path, change):
    """The same method, data and seeds, trained again."""
    filmed(folders[1], tmp_path / "out" / "rollout.webp")
    spoil_fact(steps=300, phases=[["clone", 300]])(folders[1])
    assert "rollout.webp" in report(folders, tmp_path / "out").page.read_text("utf-8")
    change(folders[1])
    runs = [read_run(folder) for folder in folders[:2]]
    assert film_of(runs, tmp_path / "out") is None


# --- Notes of a training ---


def test_numbers_that_are_not_finite_are_gaps(tmp_path):
    run = make_online_run(tmp_path, "sweep/ppo")
    spoil_text("metrics.csv", "ppo,0,learned_reward,20.0", "ppo,0,learned_reward,inf")(run)
    spoil_text("metrics.csv", "ppo,1,kl_to_reference,0.5", "ppo,1,kl_to_reference,nan")(run)
    history = read_reward_history(read_run(run))
    assert np.isnan(history.learned[0]).tolist() == [False, True, False, False]
    assert np.isnan(history.kl[1]).tolist() == [False, False, True, False]
    assert report([run], tmp_path / "out").reward.exists()


def drop_lines(word: str):
    def drop(folder: Path) -> None:
        path = folder / "metrics.csv"
        kept = [line for line in path.read_text().splitlines(True) if word not in line]
        path.write_text("".join(kept))

    return drop


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "metrics.csv").unlink(),  # too large to be published
        drop_lines("learned_reward"),
        drop_lines(",ppo,"),
        drop_lines("kl_to_reference"),
        lambda folder: spoil_fact(phases=[["clone", 50], ["ppo", 150]])(folder),  # the true reward
    ],
)
def test_runs_without_a_learned_reward_have_no_reward_figure(tmp_path, change):
    run = make_online_run(tmp_path, "sweep/ppo")
    change(run)
    assert report([run], tmp_path / "out").reward is None
    assert not (tmp_path / "out" / "reward.png").exists()


def test_offline_runs_have_no_reward_figure(tmp_path):
    run = make_online_run(tmp_path, "sweep/cpl")
    spoil_fact(online_transitions=0)(run)
    assert report([run], tmp_path / "out").reward is None


def note_likelihood(folder: Path, values: Mapping[int, Sequence[float]], name="metrics.csv"):
    """What every training notes: {step: a number a seed}, the phases as they come."""
    lines = [METRICS_HEADER]
    for step, of_seeds in values.items():
        phase = "clone" if step <= 100 else "contrast"
        lines += [f"{step},{phase},{s},{LOG_PROB},{value!r}" for s, value in enumerate(of_seeds)]
        lines += [f"{step},{phase},{s},clone_loss,0.5" for s in range(len(of_seeds))]
    (folder / name).write_text("\n".join(lines) + "\n")


def test_the_datas_likelihood_is_drawn_where_it_was_noted(tmp_path):
    runs = [make_run(tmp_path, f"sweep/{name}", [[1, 2, 3]] * 2) for name in ("sft", "cpl", "old")]
    assert report(runs, tmp_path / "out").likelihood is None
    assert "likelihood" not in (tmp_path / "out/README.md").read_text()
    note_likelihood(runs[0], {100: [-0.5, -0.7], 200: [-0.4, -0.4]})
    note_likelihood(runs[1], {100: [-0.5, -0.7], 200: [float("nan"), -8.0]})
    found = report(runs, tmp_path / "out")
    assert found.likelihood == tmp_path / "out/likelihood.png" and found.likelihood.exists()
    assert (tmp_path / "out/likelihood.pdf").exists()
    methods = [row.method for row in found.rows]
    assert (tmp_path / "out/likelihood.csv").read_text().splitlines() == [
        "dataset,method,step,mean,lowest,highest",
        f"sweep,{methods[0]},100,-0.6000,-0.7000,-0.5000",
        f"sweep,{methods[0]},200,-0.4000,-0.4000,-0.4000",
        f"sweep,{methods[1]},100,-0.6000,-0.7000,-0.5000",
        f"sweep,{methods[1]},200,,,",
    ]
    page = found.page.read_text("utf-8")
    assert "## How likely the data are\n\n![Log-likelihood" in page
    drop = [(run / "metrics.csv").unlink() for run in runs[:2]]
    assert drop and report(runs, tmp_path / "out").likelihood is None
    assert not [*(tmp_path / "out").glob("likelihood*")], "an earlier report's are taken away"


def varied(root: Path, name: str, score: int, **settings) -> Path:
    config = {"lam": 0.5, "alpha": 0.1, "cosine": False, "policy": {"dropout": 0.0, "average": 1}}
    dataset, method = name.split("/")
    made = make_run(root, name, [[1, score]] * 2, config=config | settings, algorithm="cpl")
    assert read_run(made).method == method.upper() and read_run(made).dataset == dataset
    return made


def test_runs_that_differ_in_one_setting_are_a_series(tmp_path):
    runs = [
        varied(tmp_path, "sweep/base", 5),
        varied(tmp_path, "sweep/high", 7, lam=1),
        varied(tmp_path, "sweep/low", 2, lam=0.25),
        varied(tmp_path, "sweep/again", 9, lam=0.25),  # the first of a number counts
        varied(tmp_path, "sweep/both", 1, lam=0.75, alpha=0.2),  # differs in two
        varied(tmp_path, "sweep/alpha", 3, alpha=0.2),  # two of a setting are no series
        varied(tmp_path, "sweep/drop", 4, policy={"dropout": 0.1, "average": 1}),
        varied(tmp_path, "sweep/more", 6, policy={"dropout": 0.2, "average": 1}),
        varied(tmp_path, "plate/base", 5),
        varied(tmp_path, "plate/high", 7, lam=1),
        varied(tmp_path, "sweep/cosine", 8, cosine=True),
    ]
    read = [read_run(run) for run in runs]
    rows = [summarise(run) for run in read]
    found = {each.setting: each for each in series_of(read, rows)}
    assert set(found) == {"lam", "policy.dropout"} and len(series_of(read, rows)) == 2
    assert all((each.dataset, each.algorithm) == ("sweep", "cpl") for each in found.values())
    assert [(value, row.last) for value, row in found["lam"].points] == [
        (0.25, pytest.approx(0.2)),
        (0.5, pytest.approx(0.5)),
        (1, pytest.approx(0.7)),
    ]
    assert [row.method for _, row in found["policy.dropout"].points] == ["BASE", "DROP", "MORE"]


def test_a_series_is_drawn_and_taken_away_again(tmp_path):
    runs = [varied(tmp_path, f"sweep/a{i}", 3 * i, lam=i / 4) for i in (1, 2, 3)]
    found = report(runs, tmp_path / "out")
    page = found.page.read_text("utf-8")
    assert found.settings == tmp_path / "out/settings.png" and found.settings.exists()
    assert "## Score against a setting\n\n![Last score against a setting](settings.png)" in page
    text = (tmp_path / "out/settings.pdf").read_bytes()
    assert report(runs, tmp_path / "out") and text == (tmp_path / "out/settings.pdf").read_bytes()
    assert report(runs[:2], tmp_path / "out").settings is None
    assert not [*(tmp_path / "out").glob("settings*")], "an earlier report's are taken away"
    assert "settings.png" not in found.page.read_text("utf-8")


def test_a_published_extract_of_the_metrics_gives_the_same_figure(tmp_path):
    run = make_run(tmp_path, "sweep/cpl", [[1, 2, 3]] * 2)
    note_likelihood(run, {100: [-0.5, -0.7], 200: [-0.4, -0.4]})
    report([run], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    lines = extract(run / "metrics.csv")
    assert lines.count("\n") == 5 and "clone_loss" not in lines
    (run / "metrics.csv").unlink()
    (run / EXTRACT).write_text(lines)
    report([run], tmp_path / "out")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert not extract(run / "metrics.csv")


@pytest.mark.parametrize(
    "values", [{}, {100: [-0.5]}, {100: [-0.5, -0.7], 200: [-0.4]}], ids=["none", "seed", "ragged"]
)
def test_a_likelihood_that_was_not_noted_of_all_is_left_out(tmp_path, values):
    run = make_run(tmp_path, "sweep/cpl", [[1, 2, 3]] * 2)
    note_likelihood(run, values)
    assert report([run], tmp_path / "out").likelihood is None


# --- What a report refuses ---


def spoil_text(name: str, old: str, new: str):
    def spoil(folder: Path) -> None:
        path = folder / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), "utf-8")

    return spoil


def spoil_fact(**facts):
    def spoil(folder: Path) -> None:
        path = folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    return spoil


def drop_fact(name: str):
    def drop(folder: Path) -> None:
        path = folder / "run.json"
        facts = json.loads(path.read_text())
        del facts[name]
        path.write_text(json.dumps(facts))

    return drop


def write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def cut_off(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-4])


SPOILT = {
    "no run.json": (lambda folder: (folder / "run.json").unlink(), "it has no run.json"),
    "not JSON": (write("run.json", b'{"dataset": "dra'), "not readable as JSON"),
    "JSON, but a list": (write("run.json", b"[1, 2]"), "must hold a table"),
    "an older record": (spoil_fact(record_version=1), "expected record_version 2, got 1"),
    "a record without a version": (drop_fact("record_version"), "record_version 2, got None"),
    "a key is missing": (drop_fact("phases"), "'phases' is missing"),
    "a key is misspelt": (spoil_text("run.json", '"phases"', '"phasis"'), "mean 'phases'"),
    "seeds are no list": (spoil_fact(seeds=2), "'seeds' must be tuple, not 2"),
    "a seed twice": (spoil_fact(seeds=[0, 0]), "seeds must be different whole numbers from 0"),
    "steps as text": (spoil_fact(steps="200"), "'steps' must be int, not '200'"),
    "behaviour in percent": (
        spoil_fact(behaviour_score=40),
        r"behaviour_score, a success rate, must lie in \[0, 1\]; got 40",
    ),
    "steps of a phase below 0": (
        spoil_fact(phases=[["clone", 201], ["contrast", -1]]),
        "the steps of a phase must be a whole number from 0",
    ),
    "online steps as text": (
        spoil_fact(online_transitions="4k"),
        "'online_transitions' must be int, not '4k'",
    ),
    "nameless method": (spoil_fact(method=""), "the method must have a name"),
    "phases of another run": (
        spoil_fact(phases=[["clone", 7]]),
        r"phases must add up to steps, 200; got \(\('clone', 7\),\)",
    ),
    "a task that is none": (
        spoil_fact(task={"name": "drawer-open"}),
        r"'task\.suite' is missing",
    ),
    "no evaluations": (lambda f: (f / "evaluations.csv").unlink(), "does not exist"),
    "empty": (write("evaluations.csv", b""), "is empty; expected the header"),
    "header only": (write("evaluations.csv", f"{HEADER}\n".encode()), "but no episode"),
    "other columns": (
        spoil_text("evaluations.csv", "success", "reward"),
        "no evaluation file: expected the header 'step,seed,.*got 'step,seed,episode,reward",
    ),
    "binary": (write("evaluations.csv", b"\x89PNG\r\n\x1a\n\xff\xfe"), "cannot be read"),
    "a value is missing": (
        spoil_text("evaluations.csv", "\n0,0,3,0,", "\n0,3,0,"),
        "line 5: expected 6 values",
    ),
    "no number": (
        spoil_text("evaluations.csv", "\n0,0,3,0,", "\nzero,0,3,0,"),
        "line 5: 'step' must be a whole number from 0, not 'zero'",
    ),
    "success of a half": (
        spoil_text("evaluations.csv", "\n0,0,3,0,", "\n0,0,3,0.5,"),
        "line 5: 'success' must be 0 or 1, not '0.5'",
    ),
    "no finite return": (
        spoil_text("evaluations.csv", "\n0,0,0,0,-1.0,", "\n0,0,0,0,nan,"),
        "line 2: 'return' must be a finite number, not 'nan'",
    ),
    "cut off in a line": (cut_off("evaluations.csv"), "line 61 is cut off"),
    "cut off between lines": (
        spoil_text("evaluations.csv", "200,1,9,0,1.0,50\n", ""),
        "step 200 is incomplete.*seed 0: 10, seed 1: 9",
    ),
    "an episode twice": (
        spoil_text("evaluations.csv", "\n100,1,9,", "\n100,1,8,"),
        "episode 8 of seed 1 at step 100 stands there more than once",
    ),
    "a seed is missing": (spoil_fact(seeds=[0, 1, 2]), "holds seeds 0, 1, but .* seeds 0, 1, 2"),
    "another run's evaluations": (
        spoil_fact(steps=50, phases=[["clone", 50]]),
        "goes to step 200, but run.json says that the run has 50",
    ),
    "final.csv of an earlier checkpoint": (
        lambda folder: evaluate(folder / "final.csv", [[5], [5]], start=100),
        "the last checkpoint of evaluations.csv, step 200, and it holds step 100",
    ),
    "final.csv of two checkpoints": (
        lambda folder: evaluate(folder / "final.csv", [[5, 5], [5, 5]], start=100),
        "holds steps 100, 200",
    ),
    "final.csv of one seed": (
        lambda folder: evaluate(folder / "final.csv", [[5]], start=200),
        "holds seed 0, but run.json says seeds 0, 1",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_named_and_nothing_is_written(folders, tmp_path, case):
    spoil, message = SPOILT[case]
    spoil(folders[2])
    with pytest.raises(UserError, match=message) as caught:
        report(folders, tmp_path / "out")
    assert str(folders[2]) in str(caught.value)
    assert not (tmp_path / "out").exists()


METRICS_SPOILT = {
    "empty": (write("metrics.csv", b""), "expected the header .* an empty file"),
    "other columns": (write("metrics.csv", b"a,b\n"), "no file of metrics"),
    "binary": (write("metrics.csv", b"\xff\xfe\x00"), "cannot be read"),
    "cut off": (cut_off("metrics.csv"), "line 43 is cut off"),
    "a value is missing": (
        spoil_text("metrics.csv", "ppo,0,true_return,50.0", "ppo,0,50.0"),
        "line 20: expected 'step,phase,seed,metric,value'",
    ),
    "no number": (
        spoil_text("metrics.csv", "ppo,0,true_return,50.0", "ppo,0,true_return,x"),
        "line 20: .* got '120,ppo,0,true_return,x'",
    ),
    "a step is no number": (
        spoil_text("metrics.csv", "120,ppo,0,policy_loss", "x,ppo,0,policy_loss"),
        "line 16: ",
    ),
    "twice": (
        spoil_text("metrics.csv", "120,ppo,1,true", "120,ppo,0,true"),
        "line 21: 'true_return' of seed 0 at step 120 stands there more than once",
    ),
    "a line is missing": (
        spoil_text("metrics.csv", "120,ppo,1,true_return,51.0\n", ""),
        "'true_return' of seed 1 at step 120 is missing",
    ),
    "a seed is missing": (drop_lines(",ppo,1,"), "holds 1 seeds of the run's 2"),
}


@pytest.mark.parametrize("case", METRICS_SPOILT)
def test_spoilt_metrics_are_named_and_nothing_is_written(folders, tmp_path, case):
    run = make_online_run(tmp_path, "sweep/ppo")
    spoil, message = METRICS_SPOILT[case]
    spoil(run)
    with pytest.raises(UserError, match=message) as caught:
        report([*folders, run], tmp_path / "out")
    assert str(run / "metrics.csv") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is no run folder: there is no such folder"):
        report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="no runs to report on"):
        report([], tmp_path / "out")


def test_one_method_in_two_folders(tmp_path):
    a = make_run(tmp_path, "drawer/cpl", [[1, 2]])
    b = make_run(tmp_path, "drawer/cpl-again", [[1, 2]], method="CPL")
    with pytest.raises(UserError, match="are both 'CPL' on drawer") as caught:
        report([a, b], tmp_path / "out")
    assert str(a) in str(caught.value) and str(b) in str(caught.value)


def test_one_dataset_name_for_two_datasets(tmp_path):
    a = make_run(tmp_path, "drawer/cpl", [[1, 2]])
    b = make_run(tmp_path, "drawer/bc", [[1, 2]], behaviour_score=0.5)
    with pytest.raises(UserError, match=r"0\.4 in one and 0\.5 in the other") as caught:
        report([a, b], tmp_path / "out")
    assert str(a) in str(caught.value) and str(b) in str(caught.value)


def test_other_peoples_files_are_not_overwritten(folders, tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(UserError, match="was not written by a report"):
        report(folders, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    with pytest.raises(UserError, match="is a file"):
        report(folders, tmp_path / "README.md")


# --- The files behind it ---


def test_evaluations_come_back_as_written(tmp_path):
    path = tmp_path / "run" / "evaluations.csv"
    returns = np.random.default_rng(0).normal(size=6) * 1e3
    columns = {
        "step": np.full(6, 5000),
        "seed": np.repeat([0, 3], 3),
        "episode": np.tile([0, 1, 2], 2),
        "success": np.array([1, 0, 0, 1, 1, 0]),
        "return": returns,
        "length": np.array([83, 250, 250, 9, 10, 250]),
    }
    append_evaluations(path, columns)
    append_evaluations(path, columns | {"step": 10_000, "success": True, "return": 0.1})
    assert path.read_text().count(HEADER) == 1
    read = read_evaluations(path)
    assert list(read) == HEADER.split(",")
    for name, values in columns.items():
        np.testing.assert_array_equal(read[name][:6], values)
    np.testing.assert_array_equal(read["return"][6:], 0.1)
    steps, seeds, success = scores_by_checkpoint(read, SUCCESS)
    assert steps.tolist() == [5000, 10_000] and seeds.tolist() == [0, 3]
    np.testing.assert_allclose(success, [[1 / 3, 1], [2 / 3, 1]])


@pytest.mark.parametrize(
    "wrong", [{"success": 0.5}, {"return": float("nan")}, {"step": -1}, {"length": 2.5}, {"x": 1}]
)
def test_what_could_not_be_read_is_not_written(tmp_path, wrong):
    columns = dict.fromkeys(HEADER.split(","), 1) | wrong
    with pytest.raises(ValueError, match=r"must be|expected the columns"):
        append_evaluations(tmp_path / "evaluations.csv", columns)
    assert list(tmp_path.iterdir()) == []


def test_drop_after_leaves_a_file_to_resume_from(tmp_path):
    path = tmp_path / "evaluations.csv"
    drop_after(path, 100)
    assert not path.exists()
    evaluate(path, [[0, 1], [2, 3]])
    kept = path.read_bytes()
    evaluate(path, [[5], [5]], start=200)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # a write that was killed
    drop_after(path, 100)
    assert path.read_bytes() == kept
    evaluate(path, [[5], [5]], start=200)
    assert path.read_bytes() == whole
    drop_after(path, 200)
    assert path.read_bytes() == whole


def test_drop_after_leaves_foreign_files_alone(tmp_path):
    path = tmp_path / "evaluations.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no evaluation file"):
        drop_after(path, 0)
    assert path.read_text() == "a,b\n1,2\n"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, "eins\n")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "eins\n"
    assert list(path.parent.iterdir()) == [path]
    write_atomically(path, b"\x00zwei")
    assert path.read_bytes() == b"\x00zwei"
