"""One command a module; ``rosi_edge.cli`` gathers them."""
