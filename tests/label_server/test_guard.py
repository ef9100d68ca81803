"""The guard around MONAI Label by plain calls of ASGI: nothing here needs MONAI Label."""

import asyncio
import io
import json
import tarfile
import zipfile
from urllib.parse import quote, unquote, urlencode

import nibabel as nib
import numpy as np
import pytest

from aps_components.label_server import label_names
from aps_components.label_server.guard import Guard
from aps_components.label_server.handed_in import known_values
from aps_components.label_server.hooks import parsed_form, unpack
from aps_components.label_server.label_check import check_label
from aps_components.label_server.parameters import (
    RefusedRequestError,
    check_inference,
    check_info,
    check_name,
    check_tag,
)

TOKEN = "0123456789abcdef0123456789abcdef"
HOST = "127.0.0.1:8000"


class Served:
    """Stands for MONAI Label: remembers what reached it."""

    def __init__(self):
        self.asked = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more and scope["type"] == "http":
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.asked.append((scope, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def ask(method, path, *, headers=(), body=b"", query="", host="127.0.0.1", kind="http", parts=1):
    """Status, headers and content of the answer, and what reached the app."""
    served, sent = Served(), []
    given = {"host": HOST, **dict(headers)}
    size = -(-max(len(body), 1) // parts)
    messages = [
        {"type": "http.request", "body": body[start : start + size], "more_body": start + size < len(body)}
        for start in range(0, max(len(body), 1), size)
    ]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (name.encode(), str(value).encode("latin-1")) for name, value in given.items() if value is not None
        ],
    }
    asyncio.run(Guard(served, token=TOKEN, host=host)(scope, receive, send))
    if kind != "http":
        return sent, served.asked
    return sent[0]["status"], dict(sent[0]["headers"]), served.asked


def status(*args, **kwargs):
    code, _, asked = ask(*args, **kwargs)
    assert bool(asked) == (code == 200)
    return code


def with_token(path):
    return f"/{TOKEN}{path}"


def posted(path, content, **kwargs):
    return status(
        "POST",
        with_token(path),
        body=json.dumps(content).encode(),
        headers={"content-type": "application/json"},
        **kwargs,
    )


class TestWho:
    def test_slicers_requests_pass(self):
        """Its module appends every path to the server's address, and sends no Origin."""
        code, _, asked = ask("GET", with_token("/info/"))
        assert code == 200
        scope, _ = asked[0]
        assert scope["root_path"] == f"/{TOKEN}"
        assert scope["path"] == with_token("/info/")
        assert status("GET", with_token("/datastore/image"), query="image=a+b") == 200
        assert posted("/activelearning/random", {"client_id": "user-xyz"}) == 200

    @pytest.mark.parametrize(
        "path", ["/info/", "/", f"/{TOKEN[:-1]}/info/", f"/{TOKEN}x/info/", f"//{TOKEN}/info/", f"/info/{TOKEN}", ""]
    )
    def test_without_the_token_nothing_is_answered(self, path):
        assert status("GET", path) == 401
        assert status("GET", path, headers={"cookie": f"aps_label={TOKEN}"}) == 401
        assert status("GET", path, headers={"authorization": f"Basic {TOKEN}"}) == 401

    def test_a_bearer_is_enough(self):
        assert status("GET", "/info/", headers={"authorization": f"Bearer {TOKEN}"}) == 200

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "null",
            "http://localhost:9999",
            "http://127.0.0.1:8001",
            "file://",
            f"http://{HOST}.evil",
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
    def test_a_page_of_another_site_is_refused_even_with_the_token(self, origin, method):
        assert status(method, with_token("/info/"), headers={"origin": origin}) == 403

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", None, "a@127.0.0.1"]
    )
    def test_another_name_of_the_machine_is_refused(self, host):
        assert status("GET", with_token("/info/"), headers={"host": host}) == 403

    @pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST:9000"])
    def test_its_own_names_are_not(self, host):
        assert status("GET", with_token("/info/"), headers={"host": host, "origin": f"http://{host}"}) == 200

    def test_open_to_the_network_it_answers_by_address(self):
        assert status("GET", with_token("/info/"), headers={"host": "192.168.1.7:8000"}, host="0.0.0.0") == 200
        assert status("GET", with_token("/info/"), headers={"host": "evil.example"}, host="0.0.0.0") == 403
        assert status("GET", with_token("/info/"), headers={"host": "192.168.1.7:8000"}) == 403

    def test_what_another_site_embeds_is_refused(self):
        for site in ("cross-site", "same-site"):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
            assert status("GET", with_token("/datastore/image"), query="image=a", headers=headers) == 403

    def test_a_browser_gets_a_cookie_in_exchange_for_the_address(self):
        code, headers, asked = ask(
            "GET", with_token("/ohif/"), query="StudyInstanceUIDs=1.2", headers={"accept": "text/html,*/*"}
        )
        assert (code, asked) == (303, [])
        assert headers[b"location"] == b"/ohif/?StudyInstanceUIDs=1.2"
        cookie = headers[b"set-cookie"].decode()
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        pair = f"other=1; {cookie.partition(';')[0]}"
        assert status("GET", "/ohif/app-config.js", headers={"cookie": pair}) == 200
        assert status("GET", "/proxy/dicom/qido/studies", headers={"cookie": pair}) == 200
        own = {"cookie": pair, "origin": f"http://{HOST}", "content-type": "application/json"}
        assert status("POST", "/train/", headers=own, body=b'{"la": {"max_epochs": 1}}') == 200
        _, _, asked = ask("GET", "/proxy/dicom/qido/studies", headers={"cookie": pair, "accept": "*/*"})
        assert not any(TOKEN in value.decode() for _, value in asked[0][0]["headers"])  # the archive is another server
        del own["origin"]  # no page asks for changes without it
        assert status("POST", "/train/", headers=own, body=b"{}") == 403

    def test_the_panel_of_ohif_is_told_where_the_server_is(self):
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"host", HOST.encode()), (b"accept", b"text/html")]
        scope = {"type": "http", "method": "GET", "path": with_token("/ohif/"), "headers": headers}
        asyncio.run(Guard(Served(), token=TOKEN)(scope, None, send))
        cookies = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
        panel = next(cookie for cookie in cookies if cookie.startswith("MONAILABEL_SERVER_URL="))
        assert unquote(panel.partition("=")[2].partition(";")[0]) == f"http://{HOST}/"
        assert "Path=/ohif" in panel  # where the panel itself keeps it
        assert TOKEN not in panel

    def test_the_exchange_leads_nowhere_else(self):
        _, headers, _ = ask("GET", with_token("//evil.example/a"), headers={"accept": "text/html"})
        assert headers[b"location"] == b"/evil.example/a"

    def test_a_socket_is_closed_and_the_start_passes(self):
        sent, asked = ask("GET", "/", kind="websocket")
        assert [message["type"] for message in sent] == ["websocket.close"]
        assert not asked
        _, asked = ask("GET", "/", kind="lifespan")
        assert len(asked) == 1

    def test_a_header_that_is_there_twice_decides_nothing(self):
        served, sent = Served(), []

        async def send(message):
            sent.append(message)

        headers = [(b"host", HOST.encode()), (b"host", b"evil.example")]
        scope = {"type": "http", "method": "GET", "path": with_token("/info/"), "query_string": b"", "headers": headers}
        asyncio.run(Guard(served, token=TOKEN)(scope, None, send))
        assert sent[0]["status"] == 400

    def test_a_short_token_is_no_token(self):
        with pytest.raises(ValueError, match="can be guessed"):
            Guard(Served(), token="secret")


