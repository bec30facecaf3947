"""Every block of Python in README and docs is run as it stands, the blocks of a page one after the other;
every link between files leads somewhere; every public name has a docstring and a place in the reference.
"""

import importlib.util
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.functional import cross_entropy

import pylocalreg as plr
from tests.julia import REASON

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
BLOCK = re.compile(r'^```python(?: title="(\w+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NEEDS_JULIA = re.compile(r'plr\.julia\.|engine="julia"|solver=algorithm')


class Block(NamedTuple):
    """One of a page; ``title`` is the package whose call it shows, where there is one."""

    title: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [Block(title, code) for title, code in BLOCK.findall(page.read_text())]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def given() -> dict[str, Any]:
    """What pages that show an API, rather than a program, take for granted."""

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return -u

    dynamics = plr.TimeDependent(plr.Dense(784, 100, "tanh"), plr.Dense(100, 784))
    return {
        "plr": plr,
        "torch": torch,
        "cross_entropy": cross_entropy,
        "dynamics": dynamics,
        "f": f,
        "drift": plr.Chain(plr.Dense(4, 4)),
        "diffusion": torch.nn.Linear(4, 4),
    }


GIVEN: dict[str, list[dict[str, Any]]] = {
    "README.md": [
        {"x": torch.rand(8, 784), "y": torch.arange(8)},
        {},
        {"x": torch.rand(8, 4), "another_nsde": lambda x, noise: None},
    ]
}
"""More of it, a dict for each block of a page."""

# docs/julia.md's code takes the reader's own Julia files; tests/test_julia_models.py runs the like.
ELSEWHERE = {"docs/julia.md"}


def runnable() -> Iterator[Path]:
    yield from (page for page in PAGES if blocks(page) and name(page) not in ELSEWHERE)


@pytest.mark.parametrize("page", list(runnable()), ids=name)
def test_the_code_of_a_page_runs(page: Path) -> None:
    names = given()
    more = GIVEN.get(name(page), [])
    for number, (title, code) in enumerate(blocks(page)):
        absent = title not in ("", "pylocalreg") and importlib.util.find_spec(title) is None
        if absent or (NEEDS_JULIA.search(code) and REASON is not None):
            continue
        names.update(more[number] if number < len(more) else {})
        exec(compile(code, f"{name(page)}, block {number + 1}", "exec"), names)


def test_the_readme_trains() -> None:
    names = given() | GIVEN["README.md"][0]
    exec(blocks(ROOT / "README.md")[0].code, names)
    assert names["head"].weight.grad is not None
    assert names["node"].get_parameter("dynamics.p").grad is not None


def test_the_events_page_has_its_numbers() -> None:
    names = given()
    exec(blocks(DOCS / "events.md")[0].code, names)
    times = [round(float(bounced.t), 4) for bounced in names["solution"].events]
    assert times == [0.4515, 1.174, 1.7519]
    assert names["gravity"].grad != 0
    assert names["kept"].grad != 0


def test_both_sides_of_a_page_agree() -> None:
    """torchdiffeq's solve and ours, from the section on a solve."""
    names = given()
    first, _, _, theirs, ours = blocks(DOCS / "coming_from" / "torchdiffeq.md")[:5]
    torch.manual_seed(0)
    exec(first.code, names)
    exec(theirs.code, names)
    expected = names["u"]
    exec(ours.code, names)
    torch.testing.assert_close(names["u"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    before = torch.get_default_dtype()
    runpy.run_path(str(notebook), run_name="__main__")
    assert torch.get_default_dtype() == before


def test_every_page_has_a_place_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = [str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents]
    assert [page for page in pages if not re.search(rf"[-:] {re.escape(page)}$", nav, re.MULTILINE)] == []


def test_there_are_six_notebooks_and_each_has_a_place() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    assert len(NOTEBOOKS) == 6
    assert all(f"notebooks/{notebook.stem}.md" in nav for notebook in NOTEBOOKS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    made = {f"{notebook.stem}.md" for notebook in NOTEBOOKS}
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if Path(target).parent.name == "notebooks" and Path(target).name in made:
            continue
        assert (page.parent / target).exists(), f"{name(page)} links to {target}"
        if DOCS in page.parents:
            within = (page.parent / target).resolve().is_relative_to(DOCS)
            assert within, f"{name(page)} links to {target}, which the site does not have"


def public() -> Iterator[tuple[str, Any]]:
    """Every name of ``pylocalreg.__all__`` and of its public modules."""
    for found in plr.__all__:
        value = getattr(plr, found)
        if inspect.ismodule(value):
            for inner, member in vars(value).items():
                ours = getattr(member, "__module__", "").startswith(value.__name__)
                kind = inspect.isclass(member) or inspect.isfunction(member)
                if ours and kind and not inner.startswith(("_", "check_")):
                    yield f"{found}.{inner}", member
        elif inspect.isclass(value) or inspect.isfunction(value):
            yield found, value


def undocumented(path: str, value: Any) -> Iterator[str]:
    if not inspect.getdoc(value):
        yield path
    if inspect.isclass(value):
        for attribute, member in vars(value).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            inherited = any(hasattr(base, attribute) for base in value.__mro__[1:])
            own = inspect.isfunction(function) and not attribute.startswith("_") and not inherited
            if own and not inspect.getdoc(function):
                yield f"{path}.{attribute}"


def test_every_public_name_is_documented() -> None:
    assert [gap for path, value in public() for gap in undocumented(path, value)] == []


def test_every_public_name_is_in_the_reference() -> None:
    api = (DOCS / "api.md").read_text()
    missing = [
        found
        for found, value in public()
        if not found.startswith("errors.")
        and not re.search(rf"^::: pylocalreg\.(\w+\.)?{re.escape(found)}$", api, re.MULTILINE)
        and not (found.startswith("schedules.") and found.removeprefix("schedules.") in api)
    ]
    assert missing == []
