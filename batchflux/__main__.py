"""`python -m batchflux` and the `batchflux` command."""

import sys

if sys.platform == "win32":
    sys.exit("batchflux runs on Linux and macOS; on Windows use WSL: its files and locks are what keep paid cells safe")

try:
    from batchflux.cli import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    main()