class TestWhat:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "/model/la"),
            ("DELETE", "/model/la"),
            ("POST", "/reload"),
            ("POST", "/infer/wsi/la"),
            ("POST", "/infer/wsi_v2/la"),
            ("PATCH", "/info/"),
            ("TRACE", "/info/"),
            ("GET", "/elsewhere"),
            ("GET", "/session/a/b"),
            ("DELETE", "/session/"),
        ],
    )
    def test_what_no_viewer_asks_is_not_served(self, method, path):
        assert status(method, with_token(path)) == 403

    @pytest.mark.parametrize(
        "path",
        [
            *["/ohif/../../etc/passwd", "/session/..", "/static/./a", "/static/a\\b", "/ohif//"],
            # Encoded twice: the path that reaches the guard was decoded once, and the archive decodes it again.
            *["/proxy/dicom/wado/%2e%2e/%2E%2e/system", "/proxy/dicom/..%2f..%2fsystem", "/proxy/dicom/%252e%252e/a"],
        ],
    )
    def test_a_path_that_leads_elsewhere(self, path):
        assert status("GET", with_token(path)) == 400

    @pytest.mark.parametrize(
        "name",
        ["../victim", "/etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "C:x", "~root", "a\x00b", "a\nb", "x" * 300],
    )
    def test_names_are_of_one_file_here(self, name):
        for key in ("image", "id", "label"):
            assert status("GET", with_token("/datastore/image"), query=urlencode({key: name})) == 422
        assert status("GET", with_token("/datastore/image"), query=f"image={quote(name)}&image=a") == 422
        with pytest.raises(RefusedRequestError):
            check_name(name, what="image")

    def test_an_address_with_too_many_fields(self):
        query = "&".join(f"a{number}=1" for number in range(65))
        assert status("GET", with_token("/info/"), query=query) == 400
        assert status("GET", with_token("/info/"), query=query.rpartition("&")[0]) == 200

    @pytest.mark.parametrize("name", ["scan_1", "Kopf größer (2)", "1.2.840.1", "a.nii", "a+b=c, d"])
    def test_names_of_scans_may_be_what_files_are_called(self, name):
        assert status("GET", with_token("/datastore/image"), query=urlencode({"image": name})) == 200

    @pytest.mark.parametrize("tag", ["../../x", "a/b", "..", "final/../x", "a b", "ä", "x" * 65])
    def test_tags_are_words(self, tag):
        assert status("PUT", with_token("/datastore/label"), query=urlencode({"image": "a", "tag": tag})) == 422
        with pytest.raises(RefusedRequestError):
            check_tag(tag)

    @pytest.mark.parametrize(
        "change",
        [
            {"max_epochs": "$__import__('os').system('id')"},
            {"max_epochs": "5"},
            {"max_epochs": 0},
            {"max_epochs": 2.5},
            {"max_epochs": True},
            {"max_epochs": 10**9},
            {"val_split": "$1"},
            {"val_split": 1.0},
            {"val_split": -0.5},
            {"pretrained": "$1"},
            {"run_id": "$1"},
            {"run_id": "../x"},
            {"device": "$torch.device('cpu')"},
            {"device": ["cpu", "@x"]},
            {"gpus": "0;id"},
            {"model_filename": "../../x.pt"},
            {"model_filename": "/tmp/evil.pt"},
            {"tracking": "mlflow"},
            {"tracking_uri": "http://evil.example"},
            {"model": "other"},
            {"force_multi_gpu": True},
            {"bundle_path": "/tmp"},
            {"local_rank": 0},
            {"train#trainer#max_epochs": "$1"},
            {"client_id": "$1"},
            {"client_id": ["a"]},
        ],
    )
    def test_parameters_of_a_training_are_known_and_typed(self, change):
        sound = {
            "max_epochs": 5,
            "val_split": 0.2,
            "pretrained": True,
            "device": "NVIDIA H100:0",
            "gpus": "0,1",
            "run_id": "",
        }
        assert posted("/train/la", sound) == 200
        assert posted("/train/la", sound | change) == 422
        assert posted("/train/", {"la": sound | change}) == 422
        assert posted("/train/", {"la": sound, "client_id": "x"}) == 200

    @pytest.mark.parametrize(
        "body", [b"{", b"[]", b'{"max_epochs": NaN}', b"[" * 50_000, b'{"max_epochs": 1, "max_epochs": 2}']
    )
    def test_a_body_must_be_an_object_of_json(self, body):
        json_type = {"content-type": "application/json"}
        assert status("POST", with_token("/train/la"), body=body, headers=json_type) == 422

    def test_a_form_or_a_plain_text_is_no_json(self):
        """What another site's page can send without asking first."""
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", None):
            assert (
                status("POST", with_token("/train/la"), body=b'{"max_epochs": 1}', headers={"content-type": kind})
                == 415
            )

    def test_the_body_arrives_whole(self):
        content = json.dumps({"max_epochs": 3, "client_id": "x" * 200}).encode()
        headers = {"content-type": "application/json; charset=utf-8"}
        _, _, asked = ask("POST", with_token("/train/la"), body=content, headers=headers, parts=7)
        assert asked[0][1] == content
        too_long = b'{"client_id": "' + b"x" * (1 << 21) + b'"}'
        assert status("POST", with_token("/train/la"), body=too_long, headers=headers, parts=9) == 413

    @pytest.mark.parametrize(
        "params",
        [
            {"save_label": True, "label_tag": "final"},
            {"save_label": True, "label_tag": "partial"},
            {"save_label": True, "label_tag": ["partial"]},
            {"image": "/etc/passwd"},
            {"image": "a"},
            {"label": "/tmp/x.nii.gz"},
            {"model": "other"},
            {"model_filename": "../x.pt"},
            {"result_extension": "/../x"},
            {"result_extension": ".py"},
            {"result_dtype": "$1"},
            {"logging": "$1"},
            {"label_info": [{"_target_": "x"}]},
            {"roi": ["a"]},
            {"session": {"image": "/etc/passwd"}},
        ],
    )
    def test_parameters_of_an_inference_are_known_and_typed(self, params):
        with pytest.raises(RefusedRequestError):
            check_inference(parsed_form(json.dumps(params)))
        if "label_info" not in params:
            assert posted("/batch/infer/la", params) == 422

    def test_what_the_viewers_send_with_an_inference(self):
        slicer = {"device": "cpu", "result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-1"}
        ohif = {
            "result_extension": ".nrrd",
            "result_dtype": "uint8",
            "result_compress": False,
            "restore_label_idx": False,
        }
        batch = {
            "device": "cuda",
            "multi_gpu": True,
            "gpus": "all",
            "logging": "WARNING",
            "save_label": True,
            "label_tag": "original",
            "max_workers": 1,
            "max_batch_size": 0,
        }
        for params in (slicer, ohif, batch, {}, {"label_info": [{"name": "left atrium", "color": [1, 2, 3]}]}):
            check_inference(params)

    def test_what_slicer_sends_with_a_label(self):
        segments = [{"name": "left atrium", "idx": 1}]
        check_info(parsed_form(json.dumps({"label_info": segments, "model": "la", "client_id": "user-xyz"})))

    @pytest.mark.parametrize("text", ["[]", "3", "{", '{"a": "$1"}', "\ufeff{}", None])
    def test_a_form_of_another_kind(self, text):
        with pytest.raises(RefusedRequestError):
            check_inference(parsed_form(text))


class TestLabels:
    shape = (7, 11, 13)

    @pytest.fixture
    def scan(self, tmp_path):
        affine = nib.affines.from_matvec(np.diag([-0.7, 0.9, 2.5]), [10, -20, 30])
        file = tmp_path / "scan.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros(self.shape, np.float32), affine), file)
        return file

    def label(self, scan, *, values=(0, 1), shape=None, moved=0.0, dtype=np.uint8, name="label.nii.gz"):
        content = np.resize(np.array(values), shape or self.shape).astype(dtype)
        affine = nib.load(scan).affine.copy()
        affine[0, 3] += moved
        nib.save(nib.Nifti1Image(content, affine), scan.with_name(name))
        return scan.with_name(name)

    def test_a_label_on_its_scans_grid_is_taken(self, scan):
        check_label(self.label(scan), scan, values={0, 1})
        check_label(self.label(scan, moved=0.01, dtype=np.float32), scan, values={0, 1})
        check_label(self.label(scan, shape=(*self.shape, 1)), scan, values={0, 1})

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"shape": (11, 7, 13)}, "voxels"),
            ({"shape": (*shape, 2)}, "voxels"),
            ({"moved": 1.0}, "mm off"),
            ({"values": (0, 3)}, r"\[3\]"),
            ({"values": (0, 255)}, r"\[255\]"),
            ({"values": (0, -1), "dtype": np.int16}, r"\[-1\]"),
            ({"values": (0, 0.5), "dtype": np.float32}, "whole"),
            ({"values": (0, np.nan), "dtype": np.float32}, "whole"),
        ],
    )
    def test_another_grid_or_other_values(self, scan, change, said):
        with pytest.raises(RefusedRequestError, match=said):
            check_label(self.label(scan, **change), scan, values={0, 1, 2})

    @pytest.mark.parametrize("where", [-8, -3])
    def test_a_label_that_was_altered_on_the_way(self, scan, where):
        """In its checksum, its length or its voxels: as everywhere, a file is read to its end."""
        file = self.label(scan)
        content = bytearray(file.read_bytes())
        content[where] ^= 1
        file.write_bytes(content)
        with pytest.raises(RefusedRequestError, match=r"the label label.nii.gz: cannot be read"):
            check_label(file, scan, values={0, 1})

    def test_the_units_of_a_header_count(self, scan):
        image = nib.load(self.label(scan))
        image.header.set_xyzt_units("micron")
        image.set_sform(np.diag([1000, 1000, 1000, 1]) @ image.affine, code=1)
        nib.save(image, scan.with_name("micron.nii.gz"))
        check_label(scan.with_name("micron.nii.gz"), scan, values={0, 1})

    def test_a_mirrored_label_is_not_on_the_grid(self, scan):
        file = self.label(scan)
        mirrored = nib.load(file)
        affine = mirrored.affine.copy()
        affine[:, 3] += affine[:, 0] * (self.shape[0] - 1)
        affine[:, 0] *= -1
        nib.save(nib.Nifti1Image(np.asanyarray(mirrored.dataobj), affine), file)
        with pytest.raises(RefusedRequestError, match="mm off"):
            check_label(file, scan, values={0, 1})

    def test_what_is_no_image(self, scan):
        for name in ("label.nii.gz", "label.json", "label.bin", "label.nrrd"):
            scan.with_name(name).write_bytes(b"\x1f\x8bno image")
            with pytest.raises(RefusedRequestError, match=r"cannot be read|is none of"):
                check_label(scan.with_name(name), scan, values={0, 1})

    def test_the_values_are_those_of_the_bundles(self, tmp_path):
        for name, classes, training in (
            ("la", {"0": "a", "1": "b"}, {}),
            ("x", {"0": "a"}, {"label_values": {"4": 0}, "ignore": 255}),
        ):
            configs = tmp_path / name / "configs"
            configs.mkdir(parents=True)
            data = {"network_data_format": {"outputs": {"pred": {"channel_def": classes}}}}
            (configs / "metadata.json").write_text(json.dumps(data))
            (configs / "train.json").write_text(json.dumps(training))
        served = [label_names.Served.of(tmp_path / name) for name in ("la", "x")]
        assert known_values(served) == {0, 1, 4}
        assert known_values(served, partly=True) == {0, 1, 4, 255}
        assert known_values(served[:1], partly=True) == {0, 1}


