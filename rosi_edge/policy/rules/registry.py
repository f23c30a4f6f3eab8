"""The rules that need no inference, in the order of reports."""

from __future__ import annotations

from rosi_edge.policy.rule import Rule
from rosi_edge.policy.rules.abliteration import NotAbliterated
from rosi_edge.policy.rules.architecture import ArchitectureAllowed
from rosi_edge.policy.rules.chat_template import ChatTemplateSafe
from rosi_edge.policy.rules.chat_template_base import ChatTemplateBase
from rosi_edge.policy.rules.file_digest import FileDigest
from rosi_edge.policy.rules.file_sanity import FileSanity
from rosi_edge.policy.rules.hardening import HardeningTrue
from rosi_edge.policy.rules.manifest import ManifestTrue
from rosi_edge.policy.rules.metadata import MetadataComplete
from rosi_edge.policy.rules.types import TypesAllowed

STATIC_RULES: tuple[Rule, ...] = (
    FileSanity(),
    FileDigest(),
    ArchitectureAllowed(),
    TypesAllowed(),
    MetadataComplete(),
    ChatTemplateSafe(),
    ChatTemplateBase(),
    HardeningTrue(),
    NotAbliterated(),
    ManifestTrue(),
)

FIGURE_ID = "RE201"
FIGURE_TITLE = "A figure of the model's behaviour is within its bounds"
FIGURE_HELP = (
    "Measured by running the model, as rosi-edge eval does. The bound of the 95 % interval decides, not the "
    "point; with few prompts the interval is wide, so raise the budget before you lower the threshold."
)

RULE_TEXTS: dict[str, tuple[str, str]] = {rule.id: (rule.title, rule.help) for rule in STATIC_RULES} | {
    FIGURE_ID: (FIGURE_TITLE, FIGURE_HELP)
}
"""Title and help of every rule by its id."""
