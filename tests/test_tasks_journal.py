"""Labelling that was killed goes on from what its forks had answered."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cpl_bench.core.cards import load_task
from cpl_bench.preferences.label import label
from cpl_bench.preferences.labelling import with_options
from cpl_bench.tasks.jobs import Job
from cpl_bench.tasks.journal import Journal
from cpl_bench.tasks.pool import RolloutPool

DOTS = Path(__file__).parent / "dots.toml"

KILLED = """
    import os, signal, sys
    from cpl_bench.experiments.library import label
    from cpl_bench.tasks.journal import Journal

    keep = Journal.keep

    def until_killed(self, job, answer):
        keep(self, job, answer)
        if len(self) >= 30:
            self._file.write(b'{"key": "5d3')
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.keep = until_killed
    label(sys.argv[1], segments=400, workers=2)
"""


class Counting(RolloutPool):
    """A pool that counts the jobs that it runs."""

    ran = 0

    def _run(self, jobs, caption, journal=None):
        self.ran += sum(journal is None or journal.get(job) is None for job in jobs)
        return super()._run(jobs, caption, journal)


@pytest.mark.parametrize("scorer", ["regret", "return_regret"])
def test_a_killed_labelling_goes_on_to_the_same_bytes(dots, tmp_path, monkeypatch, scorer):
    card, root, _ = dots
    shutil.copytree(root / "cpl_bench", tmp_path / "cpl_bench")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    program = textwrap.dedent(KILLED).replace("segments=400", f"segments=400, scorer='{scorer}'")
    done = subprocess.run([sys.executable, "-c", program, str(DOTS)], capture_output=True)
    assert done.returncode == -9, done.stderr
    (journal,) = (tmp_path / "preferences" / "dots").glob(".*.forks.jsonl")
    assert len(journal.read_bytes().splitlines()) == 31 and len(Journal(journal)) == 30
    how = with_options(card, scorer, segments=400)
    with Counting(2) as pool:
        path = label(how, pool)
        assert pool.ran > 30  # of 150 episodes
        resumed, undisturbed = path.read_bytes(), pool.ran + 30
        assert not journal.exists()
        path.unlink()
        pool.ran = 0
        assert label(how, pool).read_bytes() == resumed and pool.ran == undisturbed
    assert list(path.parent.glob(".*")) == [] or all(
        each.name.endswith(".lock") for each in path.parent.glob(".*")
    )


def test_only_the_same_question_has_the_same_answer(tmp_path):
    task, states = load_task("pointmass"), np.arange(6.0).reshape(2, 3)

    def job(function="expert_steps_to_success", **changes):
        arguments = {"card": task, "states": states, "cap_steps": 50} | changes
        return Job(0, function, arguments, 2, "")

    path = tmp_path / "deep" / ".some.jsonl"
    journal = Journal(path)
    assert not path.exists()  # made with the first answer
    journal.keep(job(), np.array([3, 50]))
    journal.keep(job("expert_returns"), np.array([0.1, 1 / 3]))
    journal.close()
    with path.open("ab") as file:  # a line that was cut off, and one of another program
        file.write(b'{"key": 1}\n[]\n{"key": "a", "kind": "<f8", "answ')
    again = Journal(path)
    answer = again.get(job())
    assert answer.dtype == np.int64 and answer.tolist() == [3, 50]
    np.testing.assert_array_equal(again.get(job("expert_returns")), [0.1, 1 / 3])
    others = [
        job(cap_steps=51),
        job(states=states + 1e-9),
        job(states=states[:1]),
        job(card=load_task("fetch-reach")),
    ]
    assert [again.get(each) for each in others] == [None] * 4
    again.keep(job(cap_steps=51), np.array([1, 2]))
    again.close()
    assert len(Journal(path)) == 3
    assert json.loads(path.read_bytes().splitlines()[-1])["answer"] == [1, 2]
