"""Zips of bundles and of label server sessions: sound ones, and such that lead out, link, swell or are damaged."""

import io
import random
import stat
import warnings
import zipfile
from pathlib import Path

from claims import agree, cut, flipped, through

from aps_components.bundle.locate import unpack_bundle
from aps_components.label_server.hooks import unpack

GROUPS = ["bundle", "session"]
CONFIG = "b/configs/inference.json"
OUTSIDE = "../outside.txt", "/tmp/fuzz-outside.txt", "b/../../outside.txt", "..\\outside.txt", "C:\\outside.txt", "~/x"


def make(folder: Path, draw: random.Random, group: str) -> tuple[Path, str]:
    """Write one zip."""
    entries: list[tuple[zipfile.ZipInfo | str, bytes]] = [(CONFIG, b"{}"), ("b/models/model.pt", draw.randbytes(300))]
    entries += [(f"b/docs/{index}.md", b"word " * draw.randrange(200)) for index in range(draw.randrange(5))]
    kind = draw.choice(["sound", *_ODD, *_ODD, *DAMAGES])
    if kind in _ODD:
        entries.insert(draw.randrange(len(entries) + 1), _ODD[kind](draw))
        if kind == "many":
            entries += [(f"b/many/{index}", b"") for index in range(21_000)]
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, body in entries:
            archive.writestr(name, body)
    file = folder / "b_v1.zip"
    found = content.getvalue()
    file.write_bytes(DAMAGES[kind](found, draw) if kind in DAMAGES else found)
    return file, group


def check(made: tuple[Path, str], draw: random.Random) -> bool:
    """Unpack it into an empty folder; whether it was accepted."""
    file, group = made
    place = file.parent / "place" / "inner"
    place.mkdir(parents=True)
    door = (lambda: unpack_bundle(file, place)) if group == "bundle" else (lambda: unpack(file, place))
    outcome = through(door, names=[file] if group == "bundle" else ["the archive"])
    agree(sorted(file.parent.iterdir()) == sorted([file, file.parent / "place"]), "written outside of its folder")
    agree(list(place.parent.iterdir()) == [place], "written outside of its folder")
    agree(not Path("/tmp/fuzz-outside.txt").exists(), "written outside of its folder")
    there = [path for path in place.rglob("*") if not path.is_dir()]
    agree(not any(path.is_symlink() for path in place.rglob("*")), "a link was made")
    agree(not outcome.refused or group == "session" or not there, "refused, and partly written")
    if outcome.refused:
        return False
    with zipfile.ZipFile(file) as archive:
        wanted = {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    root = Path(outcome.value).parent if group == "bundle" else place
    agree({str(path.relative_to(root)): path.read_bytes() for path in there} == wanted, "other content than the zip's")
    return True


def _with_type(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (kind | 0o777) << 16
    entry.create_system = 3
    return entry


def _no_size(content: bytes, draw: random.Random) -> bytes:
    """With other sizes in its directory than there are."""
    place = content.rfind(b"PK\x01\x02")
    changed = bytearray(content)
    changed[place + 20 : place + 28] = draw.choice([bytes(8), b"\xff" * 8, b"\x01\0\0\0\xff\xff\xff\x7f"])
    return bytes(changed)


_ODD = {
    "outside": lambda draw: (draw.choice(OUTSIDE), b"outside"),
    "link": lambda draw: (_with_type("b/link", stat.S_IFLNK), draw.choice([b"/etc/passwd", b"../..", b"configs"])),
    "device": lambda draw: (_with_type("b/device", draw.choice([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])), b""),
    "bomb": lambda draw: ("b/zeros", bytes(draw.choice([3, 30, 200]) << 20)),
    "twice": lambda draw: (draw.choice([CONFIG, CONFIG.upper().replace("B/", "b/"), "b/models/model.pt/"]), b"other"),
    "file for a folder": lambda draw: (draw.choice(["b", "b/configs", "b/models/model.pt/x"]), b"file"),
    "second top": lambda draw: (draw.choice(["c/x", "x", "./b/x", "b//x", "b/./x"]), b""),
    "long name": lambda draw: ("b/" + "n" * draw.choice([255, 300, 5000]), b"x"),
    "odd name": lambda draw: ("b/" + draw.choice(["\0x", "\n", "\x1b[2J", "ü", "a" * 200 + "/" * 9 + "b", " "]), b"x"),
    "many": lambda draw: ("b/first", b""),
}
DAMAGES = {
    "flipped": lambda content, draw: flipped(content, draw),
    "directory flipped": lambda content, draw: (
        content[: (place := content.find(b"PK\x01\x02"))] + flipped(content[place:], draw)
    ),
    "cut": cut,
    "sizes": _no_size,
    "encrypted": lambda content, draw: content.replace(
        b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"
    ),
    "no zip": lambda content, draw: draw.choice([b"", b"PK", draw.randbytes(500), b"\x1f\x8b" + content]),
}
