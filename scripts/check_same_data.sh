#!/usr/bin/env bash
# Do the data of a card come out alike on every kind of processor? Makes the card's sample (40
# episodes and 100 labels, from the demonstrations on) under forced kernel settings and compares it
# with the hashes that the card names. Minutes a card, run by hand.
#
#   scripts/check_same_data.sh [CARD ...]        drawer-open-small by default
#
# "arithmetic" is a hash of a matrix product, a tanh and sines under the setting: where it differs
# from the first line's, the setting computes differently, and the sample must not show it.
# (ATEN and MKL are PyTorch's kernels: nothing on the way from a card to its labels uses them.)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment

fingerprint='
import hashlib, math, numpy as np
x = np.random.default_rng(0).normal(size=(300, 300))
sines = np.array([math.sin(1e3 * each) for each in x.ravel()])
print(hashlib.sha256((x @ x).tobytes() + np.tanh(x).tobytes() + sines.tobytes()).hexdigest()[:8])'
features=$("$python" -c '
from numpy._core._multiarray_umath import __cpu_dispatch__ as names
print(",".join(names))')
plain=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F,-AVX512VL,-AVX512DQ,-AVX512BW
settings=("" "OPENBLAS_CORETYPE=Nehalem")
has() { grep -qw "$1" /proc/cpuinfo; } # OpenBLAS does not check: a kernel that cannot run is fatal
has avx && settings+=("OPENBLAS_CORETYPE=Sandybridge")
has avx2 && settings+=("OPENBLAS_CORETYPE=Haswell")
has avx512f && settings+=("OPENBLAS_CORETYPE=SkylakeX")
settings+=(
    "NPY_DISABLE_CPU_FEATURES=$features"
    "GLIBC_TUNABLES=$plain"
    "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE"
    "OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES=$features"
    "OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES=$features GLIBC_TUNABLES=$plain"
)

(($#)) || set -- drawer-open-small
wrong=0 total=0 kinds=""
for card; do
    printf '%s\n' "$card"
    for setting in "${settings[@]}"; do
        read -ra forced <<<"$setting"
        arithmetic=$(env "${forced[@]}" "$python" -W ignore -c "$fingerprint")
        kinds+="$arithmetic"$'\n'
        total=$((total + 1)) status=0
        output=$(env "${forced[@]}" PYTHONWARNINGS=ignore \
            "$venv/bin/cpl-bench" collect "$card" --sample 2>&1) || status=$?
        ((status == 0)) || wrong=$((wrong + 1))
        printf '  %-46.46s arithmetic %s  %s\n' \
            "${setting:-as it is}" "$arithmetic" "$(tail -n 1 <<<"$output")"
        ((status == 0 || status == 2)) || printf '  (exit status %d)\n' "$status"
    done
done
printf '%d kinds of arithmetic\n' "$(printf %s "$kinds" | sort -u | wc -l)"
if ((wrong)); then
    echo "$total settings, $wrong without the result that the card names"
    exit 1
fi
echo "$total settings, 1 result"
