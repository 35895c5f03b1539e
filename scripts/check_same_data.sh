#!/usr/bin/env bash
# Do the data of a card come out alike on every kind of processor? Makes the card's sample (40
# episodes and 100 labels, from the demonstrations on) under forced kernel settings and compares it
# with the hash that the card names. Minutes a card, run by hand.
#
#   scripts/check_same_data.sh [CARD ...]        drawer-open-small by default
#
# "arithmetic" is a hash of a matrix product, a tanh and a sine under the setting: where it differs
# from the first line's, the setting computes differently, and the sample must not show it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment

fingerprint='
import hashlib, math, numpy as np
x = np.random.default_rng(0).normal(size=(300, 300))
sines = [math.sin(1e3 * each) for each in x.ravel()]
print(hashlib.sha256((x @ x).tobytes() + np.tanh(x).tobytes() + np.array(sines).tobytes()).hexdigest()[:8])'
features=$("$python" -c '
from numpy._core._multiarray_umath import __cpu_dispatch__ as names
print(",".join(names))')
plain=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F,-AVX512VL,-AVX512DQ,-AVX512BW
settings=(
    ""
    "OPENBLAS_CORETYPE=Nehalem"
    "OPENBLAS_CORETYPE=Sandybridge"
    "OPENBLAS_CORETYPE=Haswell"
    "OPENBLAS_CORETYPE=SkylakeX"
    "NPY_DISABLE_CPU_FEATURES=$features"
    "GLIBC_TUNABLES=$plain"
    "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE"
    "OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES=$features GLIBC_TUNABLES=$plain"
)

differ=0
for card in "${@:-drawer-open-small}"; do
    printf '%s\n' "$card"
    for setting in "${settings[@]}"; do
        read -ra forced <<<"$setting"
        arithmetic=$(env "${forced[@]}" "$python" -W ignore -c "$fingerprint")
        status=0
        output=$(env "${forced[@]}" PYTHONWARNINGS=ignore "$venv/bin/cpl-bench" collect "$card" --sample 2>&1) ||
            status=$?
        ((status == 0)) || differ=$((differ + 1))
        printf '  %-44.44s arithmetic %s  %s\n' "${setting:-as it is}" "$arithmetic" "$(tail -n 1 <<<"$output")"
    done
done
total=$((${#settings[@]} * ($# ? $# : 1)))
if ((differ)); then
    echo "$total settings, $differ with another result than the card names"
    exit 1
fi
echo "$total settings, 1 result"
