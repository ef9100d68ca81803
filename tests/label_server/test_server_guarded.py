"""What MONAI Label must not do, asked of the real server."""

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from aps_components.label_server import LabelRequestError

BOUNDARY = "a1b2c3"


def asked(url, *, method="GET", body=None, headers=None):
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), dict(error.headers)


def form(**fields):
    """A form with fields, and files as (name, content)."""
    parts = b""
    for key, value in fields.items():
        file = f'; filename="{value[0]}"' if isinstance(value, tuple) else ""
        content = value[1] if isinstance(value, tuple) else value.encode()
        parts += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"{file}\r\n\r\n'.encode() + content + b"\r\n"
        )
    return parts + f"--{BOUNDARY}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture
def files(server, studies):
    """Everything that a request might change; it must not."""

    def state():
        return {
            str(path): path.stat().st_size
            for path in (*studies.rglob("*"), *server.app.rglob("*"), *studies.parent.iterdir())
            if path.is_file() and path.suffix not in (".log", ".lock", ".json", ".pyc")
        }

    before = state()
    yield
    assert state() == before


@pytest.mark.usefixtures("files")
class TestRefused:
    def test_no_token(self, server):
        bare = server.url.rpartition("/")[0]
        for path in (
            "/info/",
            "/datastore/?output=all",
            "/datastore/image?image=scan_1",
            "/",
            "/logs/",
            "/openapi.json",
        ):
            assert asked(bare + path)[0] == 401
        assert asked(f"{bare}/train/", method="DELETE")[0] == 401

    def test_another_site_or_name(self, server):
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
            status, _, answered = asked(server.url + "/info/", headers=headers)
            assert status == 403
            assert "access-control-allow-origin" not in {name.lower() for name in answered}

    def test_training_is_no_code(self, server):
        for change in ({"max_epochs": "$print(1)"}, {"validate": 1}, {"run_id": "$1"}, {"model_filename": "../a.pt"}):
            body = json.dumps({"max_epochs": 1, **change}).encode()
            status, said, _ = asked(
                f"{server.url}/train/small", method="POST", body=body, headers={"content-type": "application/json"}
            )
            assert (status, next(iter(set(change) - {"max_epochs"} or change)) in said) == (422, True)

    def test_an_answer_is_no_label_by_hand(self, server):
        params = json.dumps({"save_label": True, "label_tag": "final"})
        for body, headers in (
            form(params=params),
            (
                urllib.parse.urlencode({"params": params}).encode(),
                {"content-type": "application/x-www-form-urlencoded"},
            ),
        ):
            status, said, _ = asked(f"{server.url}/infer/small?image=RAS", method="POST", body=body, headers=headers)
            assert (status, "final" in said) == (422, True)

    @pytest.mark.parametrize("image", ["/etc/hostname", "../victim", "no such scan", "server.log"])
    def test_scans_elsewhere(self, server, image):
        query = urllib.parse.urlencode({"image": image})
        body, headers = form(params="{}")
        assert asked(f"{server.url}/infer/small?{query}", method="POST", body=body, headers=headers)[0] in (404, 422)
        body, headers = form(params=json.dumps({"image": image}))
        assert asked(f"{server.url}/infer/small?image=RAS", method="POST", body=body, headers=headers)[0] == 422
        assert asked(f"{server.url}/datastore/image?{query}")[0] in (404, 422)

    def test_files_elsewhere(self, server, studies):
        scan = (studies / "RAS.nii.gz").read_bytes()
        for query in ({"image": "../victim"}, {"image": "/tmp/victim"}, {"image": "scan_1"}):
            body, headers = form(params="{}", file=("LPS.nii.gz", (studies / "LPS.nii.gz").read_bytes()))
            url = f"{server.url}/datastore/image?{urllib.parse.urlencode(query)}"
            assert asked(url, method="PUT", body=body, headers=headers)[0] in (409, 422)
        body, headers = form(params="{}", file=("datastore_v2.json", b"{}"))
        assert asked(f"{server.url}/datastore/image?image=x", method="PUT", body=body, headers=headers)[0] == 422
        body, headers = form(params="{}", label=("a.nii.gz", scan))
        for tag in ("../../x", "a/b"):
            url = f"{server.url}/datastore/label?{urllib.parse.urlencode({'image': 'RAS', 'tag': tag})}"
            assert asked(url, method="PUT", body=body, headers=headers)[0] == 422

    def test_archives_that_lead_out(self, server):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            info = tarfile.TarInfo("../../../../../../../../tmp/victim_of_an_archive")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        body, headers = form(files=("a.tar.gz", stream.getvalue()))
        status, said, _ = asked(f"{server.url}/session/?uncompress=true", method="PUT", body=body, headers=headers)
        assert (status, "leads out" in said) == (422, True)

    def test_new_weights_over_the_network(self, server):
        body, headers = form(file=("model.pt", b"abc"))
        assert asked(f"{server.url}/model/small", method="PUT", body=body, headers=headers)[0] == 403
        assert asked(f"{server.url}/model/small", method="DELETE")[0] == 403

    @pytest.mark.parametrize("change", ["grid", "place", "values", "text"])
    def test_labels_that_do_not_fit(self, client, studies, tmp_path, change):
        scan = nib.load(studies / "LPS.nii.gz")
        content, affine = np.zeros(scan.shape, np.uint8), scan.affine.copy()
        if change == "grid":
            content = content[:-1]
        elif change == "place":
            affine[:3, 3] += 5
        elif change == "values":
            content[0] = 99
        file = tmp_path / "label.nii.gz"
        nib.save(nib.Nifti1Image(content, affine), file)
        if change == "text":
            file.write_bytes(b"no image")
        with pytest.raises(LabelRequestError) as error:
            client.put_label("LPS", file)
        assert error.value.status == 422


