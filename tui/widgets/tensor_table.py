"""How much of its edit every tensor holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import DataTable

from .work_panel import bar

if TYPE_CHECKING:
    from rosi_edge.baking.measure import BakedTensor

_WIDTH = 10


class TensorTable(DataTable[str]):
    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=True)

    def on_mount(self) -> None:
        self.add_columns("tensor", "type", "delivered", "", "noise")

    def add(self, tensor: BakedTensor) -> None:
        """A tensor at the end; one that is rounded again takes its earlier row's place there."""
        if tensor.name in self.rows:
            self.remove_row(tensor.name)
        kind = f"{tensor.promoted_from} → {tensor.type}" if tensor.promoted_from else tensor.type
        self.add_row(
            tensor.name,
            kind,
            f"{tensor.delivered:.2f}",
            bar(tensor.delivered, 1.0, _WIDTH),
            f"{tensor.noise:.2f}",
            key=tensor.name,
        )
        if not self.has_focus:
            # The latest is in view, unless somebody is looking at another.
            self.move_cursor(row=self.row_count - 1)
