"""Lines in columns: none runs into the next, however long what stands in it is."""

from cpl_bench.cli.list import datasets, scorers, tasks
from cpl_bench.core.columns import NAMES, aligned, cells
from cpl_bench.core.dataset_cards import dataset_names


def test_columns_are_as_wide_as_the_longest_cell() -> None:
    rows = [("a", "1", "x"), ("", "a line that runs on"), ("longer", "22", "")]
    assert aligned(rows) == ["a       1   x", "        a line that runs on", "longer  22"]
    assert aligned([("a", "x")], least=NAMES) == [f"{'a':<15}x"]
    assert aligned([]) == []


def test_lines_are_cut_where_their_names_end() -> None:
    (line,) = ["ties           3 %"]
    assert cells([line]) == [("ties", "3 %")] and aligned(cells([line]), NAMES) == [line]


def test_a_list_can_be_read_word_by_word() -> None:
    found = {line.split("  ")[0]: line for line in datasets()}
    assert list(found) == dataset_names()
    for name, line in found.items():
        assert "import of" not in line or line.startswith(f"{name}  ")
    assert len({line.index("import of") for line in found.values() if "import of" in line}) == 1
    named = [line for line in (*tasks(), *scorers()) if not line.startswith(" ")]
    assert len(named) > 20 and all("  " in line for line in named)
