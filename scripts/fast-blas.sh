#!/bin/sh
# Give MLX's Linux wheel a fast BLAS where that is possible: from Debian's packages as root,
# else MKL from PyPI on x86-64. Nothing is lost without one but time: see `mlx-entk doctor`.
# Usage: fast-blas.sh BIN, the folder of the environment's python.
set -u
[ "$(uname -s)" = Linux ] || exit 0

found() {
    [ "$("$1/python" -c 'import mlx_entk; print(mlx_entk._blas.LIBRARY)' 2>/dev/null)" != None ]
}

found "$1" && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing OpenBLAS for MLX (libopenblas0-pthread)"
    { apt-get update -qq && apt-get install -y -qq libopenblas0-pthread; } >/dev/null 2>&1
fi
found "$1" && exit 0
if [ "$(uname -m)" = x86_64 ]; then
    echo "Installing MKL for MLX from PyPI"
    "$1/pip" install --quiet mkl 2>/dev/null
fi
found "$1" || echo "No fast BLAS could be installed: MLX works, but slowly. See mlx-entk doctor."
exit 0
