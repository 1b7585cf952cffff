"""`python -m genin`, which `accelerate launch -m genin …` and torchrun need."""

from genin.cli import main

if __name__ == "__main__":
    main()
