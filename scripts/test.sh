#!/usr/bin/env bash
# From nothing to all checks green: environment, lint, types, tests, and the wheel on its own.
#
#   scripts/test.sh        makes .venv if need be; later runs start with the checks
#
# Variables: CPL_BENCH_VENV, CPL_BENCH_TORCH_INDEX; see scripts/environment.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scratch=$(mktemp -d)
finish() {
    rm -rf "$scratch"
    [[ -z $current ]] || printf 'Failed: %s\n' "$current" >&2
}
trap finish EXIT
cd "$root"

# The wheel must work where there is no checkout. Its environment borrows the installed dependencies:
# a folder named in a .pth file is searched, but .pth files in it, such as that of the editable
# cpl_bench, are not read.
check_wheel() {
    local other=$scratch/venv site place output status
    "$python" -m build --wheel --outdir "$scratch/dist" "$root" >"$scratch/build.log" 2>&1 ||
        fail "$(<"$scratch/build.log")"
    "$python" -m venv "$other"
    "$other/bin/python" -m pip install --quiet --no-deps "$scratch"/dist/cpl_bench-*.whl
    site='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$python" -c "$site" >"$("$other/bin/python" -c "$site")/dependencies.pth"

    mkdir "$scratch/elsewhere"
    cd "$scratch/elsewhere"
    unset PYTHONPATH
    place=$("$other/bin/python" -c 'import cpl_bench; print(cpl_bench.__file__)')
    [[ $place == "$other"/* ]] || fail "The wheel's cpl_bench is shadowed by $place."
    "$other/bin/cpl-bench" --help >/dev/null
    "$other/bin/cpl-bench" list >/dev/null
    output=$("$other/bin/cpl-bench" list datasets)
    [[ $output == *drawer-open* ]] || fail "The wheel has no dataset cards:" "$output"
    status=0
    output=$("$other/bin/cpl-bench" train --data nonsense cpl 2>&1) || status=$?
    [[ $status == 2 && $output != *Traceback* ]] ||
        fail "An unknown dataset must be a plain error with exit status 2, not $status:" "$output"
    cd "$root"
    CPL_BENCH_PYTHON=$other/bin/python "$python" -m pytest -q tests/test_docs.py -k snippets_run
}

prepare_environment dev
step "ruff check" "$venv/bin/ruff" check
step "ruff format" "$venv/bin/ruff" format --check
step "pyright" "$venv/bin/pyright" --pythonpath "$python"
side_by_side=$("$python" -c 'from cpl_bench.tasks.pool import processors; print(min(processors(), 8))')
# Files side by side, a torch thread each: two processes of two threads would wait for each other.
# The documents' snippets run once, in the wheel's step: there they see the installed package alone.
step "pytest" env OMP_NUM_THREADS=1 "$python" -m pytest -m "not slow" --durations=15 \
    --numprocesses "$side_by_side" --dist loadfile \
    --deselect tests/test_docs.py::test_snippets_run_from_the_first_to_the_last
step "wheel" check_wheel

printf '\n'
printf '%s\n' "${took[@]}"
echo "All green in $SECONDS s."
