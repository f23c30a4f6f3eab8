"""The search's memory on disk, shared by processes and kept after an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from rosi_edge.edits.keys import Form
from rosi_edge.edits.profile import Profile, Setting
from rosi_edge.errors import RosiEdgeError
from rosi_edge.search.first_token import FirstTokenScore
from rosi_edge.search.result import Point

SEARCH = 3
"""Raised when a search tries other settings or strengths, or keeps them in another form: it does not go on in
an older one's journal."""


def check_storage(url: str) -> None:
    """Open a storage once, long before the search gets to it.

    Raises:
        RosiEdgeError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with storage_errors(url, None):
        optuna.storages.get_storage(url)


def shown_storage(url: str) -> str:
    """The address of a storage as it may be shown: without its password.

    Raises:
        RosiEdgeError: it is no address.
    """
    with storage_errors(url, None):
        return make_url(url).render_as_string(hide_password=True)


@contextmanager
def storage_errors(url: str | None, folder: Path | None) -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError, OSError, OptunaError, SQLAlchemyError) as error:
        # The address is left out: it may hold a password.
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


def next_trial(study: optuna.Study) -> optuna.Trial:
    """The next trial. A starting point that waits in a shared study may be taken and finished by another
    process between Optuna's finding it and taking it."""
    while True:
        with suppress(UpdateFinishedTrialError):
            return study.ask()


def done_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if "points" in trial.user_attrs]


def as_json(point: Point) -> dict[str, Any]:
    return {"setting": asdict(point.setting), "score": asdict(point.score)}


def from_json(values: Mapping[str, Any]) -> Point:
    setting = dict(values["setting"])
    setting |= {name: Profile(**setting[name]) for name in ("attention", "mlp")}
    setting |= {"form": Form(setting["form"]), "below": tuple(setting["below"])}
    score = FirstTokenScore(tuple(values["score"]["refused"]), values["score"]["kl"])
    return Point(Setting(**setting), score)
