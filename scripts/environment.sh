# Sourced by the scripts beside it: the virtual environment, and how a step is announced.
#
#   CPL_BENCH_VENV         where the environment is; default: .venv in the checkout
#   CPL_BENCH_TORCH_INDEX  the package index that PyTorch comes from; default: pip's own, whose Linux
#                          build brings gigabytes of CUDA along. For a machine without an NVIDIA GPU:
#                          PyTorch's CPU index (pytorch.org, Get Started)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${CPL_BENCH_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
python=$venv/bin/python
took=()  # one line a finished step
current= # the title of the step that runs

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# step TITLE COMMAND...: announce it, run it, say how long it took.
step() {
    local title=$1 start=$SECONDS
    shift
    current=$title
    printf '── %s\n' "$title"
    "$@"
    current=
    took+=("$(printf '%5d s  %s' $((SECONDS - start)) "$title")")
    printf '%s\n' "${took[-1]}"
}

# The first Python that every pinned package has a wheel for.
find_python() {
    local name
    for name in python3 python3.12 python3.13 python3.11 python; do
        if "$name" - 2>/dev/null <<<'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
            command -v "$name"
            return
        fi
    done
    fail "No Python 3.11, 3.12 or 3.13 found." \
        "On Debian/Ubuntu, one of: sudo apt install python3.11 python3.11-venv" \
        "                          sudo apt install python3.12 python3.12-venv" \
        "                          sudo apt install python3.13 python3.13-venv"
}

make_venv() {
    local base version
    base=$(find_python)
    version=$("$base" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    "$base" -c 'import ensurepip, venv' 2>/dev/null || fail \
        "Python $version cannot make virtual environments here." \
        "On Debian/Ubuntu: sudo apt install python$version-venv"
    "$base" -m venv "$venv"
}

install_torch() {
    local version index=()
    version=$(sed -n 's/^torch==//p' "$root/constraints.txt")
    if [[ -n ${CPL_BENCH_TORCH_INDEX:-} ]]; then
        index=(--index-url "$CPL_BENCH_TORCH_INDEX")
    elif ! command -v nvidia-smi >/dev/null; then
        echo "No NVIDIA GPU in sight. If the download is too large, interrupt it and set" \
            "CPL_BENCH_TORCH_INDEX to PyTorch's CPU index (pytorch.org, Get Started)"
    fi
    # What torch needs comes with the rest, from the ordinary index and as constrained.
    "$python" -m pip install "${quiet[@]}" --no-deps "${index[@]}" "torch==$version"
}

install_package() {
    "$python" -m pip install "${quiet[@]}" -c "$root/constraints.txt" -e "$root$1"
}

# prepare_environment [EXTRA]: make the environment and install cpl_bench[EXTRA] at the pinned
# versions; nothing to do if a stamp says that this was done from the same files.
prepare_environment() {
    local extra=${1:+[$1]} quiet=() wanted
    [[ -t 1 ]] || quiet=(--quiet) # progress bars are for terminals
    wanted="cpl_bench$extra in $root $(cat "$root/pyproject.toml" "$root/constraints.txt" | sha256sum)"
    local stamp="$venv/installed${1:+-$1}.stamp"
    if [[ -x $python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        step "make $venv" make_venv
    fi
    step "install PyTorch" install_torch
    step "install cpl_bench$extra and what it needs" install_package "$extra"
    printf '%s\n' "$wanted" >"$stamp"
}
