"""Templates that grow beyond measure, by small steps; and ordinary ones that only look alike."""

from __future__ import annotations

import time
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from llama_cpp import llama_chat_format
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.policy import behaviour
from rosi_edge.policy.model import parse_policy
from rosi_edge.policy.result import CheckReport, Status
from rosi_edge.policy.rules.chat_template import ChatTemplateSafe
from rosi_edge.policy.run import Checked, CheckOptions, check
from rosi_edge.policy.template_growth import estimate
from rosi_edge.policy.template_growth.estimate import growth_problems
from rosi_edge.policy.template_syntax import unsafe_constructs
from rosi_edge.runtime.engine import EngineOptions

LARGEST = 1 << 20
START = "{% set ns = namespace(a='x') %}"


def macro(number: int, times: int) -> str:
    """One that calls the one before it so often."""
    calls = f"{{{{ m{number - 1}() }}}}" * times
    return f"{{% macro m{number}() %}}{calls}{{% endmacro %}}"


BOMBS = {
    "straight line": "{% set a = 'x' %}" + "{% set a = a ~ a %}" * 40,
    "straight line in branches": "{% set a = 'x' %}" + "{% if c %}{% set a = a ~ a %}{% endif %}" * 40,
    "blocks": "{% set a = 'x' %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
    "a macro that doubles": "{% set a = 'x' %}{% macro f() %}{{ a }}{{ a }}{% endmacro %}"
    + "{% set a = f() %}" * 40,
    "with": "{% set a = 'x' %}" + "{% with a = a ~ a %}" * 40 + "{{ a }}" + "{% endwith %}" * 40,
    "macros of macros": "{% macro m0() %}xxxxxxxxxx{% endmacro %}"
    + "".join(macro(i, 10) for i in range(1, 10))
    + "{{ m9() }}",
    "macros of macros, the last one first": "".join(macro(i, 10) for i in range(9, 0, -1))
    + "{% macro m0() %}xxxxxxxxxx{% endmacro %}{{ m9() }}",
    "two names in turn": START
    + "{% for i in range(40) %}{% set ns.b = ns.a ~ ns.a %}{% set ns.a = ns.b %}{% endfor %}",
    "replacing in a loop": START
    + "{% for i in range(60) %}{% set ns.a = ns.a|replace('x','xx') %}{% endfor %}",
    "joining with itself": START + ("{% for i in range(60) %}{% set ns.a = [ns.a,ns.a]|join %}{% endfor %}"),
    "a macro that branches": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "numbers by name": "{% set n=9999 %}{% set a='x'*n %}{% set b=a*n %}{{ b*n }}",
    "loops over a long list": (
        "{% set l=[0]*9999 %}{% for a in l %}{% for b in l %}{% for c in l %}x{% endfor %}"
        "{% endfor %}{% endfor %}"
    ),
    "counting down beforehand": (
        "{% macro f(n) %}{% if n %}{% set m = n-1 %}{{ f(m) }}{{ f(m) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "macros in turn": (
        "{% macro f(n) %}{% if n %}{{ g(n-1) }}{{ g(n-1) }}{% endif %}{% endmacro %}"
        "{% macro g(n) %}{{ f(n) }}{% endmacro %}{{ f(60) }}"
    ),
    "longer arguments": (
        "{% macro f(s,n) %}{% if n %}{{ f(s~s,n-1) }}{% endif %}{{ s }}{% endmacro %}{{ f('x',60) }}"
    ),
    "a result twice over": (
        "{% macro f(n) %}{% if n %}{% set t=f(n-1) %}{{ t }}{{ t }}{% else %}x{% endif %}"
        "{% endmacro %}{{ f(60) }}"
    ),
    "a namespace through a macro": START
    + "{% macro f(n) %}{% if n %}{% set ns.a=ns.a~ns.a %}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a macro that branches in a loop": (
        "{% macro f(n) %}{% if n %}{% for i in range(2) %}{{ f(n-1) }}{% endfor %}{% endif %}"
        "{% endmacro %}{{ f(60) }}"
    ),
    "a macro handed to itself": (
        "{% macro f(g,n) %}{% if n %}{{ g(g,n-1) }}{{ g(g,n-1) }}{% endif %}{% endmacro %}{{ f(f,60) }}"
    ),
    "a macro under two names": (
        "{% macro f(n) %}{% if n %}{{ h(n-1) }}{{ h(n-1) }}{% endif %}{% endmacro %}{% set h=f %}{{ f(60) }}"
    ),
    "a counter set back": (
        "{% set ns=namespace(n=60) %}{% macro f() %}{% if ns.n %}{% set ns.n=ns.n-1 %}{{ f() }}"
        "{{ f() }}{% set ns.n=ns.n+1 %}{% endif %}{% endmacro %}{{ f() }}"
    ),
    "a block in a loop": START
    + "{% for i in range(40) %}{% set ns.a %}{{ns.a}}{{ns.a}}{% endset %}{% endfor %}",
    "a namespace under two names": START
    + "{% set m = ns %}{% for i in range(40) %}{% set m.a = ns.a ~ ns.a %}{% endfor %}",
    "namespaces by item": START + ("{% for i in range(40) %}{% set ns.a = ns['a'] ~ ns['a'] %}{% endfor %}"),
    "namespaces by filter": START
    + "{% for i in range(40) %}{% set ns.a = ns|attr('a') ~ ns|attr('a') %}{% endfor %}",
    "by way of a name": START
    + "{% for i in range(40) %}{% set t = ns.a ~ ns.a %}{% set ns.a = t %}{% endfor %}",
    "a loop over messages": START + "{% for m in messages %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "a macro called in a loop": START
    + (
        "{% macro d() %}{% set ns.a = ns.a ~ ns.a %}{% endmacro %}"
        "{% for i in range(40) %}{{ d() }}{% endfor %}"
    ),
    "a macro that writes twice": START
    + "{% macro d(x) %}{{x}}{{x}}{% endmacro %}{% for i in range(40) %}{% set ns.a = d(ns.a) %}{% endfor %}",
    "adding a long text": START
    + "{% for i in range(99999) %}{% set ns.a = ns.a ~ 'x'*9999 %}{% endfor %}{{ ns.a }}",
    "writing a long text": "{% for i in range(99999) %}{{ 'x'*9999 }}{% endfor %}",
    "a macro that writes a long text": (
        "{% macro f(n) %}{{ 'x'*n }}{% endmacro %}{% for i in range(99999) %}{{ f(9999) }}{% endfor %}"
    ),
    "a number that grows": START
    + "{% for i in range(9999) %}{% set ns.n = ns.n + 9999 %}{% endfor %}{{ 'x'*ns.n }}",
    "a product by name": "{% set n=9999 %}{% set k=n*n %}{{ 'x'*k }}",
    "padding by per cent": "{{ '%99999999d' % 1 }}",
    "escaping again and again": START
    + "{% set ns.a='\"' %}{% for i in range(60) %}{% set ns.a = ns.a|tojson %}{% endfor %}",
    "a long separator": "{{ ('x'*9999)|join('y'*9999) }}",
    "padding by name": "{% set n=9999999 %}{{ 'x'|center(n) }}{{ 'x'|center(n) }}",
    "a power": "{% set n = 10**9 %}{{ 'a' * n }}",
    "powers of powers": "{% set n=9**64 %}{% set m=n**64 %}{{ m|string|length }}",
    "a power in a loop": START
    + "{% set ns.n = 3 %}{% for m in messages %}{% set ns.n = ns.n ** 2 %}{% endfor %}",
    "a number from a named text": "{% set x='99999' %}"
    "{% for a in range(x|int) %}{% for b in range(x|int) %}x{% endfor %}{% endfor %}",
    "a number from a text put together": "{{ 'a' * (99999|string ~ '99999')|int }}",
    "a number out of a list": "{% for n in [99999] %}"
    "{% for a in range(n) %}{% for b in range(n) %}x{% endfor %}{% endfor %}{% endfor %}",
    "a number out of a dictionary": "{% set d={'n': 99999} %}"
    "{% for a in range(d.n) %}{% for b in range(d['n']) %}x{% endfor %}{% endfor %}",
    "the largest of a list": "{% set n=[1,99999]|max %}"
    "{% for a in range(n) %}{% for b in range(n) %}x{% endfor %}{% endfor %}",
    "rounds of a loop that grow with another's": "{% for i in range(2000) %}{% for j in range(i) %}"
    "{% for k in range(j) %}x{% endfor %}{% endfor %}{% endfor %}",
    "a text in a dictionary": START
    + "{% for m in messages %}{% set ns.d = {'a': ns.d.a ~ ns.d.a} %}{% endfor %}{{ ns.d.a }}",
    "a number from a text": "{{ 'x' * ('99999999'|int) }}",
    "a caller twice": START
    + (
        "{% macro w() %}{{caller()}}{{caller()}}{% endmacro %}{% for i in range(40) %}"
        "{% set ns.a %}{% call w() %}{{ns.a}}{% endcall %}{% endset %}{% endfor %}"
    ),
    "a filter around a block": START
    + (
        "{% for i in range(40) %}{% set ns.a %}{% filter replace('x','xx') %}{{ns.a}}"
        "{% endfilter %}{% endset %}{% endfor %}"
    ),
    "lists of lists": START + ("{% for i in range(40) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}"),
    "two that feed each other": (
        "{% set ns = namespace(a='x',b='x') %}{% for i in range(90) %}"
        "{% set ns.a = ns.a ~ ns.b %}{% set ns.b = ns.a ~ ns.b %}{% endfor %}"
    ),
    "loops over a list": (
        "{% set l=[0]*999 %}{% for a in l %}{% for b in l %}{% for c in l %}x{% endfor %}"
        "{% endfor %}{% endfor %}"
    ),
    "an argument by default": "{% macro f(n=9999) %}{{ ('x'*n)*n }}{% endmacro %}{{ f() }}",
}
ORDINARY = {
    "a square": "{% for i in range(10) %}{{ i ** 2 }}{% endfor %}{{ messages|length ** 2 }}",
    "numbers in a list": "{% for n in [1, 2, 3] %}{% for i in range(n) %}x{% endfor %}{% endfor %}",
    "digits that are none": "{{ '²'|int }}",
    "the year": "{{ strftime_now('%Y')|int + 1 }}",
    "accumulation": (
        "{% for message in messages %}"
        "{% set ns.out = ns.out ~ '<|im_start|>' ~ message.role ~ message.content %}{% endfor %}"
    ),
    "replacing in each message": (
        "{% for message in messages %}{% set content = message.content|replace('\\n', '\\n\\n') %}"
        "{{ content }}{% endfor %}"
    ),
    "a separator twice": "{% set sep = '\\n' %}{% set text = a ~ sep ~ b ~ sep %}{{ text }}",
    "a date as a number": (
        "{% set date = 20260101 %}{% for m in messages %}{{ date }}{% endfor %}{% macro f() %}"
        "{{ date }}{% endmacro %}{{ f() }}"
    ),
    "a text put together from its halves": (
        "{% for m in messages %}{% set content = m.content %}"
        "{% set content = content[:p] + '</think>' + content[p:] %}{{ content }}{% endfor %}"
    ),
    "either of two": START
    + "{% for m in messages %}{% set ns.a = ns.a ~ m.x if m.y else ns.a ~ m.z %}{% endfor %}",
    "in branches": START
    + (
        "{% for m in messages %}{% if m.t %}{% set ns.a = ns.a ~ m.x %}"
        "{% else %}{% set ns.a = ns.a ~ m.z %}{% endif %}{% endfor %}"
    ),
    "the one before": START
    + (
        "{% for m in messages %}{% if m.t %}{% set ns.prev = ns.cur %}"
        "{% endif %}{% set ns.cur = m.content %}{% endfor %}"
    ),
    "counters": (
        "{% set ns = namespace(i=0, d=0) %}{% for m in messages %}{% set ns.i = ns.i + 1 %}"
        "{% for c in m.content %}{% set ns.d = ns.d + ns.i %}{% endfor %}{% endfor %}"
    ),
    "going down into data": (
        "{% macro f(p, d=0) %}{{ ' ' * d }}{% for k, v in p.items() %}{{ k }}: {{ f(v, d + 2) }}"
        "{% endfor %}{% if p.items %}{{ f(p['items'], d+1) }}{% endif %}{{ f(p.other, d+1) }}"
        "{% endmacro %}{{ f(tools) }}"
    ),
    "a list that grows": START
    + "{% for m in messages %}{% set ns.l = ns.l + [m.id] %}{% endfor %}{{ ns.l|join(', ') }}",
    "indented": ("{% for m in messages %}{{ m.content|indent(2) }}{{ tools|tojson(indent=4) }}{% endfor %}"),
    "namespaces of the same name in two macros": (
        "{% macro f(t) %}{% set ns = namespace(r='') %}{% for p in g(t).split('x') %}"
        "{% if p %}{% set ns.r = ns.r + p.split('y')[0] %}{% else %}{% set ns.r = ns.r + p %}{% endif %}"
        "{% endfor %}{{ ns.r }}{% endmacro %}"
        "{% macro g(t) %}{% set ns = namespace(r='') %}{% for p in t.split('x') %}"
        "{% set ns.r = ns.r + p %}{% endfor %}{{ ns.r }}{% endmacro %}{{ f(messages[0].content) }}"
    ),
    "a schema rendered by a macro that calls itself": (
        "{% macro kind(spec, required, nullable=false) %}{% if spec.type == 'array' %}"
        "{% if spec['items'] %}{% set inner = kind(spec['items'], required) %}{{ inner + '[]' }}{% endif %}"
        "{% elif spec.oneOf %}{% for variant in spec.oneOf %}{{ kind(variant, required) }} | {% endfor %}"
        "{% elif spec.properties %}{% for name, each in spec.properties.items() %}"
        "{{ name }}: {{ kind(each, spec.required or []) }}{% endfor %}{% endif %}{% endmacro %}"
        "{{ kind(tools[0], []) }}"
    ),
}
REAL = [
    text
    for name, text in vars(llama_chat_format).items()
    if name.endswith("_CHAT_TEMPLATE") and isinstance(text, str)
]


