"""`python -m batcher`."""

from batcher.cli.main import main

if __name__ == "__main__":
    main()
