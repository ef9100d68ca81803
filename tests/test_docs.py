"""The documentation: its links lead somewhere, its commands have the options they name, and its tables hold."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aps_components import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "bundles/*/docs/*.md", "bundles/*/models/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUNDLE_RUN, CONFIG = "monai.bundle run ", re.compile(r"[\w./-]*configs/\w+\.json")
OPTION = re.compile(r"(?<!\S)--([A-Za-z_]\w*)")  # of "--objective#copy_paste" what stands before the "#"
CONFIGS = ["train.json", "evaluate.json", "inference.json", "pretrain.json", "multi_gpu_train.json"]
BUNDLES = sorted(folder.name for folder in (ROOT / "bundles").iterdir() if (folder / "configs").is_dir())
OF_MONAI = {"config_file", "meta_file", "logging_file", "init_id", "final_id", "args_file", "tracking"}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> Iterator[str]:
    """Every line of the page's code blocks, continued lines as one, without comments."""
    for block in BLOCK.findall(read(page)):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"(^|\s)#\s.*", "", line).strip()


def options(config: Path) -> dict[str, Any]:
    """A configuration's top-level keys; "+" in front of one adds to the configuration below it."""
    content = json.loads(config.read_text(encoding="utf-8"))
    return {key.removeprefix("+"): value for key, value in content.items()}


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_options(command: str, *, bundle: Path) -> list[str]:
    """The options of a command that neither its configurations nor the command itself know."""
    _, _, arguments = command.partition(BUNDLE_RUN)
    names = CONFIG.findall(arguments)
    assert names, f"no configuration in: {command}"
    configs = [ROOT / name if name.startswith("bundles/") else bundle / name for name in names]
    # A bundle that a reader makes has the template's keys, as every bundle here has.
    configs = [config if config.exists() else ROOT / "bundles" / "la" / "configs" / config.name for config in configs]
    known = OF_MONAI.union(*(options(config) for config in configs))
    return sorted(set(OPTION.findall(arguments)) - known)


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in LINK.findall(read(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in heading_anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_bundle_commands_name_options_that_exist(page: str) -> None:
    bundle = (ROOT / page).parents[1]
    for command in commands(page):
        if BUNDLE_RUN in command:
            assert not wrong_options(command, bundle=bundle), command


@pytest.mark.parametrize("page", PAGES)
def test_aps_commands_name_options_that_exist(page: str) -> None:
    for command in commands(page):
        if command.startswith("aps "):
            parameters = inspect.signature(cli.COMMANDS[command.split()[1]]).parameters
            known = set(parameters)
            if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                known |= set(options(ROOT / "bundles/la/configs/train.json"))  # passed on to the bundle's training
            assert set(OPTION.findall(command)) <= known, command


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/explanation/architecture.md", "docs/explanation/method.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    files = [path.as_posix() for folder in ("aps_components", "tests") for path in (ROOT / folder).rglob("*.py")]
    files += [path.as_posix() for path in ROOT.glob("*.py")]
    named = {name for name in re.findall(r"[\w./]+\.py\b", read(page)) if "NAME" not in name}
    assert named
    assert not {name for name in named if not any(file.endswith(f"/{name}") for file in files)}


def test_no_figure_is_left_to_fill_in() -> None:
    left = [f"{page}: {figure}" for page in PAGES for figure in re.findall(r"<!-- FIGURE.*?-->", read(page), re.DOTALL)]
    assert not left, "\n" + "\n".join(left)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_reference_lists_every_key_with_its_default(config: str) -> None:
    _, _, section = read("docs/reference/config.md").partition(f"\n## {config}\n")
    rows = re.findall(r"^\| `(.+?)` \| .+? \| (.+?) \| .+ \|$", section.partition("\n## ")[0], re.MULTILINE)
    expected = options(ROOT / "bundles/la/configs" / config)
    assert [key for key, _ in rows] == list(expected)
    shown = {key: json.loads(default.strip("`")) for key, default in rows if default.startswith("`")}
    assert shown == {key: expected[key] for key in shown}


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_bundle_has_the_keys_of_the_reference(bundle: str, config: str) -> None:
    assert list(options(ROOT / "bundles" / bundle / "configs" / config)) == list(
        options(ROOT / "bundles/la/configs" / config)
    )


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_bundles_pages_have_the_same_sections(bundle: str) -> None:
    """Those of MONAI's model zoo, in its order."""
    headings = [
        re.findall(r"^## (.+)$", read(f"bundles/{name}/docs/README.md"), re.MULTILINE) for name in (bundle, "la")
    ]
    assert headings[0] == headings[1]


def test_a_wrong_option_is_found() -> None:
    command = (
        "python -m monai.bundle run training --config_file configs/train.json --epochs 2 --objective#x 1 --epoch 3"
    )
    assert wrong_options(command, bundle=ROOT / "bundles/la") == ["epoch"]
