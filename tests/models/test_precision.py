"""bf16 where the hardware computes it."""

from unittest.mock import patch

import pytest
import torch

from aps_components.models import autocast, resolved_precision
from aps_components.models.precision import _bf16_pays, _seconds

CPU_BF16 = "torch.cpu._is_avx512_bf16_supported"
CUDA_BF16 = "torch.cuda.is_bf16_supported"


@pytest.fixture(autouse=True)
def _no_measurement_of_before():
    _bf16_pays.cache_clear()
    yield
    _bf16_pays.cache_clear()


@pytest.mark.parametrize(
    ("in_hardware", "seconds", "wanted"),
    [(True, (1.0, 4.0), "bf16"), (True, (1.0, 0.6), "fp32"), (True, (1.0, 1.1), "fp32"), (False, (1.0, 9.0), "fp32")],
)
def test_auto_asks_the_processor_and_measures(in_hardware, seconds, wanted):
    measured = dict(zip((torch.bfloat16, torch.float32), seconds, strict=True))
    with patch(CPU_BF16, return_value=in_hardware), patch(f"{_bf16_pays.__module__}._seconds", measured.get):
        assert resolved_precision("cpu", "auto") == wanted
        with autocast("cpu", "auto"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]


@pytest.mark.parametrize(("in_hardware", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_auto_asks_the_gpu_without_its_emulation(in_hardware, wanted):
    """Since torch 2.4 every GPU "supports" bf16; those before Ampere in software, slower than fp32."""
    with patch("torch.cuda.is_available", return_value=True), patch(CUDA_BF16, return_value=in_hardware) as asked:
        assert resolved_precision("cuda:1", "auto") == wanted
    asked.assert_called_once_with(including_emulation=False)


def test_a_convolution_takes_time():
    assert _seconds(torch.float32) > 0


def test_other_devices_compute_in_float32():
    assert resolved_precision("mps", "auto") == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_asked_for_is_done(precision):
    assert resolved_precision("cpu", precision) == precision
    with autocast("cpu", precision):
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision 'fp8' must be 'auto', 'bf16' or 'fp32'"):
        autocast("cpu", "fp8")
