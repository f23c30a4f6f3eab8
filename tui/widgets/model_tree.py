"""A file browser that shows folders and GGUF files, with their size and quantization."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.style import Style
from rich.text import Text
from textual.widgets import DirectoryTree
from textual.widgets.directory_tree import DirEntry
from textual.widgets.tree import TreeNode

from ..peek import Peek


class ModelTree(DirectoryTree):
    ICON_FILE = "▪ "
    ICON_NODE = "▸ "
    ICON_NODE_EXPANDED = "▾ "

    def __init__(self, folder: Path, peek: Peek, *, id: str | None = None) -> None:
        super().__init__(folder, id=id)
        self._peek = peek
        self._drawn = 0

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        return [path for path in paths if not path.name.startswith(".") and _is_shown(path)]

    def render_label(self, node: TreeNode[DirEntry], base_style: Style, style: Style) -> Text:
        label = super().render_label(node, base_style, style)
        if node.data is not None and node.data.path.suffix.lower() == ".gguf":
            label.append(f"  {self._peek.about(node.data.path) or '…'}", "dim")
        return label

    def on_directory_tree_file_selected(self, event: DirectoryTree.FileSelected) -> None:
        # A folder that is gone when it is opened (removed, unmounted) is told as if it were a chosen file.
        if event.node.allow_expand:
            event.stop()

    def catch_up(self) -> None:
        """Draw anew if something has become known."""
        if len(self._peek.known) != self._drawn:
            self._drawn = len(self._peek.known)
            self._refresh_below(self.root)

    def _refresh_below(self, node: TreeNode[DirEntry]) -> None:
        for child in node.children:
            child.refresh()
            self._refresh_below(child)


def _is_shown(path: Path) -> bool:
    try:
        return path.is_dir() or path.suffix.lower() == ".gguf"
    except OSError:
        return False
