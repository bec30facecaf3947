"""An mkdocs hook: runs docs/notebooks/*.py, programs whose comments are text, and makes a page of each."""

import os
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

HERE = Path(__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, their pictures and the notebooks; a cell that fails ends the build."""
    os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
    os.environ["OMP_NUM_THREADS"] = "1"  # states of a few numbers: more threads only wait for each other
    for program in sorted((HERE.parent / "notebooks").glob("*.py")):
        for name, content in _pages(program).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def _pages(program: Path) -> dict[str, str | bytes]:
    """Files by name: the page, its pictures, and the notebook with its outputs."""
    name = program.stem
    notebook = jupytext.read(program)
    config = Config({"KernelManager": {"transport": "ipc"}})  # over TCP the kernel warns
    NotebookClient(notebook, kernel_name="python3", coalesce_streams=True, config=config).execute()
    for cell in notebook.cells:
        cell["outputs"] = [out for out in cell.get("outputs", ()) if out.get("name") != "stderr"]
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    text += f"\n\n[Download as a notebook]({name}.ipynb)\n"
    return {f"{name}.md": text, f"{name}.ipynb": jupytext.writes(notebook, "ipynb"), **resources["outputs"]}
