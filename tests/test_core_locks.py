"""One writer at a time, whatever becomes of the first."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cpl_bench.core.errors import UserError
from cpl_bench.core.files import drop_temporaries, write_atomically
from cpl_bench.core.locks import held

HOLDER = """
import sys, time
from pathlib import Path
from cpl_bench.core.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/thing."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "thing")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_told_who_writes_and_since_when(holder, tmp_path):
    said = rf"thing is being written by process {holder.pid} since 20\d\d-\d\d-\d\d \d\d:\d\d"
    for _ in range(2):  # asking changes nothing
        with pytest.raises(UserError, match=said), held(tmp_path / "thing"):
            raise AssertionError
    with held(tmp_path / "other"):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_dies_with_its_process(holder, tmp_path, how):
    os.kill(holder.pid, how)
    holder.wait()
    with held(tmp_path / "thing"):
        pass


def test_a_lock_is_let_go_and_leaves_nothing(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held(tmp_path / "deep" / "thing"):
            assert [path.name for path in (tmp_path / "deep").iterdir()] == [".thing.lock"]
            raise ZeroDivisionError
    assert list((tmp_path / "deep").iterdir()) == []


def test_one_process_holds_a_thing_once(tmp_path):
    with (
        held(tmp_path / "thing"),
        pytest.raises(UserError, match=f"process {os.getpid()}"),
        held(tmp_path / "thing"),
    ):
        raise AssertionError


def test_only_one_of_many_gets_in(tmp_path):
    """They take turns as fast as they can: no two may ever be inside together."""
    code = """
        import sys, time
        from pathlib import Path
        from cpl_bench.core.errors import UserError
        from cpl_bench.core.locks import held
        folder, got = Path(sys.argv[1]), 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                with held(folder / "thing"):
                    (folder / "inside").mkdir()  # fails if somebody is
                    (folder / "inside").rmdir()
                    got += 1
            except UserError:
                pass
        print(got)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [int(racer.communicate(timeout=60)[0] or -1) for racer in racers]
    assert min(counts) >= 0
    assert sum(counts) > 10


def test_what_a_kill_left_of_a_file_is_taken_away(tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from cpl_bench.core.files import atomic_path
        with atomic_path(Path(sys.argv[1]) / "state.safetensors") as path:
            path.write_bytes(b"half")
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    kept = ["state.safetensors", ".hidden", ".thing.lock", ".shared", ".a.toml"]
    for name in kept:
        write_atomically(tmp_path / name, name)
    drop_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    drop_temporaries(tmp_path / "nowhere")


def test_waiting_is_not_what_a_lock_does(holder, tmp_path):
    begun = time.monotonic()
    with pytest.raises(UserError), held(tmp_path / "thing"):
        pass
    assert time.monotonic() - begun < 1
