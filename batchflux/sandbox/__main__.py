"""`python -m batchflux.sandbox`: the child process that `run --sandbox` starts."""

from batchflux.sandbox.process import main

if __name__ == "__main__":
    main()