class TestArchives:
    def tar(self, file, *members):
        with tarfile.open(file, "w:gz") as archive:
            for name, kind in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mode = kind, "/etc/passwd", 0o6777
                info.size = 3 if kind == tarfile.REGTYPE else 0
                archive.addfile(info, io.BytesIO(b"abc"))
        return file

    def test_files_and_folders_come_out(self, tmp_path):
        unpack(self.tar(tmp_path / "a.tar.gz", ("d", tarfile.DIRTYPE), ("d/a.dcm", tarfile.REGTYPE)), tmp_path / "tar")
        assert (tmp_path / "tar" / "d" / "a.dcm").read_bytes() == b"abc"
        assert (tmp_path / "tar" / "d" / "a.dcm").stat().st_mode & 0o7777 == 0o600
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("d/b.dcm", b"abc")
        unpack(tmp_path / "a.zip", tmp_path / "zip")
        assert (tmp_path / "zip" / "d" / "b.dcm").read_bytes() == b"abc"

    @pytest.mark.parametrize(
        "members",
        [
            [("../evil", tarfile.REGTYPE)],
            [("/tmp/evil", tarfile.REGTYPE)],
            [("a/../../evil", tarfile.REGTYPE)],
            [("a", tarfile.SYMTYPE)],
            [("a", tarfile.LNKTYPE)],
            [("a", tarfile.FIFOTYPE)],
            [("a", tarfile.CHRTYPE)],
            [("fine", tarfile.REGTYPE), ("a", tarfile.SYMTYPE), ("a/b", tarfile.REGTYPE)],
        ],
    )
    def test_nothing_leads_out(self, tmp_path, members):
        with pytest.raises(RefusedRequestError):
            unpack(self.tar(tmp_path / "a.tar", *members), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["d/../../evil", "d//b", "./d", "d\x1b[2J", "n" * 300, "d/b.dcm/c"])
    def test_a_zip_with_odd_names(self, tmp_path, name):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("d/b.dcm", b"abc")
            archive.writestr(name, b"abc")
        with pytest.raises(RefusedRequestError, match="archive"):
            unpack(tmp_path / "a.zip", tmp_path / "place")
        assert not (tmp_path / "place").exists()

    def test_packed_zeros_are_no_session(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(9):
                archive.writestr(f"{number}.dcm", bytes(10 << 20))
        with pytest.raises(RefusedRequestError, match=r"would become|would unpack"):
            unpack(tmp_path / "a.zip", tmp_path / "place")
        assert not (tmp_path / "place").exists()

    def test_a_zip_that_leads_out_or_is_none(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("../evil", b"abc")
        (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 no zip")
        for name in ("a.zip", "b.zip"):
            with pytest.raises(RefusedRequestError):
                unpack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "evil").exists()
