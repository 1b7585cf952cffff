"""`python -m genin.nuitka` prints where the configuration is."""

from genin.nuitka import CONFIGURATION

if __name__ == "__main__":
    print(CONFIGURATION)  # noqa: T201
