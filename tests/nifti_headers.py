"""NIfTI files with every kind of header, for the tests of the geometry."""

import gzip
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

SHAPE = (17, 24, 40)
SPACING = (0.7, 0.9, 1.3)
ORIGIN = (-31.0, 12.0, 5.0)
# A turn about two axes, in RAS.
TURN = np.array([[0.8, -0.6, 0.0], [0.6 * 0.96, 0.8 * 0.96, -0.28], [0.6 * 0.28, 0.8 * 0.28, 0.96]])
STRAIGHT = np.eye(3)
UNITS = {"unknown": (0, 1.0), "meter": (1, 1e-3), "mm": (2, 1.0), "micron": (3, 1e3)}  # code, and its number in a mm


def affine_of(*, turn=STRAIGHT, spacing=SPACING, origin=ORIGIN, shear=0.0):
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 1] += shear * affine[:3, 0]
    affine[:3, 3] = origin
    return affine


def oriented(codes):
    """The affine of a file whose axes run to these ends, such as PIR."""
    start = affine_of()
    turn = orientations.ornt_transform(orientations.axcodes2ornt(tuple("RAS")), orientations.axcodes2ornt(tuple(codes)))
    return start @ orientations.inv_ornt_aff(turn, SHAPE)


def voxels(shape=SHAPE, seed=0):
    values = np.random.default_rng(seed).normal(300, 60, shape)
    values[tuple(slice(size // 4, size // 2 + 1) for size in shape[:3])] += 400
    return values.astype(np.int16)


def write(
    path,
    array=None,
    *,
    sform=None,
    scode=0,
    qform=None,
    qcode=0,
    unit="unknown",
    kind=nib.Nifti1Image,
    big=False,
    pixdim=None,
):
    """A file whose header says exactly this; `pixdim` is set last, and nothing is checked."""
    array = voxels() if array is None else array
    header = kind.header_class(endianness=">" if big else "<")
    header.set_data_dtype(array.dtype.newbyteorder(">" if big else "<"))
    header.set_data_shape(array.shape)
    code, per_mm = UNITS[unit]
    scale = np.diag([per_mm, per_mm, per_mm, 1.0])
    header.set_qform(scale @ (affine_of() if qform is None else qform), code=1)
    header["qform_code"] = qcode
    if sform is not None:
        header["srow_x"], header["srow_y"], header["srow_z"] = (scale @ sform)[:3]
    header["sform_code"] = scode
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header["xyzt_units"] = code
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["descrip"] = b"DOE^JANE"
    content = header.binaryblock + bytes(header.single_vox_offset - header["sizeof_hdr"].item())
    content += array.astype(header.get_data_dtype()).tobytes(order="F")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(gzip.compress(content, 1) if str(path).lower().endswith(".gz") else content)
    return str(path)


def header_variants():
    """Name to the arguments of `write`, and the affine in mm that counts."""
    lps, pir = oriented("LPS"), oriented("PIR")
    variants = {}
    for scode, qcode in product(range(5), range(5)):
        if scode or qcode:
            arguments = {"sform": pir, "scode": scode, "qform": lps, "qcode": qcode}
            variants[f"s{scode}q{qcode}"] = (arguments, pir if scode else lps)
    for codes in ("RAS", "LPS", "PIR", "SAL", "ASL", "IPR"):
        affine = oriented(codes)
        variants[codes] = ({"sform": affine, "scode": 1, "qform": affine, "qcode": 1}, affine)
        variants[f"{codes}_unlike_pixdim"] = (
            {"sform": affine, "scode": 1, "qform": np.diag([1.1, 1.1, 1.1, 1.0]), "qcode": 0},
            affine,
        )
    oblique = affine_of(turn=TURN)
    for unit in UNITS:
        variants[unit] = ({"sform": oblique, "scode": 1, "qform": oblique, "qcode": 2, "unit": unit}, oblique)
    for kind, big in product((nib.Nifti1Image, nib.Nifti2Image), (False, True)):
        name = f"{kind.__name__}_{'big' if big else 'little'}"
        variants[name] = ({"qform": oblique, "qcode": 1, "kind": kind, "big": big, "unit": "micron"}, oblique)
    moved = affine_of(turn=TURN, origin=(-11.0, 12.0, 5.0))
    variants["apart"] = ({"sform": oblique, "scode": 2, "qform": moved, "qcode": 1}, oblique)
    sheared = affine_of(turn=TURN, shear=0.2)
    variants["sheared"] = ({"sform": sheared, "scode": 1, "qform": oblique, "qcode": 1}, sheared)
    variants["nothing_stated"] = ({"pixdim": SPACING}, None)
    return variants


VARIANTS = header_variants()
