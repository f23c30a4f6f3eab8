"""What a running step is doing: its stages as bars, and the latest notes."""

from __future__ import annotations

from collections import deque

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical

from ..jobs import Activity, Stage
from .plain import Plain

_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NOTES, _NOTES_LARGE, _LARGE = 3, 12, 36
"""Notes shown, and those shown where the terminal has this many lines."""
_COUNTED = 10_000
"""More units than this are bytes, of which a share says more than a number."""


def bar(done: float, total: float, width: int = _BAR) -> str:
    """A bar of ``width`` cells, to an eighth of a cell."""
    share = min(max(done / total, 0.0), 1.0) if total else 1.0
    eighths = round(share * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width, "·")


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class WorkPanel(Vertical):
    """Hidden while nothing works; notes stay until the next job."""

    def compose(self) -> ComposeResult:
        yield Plain(id="stages")
        yield Plain(id="notes")

    def on_mount(self) -> None:
        self._notes: deque[str] = deque()
        self._lines = 0
        self._shown = ""
        self.display = False

    def begin(self) -> None:
        self._notes.clear()
        self._shown = ""
        self.query_one("#notes", Plain).update("")
        self.query_one("#stages", Plain).update("")
        self.display = True

    def show(self, activity: Activity) -> None:
        stages = activity.stages
        lines = Text(no_wrap=True, overflow="ellipsis")
        title = "Stopping…" if activity.stopping else activity.title
        lines.append(f"{clock(activity.seconds):>6}  ", "dim")
        lines.append(title, "bold")
        for stage in stages[-2:]:
            lines.append("\n        ")
            lines.append(self._line(stage))
        if lines.plain != self._shown:
            # The whole screen is laid out anew only when a line comes or goes.
            count = lines.plain.count("\n")
            self.query_one("#stages", Plain).update(lines, layout=count != self._lines or not self._shown)
            self._lines, self._shown = count, lines.plain
        if fresh := activity.take_notes():
            self._notes.extend(fresh)
            while len(self._notes) > (_NOTES_LARGE if self.app.size.height >= _LARGE else _NOTES):
                self._notes.popleft()
            notes = Text("\n".join(self._notes), no_wrap=True, overflow="ellipsis")
            self.query_one("#notes", Plain).update(notes)

    def _line(self, stage: Stage) -> str:
        if not stage.total:
            return f"{stage.description}…"
        counted = f"{stage.done} of {stage.total}"
        if stage.total > _COUNTED:
            counted = f"{stage.done / stage.total:.0%}"
        return f"{bar(stage.done, stage.total)} {counted}  {stage.description}"

    def end(self) -> None:
        self.display = False
