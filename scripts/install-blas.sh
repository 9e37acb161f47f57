#!/bin/sh
# Install a fast BLAS for MLX's Linux wheel, and say before what is installed and where: OpenBLAS
# from Debian's packages as root or by sudo; if that is not possible, MKL from PyPI into the
# environment, on x86-64. Usage: install-blas.sh BIN, the folder of the environment's python.
set -eu
if [ "$(uname -s)" != Linux ]; then
    echo "Nothing to install: MLX uses Accelerate here."
    exit 0
fi

found() {
    [ "$("$1/python" -c 'import mlx_entk; print(mlx_entk._blas.LIBRARY)')" != None ]
}

if found "$1"; then
    echo "Nothing to install: MLX has a fast BLAS."
    exit 0
fi
package=libopenblas0-pthread
if command -v apt-get >/dev/null; then
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    if [ -z "$as_root" ] || command -v sudo >/dev/null; then
        echo "Installing $package for the whole system: ${as_root:+$as_root }apt-get install $package"
        # shellcheck disable=SC2086
        { $as_root apt-get update -qq && $as_root apt-get install -y -qq "$package"; } >/dev/null || true
    fi
fi
if ! found "$1" && [ "$(uname -m)" = x86_64 ]; then
    echo "Installing mkl from PyPI into $1/.. (about 1 GB)"
    "$1/pip" install --quiet mkl
fi
found "$1" || { echo "No fast BLAS could be installed: MLX works, but slowly. See mlx-entk doctor."; exit 1; }
