"""The table of tensors that a bake fills."""

from __future__ import annotations

import asyncio

from rosi_edge_tui.widgets.tensor_table import TensorTable
from textual.app import App, ComposeResult

from rosi_edge.baking.measure import BakedTensor


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield TensorTable(id="tensors")


def test_a_tensor_that_is_rounded_again_has_one_row() -> None:
    async def script() -> None:
        app = Shown()
        async with app.run_test() as pilot:
            table = app.query_one(TensorTable)
            for delivered in (0.91, 0.99):
                for name in ("one", "two"):
                    table.add(BakedTensor(name, "Q4_K", delivered, 0.1))
                    await pilot.pause()
            assert [table.get_row_at(row)[:3] for row in range(table.row_count)] == [
                ["one", "Q4_K", "0.99"],
                ["two", "Q4_K", "0.99"],
            ]

    asyncio.run(script())
