"""What `aps label` does before a server starts."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

import pytest
import torch
from served_bundle import SMALL, SMALL_NETWORK, small_bundle
from serving import serve
from workflows import BUNDLES

from aps_components.cli.label import _listed, _pair
from aps_components.label_server import (
    LabelClient,
    LabelEnvironment,
    LabelEnvironmentError,
    LabelServer,
    LabelServerError,
    ensure_environment,
    prepare_app,
    studies_place,
)
from aps_components.label_server.app import model_name
from aps_components.models import CheckpointError, build_auto_prompt_seg
from aps_components.ownership import FolderInUseError


@pytest.fixture
def environment(tmp_path):
    return LabelEnvironment(tmp_path / "environment")


@pytest.fixture
def bundle(tmp_path):
    return small_bundle(tmp_path / "bundles" / "small")


@pytest.fixture
def prepare(bundle, tmp_path):
    def run(bundles=(bundle,), **options):
        return prepare_app(tmp_path / "app", bundles=list(bundles), **options)

    return run


def test_a_bundle_without_weights_is_refused_with_the_ways_out(prepare):
    with pytest.raises(FileNotFoundError, match=r"'small' has no weights.*--checkpoint small=FILE.*--untrained"):
        prepare()


def test_untrained_weights_say_so_and_are_those_of_the_seed(prepare, tmp_path):
    assert "UNTRAINED" in prepare(untrained=True)["small"]
    models = tmp_path / "app" / "model" / "small" / "models"
    settings = json.loads((models / "model.json").read_text())
    assert settings["untrained"] is True
    assert (settings["spacing"], settings["roi_size"]) == (SMALL["spacing"], SMALL["roi_size"])
    first = torch.load(models / "model.pt")
    assert "UNTRAINED" in prepare(untrained=True)["small"]
    shutil.rmtree(models)
    prepare(untrained=True)
    assert all(torch.equal(value, first[key]) for key, value in torch.load(models / "model.pt").items())


def test_weights_of_the_app_stay_and_configurations_are_renewed(prepare, bundle, tmp_path):
    prepare(untrained=True)
    model = tmp_path / "app" / "model" / "small"
    (model / "models" / "model.json").unlink()  # as if trained
    before = (model / "models" / "model.pt").read_bytes()
    file = bundle / "configs" / "train.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"epoch_length": 77}))
    (bundle / "data").mkdir()
    (bundle / "data" / "scan.nii.gz").touch()
    shutil.copy(model / "models" / "model.pt", bundle / "models" / "model.pt")
    assert prepare()["small"].endswith("model.pt, of this app")
    (bundle / "models" / "model.pt").write_bytes(b"newer")
    assert "differ and are not used" in prepare()["small"]
    assert (model / "models" / "model.pt").read_bytes() == before
    assert json.loads((model / "configs" / "train.json").read_text())["epoch_length"] == 77
    assert not (model / "data").exists()


def test_training_takes_over_what_the_weights_were_trained_with(prepare, bundle, tmp_path):
    trained = tmp_path / "trained"
    trained.mkdir()
    network = build_auto_prompt_seg(num_classes=2, roi_size=(32, 32, 32), fusion="cafa", **SMALL_NETWORK)
    torch.save(network.state_dict(), trained / "model.pt")
    settings = {"spacing": [1.0, 1.0, 3.0], "roi_size": [32, 32, 32], "intensity": "zscore", "fusion": "cafa"}
    (trained / "model.json").write_text(json.dumps(settings))
    assert prepare(checkpoints={"small": trained / "model.pt"})["small"] == str(trained / "model.pt")
    content = json.loads((tmp_path / "app" / "model" / "small" / "configs" / "train.json").read_text())
    assert {key: content[key] for key in settings} == settings
    assert json.loads((bundle / "configs" / "train.json").read_text())["spacing"] == SMALL["spacing"]


def test_weights_that_do_not_fit_are_refused(prepare, tmp_path):
    """MONAI Label would run random ones."""
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"holds no state dict"):
        prepare(checkpoints={"small": tmp_path / "other.pt"})
    assert not (tmp_path / "app" / "model" / "small" / "models" / "model.pt").exists()


def test_another_checkpoint_never_replaces_what_the_app_has(prepare, tmp_path):
    prepare(untrained=True)
    (tmp_path / "other.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="is there already and differs"):
        prepare(checkpoints={"small": tmp_path / "other.pt"})
    with pytest.raises(FileNotFoundError, match="no such checkpoint for 'small'"):
        prepare(checkpoints={"small": tmp_path / "missing.pt"})
    with pytest.raises(ValueError, match="names 'la', which is none of the bundles small"):
        prepare(checkpoints={"la": tmp_path / "other.pt"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my bundle", "letters, digits"),
        ("spleen_detection", "MONAI Label takes .* 'detection'"),
        ("la_clicks", "further task"),
    ],
)
def test_names_that_monai_label_does_not_take_are_refused(prepare, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        prepare([tmp_path / name])


@pytest.mark.parametrize(("out", "name"), [("atria", "atria"), ("my atria", "bundle"), ("atria_clicks", "bundle")])
def test_what_a_training_left_is_called_after_its_folder(tmp_path, out, name):
    assert model_name(tmp_path / out / "bundle") == name
    assert model_name(tmp_path / out / "la") == "la"


def test_two_bundles_of_one_name_are_refused(prepare):
    with pytest.raises(ValueError, match="two bundles are named 'la'"):
        prepare([BUNDLES / "la", BUNDLES / "la"])


def test_a_port_that_is_taken_is_named(environment, tmp_path):
    options = {"environment": environment, "app": tmp_path, "studies": tmp_path, "models": ["small"]}
    server = LabelServer(**options, port=0)
    address, _, token = server.url.rpartition("/")
    assert address == f"http://127.0.0.1:{server.port}"
    assert len(token) >= 32
    assert token not in " ".join(server.command())  # which everybody on the machine can read
    assert token != LabelServer(**options, port=0).token
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LabelServerError, match=rf"127\.0\.0\.1:{port} .*another --port"):
            LabelServer(**options, port=port)


def test_an_address_of_ipv6_stands_in_brackets(environment, tmp_path):
    options = {"environment": environment, "app": tmp_path, "studies": tmp_path, "models": ["small"], "host": "::1"}
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6: {error}")
        other.listen()
        server = LabelServer(**options, port=0)
        assert re.fullmatch(rf"http://\[::1\]:{server.port}/[0-9a-f]{{32}}", server.url)
        taken = other.getsockname()[1]
        with pytest.raises(LabelServerError, match=rf"cannot listen on \[::1\]:{taken} "):
            LabelServer(**options, port=taken)


def test_a_proxy_for_the_web_is_not_asked_for_the_server(tmp_path, monkeypatch):
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "index.html").write_text('{"name": "served"}')
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made of the environment at the first request
    with serve(tmp_path) as address:
        assert LabelClient(address, timeout=10).info() == {"name": "served"}


def test_the_server_never_asks_the_internet(environment, tmp_path):
    server = LabelServer(environment=environment, app=tmp_path, studies=tmp_path, models=["a", "b"], port=0)
    text = " ".join(server.command())
    assert "--host 127.0.0.1" in text
    assert "--conf models a,b" in text


def test_a_server_that_cannot_start_says_why(tmp_path):
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    options = {"app": tmp_path, "studies": tmp_path, "models": ["a"], "port": 0, "log": tmp_path / "log"}
    server = LabelServer(environment=LabelEnvironment(folder), **options)
    with pytest.raises(LabelServerError, match=r"(?s)ended with exit status 1; the end of .*log.*monailabel"):
        server.start(timeout=60)


def test_an_old_python_is_refused(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3 13\n")
    python.chmod(0o755)
    with pytest.raises(LabelEnvironmentError, match=r"is Python 3\.13; .* 3\.10 to 3\.12: .*--python"):
        ensure_environment(tmp_path / "new", python=str(python))
    assert not (tmp_path / "new").exists()


def test_checkpoints_on_the_command_line():
    assert _pair("la=a/b=c.pt") == ("la", "a/b=c.pt")
    assert _listed(("la", "amos")) == _listed("la, amos") == ["la", "amos"]
    with pytest.raises(ValueError, match="write NAME=FILE"):
        _pair("model.pt")


@pytest.mark.parametrize("kind", ["file", "loop", "inside a file", "a new folder"])
def test_the_scans_lie_in_a_folder_that_can_be_written(kind, environment, tmp_path):
    place = tmp_path / "studies"
    if kind == "loop":
        place.symlink_to(place)
    elif kind != "a new folder":
        place.write_text("x")
    studies = place / "inner" if kind == "inside a file" else place
    if kind == "a new folder":
        assert studies_place(studies) == str(studies)
        assert studies.is_dir()
    else:
        with pytest.raises(PermissionError, match=re.escape(str(studies))):
            LabelServer(environment=environment, app=tmp_path / "app", studies=studies, models=["small"], port=0)
    assert studies_place("http://pacs:8042/dicom-web") == "http://pacs:8042/dicom-web"


def test_the_files_of_a_server_that_runs_stay_as_they_are(prepare, tmp_path):
    (tmp_path / "app").mkdir()
    code = "import sys; from aps_components.ownership import own; own(sys.argv[1]); print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "app")]
    environ = {**os.environ, "PYTHONPATH": str(BUNDLES.parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as server:
        assert server.stdout.readline() == b"1\n"
        with pytest.raises(FolderInUseError, match=re.escape(str(tmp_path / "app"))):
            prepare(untrained=True)
        assert not list((tmp_path / "app").iterdir())
        server.communicate(b"\n")
    assert prepare(untrained=True)
