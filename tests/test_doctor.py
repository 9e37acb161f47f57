import pytest

from mlx_entk import doctor


def test_a_slow_matrix_product_is_found_and_a_remedy_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "matmul_rates", lambda: (7.0, 200.0))

    slow = next(f for f in doctor.examine() if f.subject == "matrix product")

    assert not slow.fine
    assert slow.required
    assert "MLX 7 GFLOP/s, NumPy 200 GFLOP/s" in slow.found
    assert slow.remedy


def test_a_missing_package_is_found_and_its_installation_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "onnx" else "1")
    monkeypatch.setattr(doctor, "matmul_rates", lambda: (200.0, 200.0))

    findings = {finding.subject: finding for finding in doctor.examine()}

    assert findings["onnx"].remedy == "pip install onnx"
    assert findings["onnx"].required
    assert findings["numpy"].fine


def test_rates_are_measured() -> None:
    assert min(doctor.matmul_rates(size=200, repeats=1)) > 0
