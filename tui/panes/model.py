"""Step 1: which model. Recent ones, the demo models, a path or reference, or the file browser."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlparse

from textual import events
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import DirectoryTree, Input, OptionList
from textual.widgets.option_list import Option

from rosi_edge.basics.cache import cache_folder
from rosi_edge.basics.text import megabytes
from rosi_edge.sources.demo import demo_table
from rosi_edge.sources.resolve import is_fetched

from ..steps import Step
from ..widgets.model_tree import ModelTree
from ..widgets.plain import Plain
from .base import StepPane


def cleaned(text: str) -> str:
    """A path as a terminal pastes it when a file is dragged in: quoted, escaped, or an address."""
    text = text.strip()
    if text.startswith("file://"):
        return unquote(urlparse(text).path)
    if os.name != "nt" and text:
        try:
            words = [text] if Path(text).exists() else shlex.split(text)
        except (OSError, ValueError):
            return text
        if len(words) == 1:
            return words[0]
    return text


class ModelPane(StepPane):
    STEP = Step.MODEL

    def body(self) -> Iterable[Widget]:
        yield Input(placeholder="a path, hf:org/repo:QUANT or demo", compact=True, id="path")
        with Horizontal(id="sources"):
            with Vertical(id="ready"):
                yield Plain("Recent and demo models", classes="caption")
                yield OptionList(id="models", compact=True, markup=False)
            with Vertical(id="browser"):
                yield Plain("Files", classes="caption")
                yield ModelTree(self.journey.start_folder, self.journey.peek, id="files")

    def on_mount(self) -> None:
        self._known = -1
        self.catch_up()

    def catch_up(self) -> None:
        """Show what has become known about files."""
        if len(self.journey.peek.known) == self._known:
            return
        self._known = len(self.journey.peek.known)
        self.query_one(ModelTree).catch_up()
        models = self.query_one("#models", OptionList)
        highlighted = models.highlighted or 0
        models.clear_options()
        models.add_options(self._options())
        models.highlighted = min(highlighted, models.option_count - 1)

    def _options(self) -> list[Option]:
        options = []
        table = demo_table()
        for reference in self.journey.memory.now.recent:
            if is_fetched(reference):
                if reference.startswith("hf:"):
                    options.append(Option(f"{reference}\n  recent", id=reference))
                continue
            path = Path(reference)
            about = self.journey.peek.about(path) or "…"
            options.append(Option(f"{path.name}\n  recent, {about}", id=reference))
        for name, model in table.models.items():
            reference = "demo" if name == table.default else f"demo:{name}"
            here = (cache_folder() / "models" / name / model.file).exists()
            fetched = "is here" if here else "will be fetched"
            words = f"{name}\n  {reference}, {megabytes(model.size, 0)}, {model.licence}, {fetched}"
            options.append(Option(words, id=reference))
        return options

    def primary(self) -> str:
        return "Use this model ›"

    def focus_here(self) -> None:
        self.query_one("#models", OptionList).focus()

    def press(self) -> None:
        typed = self.query_one("#path", Input).value
        if typed.strip():
            self.use(cleaned(typed))
        else:
            models = self.query_one("#models", OptionList)
            if models.highlighted is not None:
                self.use(models.get_option_at_index(models.highlighted).id or "")

    def use(self, reference: str) -> None:
        """Find, or fetch, the model and go on."""
        if self.works:
            return
        library = self.journey.library
        self.start(
            "Finding the model",
            lambda activity: library.resolve(reference, activity),
            lambda path: self.journey.set_model(reference, path),
            discard=lambda path: None,
        )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.use(event.option.id or "")

    def on_directory_tree_file_selected(self, event: DirectoryTree.FileSelected) -> None:
        event.stop()
        self.use(str(event.path))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.press()

    def on_paste(self, event: events.Paste) -> None:
        # A file dragged onto the terminal arrives as pasted text, wherever the focus is.
        field = self.query_one("#path", Input)
        if not field.has_focus:
            field.value = cleaned(event.text)
            field.focus()
            event.stop()
