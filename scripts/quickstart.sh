#!/usr/bin/env bash
# From a fresh Debian/Ubuntu with Python 3.11 to 3.13 to learning curves, on one small task.
#
#   scripts/quickstart.sh [OPTION...]        options go to `cpl-bench quickstart`
#
# Variables: CPL_BENCH_VENV, CPL_BENCH_TORCH_INDEX; see scripts/environment.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment
cd "$root"
exec "$venv/bin/cpl-bench" quickstart "$@"
