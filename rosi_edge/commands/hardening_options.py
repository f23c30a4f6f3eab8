"""What the flags of ``harden`` ask for, as the library's options; the wizard reads its settings with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rosi_edge.commands.options import elicitation_of, engine_options

if TYPE_CHECKING:
    # Not at run time: these bring scipy and optuna, and refusing a flag shall not wait for them.
    from rosi_edge.hardening.attribute import Attribute
    from rosi_edge.hardening.options import HardenOptions

RUNTIME = ("threads", "batch_size", "context_size", "gpu_layers", "rpc", "template")


def hardening_options(
    values: Mapping[str, Any], about: Attribute | None, *, folder: Path | None, reference: str, command: str
) -> HardenOptions:
    """
    Args:
        values: of the flags, by the names that click gives them.
        about: the attribute of ``--attribute``; None for harm.
        folder: where searches keep what they have tried.
        reference: the model as it was named.
        command: that repeats the run.

    Raises:
        RosiEdgeError: a value cannot be used; what belongs together is looked at by ``HardenOptions.check``.
    """
    from rosi_edge.hardening.options import HardenOptions
    from rosi_edge.quantization.promotion import promotion_of
    from rosi_edge.search.options import ConditionalOptions, SearchOptions

    elicit = values["elicit"]
    layer = None if values["layer"] is None else int(values["layer"])
    return HardenOptions(
        rounding=values["rounding"],
        method=values["method"],
        elicitation=elicitation_of(elicit) if about is None or elicit is None else about.elicitation(elicit),
        # Whether a safety prompt brings refusals out is a question of harm.
        look=about is None,
        search=SearchOptions(
            min_compliance=values["min_compliance"],
            layers=None if layer is None else (layer,),
            strength=values["alpha"],
        ),
        conditional=ConditionalOptions(
            min_compliance=values["min_compliance"],
            max_kl=values["max_kl"],
            trials=values["trials"],
            time_limit=values["time_limit"],
            storage=values["storage"],
            folder=folder,
            layer=layer,
            strength=values["alpha"],
            seed=values["seed"],
        ),
        min_delivered=values["min_delivered"],
        promotion=promotion_of(values["promote"]),
        imatrix=values["imatrix"],
        stress=values["stress"],
        paper=not values["no_paper"],
        engine=engine_options(**{name: values[name] for name in RUNTIME}),
        force=values["force"],
        adapter=values["adapter"],
        reference=reference,
        command=command,
        seed=values["seed"],
    )
