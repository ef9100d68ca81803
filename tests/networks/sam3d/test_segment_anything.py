import subprocess
import sys

import pytest

_IMPORT = "import sys; import aps_components.networks.sam3d; "


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_networks_never_import_torchvision():
    done = _python(_IMPORT + "assert 'segment_anything' in sys.modules; assert 'torchvision' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_the_package_runs_its_own_init_when_a_name_of_its_own_is_used():
    # a stand-in for torchvision, so that __init__ gets as far as its own names
    fake = (
        "from types import ModuleType as M\n"
        "names = ['torchvision', 'torchvision.transforms', 'torchvision.transforms.functional',"
        " 'torchvision.ops', 'torchvision.ops.boxes']\n"
        "for n in names: sys.modules[n] = M(n); sys.modules[n].__path__ = []\n"
        "f = sys.modules[names[2]]; f.resize = f.to_pil_image = None\n"
        "b = sys.modules[names[4]]; b.batched_nms = b.box_area = None\n"
    )
    use = (
        "from segment_anything import SamPredictor, sam_model_registry\nassert 'vit_b' in sam_model_registry\n"
        "import segment_anything\ntry: segment_anything.nothing\nexcept AttributeError: pass\nelse: sys.exit(3)\n"
    )
    done = _python(_IMPORT + "\n" + fake + use)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    from aps_components.networks.sam3d import _segment_anything

    monkeypatch.setattr(_segment_anything, "_NAME", "segment_nothing")
    with pytest.raises(ModuleNotFoundError, match="segment_nothing is missing: pip install"):
        _segment_anything._register_bare_package()
