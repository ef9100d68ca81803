"""Where a bundle is opened: its configuration files are read as one, and a part is built when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn

from aps_components.configuration.checks import lay_over
from aps_components.models import load_weights
from aps_components.options import literal

CONFIGS = "configs"  # the folder of a bundle that holds them
# Steps of ``initialize`` that change the whole process: there the config is the door, for MONAI's command line. Whoever
# opens a bundle from Python keeps the process as it is.
OF_THE_PROCESS = ("$explain_errors()", "$keep_freed_memory()")
TRAINED_WITH = "trained_with"  # the key that says what the weights must have been trained with


class BundleConfig:
    """What some configuration files of a bundle say together.

    Args:
        root: folder of the bundle.
        parser: MONAI's, which has read the files.
    """

    def __init__(self, root: str | os.PathLike[str], parser: ConfigParser) -> None:
        self.root, self.parser = Path(root), parser

    @classmethod
    def read(cls, root: str | os.PathLike[str], *names: str) -> BundleConfig:
        """Of files in the bundle's ``configs``, each laid over those before it.

        Raises:
            FileNotFoundError: the bundle has no such file.
        """
        files = [Path(root) / CONFIGS / name for name in names]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"no {file}: give the folder of a bundle with --bundle")
        parser = ConfigParser()
        parser.read_config([str(file) for file in files])
        return cls(root, parser)

    def value(self, key: str) -> Any:
        """What a key says, built; the same object at every call until something is changed."""
        return self.parser.get_parsed_content(key)

    def change(self, pairs: Mapping[str, Any]) -> None:
        """Set keys; a text, such as a path with a "#", is taken as it is, and nothing that was built is kept."""
        self.parser.update(
            pairs={key: literal(value) if isinstance(value, str) else value for key, value in pairs.items()}
        )
        self.parser.parse(reset=True)

    def lay_over(self, options: Mapping[str, Any], *, own: Collection[str] = ()) -> None:
        """Set a user's options, which the files must know; see :func:`aps_components.configuration.lay_over`."""
        lay_over(self.parser, options, own=own)

    def load_network(self, checkpoint: str | Path) -> nn.Module:
        """``network_def`` with the weights of a checkpoint.

        Raises:
            CheckpointError: they do not fit it, or were trained with other settings than ``trained_with`` says.
        """
        network: nn.Module = self.value("network_def")
        load_weights(network, checkpoint, settings=self.value(TRAINED_WITH) if TRAINED_WITH in self.parser else None)
        return network


class BundleWorkflow(BundleConfig):
    """A bundle that MONAI runs in this process, which stays as it is, with its metadata and without its logging.

    Args:
        root: folder of the bundle.
        files: in its ``configs``, or anywhere as absolute paths, each laid over those before it.
        kind: ``train`` or ``infer``, as MONAI calls them.
        init_id: the key that is run first.
    """

    def __init__(
        self, root: str | os.PathLike[str], *files: str | os.PathLike[str], kind: str, init_id: str = "initialize"
    ) -> None:
        self.workflow = ConfigWorkflow(
            config_file=[str(Path(root) / CONFIGS / file) for file in files],
            meta_file=str(Path(root) / CONFIGS / "metadata.json"),
            logging_file=False,
            workflow_type=kind,
            init_id=init_id,
        )
        super().__init__(root, self.workflow.parser)
        if isinstance(steps := self.parser.get(init_id), list):
            self.parser[init_id] = [step for step in steps if step not in OF_THE_PROCESS]
