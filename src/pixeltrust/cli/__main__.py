"""`python -m pixeltrust.cli`: the command line."""

from pixeltrust.cli import main

if __name__ == "__main__":
    main()
