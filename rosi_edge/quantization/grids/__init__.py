"""One module a family of block formats; ``rosi_edge.quantization.grid`` is the door to all of them."""