def test_a_browser_is_let_in_by_the_address(server):
    bare = server.url.rpartition("/")[0]

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    opener = urllib.request.build_opener(Stay)
    with pytest.raises(urllib.error.HTTPError) as answer:
        opener.open(urllib.request.Request(f"{server.url}/ohif/", headers={"Accept": "text/html"}))
    assert answer.value.code == 303
    cookies = answer.value.headers.get_all("set-cookie")
    cookie = next(one for one in cookies if "HttpOnly" in one).partition(";")[0]
    for path in (answer.value.headers["location"], "/ohif/app-config.js", "/info/"):
        assert asked(bare + path, headers={"Cookie": cookie})[0] == 200


APS_LABEL = """
import os, sys
from aps_components.label_server import LabelEnvironment, LabelServer
from pathlib import Path
place = LabelEnvironment(Path(sys.argv[1]))
server = LabelServer(environment=place, app=sys.argv[2], studies=sys.argv[3], models=[], port=0)
server.start()
print(server.url, server.process.pid, flush=True)
server.wait()
"""


def processes_of(group):
    """Numbers of the processes of a group, zombies left out."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = place.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            found.append(int(place.parent.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_killed_command_leaves_neither_server_nor_training(environment, server, studies, tmp_path):
    """App and scans are copies, since one server at a time owns them."""
    app = shutil.copytree(server.app, tmp_path / "app", ignore=shutil.ignore_patterns("la", "amos", "brats"))
    studies = shutil.copytree(studies, tmp_path / "studies")
    with open(tmp_path / "log", "wb") as log:
        command = subprocess.Popen(
            [sys.executable, "-c", APS_LABEL, str(environment.folder), str(app), str(studies)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        for line in iter(command.stdout.readline, b""):
            if line.startswith(b"http"):
                break
        group = int(line.split()[1])
        assert group in processes_of(group)
        command.send_signal(signal.SIGKILL)
        command.wait()
        deadline = time.monotonic() + 40
        while processes_of(group) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert processes_of(group) == []