@pytest.mark.parametrize("name", BOMBS)
def test_what_grows_beyond_measure(name: str) -> None:
    assert unsafe_constructs(BOMBS[name], largest=LARGEST)


@pytest.mark.parametrize("name", ORDINARY)
def test_what_only_looks_like_it(name: str) -> None:
    assert unsafe_constructs(ORDINARY[name], largest=LARGEST) == []


def test_real_templates_stay_clean() -> None:
    assert len(REAL) >= 3
    for text in REAL:
        assert unsafe_constructs(text, largest=LARGEST) == []


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_macros_are_read_in_any_order(order: tuple[int, ...]) -> None:
    """The default of b's argument is put in where b is called: in a, which b calls in its turn."""
    macros = [
        "{% macro a() %}{{ b() }}{% endmacro %}",
        "{% macro b(v=c()) %}{{ a() }}{% endmacro %}",
        "{% macro c() %}x{% endmacro %}",
    ]
    tree = Environment().parse("".join(macros[number] for number in order))
    assert growth_problems(tree) == []


def test_a_fault_of_the_estimate_is_no_way_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise KeyError

    monkeypatch.setattr(estimate, "walk", fails)
    (problem,) = growth_problems(Environment().parse("{% for m in messages %}{{ m }}{% endfor %}"))
    assert "too involved" in problem[1]


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "*".join(["1"] * 30000) + " }}",
        "{{ " + "+".join(["'a'"] * 30000) + " }}",
        "{% set a = 'x' %}" + "{% set a = a ~ 'y' %}" * 30000,
        "".join(f"{{% set a{i} = a{i - 1} %}}" for i in range(30000)),
        "{% macro f() %}{{ "
        + "+".join(f"a{i}" for i in range(9000))
        + " }}{% endmacro %}"
        + "{{ f() }}" * 9000,
        "{% for m in x %}"
        + "".join(f"{{% set ns.a{i} = ns.a{i - 1} %}}" for i in range(9000))
        + "{% endfor %}",
        "".join(macro(i, 1) for i in range(5000, 0, -1)),
        "{% macro f(n) %}{{ " + "*".join(["n"] * 9000) + " }}{% endmacro %}{{ f(2) }}",
        "{% if a %}" + "".join(f"{{% elif b %}}{{% set c{i} = 1 %}}" for i in range(5000)) + "{% endif %}",
    ],
)
def test_long_templates_are_judged_at_once(template: str) -> None:
    start = time.monotonic()
    unsafe_constructs(template, largest=LARGEST)
    assert time.monotonic() - start < 20


