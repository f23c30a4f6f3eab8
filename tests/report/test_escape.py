"""The escapes against an independent reader of Markdown, with GitHub's tables and bare links."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from rosi_edge.report.escape import code, code_block, paragraph, plain, table

MARKDOWN = MarkdownIt("commonmark").enable("table")
AWKWARD = st.text(st.sampled_from(list("|`\\<>&*_[]()!#$~@\n\r -+=.:/w1aé中\u202e\x1b\u2028")), max_size=30)


def shown(value: str) -> str:
    """What a reader should see: one line, with unprintable signs replaced."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(value.split()))


def flat(source: str) -> list[Token]:
    return [child for token in MARKDOWN.parse(source) for child in (token, *(token.children or []))]


@given(AWKWARD)
def test_plain_text_shows_as_it_is(value: str) -> None:
    tokens = flat(f"before {plain(value)} after")
    inline = [token for token in tokens if token.type in {"text", "text_special"}]
    assert "".join(token.content for token in inline) == f"before {shown(value)} after"
    assert {t.type for t in tokens} <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}


@given(AWKWARD)
def test_paragraph_starts_no_block(value: str) -> None:
    tokens = MARKDOWN.parse(paragraph(value))
    assert [token.type for token in tokens] in ([], ["paragraph_open", "inline", "paragraph_close"])


@given(AWKWARD)
def test_code_is_one_code_span(value: str) -> None:
    if not shown(value):
        assert code(value) == "(none)"
        return
    spans = [token for token in flat(f"x {code(value)} y") if token.type == "code_inline"]
    assert [span.content for span in spans] == [shown(value)]


@given(st.lists(AWKWARD, min_size=2, max_size=3), st.booleans())
def test_cells_stay_in_their_columns(values: list[str], as_code: bool) -> None:
    cells = [code(value, in_table=True) if as_code else plain(value) for value in values]
    tokens = MARKDOWN.parse(table([*"abc"][: len(values)], [[*cells], [*cells]]))
    assert sum(token.type == "table_open" for token in tokens) == 1
    assert sum(token.type == "tr_open" for token in tokens) == 3
    assert sum(token.type == "td_open" for token in tokens) == 2 * len(values)
    read = [token.children or [] for token in tokens if token.type == "inline"][len(values) :]
    texts = ["".join(child.content for child in children) for children in read]
    assert texts == 2 * [shown(value) or ("(none)" if as_code else "") for value in values]


@given(AWKWARD)
def test_block_ends_where_it_should(value: str) -> None:
    tokens = MARKDOWN.parse(f"{code_block(value)}\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_bare_links_are_broken() -> None:
    escaped = plain("see https://evil.example, HTTP://evil.example, www.evil.example or me@evil.example")
    assert not re.search(r"(?i)https?://|www\.|(?<!\\)@", escaped)


def test_long_names_are_cut() -> None:
    assert plain("x" * 1000, 120) == "x" * 120 + "…"


def test_ordinary_names_stay_readable() -> None:
    assert plain("Qwen2.5-Coder_0.5B Q4_K_M (chat)") == "Qwen2.5-Coder_0.5B Q4_K_M (chat)"
    assert code("blk.0.attn_output.weight") == "`blk.0.attn_output.weight`"
