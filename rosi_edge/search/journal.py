"""The search's memory on disk, shared by processes and kept after an interruption."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import Profile, Setting
from rosi_edge.errors import RosiEdgeError
from rosi_edge.search.first_token import FirstTokenScore
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.search.result import Point

_SEARCH = 3
"""Raised when a search tries other settings or strengths, or keeps them in another form: it does not go on in
an older one's journal."""


class Journal:
    """The trials of one search, an Optuna study, which several processes may share.

    Args:
        identity: whatever the trials' figures depend on: another model or other prompts are another study.
        starting_points: parameters of what an empty study tries first.

    Raises:
        RosiEdgeError: nothing can be kept where the options say.
    """

    def __init__(
        self,
        identity: Mapping[str, Any],
        options: ConditionalOptions,
        starting_points: Sequence[dict[str, Any]],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        text = json.dumps({"search": _SEARCH, **identity}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._seed = options.seed
        with _storage_errors(options.storage, options.folder):
            storage: Any = options.storage
            if storage is None and options.folder is not None:
                options.folder.mkdir(parents=True, exist_ok=True)
                storage = JournalStorage(JournalFileBackend(str(options.folder / f"{name}.journal")))
            self._study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True
            )
        if not self._study.trials:
            for parameters in starting_points:
                self._study.enqueue_trial(parameters)

    def __len__(self) -> int:
        """How many trials are finished."""
        return len(self._finished())

    @property
    def points(self) -> list[Point]:
        """Of all finished trials."""
        return [_from_json(point) for trial in self._finished() for point in trial.user_attrs["points"]]

    def begin(self) -> optuna.Trial:
        """The next trial."""
        # A sampler of its own for every trial: an interrupted search goes on as if it had not been.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=self._seed * 10_007 + len(self._study.trials), n_startup_trials=6, multivariate=True
        )
        while True:
            # A starting point that waits in a shared study may be taken and finished by another process
            # between Optuna's finding it and taking it.
            with suppress(UpdateFinishedTrialError):
                return self._study.ask()

    def finish(self, trial: optuna.Trial, points: Sequence[Point], value: float) -> None:
        # Optuna may hand a waiting starting point to two processes: the first to finish it is kept.
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr("points", [_as_json(point) for point in points])
            self._study.tell(trial, value, skip_if_finished=True)

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if "points" in trial.user_attrs]


def check_storage(url: str) -> None:
    """Open a storage once, long before the search gets to it.

    Raises:
        RosiEdgeError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _storage_errors(url, None):
        optuna.storages.get_storage(url)


def shown_storage(url: str) -> str:
    """The address of a storage as it may be shown: without its password."""
    return re.sub(r"(://[^:/]*:).*@", r"\1***@", url)


@contextmanager
def _storage_errors(url: str | None, folder: Path | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Optuna's, or those of the database behind it. The address is left out: it may hold a password.
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        if url is None:
            raise RosiEdgeError(
                f"the search cannot keep what it tries in {folder}: {reason}",
                "Make that folder writable, or name another one with ROSI_EDGE_CACHE",
            ) from error
        raise RosiEdgeError(
            f"the storage given with --storage cannot be used: {reason}",
            "Give an Optuna storage URL, such as sqlite:///search.db",
        ) from error


def _as_json(point: Point) -> dict[str, Any]:
    return {"setting": asdict(point.setting), "score": asdict(point.score)}


def _from_json(values: Mapping[str, Any]) -> Point:
    setting = dict(values["setting"])
    setting |= {name: Profile(**setting[name]) for name in ("attention", "mlp")}
    setting |= {"form": Form(setting["form"]), "below": tuple(setting["below"])}
    score = FirstTokenScore(tuple(values["score"]["refused"]), values["score"]["kl"])
    return Point(Setting(**setting), score)
