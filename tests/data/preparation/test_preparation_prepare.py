"""What every preparation does: go on, refuse, report."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from official_trees import image_of, spoil, write_amos, write_brats, write_la, write_nrrd

from aps_components.data import DataError
from aps_components.data.preparation import la, prepare
from aps_components.data.preparation.journal import FILE

IDS = ["ID_A", "ID_B", "ID_C", "ID_D", "ID_E"]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def conversions(monkeypatch):
    """Names of the files that la writes."""
    written, write = [], la.write_nifti
    monkeypatch.setattr(la, "write_nifti", lambda path, *rest: (written.append(path.name), write(path, *rest))[1])
    return written


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_second_run_converts_nothing(tmp_path, run, conversions):
    raw = write_la(tmp_path / "raw", IDS)
    first = run("la", raw)
    assert len(conversions) == 2 * len(IDS)
    before = contents(tmp_path / "out")
    assert run("la", raw) == first
    assert len(conversions) == 2 * len(IDS)
    assert contents(tmp_path / "out") == before


def test_what_changed_is_converted_again(tmp_path, run, conversions):
    raw = write_la(tmp_path / "raw", IDS)
    run("la", raw)
    conversions.clear()
    (tmp_path / "out" / "labels" / "ID_B.nii.gz").unlink()  # an output is gone
    spoil(tmp_path / "out" / "images" / "ID_C.nii.gz")  # or has another size
    write_nrrd(raw / "ID_D" / "lgemri.nrrd", image_of("other"))  # a source is another
    os.utime(raw / "ID_D" / "lgemri.nrrd", ns=(1, 1))
    run("la", raw)
    assert sorted(set(conversions)) == ["ID_B.nii.gz", "ID_C.nii.gz", "ID_D.nii.gz"]
    conversions.clear()
    run("la", raw, crop="none")  # other options
    assert len(conversions) == 2 * len(IDS)


def test_an_interruption_loses_only_the_case_at_hand(tmp_path, run, conversions, monkeypatch, capsys):
    raw = write_la(tmp_path / "raw", IDS)
    counting = la.write_nifti

    def interrupted(path, *rest):
        if len(conversions) == 5:  # the third case has its image and not its label
            raise KeyboardInterrupt
        return counting(path, *rest)

    monkeypatch.setattr(la, "write_nifti", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("la", raw)
    assert "Stopped after 2 of 5 cases; run the same command again to go on" in capsys.readouterr().err
    assert not (tmp_path / "out" / "datalist.json").exists()
    monkeypatch.setattr(la, "write_nifti", counting)
    conversions.clear()
    run("la", raw)
    assert len(conversions) == 2 * (len(IDS) - 2)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, run, conversions):
    raw = write_la(tmp_path / "raw", IDS)
    script = textwrap.dedent("""
        import gzip, os, signal, sys
        from aps_components.data.preparation import prepare
        write, streams = gzip.GzipFile.write, []
        def killed(stream, content):
            if stream not in streams:
                streams.append(stream)
            elif len(streams) == 6:  # the voxels of the sixth file, after its header
                write(stream, content[: len(content) // 2])
                stream.fileobj.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return write(stream, content)
        gzip.GzipFile.write = killed
        prepare("la", raw=sys.argv[1], out=sys.argv[2], workers=1, progress=False)
    """)
    command = [sys.executable, "-c", script, str(raw), str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    out = tmp_path / "out"
    assert not (out / "datalist.json").exists()
    assert len(list((out / "labels").glob("[!.]*"))) == 2
    with (out / FILE).open("a") as file:
        file.write('{"key": "cut sh')  # a line that the kill cut
    run("la", raw)
    assert len(conversions) == 2 * (len(IDS) - 2)
    run("la", raw, "uninterrupted")
    assert contents(out) == contents(tmp_path / "uninterrupted")
    run("la", raw)
    assert len(conversions) == 2 * (len(IDS) - 2) + 2 * len(IDS)


@pytest.mark.slow
def test_processes_do_the_same_as_one(tmp_path, run):
    raw = write_la(tmp_path / "raw", IDS)
    spoil(raw / "ID_B" / "lgemri.nrrd")
    assert run("la", raw, "one") == run("la", raw, "two", workers=2)
    assert contents(tmp_path / "one").keys() == contents(tmp_path / "two").keys()


def test_a_passed_check_is_remembered_and_a_broken_case_is_not(tmp_path, run, monkeypatch):
    from aps_components.data.preparation import amos

    raw = write_amos(tmp_path / "raw", ["amos_0001", "amos_0002", "amos_0003"])
    spoil(raw / "imagesTr" / "amos_0002.nii.gz")
    first = run("amos", raw)
    read, check = [], amos.check_nifti
    monkeypatch.setattr(
        amos, "check_nifti", lambda case, out, **rest: (read.append(case.name), check(case, out, **rest))[1]
    )
    assert run("amos", raw) == first
    assert read == ["amos_0002"]


def test_a_full_disk_stops_everything(tmp_path, run, monkeypatch):
    raw = write_la(tmp_path / "raw", IDS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(la, "write_nifti", full)
    with pytest.raises(OSError, match="No space left"):
        run("la", raw)


def test_the_split_depends_on_names_and_seed_alone(tmp_path, run):
    names = [f"amos_{number:04d}" for number in range(1, 12)]
    first, second = write_amos(tmp_path / "a", names), write_amos(tmp_path / "b" / "deeper", names[::-1])
    digests = [
        run("amos", raw, f"out{index}", seed=seed)[1]["split"]["sha256"]
        for index, (raw, seed) in enumerate([(first, 0), (second, 0), (first, 1)])
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("dataset", "looked_for"),
    [("la", r"folders ID/lgemri.nrrd"), ("amos", r"the folders imagesTr and labelsTr"), ("brats", r"CASE-t1n.nii.gz")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, run, dataset, looked_for):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=rf"raw: none of the official files; looked for .*{looked_for}.*is notes.txt:"):
        run(dataset, tmp_path / "raw")


def test_wrong_arguments_are_refused(tmp_path, run):
    raw = write_amos(tmp_path / "raw", ["amos_0001", "amos_0002"])
    with pytest.raises(DataError, match="no dataset 'acdc': choose one of la, amos, brats"):
        run("acdc", raw)
    with pytest.raises(DataError, match="amos has no option crop; its own options: modality, protocol"):
        run("amos", raw, crop="none")
    with pytest.raises(DataError, match="labeled 9 is outside 1 to 1"):
        run("amos", raw, labeled=9)
    for option, value in (("labeled", 0), ("labeled", "8"), ("workers", 0), ("validation", -1), ("labeled", True)):
        with pytest.raises(DataError, match=f"{option} {value!r} must be a whole number"):
            run("amos", raw, **{option: value})
    with pytest.raises(DataError, match="missing: no such folder"):
        run("amos", tmp_path / "missing")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PermissionError, match=r"cannot write into .*file/out: .*choose another folder"):
        prepare("amos", raw=write_amos(tmp_path / "raw", ["amos_0001"]), out=tmp_path / "file" / "out")


def test_a_datalist_of_someone_else_is_kept(tmp_path, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "datalist.json").write_text("{}")
    with pytest.raises(DataError, match="was not written by a preparation and would be lost"):
        run("amos", write_amos(tmp_path / "raw", ["amos_0001"]))
    assert (tmp_path / "out" / "datalist.json").read_text() == "{}"


def test_a_download_without_labels_is_refused(tmp_path, run):
    raw = write_amos(tmp_path / "raw", ["amos_0001"], labels=False)
    with pytest.raises(DataError, match=r"raw: 1 case\(s\), but no training case with a label"):
        run("amos", raw)


def test_nothing_sound_is_an_error_that_says_why(tmp_path, run):
    raw = write_amos(tmp_path / "raw", ["amos_0001"])
    spoil(raw / "labelsTr" / "amos_0001.nii.gz")
    with pytest.raises(DataError, match=r"no training case with a label is left: .*amos_0001.nii.gz: cannot be read"):
        run("amos", raw)
    assert not (tmp_path / "out" / "datalist.json").exists()
    assert "amos_0001 (training)" in json.loads((tmp_path / "out" / "preparation.json").read_text())["left_out"]


def test_the_output_may_lie_in_the_download(tmp_path, run):
    raw = write_brats(tmp_path / "raw", ["A-1", "A-2", "A-3"])
    write_brats(raw / "out", ["A-4"])  # what lies there is output, not input
    path = prepare("brats", raw=raw, out=raw / "out", progress=False)
    summary = json.loads((path.parent / "preparation.json").read_text())
    assert sorted(summary["cases"]) == ["A-1", "A-2", "A-3"]


def test_the_summary_is_printed(tmp_path, run, capsys):
    raw = write_la(tmp_path / "raw", IDS)
    spoil(raw / "ID_B" / "lgemri.nrrd")
    _, summary = run("la", raw, progress=True)
    printed = capsys.readouterr().out
    assert printed.startswith("la: training ")
    assert "; left out 1\n" in printed
    assert f"SHA-256 of the split: {summary['split']['sha256']}" in printed
    assert "left out: ID_B (" in printed


def test_the_readers_are_asked_for_when_needed(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "nrrd", None)
    with pytest.raises(RuntimeError, match=r'pip install "aps-components\[prepare\]"'):
        run("la", write_la(tmp_path / "raw", IDS))
