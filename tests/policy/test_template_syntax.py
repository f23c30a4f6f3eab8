"""Chat templates, judged by their syntax tree and never run."""

from __future__ import annotations

import time

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import llama_chat_format
from tiny_gguf import CHATML

from rosi_edge.policy.template_syntax import unsafe_constructs

LARGEST = 65536

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.tool_calls %}
        {%- for arg_name, arg_val in message.tool_calls[0].arguments | items %}
            {{- arg_name + '="' + arg_val + '"' }}{%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endfor %}"""
THINKING = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not
        (message.content.startswith('<tool_response>')) %}
        {%- set ns.last_query_index = index %}{%- break %}{%- endif %}
{%- endfor %}
{%- for m in messages %}{% generation %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endgeneration %}
{{ tools | tojson(indent=4) if tools else '' }}{%- endfor %}
{%- set ns.text = ns.text + (m.content if ns.text else ns.text ~ "__user__") %}
{{- x | replace("\\n", "    ") }}
{%- for i in range(messages|length) %}
    {%- for j in range(3) %}{{ i + j + 20260101 - 20250101 }}{% endfor %}
{%- endfor %}
{%- macro render(x, depth=0) %}{{ ' ' * depth }}{{ x['name' ~ ''] }}{% endmacro %}"""

REAL = [
    text
    for name, text in vars(llama_chat_format).items()
    if name.endswith("_CHAT_TEMPLATE") and isinstance(text, str)
]


@pytest.mark.parametrize(
    "template", [CHATML, LLAMA3, THINKING.replace("x['name' ~ '']", "x['name']"), "plain", *REAL]
)
def test_ordinary_templates_are_safe(template: str) -> None:
    assert unsafe_constructs(template, largest=LARGEST) == []


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages['__class__'] }}",
        "{{ messages['__cla' + 'ss__'] }}",
        "{{ messages['__cla' ~ 'ss__'] }}",
        "{{ messages[['__cla', 'ss__'] | join] }}",
        "{{ messages['%s%s' % ('__cla', 'ss__')] }}",
        "{{ messages | attr('__class__') }}",
        "{{ messages | attr('_' ~ '_class_' ~ '_') }}",
        "{{ messages | attr(messages[0].content) }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '{x.__class__}'.format_map(messages) }}",
        "{% set f = 'x'.format %}{{ f(1) }}",
        "{{ lipsum.__globals__ }}",
        "{{ lipsum(n=100000) }}",
        "{{ cycler('a') }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.mro() }}",
        "{{ f.gi_frame.f_globals }}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% for a in range(999999999) %}x{% endfor %}",
        "{% for a in range(0, 10 * 1000 * 1000) %}x{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ 999999999 * 'ab' }}",
        "{{ [0] * 99999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 2 ** messages | length }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '%99999999d' | format(1) }}",
        "{{ '%*d' | format(99999999, 1) }}",
        # Names of internals handed on as texts.
        "{% set n = '__class__' %}{{ messages[n] }}",
        "{% set n %}__class__{% endset %}{{ messages[n] }}",
        "{{ messages[['__class__'][0]] }}",
        "{{ messages | map('attr', name) | list }}",
        "{{ [messages] | sort(attribute='__class__') }}",
        "{{ [messages] | groupby('__class__') }}",
        "{{ [messages] | selectattr('__class__') | list }}",
        "{{ '{0.x}'['format'](messages) }}",
        "{{ ['{0.x}'] | map('format') | list }}",
        # Bombs made of small numbers.
        "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
        "{% set n = 9000 %}{% for a in range(n) %}{% for b in range(n) %}x{% endfor %}{% endfor %}",
        "{{ 'a' * 9000 * 9000 }}",
        "{% set n = 9000000000 %}{{ 'a' * n }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set x = 'a' %}{% for i in range(60) %}{% set x = x + x %}{% endfor %}",
        "{{ 'a'.ljust(width=20000) }}",
        "{{ 'a' | center(width=20000) }}",
        "{{ messages | tojson(indent=20000) }}",
        "{{ ['a'] | batch(20000, 'x') | list }}",
        "{{ x | replace('a', '" + "a" * 200 + "') | replace('a', '" + "a" * 200 + "') }}",
        "{{ x.replace('', '" + "a" * 200 + "').replace('a', '" + "a" * 200 + "') }}",
        "{% for a in m recursive %}{{ loop(m) }}{% endfor %}",
        "{% for a in m %}" * 6 + "x" + "{% endfor %}" * 6,
        "{% if %}",
        "{{ 'unclosed",
        "{{" + "9" * 6000 + "}}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "-" * 20000 + "1 }}",
        "{{ x" + "[0" * 2000 + "]" * 2000 + " }}",
        "x" * (LARGEST + 1),
        7,
        None,
    ],
)
def test_everything_else_is_named(template: object) -> None:
    start = time.monotonic()
    problems = unsafe_constructs(template, largest=LARGEST)
    assert problems
    assert all(problem.line >= 1 and problem.words for problem in problems)
    assert time.monotonic() - start < 5


def test_nothing_is_compiled_or_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object, **more: object) -> None:
        raise AssertionError("a template was run")

    for name in ("compile", "from_string", "_compile", "_generate", "compile_expression"):
        monkeypatch.setattr(jinja2.Environment, name, forbidden)
    monkeypatch.setattr(jinja2.Template, "render", forbidden)
    assert unsafe_constructs(CHATML, largest=LARGEST) == []
    assert unsafe_constructs("{{ 9 ** 9 ** 9 }}", largest=LARGEST)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}%-+*()[]'\"_ .|~abinforset19\n\\", max_size=200))
def test_any_text_is_judged(text: str) -> None:
    unsafe_constructs(text, largest=LARGEST)
