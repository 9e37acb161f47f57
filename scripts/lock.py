"""Print the versions of an environment as constraints for pip, without what belongs to a system.

Run it by ``make lock``, in an environment with the newest versions: ``make test CONSTRAINTS=``.
"""

import re
import subprocess
import sys

# MLX's back ends, BLAS libraries and GPU drivers, which follow from the system and the others.
_OF_A_SYSTEM = re.compile(
    r"mlx-cpu|mlx-cuda.*|mlx-metal|mkl|intel.*|tbb|umf|tcmlib|nvidia.*|triton"
)


def main() -> None:
    """Print a line for each package, without this one and without local labels such as +cpu."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print("# Written by make lock: what the tests run with.")
    for line in done.stdout.splitlines():
        name, equals, version = line.partition("==")
        if equals and not _OF_A_SYSTEM.fullmatch(name):
            print(f"{name}=={version.partition('+')[0]}")


if __name__ == "__main__":
    main()