# --- what follows from it -------------------------------------------------------------------------------

FIGURE = "[figures.harmful_refusal_rate]\nmin = 0.0\n"
WARNING = "[chat_template]\nseverity = 'warning'\n"
BOMB = "{% for m in messages %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}" + CHATML


class _RanError(Exception):
    pass


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def ran(*arguments: Any, **more: Any) -> None:
        raise _RanError

    monkeypatch.setattr(behaviour, "measure", ran)
    return write_tiny_llama(tmp_path / "bomb.gguf", chat_template=BOMB)


def run(path: Path, policy: str, template: str | None = None) -> CheckReport:
    options = CheckOptions(engine=EngineOptions(template=template))
    return check(Checked(str(path), path), parse_policy(policy), options=options)


@pytest.mark.parametrize("policy", [FIGURE, WARNING + FIGURE])
def test_a_model_with_an_unsafe_template_is_not_run(bomb: Path, policy: str) -> None:
    (figure,) = [result for result in run(bomb, policy).results if result.id.startswith("RE201")]
    assert figure.status is Status.COULD_NOT_RUN
    assert "template is not called safe" in figure.message
    assert "--template" in figure.remedy


def test_a_model_whose_template_could_not_be_looked_at_is_not_run(
    bomb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trips(*arguments: Any) -> None:
        raise KeyError

    monkeypatch.setattr(ChatTemplateSafe, "check", trips)
    results = {result.id: result for result in run(bomb, FIGURE).results}
    assert results[ChatTemplateSafe.id].status is Status.COULD_NOT_RUN
    (figure,) = [result for name, result in results.items() if name.startswith("RE201")]
    assert "template is not called safe" in figure.message


def test_it_is_run_with_a_template_of_the_users(bomb: Path) -> None:
    with pytest.raises(_RanError):
        run(bomb, FIGURE, template=CHATML)


def test_it_is_run_where_nobody_asks_for_safe_templates(bomb: Path) -> None:
    with pytest.raises(_RanError):
        run(bomb, "[chat_template]\nseverity = 'off'\n" + FIGURE)


def test_a_missing_template_is_not_called_unsafe(bomb: Path, tmp_path: Path) -> None:
    with pytest.raises(_RanError):
        run(write_tiny_llama(tmp_path / "none.gguf", chat_template=None), FIGURE)
