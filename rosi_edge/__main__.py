"""``python -m rosi_edge`` is ``rosi-edge``."""

from rosi_edge.cli import main

if __name__ == "__main__":
    main()
