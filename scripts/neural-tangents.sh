#!/bin/sh
# Makes the environment of one contestant of `make bench`: neural-tangents, whose last release
# needs a JAX and a NumPy of its time, apart from .venv. Usage: scripts/neural-tangents.sh FOLDER
set -e
folder=$1
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
    neural-tangents==0.6.5 jax==0.4.20 jaxlib==0.4.20 'numpy<2' 'scipy<1.13'
