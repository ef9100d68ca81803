"""Imports run one way: from ``networks | uncertainty | prompts | losses | data`` through ``models`` up to ``cli``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aps_components"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

LEAVES = {"__init__", "convolution", "csv_table", "errors", "exporting", "files", "label_map", "line_file", "machine"}
LEAVES |= {"memory", "options", "own_environment", "ownership", "pictures", "plain_json", "processes", "ranks"}
LEAVES |= {"terminal", "unpacking"}
PARTS = {"networks", "uncertainty", "prompts", "losses", "data"}
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "__init__": {"api"},  # for type checkers; when it runs, not before it is asked for
    "api": LEAVES | {"interactive", "bundle", "segmentation", "recipe"},
    **dict.fromkeys(PARTS, LEAVES),
    "models": LEAVES | PARTS,
    "configuration": LEAVES | PARTS | {"models"},
    "inference": LEAVES | PARTS | {"models"},
    "training": LEAVES | PARTS | {"models", "inference"},
    "interactive": LEAVES | PARTS | {"models", "inference"},
    "evaluation": LEAVES | PARTS | {"models", "configuration", "inference", "training", "interactive"},
    "demo": LEAVES | PARTS | {"models", "configuration", "inference", "training", "evaluation", "bundle"},
    "bundle": LEAVES | PARTS | {"models", "configuration", "inference", "training", "interactive", "evaluation"},
    "recipe": LEAVES | PARTS | {"models", "configuration", "inference", "training", "evaluation", "bundle", "report"},
    "segmentation": LEAVES
    | PARTS
    | {"models", "configuration", "inference", "training", "interactive", "evaluation", "bundle"},
    "report": LEAVES | PARTS | {"__init__", "models", "inference", "training", "evaluation", "bundle", "segmentation"},
    "label_server": LEAVES | PARTS | {"models", "configuration", "bundle", "interactive", "evaluation", "segmentation"},
    "studies": LEAVES
    | PARTS
    | {"models", "configuration", "inference", "training", "interactive", "evaluation", "bundle"},
    "cli": LEAVES
    | PARTS
    | {"models", "training", "evaluation", "demo", "bundle", "studies", "recipe", "segmentation", "report"}
    | {"label_server"},
    "__main__": LEAVES | {"cli"},
}
ENTRY_POINTS = {"cli", "__main__"}
# A bundle has no other way to be told to show tracebacks, nor a process how many threads to take.
READ_THE_ENVIRONMENT = ENTRY_POINTS | {"errors", "processes"}
STUDIES = "aps_components.studies"
ENGINES = re.compile(r"(ignite|monai\.engines|monai\.handlers)(\.|$)")
RUN_AN_ENGINE = {"inference/evaluator.py"}  # besides training/
OPENED = re.compile(r"monai\.bundle(\.\w+)*\.(ConfigParser|ConfigWorkflow)$")
ENVIRONMENT = re.compile(r"os\.(environb?|getenvb?|putenv)(\.|$)")
DATASETS = re.compile(
    r"\b(acdc|amos|brats|btcv|hippocampus|kits|left atrium|lits|msd|pancreas|spleen)(\d*)\b", re.IGNORECASE
)


def layer_of(file: str) -> str:
    """The first folder, or the module where it lies at the top."""
    return Path(file).parts[0].removesuffix(".py")


def imports(tree: ast.AST, file: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere in a file, relative imports resolved."""
    package = ["aps_components", *Path(file).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def broken_rules(source: str, file: str) -> list[str]:
    """Every rule that a file breaks, as ``file:line: rule``."""
    layer, tree, found = layer_of(file), ast.parse(source), []
    at_the_top = {statement.lineno for statement in tree.body}
    for line, name in imports(tree, file):
        first, *rest = name.split(".")
        if first == "aps_components":
            target = rest[0] if rest and rest[0] in MAY_IMPORT else "__init__"
            if target != layer and target not in MAY_IMPORT[layer]:
                allowed = ", ".join(sorted(MAY_IMPORT[layer] - {"__init__"})) or "nothing of this package"
                found.append((line, f"{layer} must not import {target}; it may import {allowed}"))
        if layer == "cli" and name.startswith(STUDIES) and line in at_the_top:
            found.append((line, "a command loads its study when it is called: a packaged bundle has none"))
        if ENGINES.match(name) and layer != "training" and file not in RUN_AN_ENGINE:
            found.append((line, f"only training imports ignite, monai.engines and monai.handlers, not {file}"))
        if OPENED.match(name) and layer != "configuration":
            found.append((line, "a bundle is opened by configuration's BundleConfig and BundleWorkflow"))
        if ENVIRONMENT.match(name) and layer not in READ_THE_ENVIRONMENT:
            found.append((line, "no library module reads the environment"))
    if layer not in READ_THE_ENVIRONMENT:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ENVIRONMENT.match(ast.unparse(node)):
                found.append((node.lineno, "no library module reads the environment"))
    if layer not in ENTRY_POINTS | {"data"}:
        for line, text in enumerate(source.splitlines(), start=1):
            if named := DATASETS.search(text):
                found.append((line, f"nothing outside data/ names a dataset: {named[0]!r}"))
    return [f"aps_components/{file}:{line}: {rule}" for line, rule in dict.fromkeys(sorted(found))]


# What they parse is no file of a user's: text of their own, the package's files, or answers of the label server.
PARSE_JSON = {
    *("plain_json.py", "studies/comparison/methods.py", "evaluation/records.py", "label_server/client.py"),
    *("label_server/serve.py", "bundle/packaging/faults.py", "bundle/packaging/package.py"),
    "bundle/packaging/weights.py",
}


def parses_json(source: str) -> list[int]:
    """Lines that parse JSON, but for a round trip of values through text."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    parsing = [call for call in calls if ast.unparse(call.func) in ("json.load", "json.loads")]
    return [call.lineno for call in parsing if not ast.unparse(call.args[0]).startswith("json.dumps(")]


@pytest.mark.parametrize("file", sorted(set(FILES) - PARSE_JSON))
def test_json_of_files_is_read_in_one_place(file: str) -> None:
    """Its limits and refusals hold nowhere else: see ``plain_json.py``."""
    assert parses_json((PACKAGE / file).read_text(encoding="utf-8")) == []


def test_a_line_that_parses_json_is_found() -> None:
    assert parses_json("import json\na = json.loads(json.dumps(b))\nc = json.loads(text)\nd = json.load(stream)") == [
        3,
        4,
    ]


TRACED = re.compile(r"torch\.(jit\.is_tracing|compiler\.is_compiling|onnx\.is_in_onnx_export)")


@pytest.mark.parametrize("file", sorted(set(FILES) - {"exporting.py"}))
def test_what_asks_for_an_export_stands_in_one_place(file: str) -> None:
    assert not TRACED.search((PACKAGE / file).read_text(encoding="utf-8")), f"{file}: ask aps_components.exporting"


CANVAS = re.compile(r"backend_agg|import .*\bpyplot\b|\.savefig\(")


@pytest.mark.parametrize("file", sorted(set(FILES) - {"pictures.py"}))
def test_figures_are_made_and_saved_in_one_place(file: str) -> None:
    assert not CANVAS.search((PACKAGE / file).read_text(encoding="utf-8")), f"{file}: draw on pictures.new_figure"


def test_no_part_of_the_product_may_import_a_study() -> None:
    assert [layer for layer, targets in MAY_IMPORT.items() if "studies" in targets] == ["cli"]


@pytest.mark.parametrize("file", FILES)
def test_layout(file: str) -> None:
    assert layer_of(file) in MAY_IMPORT, f"aps_components/{file}: give its layer a place in tests/test_layout.py"
    broken = broken_rules((PACKAGE / file).read_text(encoding="utf-8"), file)
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("networks/vnet.py", "from aps_components.losses import pseudo_label"),
        ("networks/sam3d/build.py", "from ...prompts import PromptGenerator"),
        ("networks/vnet.py", "from aps_components import models"),
        ("label_map.py", "import aps_components.data"),
        ("inference/inferer.py", "def late():\n    from ..training import MeanTeacher"),
        ("training/trainer.py", "from aps_components.evaluation.report import EvaluationReport"),
        ("evaluation/report.py", "from aps_components.cli import main"),
        ("data/fingerprint.py", "from aps_components.bundle import DatasetBlock"),
        ("bundle/writer.py", "from aps_components.cli import main"),
        ("bundle/block.py", "# 3 as in BraTS"),
        ("models/build.py", "import ignite.engine"),
        ("inference/inferer.py", "from monai import handlers"),
        ("evaluation/trained.py", "from monai.bundle import ConfigParser"),
        ("segmentation/segment.py", "from monai.bundle.workflows import ConfigWorkflow"),
        ("data/datalist.py", "import os\nroot = os.environ['ROOT']"),
        ("training/trainer.py", "from os import getenv"),
        ("losses/iou.py", "# as on AMOS22"),
        ("evaluation/report.py", "def late():\n    from ..studies import comparison"),
        ("bundle/writer.py", "from aps_components.studies.speed import benchmark"),
        ("cli/compare.py", "from aps_components.studies.comparison import compare"),
    ],
)
def test_a_forbidden_line_is_found(file: str, source: str) -> None:
    (message,) = broken_rules(source, file)
    assert message.startswith(f"aps_components/{file}:{1 + source.count(chr(10))}: ")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("networks/sam3d/build.py", "from .grid import Size3d\nfrom ..vnet import VNet"),
        ("losses/pseudo_label.py", "from aps_components.label_map import keep_largest_component"),
        ("configuration/settings.py", "from monai.bundle import ConfigParser, ConfigWorkflow"),
        ("training/trainer.py", "from aps_components.inference import PromptPoint\nimport ignite"),
        ("inference/evaluator.py", "import ignite"),
        ("data/datalist.py", "import os.path  # of AMOS\nfrom monai.data import MetaTensor"),
        ("bundle/block.py", "from aps_components.data import intensity_transforms"),
        ("cli/compare.py", "def compare():\n    from aps_components.studies.comparison import compare"),
        ("cli/demo.py", "import os\nfrom aps_components import __version__, training, bundle\nos.environ['CI']"),
    ],
)
def test_an_allowed_line_is_not(file: str, source: str) -> None:
    assert broken_rules(source, file) == []
